"""Routes that llama-swap and llama.cpp's router have, on the running service."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.helpers.service import Service, wait_for
from tests.service.test_faults import faulty
from tests.service.test_keys import ADMIN, KEYS, NARROW, USER, ask, hashed

OTHER_TEAM = "key-of-another-team's-admin"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its engine answers with what it was sent."""
    team = {"name": "team", "sha256": hashed(OTHER_TEAM), "admin": True, "models": ["team-*"]}
    settings = {"KEYS": json.dumps([*KEYS, team])}
    settings["MODELS"] = json.dumps({"m": {"path": "m.gguf", "requests": {"set": {"seed": 1}}}})
    with faulty(tmp_path_factory.mktemp("swap"), settings, FAKE_ECHO=1, FAKE_PORT_ZERO=1) as running:
        yield running


def unload_all(service: Service) -> None:
    assert ask(service, "/api/models/unload", ADMIN, "POST").json() == {"msg": "ok"}
    assert running(service, ADMIN) == []


def running(service: Service, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(service, "/running", key).json()["running"]
    return found


def raw_status(service: Service, path: str, method: str = "GET") -> int:
    """Of a path that is sent as it is, which `requests` would tidy."""
    host = service.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(method, path, headers={"Authorization": f"Bearer {ADMIN}"})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(("path", "to"), [("/ui", "./"), ("/ui/", "../")])
def test_a_bookmark_of_llama_swaps_page_leads_to_the_status_page(service: Service, path: str, to: str):
    """By a relative address, as the service may be below a path."""
    answer = requests.get(service.url + path, allow_redirects=False, timeout=20)
    assert (answer.status_code, answer.headers["Location"]) == (302, to)
    assert requests.get(service.url + path, timeout=20).url.rstrip("/") == service.url


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_upstream_loads_the_model_and_gives_its_server_the_rest_of_the_path(service: Service, method: str):
    unload_all(service)
    data = None if method == "GET" else b"\x00 any bytes"
    headers = {"Content-Type": "text/x-mine", "Accept-Encoding": "gzip", "Cookie": "a=b"}
    got = ask(service, "/upstream/m/some/page%20of/it/?a=%2Fb", ADMIN, method, data=data, headers=headers).json()
    assert (got["method"], got["path"]) == (method, "/some/page%20of/it/?a=%2Fb")
    sent = {"content-type": "text/x-mine", "accept-encoding": "gzip" if method == "GET" else None, "cookie": None}
    assert {name: got["headers"].get(name) for name in sent} == sent
    assert got["body"] == ("" if data is None else data.decode())
    assert [each["state"] for each in running(service, ADMIN)] == ["ready"]


def test_the_page_of_an_engine_is_below_the_models_name(service: Service):
    """Its own paths are relative, so that it works there."""
    assert ask(service, "/upstream/m/", ADMIN).json()["path"] == "/"
    redirect = ask(service, "/upstream/m", ADMIN, allow_redirects=False)
    assert (redirect.status_code, redirect.headers["Location"]) == (301, "m/")
    assert ask(service, "/upstream/m", ADMIN).json()["path"] == "/"
    assert ask(service, "/upstream/m.gguf/slots", ADMIN).json()["path"] == "/slots"


def test_inference_below_upstream_is_for_the_model_in_the_path(service: Service):
    body = {"model": "whatever", "prompt": "x"}
    answer = ask(service, "/upstream/m/v1/completions", ADMIN, "POST", json=body)
    assert (answer.json()["path"], answer.headers["x-llama-smart-proxy-model"]) == ("/v1/completions", "m")
    assert json.loads(answer.json()["body"]) == body, "no rule has changed it"
    url = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]}
    for path in ("/v1/chat/completions", "/api/chat"):  # the latter is a name that some builds have for it
        refused = ask(service, f"/upstream/m{path}", ADMIN, "POST", json=url)
        assert (refused.status_code, "data: URLs" in refused.json()["error"]["message"]) == (400, True)


