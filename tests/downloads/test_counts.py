"""What downloads came to, counted from the changes of each."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from app.entities.download import Download, DownloadState
from workers.downloads.counts import DownloadCounts

CHECKING = Download("user/repo:Q4_K_M", DownloadState.CHECKING, started_at=0.0)


def counted(*states: Download) -> DownloadCounts:
    counts = DownloadCounts()
    for before, after in pairwise(states):
        counts.note(before, after)
    return counts


def test_what_was_there_before_is_not_received():
    begun = replace(CHECKING, state=DownloadState.DOWNLOADING, done_bytes=500)
    counts = counted(CHECKING, replace(CHECKING, done_bytes=500), begun, replace(begun, done_bytes=800))
    assert counts.received_bytes == 300


def test_a_second_try_is_received_again():
    begun = replace(CHECKING, state=DownloadState.DOWNLOADING)
    counts = counted(begun, *(replace(begun, done_bytes=done) for done in (900, 0, 900)))
    assert counts.received_bytes == 1800


def test_an_end_is_counted_once():
    failed = replace(CHECKING, state=DownloadState.FAILED)
    counts = counted(CHECKING, failed, replace(failed, problem="the disk is full"))
    assert counts.ended == {"complete": 0, "failed": 1, "canceled": 0}
