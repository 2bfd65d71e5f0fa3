"""A hub on loopback for each test, without the pauses between tries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.hub_server import HubServer
from workers.downloads import hub as hub_access


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_access, "PAUSES", (0.01, 0.01))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent")
    with HubServer() as server:
        yield server
