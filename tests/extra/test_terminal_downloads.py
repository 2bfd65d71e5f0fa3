"""`pull` and `rm` in a real terminal (tmux), with a hub on loopback and no service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.helpers.hub_repository import Content
from tests.helpers.hub_server import HubServer
from tests.helpers.terminal import Terminal, terminal
from workers.catalog.demo_model import write_demo_model

pytestmark = pytest.mark.integration

NAME = "org/tiny-GGUF:Q4_K_M"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    model = write_demo_model(tmp_path / "model").read_bytes()
    with HubServer() as hub:  # what is behind the tensors counts as their data
        hub.add("org/tiny-GGUF", {"tiny-Q4_K_M.gguf": Content(model, len(model) + (20 << 20))})
        yield hub


def command(hub: HubServer, home: Path, words: str, number: int = 1) -> AbstractContextManager[Terminal]:
    """The `number`th terminal of a user. Nothing listens on port 1."""
    folder = home / str(number)
    folder.mkdir()
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home / "huggingface"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LLAMA_SMART_PROXY_SERVER__PORT": "1",
        "LLAMA_SMART_PROXY_GPU__ENABLED": "false",
    }
    return terminal(folder, "", columns=100, shell=f"unset LLAMA_SMART_PROXY_URL; PROGRAM {words}", **environment)


def test_a_stopped_pull_goes_on_where_it_was_and_leaves_no_bar(hub: HubServer, tmp_path: Path):
    size = hub.repos["org/tiny-GGUF"].files["tiny-Q4_K_M.gguf"].size
    hub.hold("tiny-Q4_K_M", after=size // 2)
    with command(hub, tmp_path, f"pull {NAME}") as pull:
        pull.shows("#####", "50 %")
        pull.press("C-c")
        assert pull.ends() == 130
        assert "stopped at" in pull.screen and "####" not in pull.screen
    hub.release()
    with command(hub, tmp_path, f"pull {NAME}", number=2) as pull:
        pull.shows(f"{NAME} is downloaded")
        assert pull.ends() == 0
    assert hub.bytes_served("org/tiny-GGUF") < 1.3 * size  # the header twice, the rest once


def test_what_a_stopped_pull_left_can_be_deleted(hub: HubServer, tmp_path: Path):
    hub.hold("tiny-Q4_K_M", after=hub.repos["org/tiny-GGUF"].files["tiny-Q4_K_M.gguf"].size // 2)
    with command(hub, tmp_path, f"pull {NAME}") as pull:
        pull.shows("50 %")
        pull.press("C-c")
        assert pull.ends() == 130
    with command(hub, tmp_path, f"rm {NAME}", number=2) as remove:
        remove.shows(f"delete what unfinished downloads of {NAME} left from ")
        remove.press("y", "Enter")
        assert remove.ends() == 0
    assert not list((tmp_path / "huggingface").rglob("*.incomplete"))


@pytest.mark.parametrize(("answer", "status", "text"), [("n", 1, "nothing was deleted"), ("y", 0, f"deleted {NAME}")])
def test_rm_asks_before_it_deletes(hub: HubServer, tmp_path: Path, answer: str, status: int, text: str):
    with command(hub, tmp_path, f"pull {NAME} && PROGRAM rm {NAME}") as remove:
        remove.shows(f"delete {NAME} (", "[y/N]")
        remove.press(answer, "Enter")
        assert remove.ends() == status
        assert text in remove.screen
    assert bool(list(tmp_path.rglob("tiny-Q4_K_M.gguf"))) == (status == 1)
