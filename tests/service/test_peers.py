"""Two services, one a peer of the other: lists, streams, and what is left when one is killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest
import requests

from tests.helpers.scripted_peer import ScriptedPeer, hangs, never_ends
from tests.helpers.service import ENDLESS, Service, has_exited, serving, wait_for

KEY = "key-of-the-scripted-peer"


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedPeer]:
    with ScriptedPeer(models=["m", "other"]) as running:
        yield running


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("back")) as running:
        running.url  # noqa: B018 - waits until it is ready
        yield running


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, back: Service, scripted: ScriptedPeer) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("front")
    peers = {
        "back": {"url": back.url},
        "box": {"url": scripted.url, "api_key_env": "BOX_KEY"},
        "listed": {"url": f"{scripted.url}/api/v1", "models": ["m"], "api_key_file": "key"},
    }
    (folder / "config.yaml").write_text(json.dumps({"peers": peers}))
    (folder / "key").write_text(f"{KEY}-2\n")
    settings = {"GPU__ENABLED": "false", "SERVER__DRAIN_SECONDS": "0.5"}
    with serving(folder, "--config", str(folder / "config.yaml"), plain={"BOX_KEY": KEY}, **settings) as running:
        running.url  # noqa: B018 - waits until it is ready
        wait_for(lambda: {"back/demo", "box/m"} <= names(running), 20, lambda: running.get("/health").text)
        yield running


def names(service: Service) -> set[str]:
    return {entry["id"] for entry in service.get("/v1/models").json()["data"]}


def peer(service: Service, name: str) -> dict[str, object]:
    found: dict[str, object] = next(each for each in service.get("/health").json()["peers"] if each["name"] == name)
    return found


def test_lists_are_merged_and_not_round_and_round(front: Service, back: Service):
    assert names(front) == {"demo", "back/demo", "box/m", "m", "box/other", "other", "listed/m"}
    assert names(back) == {"demo"}
    assert {each["name"]: each["models"] for each in front.get("/health").json()["peers"]} == {
        "back": 1,
        "box": 2,
        "listed": 1,
    }


def test_a_request_for_a_model_of_the_other_is_answered_there(front: Service, back: Service):
    answer = front.chat("back/demo")
    assert (answer.status_code, answer.json()["model"]) == (200, "demo")
    assert answer.headers["x-llama-smart-proxy-device"] == "peer:back"
    assert front.servers() == [] and [each["model_id"] for each in back.servers()] == ["demo"]
    lines = [line for line in front.chat("back/demo", stream=True, max_tokens=20, ignore_eos=True).iter_lines() if line]
    assert lines[-1] == b"data: [DONE]" and len(lines) > 10
    series = 'llama_smart_proxy_requests_total{code="200",endpoint="/v1/chat/completions",model="back/demo"} 2.0'
    wait_for(lambda: series in front.get("/metrics").text, 10)
    metrics = front.get("/metrics").text
    assert 'llama_smart_proxy_peer_up{peer="back"} 1.0' in metrics
    assert "path=/v1/chat/completions model=back/demo asked='back/demo'" in front.output


def test_a_request_that_a_peer_has_passed_on_goes_no_further(front: Service):
    answer = requests.post(
        f"{front.url}/v1/completions", json={"model": "m"}, headers={"X-Llama-Smart-Proxy-Hops": "1"}, timeout=20
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (508, "peer_loop")
    assert answer.headers["x-should-retry"] == "false"


def test_a_client_that_disconnects_frees_the_slot_of_the_other(front: Service, back: Service):
    with front.chat("back/demo", stream=True, **ENDLESS) as stream:
        lines = stream.iter_lines()
        next(line for line in lines if line.startswith(b"data:"))
        wait_for(lambda: [each["requests"] for each in back.servers()] == [1], 10, back.servers)
    wait_for(lambda: [each["requests"] for each in back.servers()] == [0], 20)
    wait_for(lambda: peer(front, "back")["requests"] == 0, 20)
    assert peer(front, "back")["failures"] == 0


def test_no_key_is_shown_anywhere(front: Service, scripted: ScriptedPeer):
    assert front.chat("box/m").status_code == front.chat("listed/m").status_code == 200
    sent = [each.headers["authorization"] for each in scripted.posts]
    assert sent[-2:] == [f"Bearer {KEY}", f"Bearer {KEY}-2"]
    pages = [front.get(path).text for path in ("/", "/health", "/status", "/plan", "/models", "/metrics")]
    lines = [line for process in front.family() for line in process.cmdline()]
    assert KEY not in "".join([*pages, *lines, front.output])
    assert not any(KEY in "".join(engine.environ().values()) for engine in front.engines())


def test_a_reload_takes_a_peer_away(scripted: ScriptedPeer, front: Service):
    """Also while it is working on a request."""
    scripted.behavior = hangs
    with front.send_raw({"model": "box/m"}):
        wait_for(lambda: peer(front, "box")["requests"] == 1, 20)
        config = json.loads((front.folder / "config.yaml").read_text())
        del config["peers"]["box"]
        (front.folder / "config.yaml").write_text(json.dumps(config))
        assert front.post("/admin/reload", {}).json()["changed"] == ["peers.box"]
        assert names(front) == {"demo", "back/demo", "listed/m", "m"}
        scripted.behavior = None
    assert front.chat("box/m").status_code == 404


def test_a_stream_is_cut_with_an_error_when_its_peer_is_killed(front: Service, back: Service):
    stream = front.chat("back/demo", stream=True, **ENDLESS)
    lines = stream.iter_lines()
    next(line for line in lines if line.startswith(b"data:"))
    family = back.family()
    for process in family:
        process.kill()
    *_, last = (line for line in lines if line)
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], error["message"].startswith("peer back: it closed")) == ("bad_upstream", True)
    wait_for(lambda: all(map(has_exited, family)), 20)
    for _ in range(2):
        answer = front.chat("back/demo")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "peer_unavailable"), answer.text
        assert answer.headers["Retry-After"].isdecimal()
    assert peer(front, "back")["breaker"] == "open"
    assert 'llama_smart_proxy_peer_up{peer="back"} 0.0' in front.get("/metrics").text
    assert "back/demo" not in names(front)
    assert "peer does not answer name=back problem='there is no connection: Connection refused'" in front.output
    assert front.chat("demo").status_code == 200


def test_a_shutdown_waits_for_running_requests_and_cuts_them_in_the_end(front: Service, scripted: ScriptedPeer):
    scripted.behavior = never_ends
    stream = front.chat("listed/m", stream=True)
    lines = stream.iter_lines()
    next(lines)
    front.process.send_signal(signal.SIGTERM)
    *_, last = (line for line in lines if line)
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "draining"
    assert front.stop() == 0
    assert "drain ends drained=False" in front.output
