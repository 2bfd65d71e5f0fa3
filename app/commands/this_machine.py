"""The machine that a command runs on, as placement decisions see it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from app.commands.options import MemoryQuery
from app.entities.gpu import NamedGpu
from app.use_cases.placement.cards import unmatched_names

if TYPE_CHECKING:
    from app.entities.gpu import GpuSnapshot
    from app.use_cases.placement.world import World


def this_machine(
    query: MemoryQuery, as_used: Callable[[GpuSnapshot], GpuSnapshot] = lambda snapshot: snapshot
) -> tuple[World, str]:
    """This machine as it is now, without servers of ours, and why no model can be placed on its GPUs; "" if one can.
    `as_used`: the GPUs as the engine sees them; without it, one that can use all is assumed.

    Prints what is wrong with the GPUs.
    """
    from app.entities.gpu import GpuSnapshot, GpuState
    from app.use_cases.placement.ledger import Ledger
    from app.use_cases.placement.usable_gpus import hides_all_gpus, unplaceable_reason
    from app.use_cases.placement.world import world_of
    from workers.gpu.nvml import Nvml
    from workers.gpu.ram import read_memory

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = GpuSnapshot(GpuState.DISABLED, at=0.0)
    is_hidden = not query.uses_gpus or hides_all_gpus(visible)
    snapshot = hidden if is_hidden else as_used(Nvml(visible).read_gpus())
    for complaint in snapshot.problems:
        click.echo(f"note: {complaint}", err=True)
    note_unmatched_names(query, (*snapshot.gpus, *snapshot.missing))
    memory = read_memory({})
    ledger = Ledger(snapshot, memory, (), query.gpu_limits)
    world = world_of(ledger, query.policy, memory.at, uses_gpus=snapshot.has_engine_for_gpus)
    return world, unplaceable_reason(snapshot, query.cpu_fallback)


def note_unmatched_names(query: MemoryQuery, gpus: Sequence[NamedGpu]) -> None:
    """Prints the names in the settings that none of these GPUs has, those that are missing included."""
    for line in unmatched_names(query.gpu_names, gpus) if gpus else ():
        click.echo(f"note: {line}", err=True)
