"""`llama-smart-proxy estimate`: what a model would need, said before anything is loaded."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.entities.launch import ALL_LAYERS, MemoryOptions, Task
from app.estimate_report import as_data, lines
from app.exit_status import ANSWER_IS_NO, WRONG_USE
from app.use_cases.context_memory import CACHE_TYPES

if TYPE_CHECKING:
    from app.entities.gguf import GgufHeader
    from app.entities.launch import LaunchSettings
    from app.use_cases.model_shape import ModelShape

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", re.IGNORECASE)
_UNITS = {f"{letter}{i}b": (1024 if i else 1000) ** power for power, letter in enumerate("kmgt", 1) for i in ("", "i")}

MOST = 2**31 - 1  # of llama-server's own numbers
_COUNT, _TYPE = click.IntRange(0, MOST), click.Choice(list(CACHE_TYPES))


@click.command()
@click.argument("model", metavar="FILE_OR_NAME")
@click.option("--config", type=click.Path(path_type=Path), help="Settings to look a NAME up in.")
@click.option("-c", "--ctx-size", type=_COUNT, help="Tokens of all slots together; 0: what the model was trained with.")
@click.option(
    "-np", "--parallel", type=click.IntRange(1, 256), help="Slots. Given, each has its own part of the cache."
)
@click.option("-kvu", "--kv-unified", is_flag=True, default=None, help="All slots share one cache.")
@click.option("-ub", "--ubatch-size", type=click.IntRange(1, MOST), help="Tokens computed at a time.")
@click.option("-ctk", "--cache-type-k", type=_TYPE, help="Type of the K cache.")
@click.option("-ctv", "--cache-type-v", type=_TYPE, help="Type of the V cache.")
@click.option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), help="Flash attention.")
@click.option("-ngl", "--n-gpu-layers", type=click.IntRange(-1, MOST), help="Layers on GPUs; 999 or -1: all.")
@click.option("-ts", "--tensor-split", metavar="A,B,..", help="Each GPU's share of the layers; as many GPUs as shares.")
@click.option("--devices", type=click.IntRange(0, 16), help="GPUs; 0: the CPU alone.  [default: 1]")
@click.option("-sm", "--split-mode", type=click.Choice(["layer", "none"]), help="By layers, or all on one GPU.")
@click.option("-mg", "--main-gpu", type=_COUNT, help="The one GPU of split mode none.")
@click.option("--swa-full", is_flag=True, default=None, help="Sliding-window layers keep the whole context.")
@click.option("--embeddings", is_flag=True, help="A server for embeddings.")
@click.option("--reranking", is_flag=True, help="A server that ranks.")
@click.option("-ncmoe", "--n-cpu-moe", type=_COUNT, help="The experts of so many layers stay in RAM.")
@click.option("-cmoe", "--cpu-moe", is_flag=True, help="All experts stay in RAM.")
@click.option(
    "--fit-in", metavar="SIZE", help="Also say the largest context that fits into SIZE per GPU, as 24GiB or 24GiB,8GiB."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def estimate(model: str, config: Path | None, fit_in: str | None, as_json: bool, **typed: Any) -> None:
    """Say how much memory FILE_OR_NAME needs, by item. Nothing is loaded: only the file's header is read.

    For a FILE, what is not given is llama-server's default; for a NAME of the catalogue it is that model's setting, on
    one GPU. What earlier loads have taught the service is not looked at. docs/estimates.md explains the answer.
    Exit status: 0 done, 1 nothing fits into --fit-in, 2 wrong use, or a file that is not a model.
    """
    from app.errors import InvalidModelFile
    from app.use_cases.beside import NOTHING
    from app.use_cases.estimate import estimate_memory
    from app.use_cases.largest_context import fits, why_nothing_fits
    from app.use_cases.model_shape import model_shape
    from workers.beside_files import BesideFiles
    from workers.gguf_file import read_header

    try:
        path, options, launch = _asked(model, config)
        options = _with_typed(options, typed)
        header = read_header(path)
        _refuse_what_is_no_model(header, path)
        shape = model_shape(header)
        options = replace(options, ctx_size=options.ctx_size or shape.hparams.integer("context_length"))
        sizes = _sizes(fit_in, options.devices) if fit_in is not None else None
        beside = BesideFiles().read(launch) if launch else NOTHING
        result = estimate_memory(shape, options, beside=beside)
    except InvalidModelFile as error:
        _stop(error.problem)
    found = fits(shape, options, beside, sizes) if sizes else None
    told = as_data(path, header, options, result, _notes(shape, options), found)
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        why = why_nothing_fits(shape, options, beside, sizes) if sizes and not found else ""
        click.echo("\n".join(lines(told, result, why)))
    if found == []:
        sys.exit(ANSWER_IS_NO)


def _stop(why: str) -> NoReturn:
    click.echo(why, err=True)
    sys.exit(WRONG_USE)


def _sizes(text: str, devices: int) -> tuple[int, ...]:
    """One size for all GPUs, or one for each."""
    sizes = []
    for each in text.split(","):
        found = _SIZE.fullmatch(each.strip())
        if not found or not float(found[1]):
            _stop(f"--fit-in {text}: not a size; write it like 24GiB, or like 24GiB,8GiB for each GPU its own")
        sizes.append(int(float(found[1]) * _UNITS[found[2].lower()]))
    if len(sizes) not in (1, devices):
        _stop(f"--fit-in {text}: {len(sizes)} sizes for {_counted(devices, 'device')}")
    return tuple(sizes)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _asked(model: str, config: Path | None) -> tuple[str, MemoryOptions, LaunchSettings | None]:
    """The file, the options it has when nothing is typed, and of a model of the catalogue all its settings."""
    if os.path.exists(model) or (os.sep in model and model.lower().endswith(".gguf")):
        return model, MemoryOptions(), None
    from app.errors import ModelNotFound
    from app.settings.configuration import ConfigurationError, read_configuration
    from app.settings.values import PREFIX
    from app.use_cases.memory_options import memory_options
    from workers.runtime import catalog_of

    if config:
        os.environ[PREFIX + "CONFIG"] = str(config.absolute())
    try:
        settings = read_configuration().settings
        with _without_log("workers.catalog"):  # what is wrong with other models is not asked
            found = catalog_of(settings).find(model)
    except ConfigurationError as error:
        _stop(f"configuration error:\n{error}")
    except ModelNotFound:
        _stop(f"{model}: there is no such file, and no model of that name in the catalogue")
    if found.problem:
        _stop(f"model '{found.name}' cannot be served: {found.problem}")
    # Until the service places on GPUs itself, a name means the same question as a file: one GPU, all layers.
    options = replace(memory_options(found.launch, devices=1), n_gpu_layers=MemoryOptions().n_gpu_layers)
    return found.path, options, found.launch


@contextlib.contextmanager
def _without_log(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _with_typed(options: MemoryOptions, typed: dict[str, Any]) -> MemoryOptions:
    from app.use_cases.largest_context import is_refused

    changes = {key: value for key, value in typed.items() if value is not None}
    ranks, embeds = changes.pop("reranking"), changes.pop("embeddings")
    if ranks and embeds:
        _stop("--embeddings and --reranking: a server does one or the other")
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
        _stop(
            f"--main-gpu {options.main_gpu}: there {'is' if options.devices == 1 else 'are'} "
            f"{_counted(options.devices, 'device')}, counted from 0"
        )
    if is_refused(options.cache_type_v, options.flash_attn):
        _stop(f"--cache-type-v {options.cache_type_v} needs --flash-attn on or auto")
    return options


def _split(text: str, devices: int | None) -> dict[str, Any]:
    try:
        shares = tuple(float(each) for each in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= each < 1e9 for each in shares) or not sum(shares):
        _stop(f"--tensor-split {text}: write each GPU's share, like 3,1")
    if devices is not None and devices < len(shares):
        _stop(f"--tensor-split {text}: {len(shares)} shares for {_counted(devices, 'device')}")
    devices = devices or len(shares)
    return {"tensor_split": shares + (0.0,) * (devices - len(shares)), "devices": devices}


def _refuse_what_is_no_model(header: GgufHeader, path: str) -> None:
    from app.use_cases.servable import why_not_servable

    if why := why_not_servable(header):
        _stop(f"{os.path.basename(path)} {why}")


def _notes(shape: ModelShape, options: MemoryOptions) -> list[str]:
    """What of the question may not mean what its author thinks."""
    found, trained = [], shape.hparams.integer("context_length")
    if 0 < trained < options.ctx_size:
        found.append(f"the model was trained with a context of {trained:,} tokens")
    if options.ubatch_size > options.batch_size and options.task is Task.COMPLETION:
        found.append(f"a ubatch is never larger than the batch, which has {options.batch_size:,} tokens")
    if options.n_cpu_moe and not shape.largest_expert_bytes:
        found.append("the model has no experts to keep in RAM")
    return found
