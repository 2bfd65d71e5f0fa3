"""Models of peers: who sees them under which names, what their peers are sent, and what they never are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from app.entities.key import ApiKey
from app.entities.peer import HOPS_HEADER, BreakerState, Peer, PeerModel, PeerStatus
from app.routes.paths import GET_ROUTES, PEER_PATHS, POST_ROUTES
from app.use_cases.downloads.repository_names import parse_name
from tests.helpers.builders import replace
from tests.helpers.scripted_peer import Handler, ScriptedPeer, cuts_a_stream, event
from tests.helpers.scripted_peers import scripted_peers
from tests.relay.test_relay import OPEN
from tests.routes.test_downloads import KEYS, ON, World, code, hashed
from workers.peers.peer_group import PeerGroup
from workers.peers.peer_link import Patience
from workers.relay.stream_mover import StreamMover

pytestmark = pytest.mark.integration

HI = {"messages": [{"role": "user", "content": "Hi"}]}
SLOW = Patience(20.0, 20.0)
LIMITED = (
    *KEYS,
    ApiKey("box-only", hashed("box-only"), models=("box/*",)),
    ApiKey("by-own-name", hashed("by-own-name"), models=("m", "demo")),
)
MODELS = ("m", "demo", "org/Big:8B")


class Peered(World):
    """Has a model `demo` of its own, and the peers `box` and `spare`."""

    def __init__(self, folder: Path, box: ScriptedPeer, **more: Any) -> None:
        super().__init__(folder, **more)
        peers = [Peer(name, "127.0.0.1", box.port, f"/{name}/v1", models=MODELS) for name in ("box", "spare")]
        self.services.peers = self.peers = PeerGroup(peers, SLOW, StreamMover(20, 20), {})
        OPEN.callback(self.peers.close)
        self.services.plans = SimpleNamespace(of=lambda models: {}, plan=None)
        self.counted: list[tuple[Any, ...]] = []
        self.services.gauges.answered = lambda *about: self.counted.append(about)

    def chat(self, name: str = "box/m", key: str = "", path: str = "/v1/chat/completions", **fields: Any) -> Any:
        return self.send("POST", path, {"model": name, **HI, **fields}, key)

    def listed(self, key: str = "", path: str = "/v1/models", **headers: str) -> list[str]:
        body = self.send("GET", path, key=key, **headers).json
        return [each.get("id") or each["name"] for each in body.get("data") or body["models"]]


@pytest.fixture
def box() -> Iterator[ScriptedPeer]:
    with ScriptedPeer() as running:
        yield running
    OPEN.close()


@pytest.fixture
def world(tmp_path: Path, box: ScriptedPeer) -> Peered:
    return Peered(tmp_path, box)


def test_a_peers_models_are_listed_with_its_name_and_by_their_own_where_nothing_here_has_it(world: Peered):
    of_peers = ["box/m", "m", "box/demo", "box/org/Big:8B", "org/Big:8B", "spare/m", "spare/demo", "spare/org/Big:8B"]
    assert world.listed() == ["demo", *of_peers]
    assert world.listed(path="/models")[-8:] == of_peers
    assert world.listed(**{"anthropic-version": "x"}) == ["demo", *of_peers]
    tags = [name if ":" in name else f"{name}:latest" for name in ["demo", *of_peers]]
    assert world.listed(path="/api/tags") == tags
    assert [(each["id"], each["aliases"]) for each in world.send("GET", "/plan").json["models"]][-5:-3] == [
        ("box/demo", []),
        ("box/org/Big:8B", ["org/Big:8B"]),
    ]
    entry = world.send("GET", "/v1/models/box/org/Big:8B").json
    assert (entry["id"], entry["peer"], entry["status"]) == ("box/org/Big:8B", "box", {"value": "loaded"})
    assert world.send("GET", "/v1/models/m").json["id"] == "box/m"
    assert world.send("GET", "/v1/models/demo").json["source"] == "file"
    assert world.send("POST", "/api/show", {"model": "box/m:latest"}).json["capabilities"] == ["completion"]
    assert world.send("POST", "/api/show", {"model": "demo"}).json["details"]["format"] == "gguf"


def test_a_request_by_the_name_with_its_peer_and_by_the_own_name_goes_to_the_peer(world: Peered, box: ScriptedPeer):
    for name, sent in (("box/m", "m"), ("m", "m"), ("BOX/org/big:8b", "org/Big:8B"), ("box/demo", "demo")):
        answer = world.chat(name, temperature=0.10)
        assert (answer.status_code, answer.json["choices"][0]["message"]["content"]) == (200, "hello")
        assert answer.headers["x-llama-smart-proxy-model"] == f"box/{sent}"
        assert answer.headers["x-llama-smart-proxy-device"] == "peer:box"
        assert box.received[-1].path == "/box/v1/chat/completions"
        assert json.loads(box.received[-1].body)["model"] == sent
    assert world.chat("spare/m").status_code == 200
    assert box.received[-1].path == "/spare/v1/chat/completions"
    assert world.chat("demo").headers["x-llama-smart-proxy-device"] == "cpu", "what is here has its names first"
    assert len(box.received) == 5
    assert world.services.pool.acquired == ["demo"]


def test_the_rest_of_a_body_arrives_as_it_was_sent(world: Peered, box: ScriptedPeer):
    body = b'{ "big": 123456789012345678901234567890, "model": "box/m", "t": "\\u00e9\\/", "messages": [{"a":1.0}] }'
    world.client.post("/v1/chat/completions", data=body, content_type="application/json")
    assert box.received[-1].body == (
        b'{"big":123456789012345678901234567890,"model":"m","t":"\\u00e9\\/","messages":[{"a":1.0}]}'
    )
    assert box.received[-1].headers["content-length"] == str(len(box.received[-1].body))


def test_the_keys_and_headers_of_clients_stay_here(tmp_path: Path, box: ScriptedPeer):
    world = Peered(tmp_path, box, keys=KEYS)
    headers = {"Cookie": "a=b", "X-Api-Key": "user", "X-Forwarded-For": "1.2.3.4", "Anthropic-Version": "2023-06-01"}
    answer = world.send("POST", "/v1/messages?beta=true&model=box/m", HI, "user", **headers, X_Request_Id="r1")
    assert answer.status_code == 200
    sent = dict(box.received[-1].headers)
    assert (box.received[-1].path, sent.pop("traceparent")[:3]) == ("/box/v1/messages?beta=true", "00-")
    assert json.loads(box.received[-1].body)["model"] == "m"
    assert sent.pop("content-length") and sent.pop("x-request-id")
    assert sent == {
        "host": f"127.0.0.1:{box.port}",
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "user-agent": "llama-smart-proxy/1",
        HOPS_HEADER.lower(): "1",
    }


def test_a_request_is_counted_and_its_tokens_are(world: Peered):
    used: list[tuple[str, int]] = []
    world.services.tokens.count = lambda key, tokens: used.append((key, tokens))
    for stream in (False, True):
        assert world.chat(stream=stream).status_code == 200
    assert [each[:3] + each[4:] for each in world.counted] == 2 * [("/v1/chat/completions", "box/m", 200, 7, 3, "")]
    assert [each.model for each in world.services.activity.records()] == ["box/m", "box/m"]
    assert world.send("GET", "/status").json["requests"][0]["model"] == "box/m"


def test_the_limits_of_a_key_hold_for_peers(tmp_path: Path, box: ScriptedPeer):
    world = Peered(tmp_path, box, keys=KEYS)
    assert [world.chat(key="slow").status_code for _ in range(2)] == [200, 429]
    assert len(box.received) == 1


def test_a_stream_arrives_as_it_comes_and_one_that_is_cut_ends_with_an_error(world: Peered, box: ScriptedPeer):
    whole = world.chat(stream=True)
    assert whole.data.startswith(event(0)) and whole.data.endswith(b"data: [DONE]\n\n")
    box.behavior = cuts_a_stream
    cut = world.chat(stream=True)
    assert cut.data.startswith(event(0) + event(1)) and b'"code": "bad_upstream"' in cut.data
    assert world.counted[-1][2] == 502


def test_ollamas_clients_can_use_them(world: Peered, box: ScriptedPeer):
    lines = [json.loads(line) for line in world.chat("box/m:latest", path="/api/chat").data.splitlines()]
    assert "".join(each["message"]["content"] for each in lines) == "012"
    assert (lines[-1]["done"], lines[-1]["model"]) == (True, "box/m")
    assert box.received[-1].path == "/box/v1/chat/completions"
    loaded = world.send("POST", "/api/chat", {"model": "box/m", "messages": []})
    assert (loaded.json["done_reason"], len(box.posts)) == ("load", 1), "there is nothing to load"
    raw = world.send("POST", "/api/generate", {"model": "box/m", "prompt": "x", "raw": True})
    assert (raw.status_code, list(raw.json)) == (501, ["error"])


def test_a_form_gets_the_peers_name_of_its_model(world: Peered, box: ScriptedPeer):
    recording = bytes(range(256)) * 40 + b'--not-it\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n'
    files, fields = {"file": ("a.wav", recording, "audio/wav")}, {"model": "box/m", "language": "de"}
    form = requests.Request("POST", "http://x", files=files, data=fields).prepare()
    kind = form.headers["Content-Type"]
    answer = world.client.post("/v1/audio/transcriptions", data=form.body, content_type=kind)
    assert answer.status_code == 200
    sent = box.received[-1]
    boundary = kind.partition("boundary=")[2].encode()
    own, *rest = form.body.split(b"--" + boundary)[1:]
    assert b"box/m" in own and sent.headers["content-type"] == kind
    first, *others = sent.body.split(b"--" + boundary)[1:]
    assert (first, others) == (b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n', rest)


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/images/generations", "/v1/moderations", "/v1/rerank"])
def test_routes_of_openai_that_llama_server_lacks_lead_to_peers(world: Peered, box: ScriptedPeer, path: str):
    assert world.chat(path=path).status_code == 200
    assert box.received[-1].path == f"/box{path}"


@pytest.mark.parametrize("path", sorted({*POST_ROUTES, "/v1/fine_tuning/jobs", "/v1/files"} - set(PEER_PATHS)))
def test_other_routes_do_not(world: Peered, box: ScriptedPeer, path: str):
    path = path.replace("<int:slot>", "0?action=erase")
    assert code(world.chat(path=path)) == (501, "not_supported")
    assert box.received == []


def test_what_loads_or_reads_a_model_here_says_where_it_is(world: Peered, box: ScriptedPeer):
    for method, path in (("POST", "/models/load"), ("POST", "/models/unload"), ("POST", "/plan")):
        answer = world.send(method, path, {"model": "box/m"})
        assert code(answer) == (501, "not_supported")
        assert "box/m is a model of peer box" in answer.json["error"]["message"]
    for path in (*GET_ROUTES, "/props", "/metrics"):
        assert code(world.send("GET", f"{path}?model=box/m")) == (501, "not_supported")
    assert code(world.send("POST", "/upstream/box/m/v1/chat/completions", HI)) == (404, "model_not_found")
    assert box.received == []


def test_a_request_is_passed_on_once(world: Peered, box: ScriptedPeer):
    """Two services that are peers of each other would send it round and round, and list each other's lists."""
    hop = {HOPS_HEADER: "1"}
    assert world.listed(**hop) == ["demo"]
    assert world.listed(path="/api/tags", **hop) == ["demo:latest"]
    for name in ("box/m", "m", "box/unknown-of-it"):
        answer = world.send("POST", "/v1/chat/completions", {"model": name, **HI}, **hop)
        assert code(answer) == ((404, "model_not_found") if "unknown" in name else (508, "peer_loop"))
    assert world.send("POST", "/v1/chat/completions", {"model": "demo", **HI}, **hop).status_code == 200
    assert box.received == []


