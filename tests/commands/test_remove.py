"""`rm` with a service that has a download of the model, not the model."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from click.testing import CliRunner

from app.commands.cli import main
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
