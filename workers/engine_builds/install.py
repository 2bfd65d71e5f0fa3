"""`engine install`: from a source package to an engine that was tried and is installed.

What can be known to fail is checked before anything is downloaded. Whatever ends it early, the same call continues.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from app.entities.engines import Backend, InstalledEngine, InstructionSet
from app.use_cases.engines.build_needs import BuildNeeds, build_needs, needs_text
from app.use_cases.engines.build_numbers import UNKNOWN_BUILD, wanted_build_number
from app.use_cases.engines.build_options import build_options
from app.use_cases.engines.cuda import CudaTarget, NoToolkit, cuda_target
from app.use_cases.engines.instruction_sets import instruction_options
from app.use_cases.reporting.phrases import gib_text
from workers.engine.installed_engines import engines_folder
from workers.engine_builds.build import BuildEnvironment, build
from workers.engine_builds.build_tools import build_tools
from workers.engine_builds.cuda_toolkit import (
    PACKAGED_BYTES,
    check_packaged_for,
    find_toolkits,
    install_packaged,
    toolkit_options,
)
from workers.engine_builds.engine_store import build_lock, builds_folder, find_installed, publish_engine
from workers.engine_builds.machine import BuildMachine
from workers.engine_builds.source import Source, find_source
from workers.engine_builds.source_download import download_source
from workers.engine_builds.stopping import CannotContinue, Deadline
from workers.engine_builds.tried_build import tried_build
from workers.engine_builds.vulkan import check_vulkan

_FOREVER = Deadline(float("inf"))


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build."""

    backend: Backend
    version: str  # of xllamacpp, or llama.cpp's build number
    sdist: Path | None = None  # a source package, or its folder, instead of `version`


@dataclass(frozen=True, slots=True)
class Reporter:
    """Whom to tell what happens."""

    say: Callable[[str], None]  # a line
    progress: Callable[[str, int, int], None]  # what is done ("compiling"), how much of how much; bytes of a download


def install_engine(request: BuildRequest, cache: Path, machine: BuildMachine, reporter: Reporter) -> InstalledEngine:
    """Build, try and install it, unless it is installed. Raises CannotContinue, OSError."""
    with build_lock(cache):
        target = _cuda_target(machine) if request.backend is Backend.CUDA else None
        build_number = UNKNOWN_BUILD if request.sdist else wanted_build_number(request.version)
        if existing := _existing(cache, request.backend, build_number, target):
            return existing
        if request.backend is Backend.VULKAN:
            check_vulkan()
        tools = build_tools(cache, _FOREVER)
        needs = _announced_needs(request.backend, target, cache, machine, reporter)
        archive = request.sdist or _downloaded(request.version, cache, reporter)
        source = find_source(archive, builds_folder(cache) / "source")
        if existing := _existing(cache, request.backend, source.build, target):
            return existing
        engine = _described(request.backend, source, archive.name, target)
        options = build_options(source.build, request.backend, engine.architectures)
        if target:
            options |= _toolkit_options(target, cache, reporter)
        return _installed(
            _Build(engine, source, options, BuildEnvironment(tools), needs.jobs), cache, machine, reporter
        )


@dataclass(frozen=True, slots=True)
class _Build:
    engine: InstalledEngine
    source: Source
    options: dict[str, str]
    environment: BuildEnvironment
    jobs: int


def _cuda_target(machine: BuildMachine) -> CudaTarget:
    try:
        target = cuda_target(find_toolkits(), machine.driver, machine.cards)
    except NoToolkit as error:
        raise CannotContinue(str(error)) from error
    if not target.toolkit.root:
        check_packaged_for(platform.machine())
    return target


def _announced_needs(
    backend: Backend, target: CudaTarget | None, cache: Path, machine: BuildMachine, reporter: Reporter
) -> BuildNeeds:
    """What the build takes, said and compared with the disk. Raises CannotContinue."""
    architectures = target.architectures if target else ()
    is_packaged = target is not None and not target.toolkit.root
    needs = build_needs(backend, len(architectures), machine.cores, machine.available_bytes)
    disk_bytes = needs.disk_bytes + (PACKAGED_BYTES if is_packaged else 0)
    folder = engines_folder(cache)
    if target:
        cards = f"compute capability {', '.join(architectures)}, with {target.toolkit.label}"
        reporter.say(f"llama-server with CUDA for {cards}")
        for card in target.left_out:
            reporter.say(f"not for the cards of compute capability {card}: that toolkit has no code for them")
    reporter.say(f"{needs_text(needs, disk_bytes)} in {folder}")
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < disk_bytes:
        raise CannotContinue(
            f"not enough disk space in {folder}: {gib_text(free_bytes)} of {gib_text(disk_bytes)} are free. "
            "Next: free some, or move the cache, the service's too, by CACHE_DIRECTORY or XDG_CACHE_HOME"
        )
    return needs


def _downloaded(version: str, cache: Path, reporter: Reporter) -> Path:
    return download_source(version, builds_folder(cache), partial(reporter.progress, "source package"))


def _existing(cache: Path, backend: Backend, build_number: str, target: CudaTarget | None) -> InstalledEngine | None:
    """The engine, if it is installed for all of these cards. What was built of an unknown version is built again."""
    found = find_installed(cache, _name(backend, build_number)) if build_number.isdecimal() else None
    return found if found and set(found.architectures) >= set(target.architectures if target else ()) else None


def _name(backend: Backend, build_number: str) -> str:
    return f"{backend}-{build_number}"


def _described(backend: Backend, source: Source, archive: str, target: CudaTarget | None) -> InstalledEngine:
    architectures = target.architectures if target else ()
    name = _name(backend, source.build)
    return InstalledEngine(name, source.build, backend, architectures, InstructionSet.NATIVE, archive, 0, "")


def _toolkit_options(target: CudaTarget, cache: Path, reporter: Reporter) -> dict[str, str]:
    toolkit = target.toolkit
    if not toolkit.root:
        reporter.say("installing NVIDIA's compiler and cuBLAS from PyPI")
        toolkit = install_packaged(cache, _FOREVER)
    return toolkit_options(toolkit, cache)


def _installed(wanted: _Build, cache: Path, machine: BuildMachine, reporter: Reporter) -> InstalledEngine:
    """Build with the widest instruction set that works."""
    folder = builds_folder(cache) / wanted.engine.name
    compiling = partial(reporter.progress, "compiling")

    def build_for(chosen: InstructionSet) -> Path:
        options = wanted.options | instruction_options(chosen)
        return build(wanted.source, folder, options, _FOREVER, wanted.environment, wanted.jobs, compiling)

    tried = tried_build(machine.instruction_sets, build_for, reporter.say)
    if tried.note:
        reporter.say(tried.note)
    return _published(wanted.engine, tried.instruction_set, folder, cache)


def _published(engine: InstalledEngine, chosen: InstructionSet, folder: Path, cache: Path) -> InstalledEngine:
    done = publish_engine(cache, replace(engine, instruction_set=chosen), folder)
    for each in builds_folder(cache).iterdir():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        elif each.name != "lock":
            each.unlink(missing_ok=True)
    return done
