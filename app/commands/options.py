"""What the commands about a model's memory share: the options, and the question they put together from them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.entities.launch import ALL_LAYERS, LaunchSettings, ModelOptions, Task
from app.entities.placement import CpuFallback, GpuLimits, PlacementConstraints, Policy
from app.use_cases.estimate.context import CACHE_TYPES

if TYPE_CHECKING:
    from app.entities.gguf import GgufHeader
    from app.settings.schema import Settings

ANSWER_IS_NO = 1  # exit status; 0 is done
WRONG_USE = 2  # exit status

MAX_INT = 2**31 - 1  # of llama-server's own numbers
_COUNT, _TYPE = click.IntRange(0, MAX_INT), click.Choice(list(CACHE_TYPES))
_OPTIONS = (
    click.option("--config", type=click.Path(path_type=Path), help="Settings to look a NAME up in."),
    click.option(
        "-c", "--ctx-size", type=_COUNT, help="Tokens of all slots together; 0: what the model was trained with."
    ),
    click.option(
        "-np", "--parallel", type=click.IntRange(1, 256), help="Slots. Given, each has its own part of the cache."
    ),
    click.option("-kvu", "--kv-unified", is_flag=True, default=None, help="All slots share one cache."),
    click.option("-ub", "--ubatch-size", type=click.IntRange(1, MAX_INT), help="Tokens computed at a time."),
    click.option("-ctk", "--cache-type-k", type=_TYPE, help="Type of the K cache."),
    click.option("-ctv", "--cache-type-v", type=_TYPE, help="Type of the V cache."),
    click.option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), help="Flash attention."),
    click.option("-ngl", "--n-gpu-layers", type=click.IntRange(-1, MAX_INT), help="Layers on GPUs; 999 or -1: all."),
    click.option(
        "-ts", "--tensor-split", metavar="A,B,..", help="Each GPU's share of the layers. Not for plan, which finds it."
    ),
    click.option(
        "--devices", type=click.IntRange(0, 16), help="GPUs; 0: the CPU alone.  [default: 1; plan: what it takes]"
    ),
    click.option("-sm", "--split-mode", type=click.Choice(["layer", "none"]), help="By layers, or all on one GPU."),
    click.option("-mg", "--main-gpu", type=_COUNT, help="The one GPU of split mode none. Not for plan."),
    click.option("--swa-full", is_flag=True, default=None, help="Sliding-window layers keep the whole context."),
    click.option("--embeddings", is_flag=True, help="A server for embeddings."),
    click.option("--reranking", is_flag=True, help="A server that ranks."),
    click.option("-ncmoe", "--n-cpu-moe", type=_COUNT, help="The experts of so many layers stay in RAM."),
    click.option("-cmoe", "--cpu-moe", is_flag=True, help="All experts stay in RAM."),
)


@dataclass(frozen=True, slots=True)
class MemoryQuery:
    """A model and how it is to be started, as typed and, where nothing is, as the settings have it."""

    path: str
    options: ModelOptions
    launch: LaunchSettings | None  # of a model with settings
    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)
    gpu_limits: GpuLimits = field(default_factory=GpuLimits)
    policy: Policy = field(default_factory=Policy)
    uses_gpus: bool = True
    cpu_fallback: CpuFallback = CpuFallback.AUTO


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options about a model's memory, called as llama-server's own."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


def exit_wrong_use(why: str) -> NoReturn:
    click.echo(why, err=True)
    sys.exit(WRONG_USE)


def pluralize(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def is_file(model: str) -> bool:
    return os.path.exists(model) or (os.sep in model and model.lower().endswith(".gguf"))


def query_from_settings(model: str, config: Path | None) -> MemoryQuery:
    """What the settings say of a NAME of the catalogue; of a FILE, what they say of models without an entry."""
    from app.errors import ModelNotFound
    from workers.build_catalog import build_catalog

    settings = read_settings(config)
    if is_file(model):
        path, name, launch = model, None, settings.launch_of()
    else:
        try:
            with _logger_disabled("workers.catalog.catalog"):  # what is wrong with other models is not asked
                found = build_catalog(settings).find(model)
        except ModelNotFound:
            exit_wrong_use(f"{model}: there is no such file, and no model of that name in the catalogue")
        if found.problem:
            exit_wrong_use(f"model '{found.name}' cannot be served: {found.problem}")
        path, name, launch = found.path, found.name, found.launch
    constraints, gpu_limits, policy = settings.constraints_of(name), settings.gpu_limits(), settings.policy()
    gpu = settings.gpu
    return MemoryQuery(path, launch.options, launch, constraints, gpu_limits, policy, gpu.enabled, gpu.cpu_fallback)


def read_settings(config: Path | None) -> Settings:
    """Those of the service; a configuration that is wrong ends the command."""
    from app.settings.configuration import ConfigurationError, read_configuration
    from app.settings.values import PREFIX

    if config:
        os.environ[PREFIX + "CONFIG"] = str(config.absolute())
    try:
        return read_configuration().settings
    except ConfigurationError as error:
        exit_wrong_use(f"configuration error:\n{error}")


@contextlib.contextmanager
def _logger_disabled(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def apply_typed_options(options: ModelOptions, typed: dict[str, Any]) -> ModelOptions:
    """The options with what was typed; what contradicts itself ends the command."""
    from app.use_cases.estimate.largest_context import lacks_required_flash_attention

    changes = {key: value for key, value in typed.items() if value is not None}
    ranks, embeds = changes.pop("reranking"), changes.pop("embeddings")
    if ranks and embeds:
        exit_wrong_use("--embeddings and --reranking: a server does one or the other")
    split = changes.pop("tensor_split", None)
    if ranks or embeds:
        changes["task"] = Task.RERANK if ranks else Task.EMBEDDING
    if changes.pop("cpu_moe"):
        changes["n_cpu_moe"] = ALL_LAYERS
    if changes.get("n_gpu_layers") == -1:
        changes["n_gpu_layers"] = ALL_LAYERS
    if "parallel" in changes and "kv_unified" not in changes:
        changes["kv_unified"] = False
    if split is not None:
        changes |= _split(split, changes.get("devices"))
    options = replace(options, **changes)
    if options.main_gpu >= max(1, options.devices):
        exit_wrong_use(
            f"--main-gpu {options.main_gpu}: there {'is' if options.devices == 1 else 'are'} "
            f"{pluralize(options.devices, 'device')}, counted from 0"
        )
    if lacks_required_flash_attention(options.cache_type_v, options.flash_attn):
        exit_wrong_use(f"--cache-type-v {options.cache_type_v} needs --flash-attn on or auto")
    return options


def _split(text: str, devices: int | None) -> dict[str, Any]:
    try:
        shares = tuple(float(each) for each in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= each < 1e9 for each in shares) or not sum(shares):
        exit_wrong_use(f"--tensor-split {text}: write each GPU's share, like 3,1")
    if devices is not None and devices < len(shares):
        exit_wrong_use(f"--tensor-split {text}: {len(shares)} shares for {pluralize(devices, 'device')}")
    devices = devices or len(shares)
    return {"tensor_split": shares + (0.0,) * (devices - len(shares)), "devices": devices}


def exit_unless_model(header: GgufHeader, path: str) -> None:
    """Ends the command."""
    from app.use_cases.model_shape.servable import why_not_servable

    if why := why_not_servable(header):
        exit_wrong_use(f"{os.path.basename(path)} {why}")