def test_a_key_uses_a_peers_model_by_one_of_its_names(tmp_path: Path, box: ScriptedPeer):
    world = Peered(tmp_path, box, keys=LIMITED)
    assert world.listed("box-only") == ["box/m", "m", "box/demo", "demo", "box/org/Big:8B", "org/Big:8B"]
    # The name `demo` is that of a model here: it gives no right to the peers' models of that name.
    assert world.listed("by-own-name") == ["demo", "box/m", "m", "spare/m"]
    assert world.listed("narrow") == ["demo"]
    for key, name, expected in (
        ("box-only", "demo", "box/demo"),
        ("box-only", "spare/m", None),
        ("by-own-name", "m", "box/m"),
        ("by-own-name", "box/demo", None),
        ("narrow", "box/m", None),
        ("user", "box/m", "box/m"),
    ):
        answer = world.chat(name, key)
        assert answer.headers.get("x-llama-smart-proxy-model") == expected, (key, name)
        if expected is None:
            assert code(answer) == (404, "model_not_found")
            assert "peer" not in answer.json["error"]["message"]
    health = world.send("GET", "/health", key="box-only").json["peers"]
    assert [(each["name"], each["models"]) for each in health] == [("box", 3)]
    assert world.send("GET", "/health", key="narrow").json["peers"] == []
    assert world.send("GET", "/status", key="narrow").json["requests"] == []
    assert len(world.send("GET", "/status", key="box-only").json["requests"]) == 3


