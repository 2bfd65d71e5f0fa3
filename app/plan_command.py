"""`llama-smart-proxy plan`: where a model would go on given GPUs, decided without starting anything."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.command_options import Question, model_options, of_settings, refuse_what_is_no_model, stop, with_typed
from app.entities.placement import CPU, Decision, Outcome, Placement, Wishes
from app.exit_status import ANSWER_IS_NO

if TYPE_CHECKING:
    from app.use_cases.asked import Asked
    from app.use_cases.placement import World


@click.command()
@click.argument("model", metavar="FILE_OR_NAME")
@model_options
@click.option("--gpus", type=click.Path(path_type=Path), help="JSON file with the GPUs, and the servers on them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(model: str, gpus: Path | None, as_json: bool, config: Path | None, **typed: Any) -> None:
    """Say where FILE_OR_NAME would go, what would have to leave for it, or why there is no place. Nothing is started.

    What is not given is as the settings have it. Without --gpus the question is about the GPUs of this machine, with no
    server on them; without any, about its CPU. docs/estimates.md has the form of the file. Exit status: 0 there is a
    place, now or after others left; 1 there is none; 2 wrong use, or a file that is not a model.
    """
    from app.errors import InvalidModelFile
    from app.use_cases.placement import decide

    try:
        asked = _asked(of_settings(model, config), typed)
    except InvalidModelFile as error:
        stop(error.problem)
    world = _world(gpus)
    begin = time.perf_counter()
    decision = decide(asked, world)
    told = _told(decision, world) | {"elapsed_ms": round(1000 * (time.perf_counter() - begin), 3)}
    click.echo(json.dumps(told, indent=2) if as_json else "\n".join(_lines(told, decision)))
    if decision.outcome is Outcome.REFUSE:
        sys.exit(ANSWER_IS_NO)


def _asked(question: Question, typed: dict[str, Any]) -> Asked:
    """Raises InvalidModelFile."""
    from app.use_cases.asked import Asked
    from app.use_cases.beside import NOTHING
    from app.use_cases.estimate import estimate_memory
    from app.use_cases.model_shape import model_shape
    from workers.beside_files import BesideFiles
    from workers.gguf_file import read_header

    header = read_header(question.path)
    refuse_what_is_no_model(header, question.path)
    shape, options = model_shape(header), with_typed(question.options, typed)
    beside = BesideFiles().read(question.launch) if question.launch else NOTHING
    wishes = Wishes(has_auto_context=question.has_auto_context and typed["ctx_size"] is None)
    return Asked(shape, options, lambda changed: estimate_memory(shape, changed, beside=beside), wishes)


def _world(file: Path | None) -> World:
    from app.gpus_file import BrokenFile, read_world
    from workers.memory import read_memory

    available = read_memory({}).available_bytes
    if file is None:
        return _this_machine(available)
    try:
        return read_world(file, available)
    except BrokenFile as error:
        stop(f"--gpus {file}: {error}")


def _this_machine(ram_bytes: int) -> World:
    from app.entities.placement import Rules
    from app.use_cases.gpu_ledger import cards
    from app.use_cases.placement import World
    from app.use_cases.visible_gpus import names_nothing
    from workers.nvml import Nvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names_nothing(visible):
        return World((), ram_bytes=ram_bytes)
    snapshot = Nvml(visible).read_gpus()
    for complaint in snapshot.complaints:
        click.echo(f"note: {complaint}", err=True)
    return World(cards(snapshot, (), Rules()), ram_bytes=ram_bytes)


def _told(decision: Decision, world: World) -> dict[str, Any]:
    names = {resident.id: resident.model for resident in world.residents}
    told: dict[str, Any] = {
        "outcome": str(decision.outcome),
        "placement": _placement(decision.placement) if decision.placement else None,
        "evict": [names[number] for number in decision.evict],
        "reason": decision.reason,
        "needed_bytes": decision.needed_bytes,
    }
    if decision.nearest:
        told["nearest"] = decision.nearest
    return told


def _placement(placement: Placement) -> dict[str, Any]:
    is_on_cpu = placement.uuids == (CPU,)
    memories = (placement.estimate.host,) if is_on_cpu else placement.estimate.devices
    layers = placement.layers or (0,)
    items = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes", "total_bytes")
    devices = [
        {"uuid": uuid, "layers": count} | {item: getattr(memory, item) for item in items}
        for uuid, count, memory in zip(placement.uuids, layers, memories, strict=True)
    ]
    return {
        "devices": devices,
        "tensor_split": list(placement.tensor_split),
        "n_gpu_layers": placement.n_gpu_layers,
        "ctx_size": placement.ctx_size,
    }


def _lines(told: dict[str, Any], decision: Decision) -> list[str]:
    """For people, in MiB."""
    lines = [f"{told['outcome']}: {told['reason']}"]
    if told["evict"]:
        lines.append(f"stopped first: {', '.join(told['evict'])}")
    for device in (told["placement"] or {}).get("devices", []):
        size = f"{device['total_bytes'] / 1024**2:,.0f} MiB"
        lines.append(f"  {device['uuid']}  {device['layers']} layers, {size}")
    if told["placement"]:
        split = ",".join(map(str, told["placement"]["tensor_split"]))
        lines.append(
            f"  context {told['placement']['ctx_size']:,}, n_gpu_layers {told['placement']['n_gpu_layers']}"
            + (f", tensor_split {split}" if split else "")
        )
    if decision.nearest:
        lines.append(f"it would fit with {decision.nearest}")
    return [*lines, "", *(f"- {step}" for step in decision.considered), f"decided in {told['elapsed_ms']} ms"]
