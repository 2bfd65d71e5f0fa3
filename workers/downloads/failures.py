"""What huggingface_hub and the client below it raise, as one line that says what to do."""

from __future__ import annotations

import httpx2
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from app.errors import DownloadFailed, ModelNotFound, ProxyError


def failure_of(error: Exception, repo: str) -> ProxyError:
    match error:
        case ProxyError():
            return error
        case GatedRepoError():
            return DownloadFailed(
                f"{repo} is gated: accept its licence on its page of huggingface.co, and set HF_TOKEN (or run `hf auth "
                "login`) for the user of the service"
            )
        case RepositoryNotFoundError():
            return ModelNotFound(repo, "there is no such repository, or it is private: then set HF_TOKEN")
        case OfflineModeIsEnabled():
            return DownloadFailed("HF_HUB_OFFLINE is set: nothing is downloaded")
        case HfHubHTTPError():
            return DownloadFailed(f"{repo}: the server answered {error.response.status_code}; try again later")
        case httpx2.TransportError():
            return DownloadFailed(f"{repo}: the server cannot be reached ({error or type(error).__name__})")
        case OSError():
            return DownloadFailed(f"{repo}: {error.strerror or error}")
        case _:
            return DownloadFailed(f"{repo}: {type(error).__name__}: {error}")
