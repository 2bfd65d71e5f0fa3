"""Selects the llama-server to run, and probes its version and options.

Capabilities are read from the engine's own output, and never inferred from a version number.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from app.entities.engines import Backend, InstalledEngine
from app.entities.launch import EngineFacts, EngineKind
from app.use_cases.placement.engine_gpus import can_use_nvidia_gpus
from workers.engine import embedded_engine
from workers.engine.engine_files import content_identity, folders_of, running_files
from workers.engine.gpu_probe import list_devices
from workers.engine.installed_engines import chosen_engine, description_of, installed_engines
from workers.engine.probe_process import LONG_OUTPUT_BYTES, EngineNotFound, last_lines, probe_output

log = logging.getLogger(__name__)

_EMBEDDED = Path(__file__).with_name("embedded_engine.py")
_OPTION = r"(?:^|,\s*)(--?[A-Za-z][\w.-]*)"

SERVICE_KEY = "engine.binary"
_NEXT_STEP = (
    "build one: llama-smart-proxy engine install, set engine.binary to the path of a llama-server, "
    "or install the embedded engine: pip install xllamacpp, or pipx inject llama-smart-proxy xllamacpp"
)


def find_engine(
    binary: str = "auto",
    path: str | None = None,
    cache: Path | None = None,
    env: Mapping[str, str] = MappingProxyType({}),
    key: str = SERVICE_KEY,
) -> EngineFacts:
    """The engine to use: `binary` if it names one, else the one that `engine use` chose, else the first that can use
    GPUs, else the first that works: llama-server on `path` (PATH), those that are installed, the embedded one.

    `binary` is "auto", "embedded", the name of an installed engine, or a path. `cache`: the service's cache directory,
    None without installed engines; `env`: additions to the engine's environment; `key`: the setting with `binary`. A
    configured or chosen binary that does not work is an error even if another would work; otherwise a broken one is
    skipped with a warning. Takes seconds for each engine that is asked for its devices: none is, unless one was
    installed for GPUs. Raises EngineNotFound.
    """
    if binary == "embedded":
        return _embedded_engine()
    if binary != "auto":
        return _facts_of_binary(engine_program(binary, path, cache, key), env)
    if cache and (chosen := chosen_engine(cache)):
        return _chosen_engine(chosen, cache, env)
    return _first_choice(path, cache, env)


def find_same_engine(
    engine: EngineFacts, env: Mapping[str, str] = MappingProxyType({}), key: str = SERVICE_KEY
) -> EngineFacts:
    """The engine as it is now, after its files have changed. Raises EngineNotFound."""
    if engine.kind is EngineKind.EMBEDDED:  # its script may be newer than the module in this process
        return _embedded_engine(probe_output((*engine.command, "--help")))
    return _facts_of_binary(engine_program(engine.command[0], key=key), env)


def engine_program(binary: str, path: str | None = None, cache: Path | None = None, key: str = SERVICE_KEY) -> str:
    """The executable that the setting `key` names: as for find_engine, but not "auto" and "embedded". Raises
    EngineNotFound."""
    name = os.path.expanduser(binary)
    installed = _installed(binary, cache)
    if found := installed.binary if installed else shutil.which(name, path=path):
        return found
    raise EngineNotFound(f"{key} {binary!r} {_why_not_run(name)}. Next: correct it, or set {key} to auto")


def _installed(name: str, cache: Path | None) -> InstalledEngine | None:
    return next((engine for engine in installed_engines(cache) if engine.name == name), None) if cache else None


def _why_not_run(name: str) -> str:
    if "/" not in name:  # a file of this name in the working directory is not meant
        return "does not exist: no installed one has this name, and PATH has none"
    if os.path.isdir(name):
        return "is a directory"
    return "is not executable" if os.path.exists(name) else "does not exist"


def flags_in_help(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """(every option in llama-server's --help, those of them that take no value).

    Options are the tokens before each description that begin with "-"; any other token is the name of the value, or of
    --spec-type the list of values, each of which is added.
    """
    flags: set[str] = set()
    switches: set[str] = set()
    for line in text.splitlines():
        # Descriptions are indented by 30 or 40; older builds indent an option without a short form by 9.
        if re.match(r" {0,9}-", line):
            column = re.split(r"(?<![,\s])\s{2,}", line.strip(), maxsplit=1)[0]
            named = re.findall(_OPTION, column)
            flags.update(named)
            if listed := re.fullmatch(r"(--spec-type) ([\w,-]+)", column):
                flags.update(f"{listed[1]} {value}" for value in listed[2].split(","))
            switches.update(named if not re.sub(_OPTION, "", column).strip() else ())
    return frozenset(flags), frozenset(switches)


def _chosen_engine(name: str, cache: Path, env: Mapping[str, str]) -> EngineFacts:
    """The one that `engine use` chose."""
    found = _installed(name, cache)
    fix = "Next: llama-smart-proxy engine use auto, or engine list and engine use NAME"
    if not found:
        raise EngineNotFound(f"the engine {name} was chosen (engine use), and is not installed. {fix}")
    try:
        return _facts_of_binary(found.binary, env)
    except EngineNotFound as error:
        raise EngineNotFound(f"the engine {name} was chosen (engine use): {error}. {fix}") from error


def _first_choice(path: str | None, cache: Path | None, env: Mapping[str, str]) -> EngineFacts:
    installed = installed_engines(cache) if cache else []
    compares = any(engine.backend is not Backend.CPU for engine in installed)
    on_path = shutil.which("llama-server", path=path)
    tried = [] if on_path else ["llama-server is not on PATH"]
    working: list[EngineFacts] = []
    for executable in (*([on_path] if on_path else []), *(engine.binary for engine in installed)):
        try:
            facts = _facts_of_binary(executable, env)
        except EngineNotFound as error:
            log.warning("engine skipped: %s", error)
            tried.append(str(error))
            continue
        if not compares or can_use_nvidia_gpus(list_devices(facts, env)):
            return facts
        working.append(facts)
    return working[0] if working else _embedded_or_none(tried)


def _embedded_or_none(tried: Sequence[str]) -> EngineFacts:
    try:
        return _embedded_engine()
    except EngineNotFound as error:
        raise EngineNotFound(f"no llama-server to run: {'; '.join([*tried, str(error)])}. Next: {_NEXT_STEP}") from None


def _facts_of_binary(executable: str, env: Mapping[str, str]) -> EngineFacts:
    # Symbolic links stay unresolved in the command: a wrapper script may depend on its $0.
    command = (os.path.abspath(executable),)
    version, flags, switches, running = _probe(command, env)
    content = (*command, *running)
    try:
        identity = content_identity(content, version)
    except OSError as error:
        raise EngineNotFound(f"{error.filename} was replaced while it was asked: {error.strerror}") from error
    files = tuple(dict.fromkeys((*content, *folders_of(content))))
    described = description_of(Path(command[0]))
    architectures = described.architectures if described else ()
    return EngineFacts(EngineKind.BINARY, command, version, identity, flags, switches, files, architectures)


def _embedded_engine(help_text: str = "") -> EngineFacts:
    """`help_text`: its own; as in this process without one, which saves two starts of Python."""
    try:
        package = importlib.metadata.distribution("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        raise EngineNotFound(
            "the embedded engine is not installed: pip install xllamacpp, or pipx inject llama-smart-proxy xllamacpp"
        ) from None
    command = (sys.executable, "-P", str(_EMBEDDED))
    flags, switches = flags_in_help(help_text or embedded_engine.help_text())
    built = [file for file in package.files or () if file.suffix == ".so" and file.hash]
    hashes = " ".join(sorted(file.hash.value for file in built if file.hash))
    identity = f"xllamacpp {package.version} {hashlib.sha256(hashes.encode()).hexdigest()[:12]}"
    files = (str(_EMBEDDED), *(str(file.locate()) for file in package.files or () if file in built or _is_record(file)))
    version = f"xllamacpp {package.version}"
    return EngineFacts(EngineKind.EMBEDDED, command, version, identity, flags, switches, files)


def _is_record(file: importlib.metadata.PackagePath) -> bool:
    """Whether it lists the files of a package: pip replaces it with every version."""
    return file.name == "RECORD"


def _probe(
    command: tuple[str, ...], env: Mapping[str, str]
) -> tuple[str, frozenset[str], frozenset[str], tuple[str, ...]]:
    """(version, flags, switches, files that it runs from) of the engine. Raises EngineNotFound."""
    lines = probe_output((*command, "--version"), env).splitlines()
    # Device lines may come first ("ggml_cuda_init: found 1 CUDA devices").
    version = next((line.removeprefix("version:").strip() for line in lines if line.startswith("version")), "unknown")
    files: list[str] = []
    text = probe_output((*command, "--help"), env, while_it_prints=lambda pid: files.extend(running_files(pid)))
    flags, switches = flags_in_help(text)
    if not {"--model", "--port"} <= flags:
        raise EngineNotFound(
            f"{command[-1]} is not a llama-server: its --help does not list --model and --port{last_lines(text)}"
        )
    return version, flags, switches, tuple(files) if len(text) >= LONG_OUTPUT_BYTES else ()
