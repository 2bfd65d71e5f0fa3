"""What the engine and the service know about a model, for `estimate` and `plan`: loads remembered, or asked for now."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.options import MemoryQuery, read_settings
from app.entities.launch import LaunchSettings, ModelOptions
from app.entities.model import Model
from app.entities.placement import PlacementConstraints
from app.use_cases.estimate.companions import Companions
from app.use_cases.estimate.estimate import estimate_memory
from app.use_cases.estimate.projected import Correction, correction
from app.use_cases.launch.typed_arguments import TypedArguments
from app.use_cases.model_shape.shape import ModelShape

if TYPE_CHECKING:
    from app.use_cases.placement.request import PlacementRequest

ASK_OPTION = click.option(
    "--ask-engine",
    is_flag=True,
    help="Unless the estimate is exact or measured, let the engine check weights and context. Takes seconds.",
)


def remembered_request(
    query: MemoryQuery, shape: ModelShape, options: ModelOptions, companions: Companions, config: Path | None
) -> PlacementRequest | None:
    """The request with what loads of this model took; None if the service never loaded it."""
    from app.use_cases.launch.capabilities import launch_as_started
    from app.use_cases.model_shape.header_facts import header_facts
    from workers.past_loads import learned_request

    if query.model is None or query.launch is None:
        return None
    launch = launch_as_started(replace(query.launch, options=options), header_facts(shape.hparams.header))
    return learned_request(read_settings(config), replace(query.model, launch=launch), shape, companions)


def engine_correction(
    shape: ModelShape,
    options: ModelOptions,
    query: MemoryQuery,
    arguments: TypedArguments,
    companions: Companions,
    config: Path | None,
) -> Correction:
    """What the engine says of this start on the CPU; why it cannot tell is its text."""
    from workers.builders import build_engine, own_environment
    from workers.engine.projection import NotProjected, project_on_cpu

    settings = read_settings(config)
    own = query.launch.engine if query.launch else None
    engine = build_engine(settings, own)
    if engine.facts is None:
        return Correction(problem=f"no engine can be asked: {engine.problem}")
    env = own_environment(settings.engine.env, own)
    try:
        projected = project_on_cpu(_model_to_start(query, arguments, options), engine.facts, env)
    except NotProjected as error:
        return Correction(problem=f"the engine did not answer: {error}")
    return correction(estimate_memory(shape, options.without_gpus, companions=companions), projected)


def _model_to_start(query: MemoryQuery, arguments: TypedArguments, options: ModelOptions) -> Model:
    launch = replace(query.launch or LaunchSettings(args=arguments.words), options=options)
    size = os.path.getsize(query.path)
    return Model(os.path.basename(query.path), query.path, size, 0, launch, constraints=PlacementConstraints())
