"""Downloads: as GET /status and POST /models/pull have them, and in the forms of llama.cpp's router and of Ollama."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from app.entities.download import Download, DownloadState
from app.use_cases.reporting.phrases import duration_text, gib_text

DOWNLOADING = "downloading"  # llama.cpp's router has one word for all states before the end


def download_report(download: Download) -> dict[str, object]:
    """Sizes in bytes, times in Unix seconds; null means unknown."""
    left = download.seconds_left if download.state is DownloadState.DOWNLOADING else None
    rate = download.bytes_per_second
    return {
        "model": download.model,
        "state": download.state,
        "total_bytes": download.total_bytes,
        "done_bytes": download.done_bytes,
        "bytes_per_second": None if rate is None else round(rate),
        "seconds_left": None if left is None else round(left, 1),
        "file": download.file,
        "problem": download.problem,
        "code": download.code,
        "started_at": round(download.started_at, 3),
    }


def download_list(downloads: Sequence[Download]) -> list[dict[str, object]]:
    """The newest first."""
    return [download_report(each) for each in reversed(downloads)]


def progress_text(download: Download) -> str:
    """ "downloading user/repo:Q4_K_M 57 % of 8.4 GiB, 40 s left"."""
    doing = download.state if download.state is DownloadState.VERIFYING else DOWNLOADING
    if not download.total_bytes:
        return f"{doing} {download.model}"
    share = f"{100 * download.done_bytes / download.total_bytes:.0f} % of {gib_text(download.total_bytes)}"
    left = download.seconds_left if download.state is DownloadState.DOWNLOADING else None
    return f"{doing} {download.model} {share}" + ("" if left is None else f", {duration_text(left)} left")


def router_status(download: Download) -> dict[str, object]:
    """`status` of a model that is being downloaded (llama.cpp, server-models.cpp, b11549). The router has the bytes of
    each file by its URL; ours are those of all files, under the model's name."""
    sizes = {"done": download.done_bytes, "total": download.total_bytes or 0}
    return {"value": DOWNLOADING, "progress": {download.model: sizes} if download.total_bytes else {}}


def with_downloads(
    entries: Sequence[Mapping[str, object]], downloads: Iterable[Download]
) -> list[Mapping[str, object]]:
    """The entries of /models, and those of models that are being downloaded."""
    running = {each.model: each for each in downloads if each.is_running}
    known = {entry["id"] for entry in entries}
    new = [_entry(each) for each in running.values() if each.model not in known]
    return [_downloading(entry, running.get(str(entry["id"]))) for entry in entries] + new


def _downloading(entry: Mapping[str, object], download: Download | None) -> Mapping[str, object]:
    """One that is loaded stays so: a newer revision is being downloaded."""
    status = entry["status"]
    if download is None or not isinstance(status, dict) or status.get("value") != "unloaded":
        return entry
    return {**entry, "status": router_status(download)}


def _entry(download: Download) -> Mapping[str, object]:
    return {
        "id": download.model,
        "object": "model",
        "created": int(download.started_at),
        "owned_by": "llama-smart-proxy",
        "aliases": [],
        "status": router_status(download),
        "size": download.total_bytes or 0,
    }


def download_events(before: Sequence[Download], after: Sequence[Download]) -> list[dict[str, object]]:
    """The events of /models/sse about what has changed between two snapshots. A canceled download has failed, as with
    llama.cpp's router."""
    known = {_identity(each): each for each in before}
    return [event for each in after if (old := known.get(_identity(each))) != each for event in _events_of(old, each)]


def _identity(download: Download) -> tuple[str, float]:
    return download.model, download.started_at


def _events_of(before: Download | None, after: Download) -> Iterator[dict[str, object]]:
    if before is None:
        yield _event(after, "model_status", {"status": DOWNLOADING})
    status = router_status(after)
    if after.is_running:
        yield _event(after, "download_progress", {"progress": status["progress"]})
    elif after.state is DownloadState.COMPLETE:
        yield _event(after, "download_finished", {})
    else:
        problem = after.problem or "the download was canceled"
        yield _event(after, "download_failed", {"message": problem, "code": after.code})


def _event(download: Download, event: str, data: dict[str, object]) -> dict[str, object]:
    return {"model": download.model, "event": event, "data": data}
