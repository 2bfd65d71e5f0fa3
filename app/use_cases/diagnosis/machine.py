"""The machine: directories, disk space, the address to listen on, and limits of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.use_cases.diagnosis.finding import Finding, good, problem, warning
from app.use_cases.reporting.phrases import GIB, gib_text

MIN_FREE_BYTES = 256 * 1024**2
LOW_FREE_BYTES = 2 * GIB
FILES_PER_REQUEST = 2
SPARE_FILES = 256
SPARE_TASKS = 256  # threads of llama-servers, beside those of the service


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that the service writes to, or would create."""

    purpose: str  # "state", "cache"
    path: str
    is_writable: bool  # or its nearest existing parent
    free_bytes: int | None  # of its file system; None: not known
    kept_bytes: int = 0  # that the settings allow it to keep there
    variables: str = ""  # that name another place


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Limits of this process, None: unlimited. `threads`: of the service."""

    open_files: int | None
    tasks: int | None  # processes and threads: the least of RLIMIT_NPROC and the control groups' pids.max
    locked_bytes: int | None
    threads: int
    locking: Sequence[tuple[str, int]] = ()  # models with --mlock, and their sizes


@dataclass(frozen=True, slots=True)
class ListeningAddress:
    """Where the service would listen. `is_ours`: a Llama Smart Proxy answers there; `owner`: who else has it."""

    host: str
    port: int
    error: str = ""  # why it cannot listen there; "" if it can
    is_ours: bool = False
    owner: str = ""
    state_owner: str = ""  # pid of the service that uses the state directory; "" if none does


def directory_findings(directories: Sequence[Directory]) -> list[Finding]:
    found = [each for directory in directories for each in _of_directory(directory)]
    writable = [each for each in directories if each.is_writable]
    if writable and not any(finding.subject == "disk" for finding in found):
        text = ", ".join(f"{each.purpose} {each.path}{_free(each)}" for each in writable)
        found.append(good("directories", f"writable: {text}"))
    return found


def _free(directory: Directory) -> str:
    return "" if directory.free_bytes is None else f" ({gib_text(directory.free_bytes)} free)"


def _of_directory(directory: Directory) -> Iterator[Finding]:
    path, free = directory.path, directory.free_bytes
    if not directory.is_writable:
        fix = f"ls -ld {path}; or another place: {directory.variables}"
        yield problem("directories", f"the {directory.purpose} directory {path} cannot be written", fix)
    if free is None:
        return
    left = f"{gib_text(free)} free for {path} ({directory.purpose})"
    if free < MIN_FREE_BYTES:
        yield problem("disk", left, f"df -h {path}; free some space")
    elif free < directory.kept_bytes:
        text = f"{left}; saved KV caches may take {gib_text(directory.kept_bytes)}"
        yield warning("disk", text, "scheduling.kv_cache_disk: a smaller size")
    elif free < LOW_FREE_BYTES:
        yield warning("disk", left, f"df -h {path}")


def address_findings(address: ListeningAddress) -> list[Finding]:
    where = f"{address.host} port {address.port}"
    if address.is_ours:
        return [good("address", f"{where}: this service runs there")]
    found = []
    if address.error:
        owner = f"; {address.owner} has it" if address.owner else ""
        fix = f"ss -ltnp 'sport = :{address.port}'; or another port: --port, server.port"
        found.append(problem("address", f"cannot listen on {where}: {address.error}{owner}", fix))
    else:
        found.append(good("address", f"{where} is free"))
    if address.state_owner:
        text = f"another service (pid {address.state_owner}) uses it: a second one does not start"
        fix = f"ps {address.state_owner}; or give each its own by STATE_DIRECTORY or XDG_STATE_HOME"
        found.append(problem("state directory", text, fix))
    return found


def limit_findings(limits: ProcessLimits) -> list[Finding]:
    found = [*_files(limits), *_tasks(limits), *_locked(limits)]
    if found:
        return found
    counts = ", ".join(
        f"{'unlimited' if value is None else value} {what}"
        for value, what in ((limits.open_files, "open files"), (limits.tasks, "processes and threads"))
    )
    return [good("limits", f"{counts}; {_memlock(limits.locked_bytes)}")]


def _memlock(locked_bytes: int | None) -> str:
    """CUDA's pinned memory does not count."""
    size = "unlimited" if locked_bytes is None else f"{locked_bytes // 1024} KiB"
    return f"locked memory {size}, which only --mlock needs"


def _files(limits: ProcessLimits) -> Iterator[Finding]:
    needed = FILES_PER_REQUEST * limits.threads + SPARE_FILES
    if limits.open_files is not None and limits.open_files < needed:
        text = f"{limits.open_files} open files; {limits.threads} requests at a time need up to {needed}"
        yield warning("limits", text, f"ulimit -n {needed} (systemd: LimitNOFILE={needed}), or fewer server.threads")


def _tasks(limits: ProcessLimits) -> Iterator[Finding]:
    needed = limits.threads + SPARE_TASKS
    if limits.tasks is not None and limits.tasks < needed:
        text = f"{limits.tasks} processes and threads; {limits.threads} requests at a time need up to {needed}"
        fix = f"ulimit -u {needed} (systemd: TasksMax=, container: --pids-limit), or fewer server.threads"
        yield warning("limits", text, fix)


def _locked(limits: ProcessLimits) -> Iterator[Finding]:
    for model, size_bytes in limits.locking:
        if limits.locked_bytes is not None and limits.locked_bytes < size_bytes:
            text = f"{limits.locked_bytes // 1024} KiB of locked memory; {model} has --mlock and {gib_text(size_bytes)}"
            yield warning("limits", text, "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity), or remove --mlock")
