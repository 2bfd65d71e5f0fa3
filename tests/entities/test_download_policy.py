"""Which models may be downloaded without an admin's order."""

from __future__ import annotations

import pytest

from app.entities.download_policy import DownloadPolicy, DownloadRule
from app.entities.repository import RepositoryName

GEMMA = RepositoryName("ggml-org/gemma-3-270m-it-GGUF")
GEMMA_Q8 = RepositoryName("ggml-org/gemma-3-270m-it-GGUF", "Q8_0")


def test_by_default_nothing_is_allowed():
    assert not DownloadPolicy().allows(GEMMA)
    assert not DownloadPolicy(DownloadRule.OFF, ("*",)).allows(GEMMA)
    assert not DownloadPolicy().allows_any


def test_on_allows_any_whatever_the_globs():
    assert DownloadPolicy(DownloadRule.ON).allows(GEMMA)
    assert DownloadPolicy(DownloadRule.ON, ("other/*",)).allows(GEMMA_Q8)


@pytest.mark.parametrize(
    ("glob", "allowed"),
    [
        ("ggml-org/*", [GEMMA, GEMMA_Q8]),
        ("GGML-org/gemma-3-270m-IT-gguf", [GEMMA, GEMMA_Q8]),
        ("ggml-org/gemma-3-270m-it-GGUF:Q8_0", [GEMMA_Q8]),
        ("*:q8_0", [GEMMA_Q8]),
        ("*", [GEMMA, GEMMA_Q8]),
        ("ggml-org/gemma", []),
        ("gml-org/*", []),
        ("ggml-org/[g]*", []),
    ],
)
def test_a_glob_of_a_repository_allows_all_of_its_quantizations(glob, allowed):
    policy = DownloadPolicy(DownloadRule.ALLOW, ("nobody/*", glob))
    assert [name for name in (GEMMA, GEMMA_Q8) if policy.allows(name)] == allowed


def test_no_glob_allows_nothing():
    assert not DownloadPolicy(DownloadRule.ALLOW).allows(GEMMA)
    assert not DownloadPolicy(DownloadRule.ALLOW).allows_any
