from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.downloads.pulls import DATA, FILE, REPO
from tests.helpers.hub_server import HubServer
from workers.downloads import hub as hub_access


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Empty; processes that are started meanwhile take it for the hub. Between two tries there are no pauses."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_access, "PAUSES", (0.01, 0.01))
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "5")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


@pytest.fixture
def repository(hub: HubServer) -> None:
    """The hub has the model."""
    hub.add(REPO, {FILE: DATA})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
