"""Models by name, from nothing to an answer: `serve --model`, `pull` and `rm` with a hub on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.downloads.remote_models import a_remote_model, ten_quants
from tests.helpers.hub_server import HubServer
from tests.helpers.service import Service, serving, wait_for
from tests.helpers.stand_in_nvml import Card, StandIn, needs_compiler
from workers.catalog.demo_model import write_demo_model

TINY, OTHER, BROKEN = "org/tiny-GGUF:Q4_K_M", "org/other-GGUF:Q8_0", "org/gated-GGUF"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    model = write_demo_model(tmp_path_factory.mktemp("hub"))
    with HubServer() as hub:
        hub.add("org/tiny-GGUF", {"tiny-Q8_0.gguf": b"never downloaded", "tiny-Q4_K_M.gguf": model})
        hub.add("org/other-GGUF", {"other-Q8_0.gguf": model.read_bytes() + bytes(32), "README.md": "text"})
        hub.add(BROKEN, {"gated-Q4_K_M.gguf": model}, gated=True)
        yield hub


@pytest.fixture(scope="module")
def service(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    plain = {"HF_ENDPOINT": hub.endpoint, "LLAMA_SMART_PROXY_GPU__ENABLED": "false"}
    plain |= {"LLAMA_SMART_PROXY_CATALOG__HUGGING_FACE": '{"download": "allow", "allow": ["org/asked-*"]}'}
    plain |= {"LLAMA_SMART_PROXY_SCHEDULING__MAX_WAIT_SECONDS": "5"}
    with serving(tmp_path_factory.mktemp("by-name"), "--model", "hf.co/org/tiny-GGUF", plain=plain) as service:
        assert service.url
        yield service


def a_model_of(hub: HubServer, padding: int) -> bytes:
    """The demo model as another file: equal files are one model."""
    model = hub.repos["org/tiny-GGUF"].files["tiny-Q4_K_M.gguf"]
    return bytes(model.read(0, model.size)) + bytes(128 * padding)


def command(hub: HubServer, folder: Path, *words: str, url: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """`folder`: where this user's cache is. `url`: "" for a machine on which no service runs."""
    env = {key: text for key, text in os.environ.items() if not key.startswith("LLAMA_SMART_PROXY_")}
    env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder), "LLAMA_SMART_PROXY_GPU__ENABLED": "false"}
    env |= {"XDG_CACHE_HOME": str(folder), "LLAMA_SMART_PROXY_SERVER__PORT": "1"}
    env |= {"LLAMA_SMART_PROXY_URL": url} if url else {}
    run = [sys.executable, "-P", "-m", "app.commands.cli", *words]
    return subprocess.run(run, env=env | more, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)


def test_a_service_with_one_model_fetches_it_and_names_it_in_its_example(hub: HubServer, service: Service):
    assert "org/tiny-GGUF: checking its files" in service.output
    assert f'"model": "{TINY}"' in service.output
    assert service.post("/v1/chat/completions", {"messages": [], "max_tokens": 1}).json()["model"] == TINY
    assert hub.bytes_served("org/tiny-GGUF", "tiny-Q8_0.gguf") == 0


def test_the_service_fetches_for_pull_and_deletes_for_rm(hub: HubServer, service: Service, tmp_path: Path):
    pulled = command(hub, tmp_path, "pull", "org/other-GGUF", url=service.url)
    assert (pulled.returncode, pulled.stdout.partition(":Q8_0 is downloaded: ")[0]) == (0, "org/other-GGUF")
    assert service.chat(OTHER).status_code == 200
    asked = command(hub, tmp_path, "rm", OTHER, url=service.url)
    assert (asked.returncode, "add --yes" in asked.stderr) == (2, True)
    removed = command(hub, tmp_path, "rm", OTHER, "--yes", url=service.url)
    assert (removed.returncode, removed.stdout.startswith(f"deleted {OTHER}: ")) == (0, True)
    assert service.chat(OTHER).status_code == 404
    assert "/resolve/" not in service.output  # addresses of downloads may hold signatures
    assert not list(tmp_path.iterdir())  # all was in the service's cache


