"""The options shared by `estimate` and `plan`, and the memory query built from them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.entities.launch import LaunchSettings, ModelOptions
from app.entities.placement import CpuFallback, GpuLimits, PlacementConstraints, Policy
from app.terminal.text import printable_lines
from app.use_cases.estimate.kv_cache import CACHE_TYPES

if TYPE_CHECKING:
    from app.entities.gguf import GgufHeader
    from app.entities.model import Model
    from app.settings.schema import Settings

ANSWER_IS_NO = 1  # exit status; 0 is success
WRONG_USE = 2  # exit status
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


class LayerCount(click.IntRange):
    """A number of layers, or llama-server's words for all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return -1 if value in ("all", "auto") else super().convert(value, param, ctx)


MAX_INT = 2**31 - 1  # llama-server's integers have 32 bits
LAYERS = LayerCount(-1, MAX_INT)
_COUNT, _TYPE = click.IntRange(0, MAX_INT), click.Choice(list(CACHE_TYPES))
_OPTIONS = (
    click.option("--config", type=click.Path(path_type=Path), help="Configuration file in which NAME is looked up."),
    click.option(
        "-c", "--ctx-size", type=_COUNT, help="Context in tokens, all slots together; 0: the model's training context."
    ),
    click.option(
        "-np",
        "--parallel",
        type=click.IntRange(1, 256),
        help="Number of slots. If set, the slots do not share one cache, unless --kv-unified is set too.",
    ),
    click.option("-kvu", "--kv-unified", is_flag=True, default=None, help="The slots share one cache."),
    click.option("-b", "--batch-size", type=click.IntRange(1, MAX_INT), help="Logical batch size in tokens."),
    click.option("-ub", "--ubatch-size", type=click.IntRange(1, MAX_INT), help="Physical batch size in tokens."),
    click.option("-ctk", "--cache-type-k", type=_TYPE, help="Type of the K cache."),
    click.option("-ctv", "--cache-type-v", type=_TYPE, help="Type of the V cache."),
    click.option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), help="Flash attention."),
    click.option("-ngl", "--n-gpu-layers", type=LAYERS, help="Layers on GPUs; all, auto or -1: all."),
    click.option(
        "-ts",
        "--tensor-split",
        metavar="A,B,..",
        help="Share of the layers on each GPU. Not with plan, which computes it.",
    ),
    click.option(
        "--devices",
        type=click.IntRange(0, 16),
        help="Number of GPUs; 0: CPU only.  [default: 1; plan: as many as needed]",
    ),
    click.option(
        "-sm",
        "--split-mode",
        type=click.Choice(["layer", "none", "row", "tensor"]),
        help="Split by layers, everything on one GPU, or each tensor split.",
    ),
    click.option("-mg", "--main-gpu", type=_COUNT, help="The GPU used with split mode none. Not with plan."),
    click.option("--swa-full", is_flag=True, default=None, help="Sliding-window layers cache the whole context."),
    click.option("--embeddings", is_flag=True, help="Embedding server."),
    click.option("--reranking", is_flag=True, help="Reranking server."),
    click.option("-ncmoe", "--n-cpu-moe", type=_COUNT, help="Keep the experts of the first N layers in RAM."),
    click.option("-cmoe", "--cpu-moe", is_flag=True, help="Keep all experts in RAM."),
)


@dataclass(frozen=True, slots=True)
class MemoryQuery:
    """A model and its launch options, from the command line and the settings."""

    path: str
    options: ModelOptions
    launch: LaunchSettings | None  # of a model with settings
    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)
    gpu_limits: GpuLimits = field(default_factory=GpuLimits)
    policy: Policy = field(default_factory=Policy)
    uses_gpus: bool = True
    cpu_fallback: CpuFallback = CpuFallback.AUTO
    gpu_names: Mapping[str, Sequence[str]] = field(default_factory=dict)  # in the settings, by key
    model: Model | None = None  # of the catalogue


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: declares the usual options, with llama-server's names. EngineOptionsCommand takes the others."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


def exit_wrong_use(why: str) -> NoReturn:
    click.echo(why, err=True)
    sys.exit(WRONG_USE)


def exit_no(why: str) -> NoReturn:
    click.echo(printable_lines(why), err=True)
    sys.exit(ANSWER_IS_NO)


