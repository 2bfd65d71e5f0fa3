"""`llama-smart-proxy estimate`: what a model would need, said before anything is loaded."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.exit_status import ANSWER_IS_NO, WRONG_USE
from app.use_cases.context_memory import CACHE_TYPES

if TYPE_CHECKING:
    from app.entities.gguf import GgufHeader
    from app.entities.launch import LaunchSettings, MemoryOptions
    from app.entities.memory import DeviceMemory, Estimate
    from app.use_cases.beside import Beside

MIB = 1024**2
FIT_TYPES = (("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"))

_COUNT, _TYPE = click.IntRange(min=0), click.Choice(list(CACHE_TYPES))


@click.command()
@click.argument("model", metavar="FILE_OR_NAME")
@click.option("--config", type=click.Path(path_type=Path), help="Settings to look a NAME up in.")
@click.option("--ctx-size", type=_COUNT, help="Tokens of all slots together; 0: what the model was trained with.")
@click.option("--parallel", type=click.IntRange(1, 256), help="Slots. Given, each has its own part of the cache.")
@click.option("--kv-unified", is_flag=True, default=None, help="All slots share one cache.")
@click.option("--ubatch-size", type=click.IntRange(min=1), help="Tokens computed at a time.")
@click.option("--cache-type-k", type=_TYPE, help="Type of the K cache.")
@click.option("--cache-type-v", type=_TYPE, help="Type of the V cache.")
@click.option("--flash-attn", type=click.Choice(["on", "off", "auto"]), help="Flash attention.")
@click.option("--n-gpu-layers", type=_COUNT, help="Layers on GPUs; 999: all.")
@click.option("--tensor-split", metavar="A,B,..", help="Each GPU's share of the layers.")
@click.option("--devices", type=click.IntRange(0, 16), help="GPUs; 0: the CPU alone.  [default: 1]")
@click.option("--split-mode", type=click.Choice(["layer", "none"]), help="By layers, or all on one GPU.")
@click.option("--main-gpu", type=_COUNT, help="The one GPU of split mode none.")
@click.option("--swa-full", is_flag=True, default=None, help="Sliding-window layers keep the whole context.")
@click.option("--embeddings", is_flag=True, help="A server for embeddings.")
@click.option("--reranking", is_flag=True, help="A server that ranks.")
@click.option("--n-cpu-moe", type=_COUNT, help="The experts of so many layers stay in RAM.")
@click.option("--cpu-moe", is_flag=True, help="All experts stay in RAM.")
@click.option("--fit-in", metavar="SIZE", help="Also say the largest context that fits into SIZE per GPU, as 24GiB.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def estimate(model: str, config: Path | None, fit_in: str | None, as_json: bool, **typed: Any) -> None:
    """Say how much memory FILE_OR_NAME needs, by item. Nothing is loaded: only the file's header is read.

    For a FILE, what is not given is llama-server's default; for a NAME of the catalogue it is that model's setting.
    Exit status: 0 done, 1 nothing fits into --fit-in, 2 wrong use, or a file that is not a model.
    """
    from app.errors import InvalidModelFile
    from app.use_cases.beside import NOTHING
    from app.use_cases.estimate import estimate_memory
    from app.use_cases.model_shape import model_shape
    from workers.beside_files import BesideFiles
    from workers.gguf_file import read_header

    try:
        size = _bytes(fit_in) if fit_in else None
        path, options, launch = _asked(model, config)
        options = _with_typed(options, typed)
        header = read_header(path)
        _refuse_what_is_no_model(header, path)
        shape = model_shape(header)
        options = replace(options, ctx_size=options.ctx_size or shape.hparams.integer("context_length"))
        beside = BesideFiles().read(launch) if launch else NOTHING
        result = estimate_memory(shape, options, beside=beside)
    except InvalidModelFile as error:
        _stop(error.problem)
    fits = _fits(shape, options, beside, size) if size is not None else None
    told = _told(path, header, options, result, fits)
    click.echo(json.dumps(told, indent=2) if as_json else "\n".join(_lines(told)))
    if fits == []:
        sys.exit(ANSWER_IS_NO)


def _stop(why: str) -> NoReturn:
    click.echo(why, err=True)
    sys.exit(WRONG_USE)


def _bytes(text: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        _stop(f"--fit-in {text}: not a size; write it like 24GiB")


def _asked(model: str, config: Path | None) -> tuple[str, MemoryOptions, LaunchSettings | None]:
    """The file, the options it has when nothing is typed, and of a model of the catalogue all its settings."""
    from app.entities.launch import MemoryOptions

    if os.path.exists(model) or model.lower().endswith(".gguf"):
        return model, MemoryOptions(), None
    from app.errors import ModelNotFound
    from app.settings.configuration import ConfigurationError, read_configuration
    from app.settings.values import PREFIX
    from app.use_cases.memory_options import memory_options
    from workers.runtime import catalog_of

    if config:
        os.environ[PREFIX + "CONFIG"] = str(config.absolute())
    try:
        found = catalog_of(read_configuration().settings).find(model)
    except ConfigurationError as error:
        _stop(f"configuration error:\n{error}")
    except ModelNotFound:
        _stop(f"{model}: there is no such file, and no model of that name in the catalogue")
    # Until the service places on GPUs itself, a name means the same question as a file: one GPU, all layers.
    options = replace(memory_options(found.launch, devices=1), n_gpu_layers=MemoryOptions().n_gpu_layers)
    return found.path, options, found.launch


def _with_typed(options: MemoryOptions, typed: dict[str, Any]) -> MemoryOptions:
    from app.entities.launch import ALL_LAYERS, Task

    changes = {key: value for key, value in typed.items() if value is not None}
    task = Task.RERANK if changes.pop("reranking") else Task.EMBEDDING if changes.pop("embeddings") else None
    split = changes.pop("tensor_split", None)
    if typed["embeddings"] or typed["reranking"]:
        changes["task"] = task
    if changes.pop("cpu_moe"):
        changes["n_cpu_moe"] = ALL_LAYERS
    if "parallel" in changes and "kv_unified" not in changes:
        changes["kv_unified"] = False
    if split is not None:
        changes |= _split(split, changes.get("devices"))
    options = replace(options, **changes)
    if options.main_gpu >= max(1, options.devices):
        _stop(f"--main-gpu {options.main_gpu}: there are {options.devices} devices, counted from 0")
    return options


def _split(text: str, devices: int | None) -> dict[str, Any]:
    import math

    try:
        shares = tuple(float(each) for each in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(math.isfinite(each) and each >= 0 for each in shares) or not sum(shares):
        _stop(f"--tensor-split {text}: write each GPU's share, like 3,1")
    if devices is not None and devices < len(shares):
        _stop(f"--tensor-split {text}: {len(shares)} shares for {devices} devices")
    devices = devices or len(shares)
    return {"tensor_split": shares + (0.0,) * (devices - len(shares)), "devices": devices}


def _refuse_what_is_no_model(header: GgufHeader, path: str) -> None:
    from app.use_cases.servable import why_not_servable

    if why := why_not_servable(header):
        _stop(f"{os.path.basename(path)} {why}")


def _fits(shape: Any, options: MemoryOptions, beside: Beside, size: int) -> list[dict[str, Any]]:
    """For each cache type the largest context that fits, in steps of 256 tokens, never above the model's own."""
    from app.use_cases.estimate import estimate_memory

    most = max(1, shape.hparams.integer("context_length") // 256)
    found = []
    for k, v in FIT_TYPES:
        low, high, best = 1, most, None
        while low <= high:  # what is needed grows with the context
            middle = (low + high) // 2
            tried = replace(options, ctx_size=256 * middle, cache_type_k=k, cache_type_v=v)
            need = _fullest(estimate_memory(shape, tried, beside=beside))
            if need <= size:
                low, best = middle + 1, (256 * middle, need)
            else:
                high = middle - 1
        if best:
            found.append({"cache_type_k": k, "cache_type_v": v, "ctx_size": best[0], "total_bytes": best[1]})
    return found


def _fullest(result: Estimate) -> int:
    return max((each.booked_bytes for each in result.devices), default=result.host.booked_bytes)


def _told(
    path: str, header: GgufHeader, options: MemoryOptions, result: Estimate, fits: list[dict[str, Any]] | None
) -> dict[str, Any]:
    about = {
        "path": path,
        "name": str(header.metadata.get("general.name", "")),
        "architecture": header.architecture,
        "tensor_bytes": sum(tensor.size_bytes for tensor in header.tensors),
    }
    host = {
        key: value
        for key, value in _items(result.host).items()
        if key.split("_")[0] in ("weights", "context", "compute")
    }
    told = {
        "model": about,
        "settings": asdict(options),
        "devices": [_items(device) for device in result.devices],
        "host": host,
        "confidence": str(result.confidence),
        "notes": list(result.notes),
    }
    return told if fits is None else told | {"fit": fits}


def _items(memory: DeviceMemory) -> dict[str, int]:
    return asdict(memory) | {"total_bytes": memory.total_bytes}


def _lines(told: dict[str, Any]) -> list[str]:
    model, settings = told["model"], told["settings"]
    weight = f"{model['tensor_bytes'] / MIB:,.0f} MiB of tensors"
    lines = [f"{os.path.basename(model['path'])}  ({model['architecture']}, {weight})"]
    lines += [
        f"context {settings['ctx_size']:,}, {settings['parallel']} slots"
        f"{' sharing it' if settings['kv_unified'] else ''}, KV {settings['cache_type_k']}/{settings['cache_type_v']}",
        "",
        f"{'MiB':8}{'weights':>12}{'context':>12}{'compute':>12}{'overhead':>12}{'total':>12}",
    ]
    for index, device in enumerate(told["devices"]):
        keys = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes", "total_bytes")
        lines.append(f"GPU {index:<4}" + "".join(f"{device[key] / MIB:12,.1f}" for key in keys))
    host = told["host"]
    items = [host[key] / MIB for key in ("weights_bytes", "context_bytes", "compute_bytes")]
    lines.append(f"{'RAM':8}" + "".join(f"{each:12,.1f}" for each in items) + f"{'':12}{sum(items):12,.1f}")
    lines += ["", f"confidence: {told['confidence']}", *told["notes"]]
    for fit in told.get("fit", []):
        lines.append(
            f"fits with KV {fit['cache_type_k']:5} up to a context of {fit['ctx_size']:>9,} tokens"
            f" ({fit['total_bytes'] / MIB:,.0f} MiB)"
        )
    if told.get("fit") == []:
        lines.append("it does not fit with any context and cache type; a smaller quantization or more GPUs would help")
    return lines