DENIED = [
    *("/tools", "/%74ools", "/Tools", "/x/../tools", "/x/%2e%2e/tools", "//tools", "/%2ftools", "/x/%2Ftools"),
    *(
        "/cors-proxy",
        "/cors-proxy/",
        "/mcp",
        "/v1/mcp/x",
        "/agents",
        "/v1/stream/1",
        "/slots/0?action=save",
        "/slots/0",
    ),
    *("/a%0d%0ab", "/a%00b", "/../health", "/%2e%2e/%2e%2e/tools", "/..%2ftools", "/./tools"),
]


@pytest.mark.parametrize("path", DENIED)
def test_what_is_never_forwarded_is_not_forwarded_below_upstream(service: Service, path: str):
    assert {raw_status(service, f"/upstream/m{path}", method) for method in ("GET", "POST")} == {404}


def test_upstream_is_for_admins_and_their_models(service: Service):
    for key, status in (("", 401), (USER, 403), (NARROW, 403)):
        assert ask(service, "/upstream/m/health", key).status_code == status
    asked = ask(service, "/upstream/m/", headers={"Accept": "text/html"})
    assert "Basic" in asked.headers["WWW-Authenticate"], "a browser asks for the key"
    for key, name in ((ADMIN, "nope"), (OTHER_TEAM, "m")):
        assert ask(service, f"/upstream/{name}/health", key).json()["error"]["code"] == "model_not_found"


def test_running_shows_command_lines_to_admins_only(service: Service):
    ask(service, "/upstream/m/health", ADMIN)
    (shown,), (hidden,) = running(service, ADMIN), running(service, USER)
    assert "--alias m" in shown["cmd"]
    assert shown["proxy"].startswith("http://127.0.0.1:")
    assert (hidden["cmd"], hidden["proxy"], hidden["model"]) == ("", "", "m")
    assert running(service, NARROW) == []
    for key, is_shown in ((ADMIN, True), (USER, False)):
        status = ask(service, "/v1/models/m", key).json()["status"]
        assert (status["value"], "args" in status) == ("loaded", is_shown)


def test_unload_ends_all_models_and_needs_a_key(service: Service):
    for unload in (("GET", "/unload"), ("POST", "/api/models/unload"), ("POST", "/api/models/unload/m")):
        ask(service, "/upstream/m/health", ADMIN)
        method, path = unload
        assert [ask(service, path, key, method).status_code for key in ("", USER)] == [401, 403]
        assert ask(service, path, OTHER_TEAM, method).status_code == (404 if path.endswith("/m") else 200)
        assert ask(service, path, ADMIN, "HEAD").status_code == 405
        assert len(running(service, ADMIN)) == 1
        assert ask(service, path, ADMIN, method).status_code == 200
        assert running(service, ADMIN) == []


def subscribed(service: Service, key: str) -> socket.socket:
    connection = service.connect()
    connection.settimeout(20)
    connection.sendall(b"GET /models/sse HTTP/1.1\r\nHost: x\r\nx-api-key: %s\r\n\r\n" % key.encode())
    return connection


def test_streams_of_events_tell_each_key_of_its_models_and_end_with_their_clients(service: Service):
    unload_all(service)
    with subscribed(service, USER) as mine, subscribed(service, NARROW) as others:
        for each in (mine, others):
            assert b"text/event-stream" in each.recv(4096)
        ask(service, "/upstream/m/health", ADMIN)
        seen = b""
        while b'{"model": "m", "event": "model_status", "data": {"status": "loaded"}}' not in seen:
            seen += mine.recv(4096)
        unload_all(service)
        while b'"unloaded"' not in seen:
            seen += mine.recv(4096)
        others.settimeout(0.3)
        with pytest.raises(TimeoutError):
            while b'"m"' not in (got := others.recv(4096)):
                assert got
    many = [subscribed(service, USER) for _ in range(36)]
    refused = [each for each in many if b" 503 " in each.recv(4096)]
    assert 4 <= len(refused) <= 6, "of 32, the two above may not have ended yet"
    for each in many:
        each.close()

    def is_accepted() -> bool:
        with requests.get(f"{service.url}/models/sse", headers={"x-api-key": USER}, stream=True, timeout=20) as answer:
            return answer.status_code == 200

    wait_for(is_accepted, 20)
