"""The progress of a download as Ollama's /api/pull says it (api.ProgressResponse; server/images.go at 0013818)."""

from __future__ import annotations

import hashlib

from app.entities.download import Download, DownloadState

BEFORE, VERIFYING, SUCCESS = "pulling manifest", "verifying sha256 digest", "success"
CANCELED = "the download was canceled; the partial download is kept, and the next pull resumes it"
SHOWN = 12  # characters of a digest


def pull_progress(download: Download) -> dict[str, object]:
    """One line. Ollama's clients have a bar for each digest; ours stands for all files of the model."""
    match download.state:
        case DownloadState.CHECKING:
            return {"status": BEFORE}
        case DownloadState.DOWNLOADING:
            return _bar(download)
        case DownloadState.VERIFYING:
            return {"status": VERIFYING}
        case DownloadState.COMPLETE:
            return {"status": SUCCESS}
        case _:
            return {"error": download.problem or CANCELED}


def _bar(download: Download) -> dict[str, object]:
    digest = hashlib.sha256(download.model.encode()).hexdigest()
    sizes = {} if download.total_bytes is None else {"total": download.total_bytes}
    return {
        "status": f"pulling {digest[:SHOWN]}",
        "digest": f"sha256:{digest}",
        **sizes,
        "completed": download.done_bytes,
    }