def pluralize(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def is_file(model: str) -> bool:
    return os.path.exists(model) or (os.sep in model and model.lower().endswith(".gguf"))


def query_from_settings(model: str, config: Path | None) -> MemoryQuery:
    """The query for a NAME in the catalogue, or for a FILE with the settings of models without an entry."""
    from app.errors import ModelNotFound
    from workers.build_catalog import build_catalog

    settings = read_settings(config)
    if is_file(model):
        path, name, launch, found = model, None, settings.launch_of(), None
    else:
        with logger_disabled("workers.catalog.catalog"):  # problems of other models are irrelevant here
            catalog = build_catalog(settings)
        if members := catalog.members(model):
            exit_wrong_use(f"{model} stands for {', '.join(members)} (any_of); name one of them")
        try:
            found = catalog.find(model)
        except ModelNotFound:
            exit_wrong_use(f"{model}: no such file, and no model of that name in the catalogue")
        if found.problem:
            exit_wrong_use(f"model '{found.name}' cannot be served: {found.problem}")
        path, name, launch = found.path, found.name, found.launch
    constraints, gpu_limits, policy = settings.constraints_of(name), settings.gpu_limits(), settings.policy()
    about_gpus = settings.gpu.enabled, settings.gpu.cpu_fallback, settings.gpu_names()
    return MemoryQuery(path, launch.options, launch, constraints, gpu_limits, policy, *about_gpus, model=found)


def options_for_task(query: MemoryQuery, header: GgufHeader) -> ModelOptions:
    """Those with which the model is started for what it was made for; of a file without settings, as they are."""
    from app.use_cases.launch.capabilities import launch_for_task
    from app.use_cases.model_shape.header_facts import header_facts

    return launch_for_task(query.launch, header_facts(header)).options if query.launch else query.options


def read_settings(config: Path | None) -> Settings:
    """The service's settings. An invalid configuration ends the command."""
    from app.settings.configuration import ConfigurationError, read_configuration
    from app.settings.values import PREFIX

    if config:
        os.environ[PREFIX + "CONFIG"] = str(config.absolute())
    try:
        return read_configuration().settings
    except ConfigurationError as error:
        exit_wrong_use(f"configuration error:\n{error}")


@contextlib.contextmanager
def logger_disabled(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def apply_typed_options(options: ModelOptions, typed: dict[str, Any]) -> ModelOptions:
    """The options, overridden by the command line. Conflicting options end the command."""
    from app.use_cases.estimate.tensor_overrides import gpu_of
    from app.use_cases.launch.typed_options import ConflictingOptions, with_typed_options

    split = _split(typed["tensor_split"], typed["devices"]) if typed["tensor_split"] is not None else {}
    try:
        options = with_typed_options(options, {**typed, "tensor_split": None, **split}, spelled)
    except ConflictingOptions as error:
        exit_wrong_use(str(error))
    if options.main_gpu >= max(1, options.devices):
        _exit_absent(f"--main-gpu {options.main_gpu}", options)
    for pattern, buffer in options.overrides:
        if (device := gpu_of(buffer)) is not None and device >= options.devices:
            _exit_absent(f"--override-tensor {pattern}={buffer}", options)
    return options


def _exit_absent(what: str, options: ModelOptions) -> NoReturn:
    count = options.devices
    exit_wrong_use(f"{what}: there {'is' if count == 1 else 'are'} {pluralize(count, 'device')}, numbered from 0")


def spelled(key: str) -> str:
    """An option's name on the command line."""
    return f"--{key.replace('_', '-')}"


def _split(text: str, devices: int | None) -> dict[str, Any]:
    try:
        shares = tuple(float(share) for share in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= share < 1e9 for share in shares) or not sum(shares):
        exit_wrong_use(f"--tensor-split {text}: write the share of each GPU, such as 3,1")
    if devices is not None and devices < len(shares):
        exit_wrong_use(f"--tensor-split {text}: {len(shares)} shares for {pluralize(devices, 'device')}")
    devices = devices or len(shares)
    return {"tensor_split": shares + (0.0,) * (devices - len(shares)), "devices": devices}


def exit_unless_model(header: GgufHeader, path: str) -> None:
    """Ends the command if the file is not a model."""
    from app.use_cases.model_shape.servable import why_not_servable

    if why := why_not_servable(header):
        exit_wrong_use(f"{os.path.basename(path)} {why}")
