"""`rm` with a service that has a download of the model, not the model."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from app.commands.cli import main
from app.commands.downloads.deleter import LocalDeleter
from tests.helpers.ollama_models import LIBRARY, a_manifest
from tests.helpers.pulling_service import PullingService, pulling
from tests.terminal.test_downloads import NAME, a_download

pytestmark = pytest.mark.integration

REPO = NAME.partition(":")[0]


def remove(service: PullingService, name: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["rm", name, "--yes", "--url", service.url])
    return result.exit_code, result.output.strip()


def stopped(name: str) -> tuple[int, str]:
    return 1, f"the download of {name} is stopped; the same command deletes the partial download"


@pytest.mark.parametrize(("running", "name"), [(NAME, NAME), (NAME, REPO), (NAME, NAME.lower()), (REPO, REPO)])
def test_a_download_that_runs_is_stopped_first_by_whichever_name(running: str, name: str):
    """In another spelling, "deleted: 0 MiB are free again" looked as if all was done."""
    with pulling(before=[a_download(model=running)]) as service:
        assert remove(service, name) == stopped(name)
    assert service.orders == [(f"/models/{quote(name)}", {})]


@pytest.mark.parametrize("before", [[], [a_download(model="other/x-GGUF:Q8_0")], [a_download("canceled")]])
def test_what_an_unfinished_download_left_is_deleted(before: list[dict[str, object]]):
    with pulling(before=before, freed_bytes=1 << 20) as service:
        assert remove(service, NAME) == (0, f"deleted {NAME}: 1 MiB are free again")
    with pulling(before=before) as service:
        assert remove(service, NAME) == (0, f"deleted {NAME}: 0 MiB are free again")


def test_without_a_service_the_problems_of_other_models_are_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    monkeypatch.setenv("LLAMA_SMART_PROXY_CATALOG__OLLAMA", "auto")
    a_manifest(tmp_path, f"{LIBRARY}/broken/1b", model=b"none")
    assert LocalDeleter().find("broken:1b") == ("broken:1b", 4)
    assert caplog.messages == []
