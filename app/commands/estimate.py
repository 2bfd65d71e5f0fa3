"""`llama-smart-proxy estimate`: the memory a model needs, without loading it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.console import json_option, print_json
from app.commands.engine_answers import ASK_OPTION, engine_correction, remembered_request
from app.commands.engine_command import EngineOptionsCommand, typed_arguments
from app.commands.engine_query import companions_of, with_engine_arguments
from app.commands.estimate_report import report_data, report_lines
from app.commands.options import (
    ANSWER_IS_NO,
    MemoryQuery,
    apply_typed_options,
    exit_unless_model,
    exit_wrong_use,
    is_file,
    model_options,
    options_for_task,
    pluralize,
    query_from_settings,
)
from app.entities.launch import AUTO_PROMPT_CACHE, ModelOptions, Task
from app.entities.memory import Confidence, Estimate

if TYPE_CHECKING:
    from app.use_cases.estimate.companions import Companions
    from app.use_cases.model_shape.shape import ModelShape

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", re.IGNORECASE)
_UNITS = {f"{letter}{i}b": (1024 if i else 1000) ** power for power, letter in enumerate("kmgt", 1) for i in ("", "i")}


@click.command(cls=EngineOptionsCommand)
@click.argument("model", metavar="FILE_OR_NAME")
@model_options
@click.option(
    "--fit-in",
    metavar="SIZE",
    help="Also print the largest context that fits in SIZE per GPU, such as 24GiB or 24GiB,8GiB.",
)
@ASK_OPTION
@json_option
def estimate(
    model: str, config: Path | None, fit_in: str | None, ask_engine: bool, as_json: bool, **typed: Any
) -> None:
    """Estimate the memory FILE_OR_NAME needs, by item. Nothing is loaded: only the file's header is read.

    Options default to llama-server's for a FILE, and to the model's settings, on one GPU, for a NAME of the catalogue.
    Other options of llama-server's are taken as well, in its own spellings.
    The context of ctx_size auto is that on this machine. Of a NAME, what the service has measured counts.
    docs/estimates.md explains the output.
    Exit status: 0 success, 1 nothing fits in --fit-in, 2 usage error, or the file is not a model.
    """
    from app.commands.placement_request import automatic_context, request_by_file
    from app.commands.this_machine import this_machine
    from app.errors import InvalidModelFile
    from app.use_cases.estimate.estimate import estimate_memory
    from app.use_cases.estimate.largest_context import largest_contexts, why_nothing_fits
    from app.use_cases.estimate.projected import CERTAIN, NO_CORRECTION, corrected
    from app.use_cases.model_shape.shape import model_shape
    from app.use_cases.placement.request import with_prompt_cache
    from workers.gguf.header import read_header

    try:
        query = MemoryQuery(model, ModelOptions(), None) if is_file(model) else query_from_settings(model, config)
        arguments = typed_arguments()
        query = with_engine_arguments(query, arguments)
        path = query.path
        header = read_header(path)
        exit_unless_model(header, path)
        shape, options = model_shape(header), apply_typed_options(options_for_task(query, header), typed)
        sizes = _sizes(fit_in, options.devices) if fit_in is not None else None
        companions = companions_of(query, arguments)
        options = options if companions.draft else replace(options, draft_device=None)
        is_automatic = query.constraints.has_auto_context and typed["ctx_size"] is None
        if is_automatic:
            request = request_by_file(shape, options, query.constraints, companions)
            options = replace(options, ctx_size=automatic_context(request, this_machine(query)[0]))
        options = replace(options, ctx_size=options.ctx_size or shape.hparams.integer("context_length"))
        result = _remembered(query, shape, options, companions, config) or estimate_memory(
            shape, options, companions=companions
        )
        result = with_prompt_cache(result, options.prompt_cache if options.task is Task.COMPLETION else 0)
        by = NO_CORRECTION
        if ask_engine and result.confidence not in CERTAIN:
            by = engine_correction(shape, options, query, arguments, companions, config)
            result = corrected(result, by)
    except InvalidModelFile as error:
        exit_wrong_use(error.problem)
    fits = largest_contexts(shape, options, companions, sizes, by) if sizes else None
    notes = ["the context is that of ctx_size auto on this machine"] if is_automatic else []
    options = replace(options, batch_size=options.batch_tokens, ubatch_size=options.ubatch_tokens)
    report = report_data(path, header, options, result, [*notes, *_notes(shape, options), *arguments.notes], fits)
    if as_json:
        print_json(report)
    else:
        why = why_nothing_fits(shape, options, companions, sizes, by) if sizes and not fits else ""
        name = query.model.name if query.model else ""
        click.echo("\n".join(report_lines(report, result, why, name)))
    if fits == []:
        sys.exit(ANSWER_IS_NO)


def _remembered(
    query: MemoryQuery, shape: ModelShape, options: ModelOptions, companions: Companions, config: Path | None
) -> Estimate | None:
    """What a start of this model took on this machine, or its engine projected; None if there was none like it."""
    from app.commands.this_machine import this_machine

    learned = remembered_request(query, shape, options, companions, config)
    if learned is None:
        return None
    names = tuple(card.name for card in this_machine(query)[0].cards)[: options.devices]
    as_placed = options if options.devices else replace(options, n_gpu_layers=0)
    found = learned.estimate(replace(learned.options, **_placed(as_placed)), names)
    return found if found.confidence is Confidence.MEASURED else None


def _placed(options: ModelOptions) -> dict[str, Any]:
    """What a placement decides."""
    return {
        name: getattr(options, name) for name in ("ctx_size", "devices", "n_gpu_layers", "n_cpu_moe", "tensor_split")
    }


def _sizes(text: str, devices: int) -> tuple[int, ...]:
    """Bytes: one size for all GPUs, or one per GPU. Invalid sizes end the command."""
    sizes = []
    for size in text.split(","):
        match = _SIZE.fullmatch(size.strip())
        if not match or not float(match[1]):
            exit_wrong_use(f"--fit-in {text}: not a size; write 24GiB, or 24GiB,8GiB for one size per GPU")
        sizes.append(int(float(match[1]) * _UNITS[match[2].lower()]))
    if len(sizes) not in (1, devices):
        exit_wrong_use(
            f"--fit-in {text}: {len(sizes)} sizes for {pluralize(devices, 'device')}; add --devices {len(sizes)}"
        )
    return tuple(sizes)


def _notes(shape: ModelShape, options: ModelOptions) -> list[str]:
    """Notes about options that may not have the effect the user expects."""
    from app.use_cases.estimate.tensor_overrides import unmatched_patterns

    notes, trained = [], shape.hparams.integer("context_length")
    if 0 < trained < options.ctx_size:
        notes.append(f"the model was trained with a context of {trained:,} tokens")
    if options.ubatch_tokens > options.batch_tokens and options.task is Task.COMPLETION:
        notes.append(f"a ubatch is never larger than the batch, which has {options.batch_size:,} tokens")
    if options.prompt_cache == AUTO_PROMPT_CACHE:
        notes.append("prompt_cache auto adds a share of the RAM that is free at the start; `plan` says how much")
    if options.n_cpu_moe and not shape.largest_expert_bytes:
        notes.append("the model has no experts to keep in RAM")
    return [*notes, *unmatched_patterns(shape, options)]