def test_a_request_fetches_its_model_and_is_answered(hub: HubServer, service: Service):
    hub.add("org/asked-GGUF", {"asked-Q4_K_M.gguf": a_model_of(hub, padding=1)})
    answer = service.chat("org/asked-GGUF")
    assert (answer.status_code, answer.json()["model"]) == (200, "org/asked-GGUF:Q4_K_M")
    assert service.chat("org/other-GGUF").status_code == 404  # not one of those that requests may download
    metrics = service.get("/metrics").text
    received = re.search(r"^llama_smart_proxy_download_bytes_total (\S+)", metrics, re.MULTILINE)
    assert received is not None and 0 < float(received[1]) <= hub.bytes_served()
    assert re.search(r'^llama_smart_proxy_downloads_total{outcome="complete"} [1-9]', metrics, re.MULTILINE)


def test_a_stream_shows_its_download_and_then_the_answer(hub: HubServer, service: Service):
    hub.add("org/asked-streaming", {"asked-Q4_K_M.gguf": (model := a_model_of(hub, padding=2))})
    hub.hold("asked-Q4_K_M.gguf", after=len(model) // 2)
    with service.chat("org/asked-streaming", stream=True) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        first = next(lines)
        hub.release()
        rest = [line for line in lines if line]
    assert first.startswith(": downloading org/asked-streaming:Q4_K_M ")
    assert rest[-1] == "data: [DONE]"


def test_a_request_that_has_waited_long_enough_says_how_far_the_download_is(hub: HubServer, service: Service):
    hub.add("org/asked-slowly", {"asked-Q4_K_M.gguf": (model := a_model_of(hub, padding=3))})
    hub.hold("asked-Q4_K_M.gguf", after=len(model) // 2)
    answer = service.chat("org/asked-slowly")
    hub.release()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_downloading")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert wait_for(lambda: service.chat("org/asked-slowly").status_code == 200, 20)


def test_the_service_plans_a_repository_and_refuses_what_never_fits_before_its_weights(
    hub: HubServer, service: Service
):
    hub.add("org/planned-GGUF", ten_quants())
    quants = service.post("/models/pull", {"model": "org/planned-GGUF", "plan": True}).json()["quants"]
    assert (len(quants), {quant["ctx_size"] for quant in quants if quant["fits"]}) == (10, {32768})
    assert [quant["recommended"] for quant in quants].index(True) == [quant["fits"] for quant in quants].index(True)
    hub.add("org/vast-GGUF", {"vast-Q4_K_M.gguf": (vast := a_remote_model(type=0, layers=4000))})
    lines = service.post("/models/pull", {"model": "org/vast-GGUF", "stream": True}).text.splitlines()
    last = json.loads(lines[-1])
    assert (last["state"], last["code"]) == ("failed", "model_does_not_fit")
    assert last["problem"].startswith("org/vast-GGUF:Q4_K_M: it needs ")
    assert hub.furthest_byte("org/vast-GGUF") < vast.size / 1000


def test_without_a_service_the_command_fetches_and_deletes(hub: HubServer, tmp_path: Path):
    pulled = command(hub, tmp_path, "pull", "org/other-GGUF", "--json")
    assert (pulled.returncode, json.loads(pulled.stdout)["model"]) == (0, OTHER)
    assert pulled.stderr.startswith(f"nothing answers at http://127.0.0.1:1: downloading into {tmp_path}/hub\n")
    assert list((tmp_path / "hub").rglob("other-Q8_0.gguf"))
    before = hub.bytes_served("org/other-GGUF")
    again = command(hub, tmp_path, "pull", OTHER, "--local")
    assert (again.returncode, hub.bytes_served("org/other-GGUF")) == (0, before)
    removed = command(hub, tmp_path, "rm", OTHER, "--yes", "--json")
    assert json.loads(removed.stdout)["deleted"] == OTHER
    assert not list((tmp_path / "hub").rglob("*.gguf"))


def test_of_two_copies_of_one_file_the_one_that_is_named_is_deleted(hub: HubServer, tmp_path: Path):
    """They are one model with two names. `rm` of the second name deleted the first repository's file."""
    copies = [f"org/{name}-GGUF" for name in ("copy-a", "copy-b")]
    for repo in copies:
        hub.add(repo, {"copy-Q8_0.gguf": a_model_of(hub, 9)})
        assert command(hub, tmp_path, "pull", repo, "--local").returncode == 0
    refused = command(hub, tmp_path, "rm", f"{copies[1]}:Q8_0", "--yes")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"{copies[1]}:Q8_0 is the same file as {copies[0]}:Q8_0" in refused.stderr
    assert len(list((tmp_path / "hub").rglob("copy-Q8_0.gguf"))) == 2
    for repo in copies:
        assert command(hub, tmp_path, "rm", repo, "--yes").returncode == 0
    assert not list((tmp_path / "hub").rglob("copy-Q8_0.gguf"))


def test_without_a_service_a_repository_is_planned_and_what_never_fits_is_refused(hub: HubServer, tmp_path: Path):
    hub.add("org/foo-GGUF", ten_quants())
    lines = command(hub, tmp_path, "pull", "org/foo-GGUF", "--plan").stdout.splitlines()
    assert (lines[0].split()[0], len(lines), "<- recommended" in "".join(lines)) == ("QUANT", 12, True)
    hub.add("org/huge-GGUF", {"huge-Q4_K_M.gguf": (huge := a_remote_model(type=0, layers=4000))})
    refused = command(hub, tmp_path, "pull", "org/huge-GGUF")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.fullmatch(r"org/huge-GGUF:Q4_K_M: it needs [\d,]+ MiB of RAM; .*", refused.stderr.splitlines()[-1])
    assert "download failed" not in refused.stderr  # the log's line
    assert hub.furthest_byte("org/huge-GGUF") < huge.size / 1000


@needs_compiler
def test_a_local_plan_is_for_the_engine_that_a_service_would_have(hub: HubServer, tmp_path: Path):
    """It said that a model fits the GPU, and the service, whose engine is for the CPU, that it fits the RAM."""
    hub.add("org/card-GGUF", ten_quants())
    (hardware := StandIn(tmp_path / "hardware")).show(Card("GPU-large", total_mib=24564))
    on_gpus = hardware.environment | {"LLAMA_SMART_PROXY_GPU__ENABLED": "true"}
    words = "pull", "org/card-GGUF", "--plan", "--local"
    planned = command(hub, tmp_path, *words, LLAMA_SMART_PROXY_ENGINE__BINARY="embedded", **on_gpus)
    assert "fits the RAM" in planned.stdout and "GPU 0" not in planned.stdout
    assert planned.stderr.startswith("note: the engine (") and " has no CUDA: " in planned.stderr
    assumed = command(hub, tmp_path, *words, LLAMA_SMART_PROXY_ENGINE__ASSUME_GPU="true", **on_gpus)
    assert ("fits GPU 0" in assumed.stdout, assumed.stderr) == (True, "")


def test_what_has_changed_upstream_is_listed(hub: HubServer, tmp_path: Path):
    model = hub.repos["org/tiny-GGUF"].files["tiny-Q4_K_M.gguf"]
    hub.add("org/changing-GGUF", {"changing-Q4_K_M.gguf": model.read(0, model.size) + bytes(64)})
    command(hub, tmp_path, "pull", "org/changing-GGUF")
    hub.add("org/changing-GGUF", {"changing-Q4_K_M.gguf": model.read(0, model.size) + bytes(96)})
    (head, row, last) = command(hub, tmp_path, "models", "--updates").stdout.splitlines()
    assert (head.split(), row.split()[0], row.split()[-1]) == (
        ["MODEL", "DOWNLOAD", "UPSTREAM"],
        "org/changing-GGUF:Q4_K_M",
        "newer",
    )
    assert last == "update it:  llama-smart-proxy pull org/changing-GGUF:Q4_K_M"
    del hub.repos["org/changing-GGUF"]
    unknown = command(hub, tmp_path, "models", "--updates")
    assert (unknown.returncode, "Nothing could be checked: " in unknown.stdout) == (1, True)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["pull", BROKEN], 1, "licence"),
        (["rm", "org/nothing-GGUF", "--yes"], 1, "there is nothing of org/nothing-GGUF in "),
    ],
)
def test_what_cannot_be_done_is_one_line(hub: HubServer, tmp_path: Path, words: list[str], status: int, text: str):
    done = command(hub, tmp_path, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
