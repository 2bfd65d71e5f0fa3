"""Errors of downloads: a model that is being downloaded, or could not be."""

from __future__ import annotations

from app.errors.base import ProxyError


class ModelDownloading(ProxyError):
    """The model is being downloaded, and the wait ran out."""

    status, code = 503, "model_downloading"
    retry_after = 30


class DownloadFailed(ProxyError):
    """The model could not be downloaded: access, the network, the disk or a checksum."""

    status, code = 502, "download_failed"
    should_retry = False