def test_a_peers_name_comes_before_a_download(tmp_path: Path, box: ScriptedPeer):
    world = Peered(tmp_path, box, policy=ON)
    assert world.chat("org/Big:8B").status_code == 200
    assert str(parse_name("org/Big:8B")) == "org/Big:8B"
    assert world.downloads.started == []


def test_a_default_model_may_be_a_peers(world: Peered, box: ScriptedPeer):
    world.services.settings = replace(world.services.settings, default_model="box/m")
    assert world.send("POST", "/v1/chat/completions", HI).headers["x-llama-smart-proxy-model"] == "box/m"
    assert world.send("GET", "/v1/models").json["default_model"] == "box/m"


def test_a_name_of_several_peers_goes_to_the_next_one_that_can_be_reached(tmp_path: Path, box: ScriptedPeer):
    world = Peered(tmp_path, box)
    gone = ScriptedPeer()
    gone.stop()
    peers = [Peer(name, "127.0.0.1", port, models=("m",)) for name, port in (("gone", gone.port), ("box", box.port))]
    world.peers.configure(peers, SLOW)
    for _ in range(4):
        assert world.chat("m").headers["x-llama-smart-proxy-model"] == "box/m"
    assert world.peers.statuses[0].breaker is BreakerState.OPEN
    assert world.peers.statuses[0].failures == 2, "once it is known to be gone, it is not tried first"
    assert code(world.chat("gone/m")) == (503, "peer_unavailable")
    assert 1 <= int(world.chat("gone/m").headers["Retry-After"]) <= 60
    health = world.send("GET", "/health").json
    assert [(each["name"], each["breaker"]) for each in health["peers"]] == [("gone", "open"), ("box", "closed")]
    assert health["degraded"] is False, "a box that comes and goes"
    assert world.listed() == ["demo", "m", "box/m"] or world.listed() == ["demo", "box/m", "m"]
    failed = [each for each in world.send("GET", "/models").json["data"] if each["id"] == "gone/m"]
    assert failed[0]["status"]["failed"] and "does not answer" in failed[0]["status"]["message"]


def test_a_peer_that_has_read_a_request_is_the_only_one(tmp_path: Path, box: ScriptedPeer):
    def drops(handler: Handler) -> None:
        handler.cut()

    world = Peered(tmp_path, box)
    box.behavior = drops
    assert code(world.chat("m")) == (502, "bad_upstream")
    assert [each.path for each in box.received] == ["/box/v1/chat/completions"]


def test_a_peer_whose_list_is_not_known_yet_is_waited_for(world: Peered):
    world.services.peers = scripted_peers(PeerStatus("new", is_listed=False, problem="no answer"))
    answer = world.chat("new/m")
    assert (code(answer), answer.headers["Retry-After"]) == ((503, "peer_unavailable"), "2")
    assert "the models of peer new are not known yet (no answer)" in answer.json["error"]["message"]
    assert code(world.chat("newer/m")) == (404, "model_not_found")


def test_a_mistyped_name_is_near_that_of_a_peers_model(world: Peered):
    world.services.peers = scripted_peers(PeerStatus("box", (PeerModel("box", "qwen3-32b"),)))
    assert "did you mean box/qwen3-32b?" in world.chat("box/qwen3-32").json["error"]["message"]
