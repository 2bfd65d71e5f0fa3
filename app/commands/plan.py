"""`llama-smart-proxy plan`: where a model would be placed on given GPUs, without starting anything."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.console import json_option, print_json
from app.commands.engine_answers import (
    ASK_OPTION,
    engine_correction,
    remembered_request,
)
from app.commands.engine_command import EngineOptionsCommand, typed_arguments
from app.commands.engine_query import companions_of, with_engine_arguments
from app.commands.options import (
    ANSWER_IS_NO,
    MemoryQuery,
    exit_unless_model,
    exit_wrong_use,
    model_options,
    options_for_task,
    query_from_settings,
    spelled,
)
from app.commands.this_machine import note_unmatched_names, this_machine
from app.entities.placement import CPU, Card, Decision, Outcome
from app.use_cases.estimate.projected import corrected_unless_certain
from app.use_cases.launch.known_options import DEVICE_LISTS
from app.use_cases.placement.cards import describe_card, format_mib

if TYPE_CHECKING:
    from app.entities.launch import ModelOptions
    from app.entities.memory import Estimate
    from app.use_cases.estimate.companions import Companions
    from app.use_cases.launch.typed_arguments import TypedArguments
    from app.use_cases.placement.request import PlacementRequest
    from app.use_cases.placement.world import World


@click.command(cls=EngineOptionsCommand, short_help="Show where FILE_OR_NAME would be placed, and why.")
@click.argument("model", metavar="FILE_OR_NAME")
@model_options
@click.option("--gpus", type=click.Path(path_type=Path), help="JSON file with the GPUs and the servers on them.")
@ASK_OPTION
@json_option
def plan(model: str, gpus: Path | None, ask_engine: bool, as_json: bool, config: Path | None, **typed: Any) -> None:
    """Show where FILE_OR_NAME would be placed, what would be evicted for it, or why it does not fit.

    Nothing is started. Options default to the settings. Without --gpus, the GPUs of this machine are used, with no
    servers on them and an engine that supports them; without GPUs, its CPU. The file's machine has the RAM that the
    file gives, else enough; docs/estimates.md describes it. Exit status: 0 it can be placed, now or after evictions;
    1 it cannot; 2 usage error, or the file is not a model.
    """
    from app.errors import InvalidModelFile
    from app.use_cases.estimate.tensor_overrides import unmatched_patterns
    from app.use_cases.placement.placement import decide
    from app.use_cases.reporting.decisions import decision_json
    from app.use_cases.reporting.plans import machine_json

    _reject_placement_options(typed)
    arguments = typed_arguments()
    query = with_engine_arguments(query_from_settings(model, config), arguments)
    try:
        request = _request(query, typed, arguments, config, ask_engine)
    except InvalidModelFile as error:
        exit_wrong_use(error.problem)
    world, problem = _world(gpus, query)
    begin = time.perf_counter()
    refused = Decision(Outcome.REFUSE, problem, 0) if problem and request.options.n_gpu_layers else None
    decision = refused or decide(request, world.with_others_taken())
    elapsed_ms = round(1000 * (time.perf_counter() - begin), 3)
    names = {resident.id: resident.model for resident in world.residents}
    report = decision_json(decision, [names[number] for number in decision.evict])
    notes = [*arguments.notes, *unmatched_patterns(request.shape, request.options)]
    report |= {**machine_json(world), "elapsed_ms": elapsed_ms}
    if as_json:
        print_json(report | ({"notes": notes} if notes else {}))
    else:
        click.echo("\n".join([*_lines(report, decision, world), *notes]))
    if decision.outcome is Outcome.REFUSE:
        sys.exit(ANSWER_IS_NO)


def _reject_placement_options(typed: dict[str, Any]) -> None:
    """Ends the command if an option is set that the placement decides."""
    for option in ("tensor_split", "main_gpu"):
        if typed[option] is not None:
            exit_wrong_use(f"--{option.replace('_', '-')}: plan computes it; remove it, or use estimate")
    if typed_arguments().names & DEVICE_LISTS:
        exit_wrong_use("--device: plan chooses the GPUs; remove it, or use estimate")


def _request(
    query: MemoryQuery, typed: dict[str, Any], arguments: TypedArguments, config: Path | None, ask_engine: bool
) -> PlacementRequest:
    """The question to the placement. Raises InvalidModelFile."""
    from app.commands.placement_request import request_by_file
    from app.use_cases.estimate.tensor_overrides import gpu_of
    from app.use_cases.launch.typed_options import ConflictingOptions, with_typed_devices
    from app.use_cases.model_shape.shape import model_shape
    from workers.gguf.header import read_header

    header = read_header(query.path)
    exit_unless_model(header, query.path)
    shape = model_shape(header)
    companions = companions_of(query, arguments)
    try:
        options = with_typed_devices(options_for_task(query, header), query.constraints, typed, spelled)
    except ConflictingOptions as error:
        exit_wrong_use(str(error))
    for pattern, buffer in options[0].overrides:
        if gpu_of(buffer) is not None:
            exit_wrong_use(f"--override-tensor {pattern}={buffer}: plan chooses the GPUs; write CPU, or use estimate")
    request = remembered_request(query, shape, options[0], companions, config)
    if request is None:
        request = request_by_file(shape, *options, companions)
    request = replace(request, options=options[0], constraints=options[1])
    return _checked(request, query, arguments, companions, config) if ask_engine else request


def _checked(
    request: PlacementRequest,
    query: MemoryQuery,
    arguments: TypedArguments,
    companions: Companions,
    config: Path | None,
) -> PlacementRequest:
    """The request, with what the engine says of the weights and the context wherever an estimate is not certain."""
    found = engine_correction(request.shape, request.options, query, arguments, companions, config)
    click.echo(f"note: {found.text}", err=True)

    def estimate(options: ModelOptions, names: tuple[str, ...]) -> Estimate:
        return corrected_unless_certain(request.estimate(options, names), found)

    return replace(request, estimate=estimate, estimate_without_history=estimate)


def _world(file: Path | None, query: MemoryQuery) -> tuple[World, str]:
    """The machine, and why no model that uses GPUs can be placed on it (no_gpu in the service); "" if it can."""
    from app.commands.gpus_file import InvalidGpusFile, read_world
    from app.entities.gpu import GpuSnapshot, GpuState
    from app.use_cases.placement.usable_gpus import unplaceable_reason

    if file is None:
        return this_machine(query)
    try:
        world = read_world(file, query.gpu_limits, query.policy)
    except InvalidGpusFile as error:
        exit_wrong_use(f"--gpus {file}: {error}")
    note_unmatched_names(query, world.cards)
    nothing = GpuSnapshot(GpuState.NO_GPU, at=0.0)
    return world, "" if world.cards else unplaceable_reason(nothing, query.cpu_fallback)


def _ram_line(world: World) -> str:
    free = world.shared.get(CPU)
    return "RAM: assumed to be enough; the file gives none" if free is None else f"RAM: {format_mib(free)} free"


def _gpu_line(card: Card) -> str:
    usable, reserve = format_mib(max(0, card.usable_bytes)), format_mib(card.reserve_bytes)
    return f"{describe_card(card)}: {usable} usable, {reserve} reserved{', unified memory' if card.is_unified else ''}"


def _lines(report: dict[str, Any], decision: Decision, world: World) -> list[str]:
    """The decision as text, in MiB."""
    lines = [f"{report['outcome']}: {report['reason']}"]
    if report["evict"]:
        lines.append(f"evicted first: {', '.join(report['evict'])}")
    if placement := decision.placement:
        on_gpus = zip(placement.indices, placement.names, placement.uuids, placement.layers, strict=False)
        for index, name, uuid, layers in on_gpus:
            lines.append(f"  GPU {index} ({name}, {uuid})  {layers} layers, {format_mib(placement.booked_bytes[uuid])}")
        in_ram = format_mib(placement.booked_bytes.get(CPU, 0))
        lines.append(f"  {'CPU' if placement.is_on_cpu else 'RAM'}  {in_ram}")
        split = ",".join(map(str, report["placement"]["tensor_split"]))
        lines.append(
            f"  context {report['placement']['ctx_size']:,}, n_gpu_layers {report['placement']['n_gpu_layers']}"
            + (f", tensor_split {split}" if split else "")
        )
    if decision.suggestion:
        lines.append(f"suggestion: it would fit with {decision.suggestion}")
    steps = (*map(_gpu_line, world.cards), _ram_line(world), *decision.considered)
    return [*lines, "", *(f"- {step}" for step in steps), f"decided in {report['elapsed_ms']} ms"]
