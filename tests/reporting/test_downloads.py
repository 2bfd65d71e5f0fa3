"""Downloads in one line."""

from __future__ import annotations

import pytest

from app.entities.download import Download, DownloadState
from app.use_cases.reporting.downloads import progress_text

GIB = 1024**3


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (DownloadState.DOWNLOADING, "downloading org/a:Q4_K_M 50 % of 8.0 GiB, 4 s left"),
        (DownloadState.VERIFYING, "verifying org/a:Q4_K_M 50 % of 8.0 GiB"),
    ],
)
def test_a_waiting_request_is_told_what_the_download_does(state: DownloadState, text: str):
    download = Download("org/a:Q4_K_M", state, 0.0, total_bytes=8 * GIB, done_bytes=4 * GIB, bytes_per_second=GIB)
    assert progress_text(download) == text
