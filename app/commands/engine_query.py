"""A question about memory with llama-server's own arguments in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from app.commands.options import MemoryQuery, exit_wrong_use
from app.entities.launch import LaunchSettings
from app.use_cases.estimate.companions import Companions
from app.use_cases.launch.parsed_args import companion_paths
from app.use_cases.launch.typed_arguments import TypedArguments


def with_engine_arguments(query: MemoryQuery, typed: TypedArguments) -> MemoryQuery:
    """The question with these arguments, which override its settings."""
    options = typed.applied(query.options)
    if query.launch is None:
        return replace(query, options=options)
    args = (*query.launch.args, *typed.words)
    return replace(query, options=options, launch=replace(query.launch, options=options, args=args))


def companions_of(query: MemoryQuery, typed: TypedArguments) -> Companions:
    """The companion files, as they are typed or else set. Raises InvalidModelFile for one that cannot be read."""
    from workers.catalog.companion_files import CompanionFiles
    from workers.gguf.header import read_header

    named = companion_paths(LaunchSettings(args=typed.words))
    for path in _files(named.projector, named.draft, *named.adapters):
        read_header(path)
    launch = query.launch or LaunchSettings(args=typed.words)
    projector = (named.projector or launch.mmproj) if typed.has_projector else None
    return CompanionFiles().read(replace(launch, mmproj=projector))


def _files(*paths: str | None) -> Iterable[str]:
    for path in paths:
        if path == "":
            exit_wrong_use("a file has no name")
        if path:
            yield path
