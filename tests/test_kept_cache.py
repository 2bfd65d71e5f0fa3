"""The KV cache of a model that is unloaded: kept on disk, found again after the next load, and seen by nobody else."""

from __future__ import annotations

import contextlib
import json
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, serving, wait_for
from tests.test_faults import faulty
from workers.demo_model import write_demo_model

STORY = [{"role": "user", "content": "Once upon a time there was a fox. " * 20}]


@contextlib.contextmanager
def keeping(folder: Path, more: dict[str, Any] | None = None, **settings: str) -> Iterator[Service]:
    """The service with the demo as the model `fox`, whose cache is kept."""
    if not (folder / "demo.gguf").exists():
        write_demo_model(folder)
    model = {"path": str(folder / "demo.gguf"), "keep_kv_cache": True, "ctx_size": 4096, **(more or {})}
    with serving(folder, MODELS=json.dumps({"fox": model}), **settings) as service:
        yield service


def cached_tokens(service: Service, messages: list[dict[str, str]] = STORY) -> int:
    """How many of the prompt's tokens its engine did not compute."""
    answer = service.post("/v1/chat/completions", {"model": "fox", "messages": messages, "max_tokens": 4}).json()
    assert answer["timings"]["cache_n"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return int(answer["timings"]["cache_n"])


def unload(service: Service) -> None:
    assert service.post("/models/unload", {"model": "fox"}).status_code == 200


def files(service: Service) -> list[Path]:
    return sorted(path for path in (service.folder / "state").rglob("slots/*/*") if path.is_file())


def test_a_conversation_outlives_an_unload(tmp_path: Path):
    with keeping(tmp_path) as service:
        assert cached_tokens(service) == 0
        unload(service)
        (file,) = files(service)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (file.parent, file.parent.parent)} == {0o700}
        assert cached_tokens(service) > 400
        assert files(service) == [], "it is deleted once it is restored"
        assert "kv cache saved server=1 model=fox slots=1" in service.output
        assert "kv cache restored server=2 model=fox slots=1" in service.output


def test_without_the_setting_nothing_is_kept(tmp_path: Path):
    with keeping(tmp_path, {"keep_kv_cache": False}) as service:
        assert cached_tokens(service) == 0
        unload(service)
        assert cached_tokens(service) == 0
        assert not (tmp_path / "state").rglob("slots").__next__ or files(service) == []
