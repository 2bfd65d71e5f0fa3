"""What huggingface_hub and the client below it raise, as one line that says what to do."""

from __future__ import annotations

import errno

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from app.errors import DownloadFailed, ModelNotFound, ProxyError
from workers.downloads.shown_address import without_password

MAX_TEXT = 200  # characters of a message that a server sent
_TOKEN = "the token that is set (HF_TOKEN or `hf auth login`)"


def failure_of(error: Exception, repo: str) -> ProxyError:
    """The error that clients get. `repo`: "user/repo", or a name in it."""
    match error:
        case ProxyError():
            return error
        case OfflineModeIsEnabled():
            return DownloadFailed(f"{repo} cannot be downloaded: HF_HUB_OFFLINE is set; unset it to go online")
        case GatedRepoError() | RepositoryNotFoundError() | HfHubHTTPError():
            return _refusal(error, repo)
        case httpx2.ReadError() | httpx2.RemoteProtocolError():
            return DownloadFailed(f"{repo} cannot be downloaded: {_host(error)} closed the connection early; try again")
        case httpx2.TimeoutException():
            return DownloadFailed(f"{repo} cannot be downloaded: {_host(error)} did not answer in time; try again")
        case httpx2.TransportError():
            return DownloadFailed(
                f"{repo} cannot be downloaded: {_host(error)} cannot be reached ({_reason(error)}); check the network, "
                "HTTPS_PROXY and HF_ENDPOINT"
            )
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS):
            return DownloadFailed(
                f"{repo} cannot be downloaded: {error.filename} may not be written ({error.strerror}); set HF_HOME to "
                "a folder that may"
            )
        case OSError():
            return DownloadFailed(f"{repo} cannot be downloaded: {_reason(error)}")
        case _:
            return DownloadFailed(f"{repo} cannot be downloaded: {type(error).__name__}: {_reason(error)}")


def _refusal(error: HfHubHTTPError, repo: str) -> ProxyError:
    """The server's answer. 401 without a code: huggingface.co says so of a repository that it does not have, too."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return DownloadFailed(
            f"{repo} is gated: accept its licence on https://huggingface.co/{repo.partition(':')[0]}, then set "
            "HF_TOKEN to a token of that account (or `hf auth login`) for the user that downloads"
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        access = f", and that {_TOKEN} may read it" if get_token() else ", or set HF_TOKEN"
        hint = f"check the name{access}"
        return ModelNotFound(repo, f"Hugging Face has no such repository, or it is private: {hint}")
    if status == 403:
        return DownloadFailed(f"{repo} may not be read {_without_permission()}")
    if status == 429:
        return DownloadFailed(
            f"{repo} cannot be downloaded: the server limits the requests of this address{_when(error.response)}"
        )
    return DownloadFailed(f"{repo} cannot be downloaded: the server answered {status}; try again later")


def retry_after_header(response: httpx2.Response) -> float | None:
    """In seconds; None where the server does not say it, or says a date."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 8 else None


def _when(response: httpx2.Response) -> str:
    seconds = retry_after_header(response)
    hint = "; try again later" if seconds is None else f"; try again in {seconds:.0f} s"
    return hint if get_token() else f"{hint}, or set HF_TOKEN, which has a higher limit"


def _without_permission() -> str:
    if get_token():
        return f"with {_TOKEN}: its account or its scopes lack the permission"
    return "without a token: set HF_TOKEN to one of an account that may"


def _host(error: httpx2.TransportError) -> str:
    """As a person finds it: where the endpoint has none, the endpoint."""
    try:
        return error.request.url.host or repr(without_password(constants.ENDPOINT)[:MAX_TEXT])
    except RuntimeError:  # no request is known
        return "the server"


def _reason(error: Exception) -> str:
    """In one line of bounded length."""
    return without_password(" ".join(str(error).split()))[:MAX_TEXT] or type(error).__name__
