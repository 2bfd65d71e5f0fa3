"""Bad requests and their answers: nothing is opened or spawned, and the next good request is served."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.opened_files import OpenedFiles
from tests.helpers.service import Service, serving
from tests.request_body.test_content_coding import ENCODERS
from workers.catalog.demo_model import write_demo_model

CHAT = "/v1/chat/completions"
MIB = 1024**2
NEEDED = (
    'the request names no model: add "model" to the JSON body, or ?model= to a GET (/v1/models lists the names), '
    "or set catalog.default_model"
)


@dataclass(frozen=True)
class Case:
    """A raw request, and the expected status, code, param and message (a pattern)."""

    name: str
    request: bytes | list[bytes]
    status: int
    code: str
    message: str
    param: str | None = None


def post(body: bytes, path: str = CHAT, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def plain(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1")


def chunked(pieces: Iterator[bytes], path: str = CHAT) -> Iterator[bytes]:
    yield f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def form(*parts: bytes, boundary: str = "b") -> bytes:
    body = b"".join(b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return post(body, "/v1/audio/transcriptions", f"Content-Type: multipart/form-data; boundary={boundary}")


def asks(name: str) -> bytes:
    return json.dumps({"model": name, "messages": []}).encode()


def not_json(name: str, body: bytes) -> Case:
    return Case(name, post(body), 400, "invalid_request", r"the body is not JSON: .+")


def no_object(name: str, body: bytes) -> Case:
    return Case(name, post(body), 400, "invalid_request", "the body is not a JSON object")


def unknown(name: str) -> Case:
    listed = re.escape(repr(name[:200]))
    return Case(
        f"model {name[:30]!r}",
        post(asks(name)),
        404,
        "model_not_found",
        f"model {listed} not found; (did you mean demo. )?GET /v1/models lists the names",
        "model",
    )


def no_path(request: bytes, why: str = "") -> Case:
    line = request.split(b" HTTP")[0].decode("latin-1")
    method, path = line.split(" ", 1)
    return Case(line, request, 404, "not_found", f"no such path: {method} {re.escape(path)}{why}")


def wrong_method(method: str, path: str) -> Case:
    return Case(
        f"{method} {path}",
        plain(method, path),
        405,
        "method_not_allowed",
        f"{re.escape(path)} does not support {method}, only [A-Z, ]+",
    )


def framing(name: str, request: bytes, status: int = 400, message: str = ".+") -> Case:
    return Case(name, request, status, "invalid_request", message)


CASES = [
    not_json("no body", b""),
    not_json("words", b"not json"),
    not_json("half an object", b'{"model": "demo"'),
    not_json("two objects", b'{"model": "demo"} {"model": "demo"}'),
    not_json("a comma too many", b'{"model": "demo",}'),
    not_json("single quotes", b"{'model': 'demo'}"),
    not_json("a comment", b'{"model": "demo" /* mine */}'),
    not_json("two BOMs", b'\xef\xbb\xbf\xef\xbb\xbf{"model": "demo"}'),
    Case("brotli", post(asks("demo"), CHAT, "Content-Encoding: br"), 415, "unsupported_encoding",
         "Content-Encoding 'br' is not supported; send gzip, deflate, zstd .two at most. or none"),
    Case("no gzip", post(asks("demo"), CHAT, "Content-Encoding: gzip"), 400, "invalid_request",
         "the body cannot be decoded as gzip: .+"),
    Case("half a gzip", post(gzip.compress(asks("demo"))[:-9], CHAT, "Content-Encoding: gzip"), 400, "invalid_request",
         "the body cannot be decoded as gzip: it is truncated"),
    not_json("UTF-16", '{"model": "demo"}'.encode("utf-16")),
    not_json("invalid UTF-8", b'{"model": "demo", "user": "\xff\xfe"}'),
    not_json("a raw newline in a string", b'{"model": "de\nmo"}'),
    not_json("NaN", b'{"model": "demo", "temperature": NaN}'),
    not_json("-Infinity", b'{"model": "demo", "temperature": -Infinity}'),
    no_object("an array", b'[{"model": "demo"}]'),
    no_object("a string", b'"demo"'),
    no_object("null", b"null"),
    no_object("a number", b"17"),
    Case("depth 201", post(b'{"model": "demo", "a": ' + b"[" * 200 + b"]" * 200 + b"}"), 400, "invalid_request",
         "the body's JSON is more than 200 levels deep"),
    Case("media URL", post(b'{"model": "demo", "messages": [{"role": "user", "content": [{"type": "image_url", '
                           b'"image_url": {"url": "http://127.0.0.1:1/"}}]}]}'), 400, "invalid_request",
         "messages.0..content.0..image_url.url: only data: URLs are allowed here .upstream.media_urls.; .+",
         "messages[0].content[0].image_url.url"),
    Case("schema bomb", post(b'{"model": "demo", "prompt": "x", "json_schema": {"type": "array", "items": {}, '
                             b'"minItems": 1e6}}', "/v1/completions"), 400, "invalid_request",
         "json_schema.minItems: minItems and maxItems of the request's schemas add up to more than 10,000; lower them",
         "json_schema.minItems"),
    Case("depth 10,000", post(b'{"model":' * 10_000 + b'"demo"' + b"}" * 10_000), 400, "invalid_request",
         "the body's JSON is more than 200 levels deep"),
    Case("depth without an end", post(b"[" * 1_000_000), 400, "invalid_request",
         "the body's JSON is more than 200 levels deep"),
    Case("a million values", post(b'{"model": "demo", "a": [' + b"[]," * 1_000_000 + b"[]]}"), 400, "invalid_request",
         "the body has more than 1,000,000 JSON values"),
    Case("no model", post(b'{"messages": []}'), 400, "missing_model", re.escape(NEEDED), "model"),
    Case("model is null", post(b'{"model": null}'), 400, "missing_model", re.escape(NEEDED), "model"),
    Case("model of blanks", post(b'{"model": " \\t "}'), 400, "missing_model", re.escape(NEEDED), "model"),
    Case("model in the wrong place", post(b'{"options": {"model": "demo"}}'), 400, "missing_model",
         re.escape(NEEDED), "model"),
    Case("duplicate model", post(b'{"model": "demo", "model": "demo"}'), 400, "invalid_request",
         'the body has more than one "model"', "model"),
    Case("duplicate model, one escaped", post(b'{"model": "nope", "mod\\u0065l": "demo"}'), 400, "invalid_request",
         'the body has more than one "model"', "model"),
    *(
        Case(f"model is {value.decode()}", post(b'{"model": ' + value + b"}"), 400, "invalid_request",
             '"model" is not a string', "model")
        for value in (b"5", b"true", b'["demo"]', b'{"id": "demo"}')
    ),
    Case("two names in the address", post(asks("demo"), f"{CHAT}?model=demo&model=demo"), 400, "invalid_request",
         'the query has more than one "model"', "model"),
    Case("another name in the address", post(asks("demo"), f"{CHAT}?model=nope"), 400, "invalid_request",
         "the query and the body name different models", "model"),
    Case("a name of 513", post(asks("x" * 513)), 400, "invalid_request", '"model" is longer than 512 characters',
         "model"),
    Case("a name of 10 kB", post(asks("x" * 10_000)), 400, "invalid_request", '"model" is longer than 512 characters',
         "model"),
    *map(unknown, (
        "nope", "demo\0", "../secret", "models/../../secret", "/etc/passwd", "file:///etc/passwd",
        "http://169.254.169.254/x.gguf", "--model", "-hf evil/evil", "--port=1", "${IFS}", "$(reboot)", "demo;reboot",
        "%2e%2e/secret", "..\\secret", "\u0434emo", "demo\r\nX-Evil: 1",
    )),
    Case("a form without a boundary", form(b'name="model"\r\n\r\ndemo', boundary=""), 400, "invalid_request",
         "the form has no boundary"),
    Case("a form of another boundary", form(b'name="model"\r\n\r\ndemo', boundary="other"), 400, "invalid_request",
         "the form cannot be parsed: .+"),
    Case("a form without a model", form(b'name="file"; filename="a.wav"\r\n\r\nRIFF'), 400, "missing_model",
         re.escape(NEEDED), "model"),
    Case("a form with two models", form(b'name="model"\r\n\r\ndemo', b'name="model"\r\n\r\ndemo'), 400,
         "invalid_request", 'the form has more than one "model"', "model"),
    Case("a form whose model is a file", form(b'name="model"; filename="m"\r\n\r\ndemo'), 400, "invalid_request",
         'the form cannot be parsed: "model" is a file'),
    Case("a form that is JSON", post(asks("demo"), "/v1/audio/transcriptions",
         "Content-Type: multipart/form-data; boundary=b"), 400, "invalid_request", "the form cannot be parsed: .+"),
    Case("a form with an endless head", post(b"--b\r\n" + b"a\n" * 100_000 + b"\r\n\r\n", "/v1/audio/transcriptions",
         "Content-Type: multipart/form-data; boundary=b"), 400, "invalid_request",
         "the form cannot be parsed: a part's head is longer than 65536 bytes"),
    Case("a form with an endless name", form(b'name="model"\r\n\r\n' + b"x" * MIB), 400, "invalid_request",
         'the form cannot be parsed: "model" is longer than 512 characters'),
    Case("300 MB announced", plain("POST", CHAT, f"Content-Length: {300 * MIB}"), 413, "request_too_large",
         "the body is larger than 268435456 bytes; server.max_body sets the limit"),
    no_path(plain("GET", "/nowhere")),
    no_path(plain("GET", "/v1//models")),
    no_path(plain("GET", "/templates/status.html")),
    no_path(post(b"words", "/nowhere"), r" \(the body is not JSON: .+\)"),
    no_path(post(b'{"a": 1}', "/nowhere/else"), f" \\({re.escape(NEEDED)}\\)"),
    no_path(post(asks("demo"), "/cors-proxy")),
    no_path(post(asks("demo"), "/tools")),
    no_path(post(asks("demo"), "/Tools")),
    no_path(post(asks("demo"), "/v1/v1/completions"), r" \(the base URL already ends in /v1, .+\)"),
    no_path(post(asks("demo"), "/v1/mcp/servers")),
    no_path(post(asks("demo"), "/agents")),
    *(
        Case(f"POST /slots/0{query}", post(asks("demo"), f"/slots/0{query}"), 400,
             "invalid_request", '"action" must be "erase": slots are saved .+', "action")
        for query in ("", "?action=save", "?action=%73ave", "?action=erase&action=save", "?Action=erase")
    ),
    no_path(post(asks("demo"), "/Slots/-1")),
    no_path(post(asks("demo"), "/x/../tools")),
    Case("//tools", post(asks("demo"), "//tools"), 404, "not_found", "no such path: POST /tools"),
    no_path(post(asks("demo"), "/elsewhere", method="TRACE")),
    no_path(form(b'name="model"\r\n\r\ndemo').replace(b"/v1/audio/transcriptions", b"/a/form")),
    no_path(plain("GET", "/x/health", "SCRIPT_NAME: /x")),
    Case("/%74ools", post(asks("demo"), "/%74ools"), 404, "not_found", "no such path: POST /tools"),
    Case("/a%0d%0ab", post(asks("demo"), "/a%0d%0ab"), 404, "not_found", "no such path: POST /a\r\nb"),
    wrong_method("GET", CHAT),
    wrong_method("DELETE", "/v1/models"),
    wrong_method("PUT", "/health"),
    wrong_method("PATCH", "/models/load"),
    wrong_method("TRACE", "/health"),
    framing("two lengths", post(b"{}", CHAT, "Content-Length: 17")),
    framing("length and chunks", post(b"{}", CHAT, "Transfer-Encoding: chunked")),
    framing("an unknown transfer coding", plain("POST", CHAT, "Transfer-Encoding: chunked, identity")),
    framing("a negative length", plain("POST", CHAT, "Content-Length: -1")),
    framing("a bare CR in a header", plain("GET", "/health", "X-A: a\rX-Evil: 1")),
    framing("a NUL in a header", plain("GET", "/health", "X-A: a\0b")),
    framing("a folded header", plain("GET", "/health", "X-A: a", " b")),
    framing("a blank before the colon", plain("GET", "/health", "X-A : a")),
    framing("no HTTP", b"hello\r\n\r\n"),
    framing("a bad chunk size", plain("POST", CHAT, "Transfer-Encoding: chunked") + b"zz\r\n"),
    framing("101 headers", plain("GET", "/health", *(f"X-{n}: {n}" for n in range(101))), 431),
    framing("a header of 9 kB", plain("GET", "/health", "X-A: " + "a" * 9000), 431),
    framing("an address of 9 kB", plain("GET", "/health?" + "a" * 9000), 414),
    Case("an order to load without JSON's name", post(asks("demo"), "/models/load"), 400, "invalid_request",
         'this route requires a key, or -H "Content-Type: application/json"'),
    Case("an order to load what is not there", post(asks("nope"), "/models/load", "Content-Type: application/json"),
         404, "model_not_found", "model 'nope' not found; GET /v1/models lists the names", "model"),
    Case("slots of what is not there", plain("GET", "/slots?model=nope"), 404, "model_not_found",
         "model 'nope' not found; GET /v1/models lists the names", "model"),
    Case("slots without a model", plain("GET", "/slots"), 400, "missing_model", re.escape(NEEDED), "model"),
    Case("a page from elsewhere", post(asks("demo"), CHAT, "Origin: https://evil.example"), 403, "not_allowed",
         "a web page of 'https://evil.example' may not use this service without a key; configure keys"),
    Case("a sandboxed frame of any page", post(asks("demo"), CHAT, "Origin: null", "Content-Type: text/plain"), 403,
         "not_allowed", "a web page of 'null' may not use this service without a key; configure keys"),
    Case("another host's name", plain("GET", "/v1/models").replace(b"localhost", b"evil.example"), 403, "not_allowed",
         "the Host 'evil.example' is not this machine; to accept that name, configure keys or server.allow_open"),
]  # fmt: skip

TYPES = {"not_allowed": "permission_error"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With two models: one alone would answer requests that name none."""
    folder = tmp_path_factory.mktemp("bad")
    path = str(write_demo_model(folder / "cache" / "demo"))
    with serving(folder, MODELS=json.dumps({"demo": {"path": path}, "twin": {"path": path}})) as running:
        assert running.chat(max_tokens=1).status_code == 200
        yield running


def answer_to(service: Service, request: bytes | Iterator[bytes]) -> http.client.HTTPResponse:
    with service.connect() as connection:
        try:
            for piece in [request] if isinstance(request, bytes) else request:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # answered before it was sent completely
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.body = response.read()  # type: ignore[attr-defined]
        return response


def assert_is(response: http.client.HTTPResponse, case: Case) -> None:
    body = json.loads(response.body)  # type: ignore[attr-defined]
    message = body["error"].pop("message")
    kind = TYPES.get(case.code, "invalid_request_error")
    assert (response.status, body) == (
        case.status,
        {"error": {"type": kind, "param": case.param, "code": case.code}},
    )
    assert re.fullmatch(case.message, message, re.DOTALL), message
    assert response.getheader("x-llama-smart-proxy-error") == "1"
    assert response.getheader("Retry-After") is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_request_is_rejected_without_opening_a_file_or_starting_a_process(service: Service, case: Case):
    models = next((service.folder / "cache").rglob("demo.gguf")).parent
    engines, opened = service.engines(), OpenedFiles(models, service.folder)
    try:
        assert_is(answer_to(service, case.request), case)
        assert not opened.names(), "no file was opened"
    finally:
        opened.close()
    assert service.engines() == engines, "nothing was spawned"
    assert service.chat(max_tokens=1).status_code == 200


def test_opened_files_are_detected_during_a_load(tmp_path: Path):
    with serving(tmp_path) as service:
        service.get("/v1/models")
        opened = OpenedFiles(next((tmp_path / "cache").rglob("demo.gguf")).parent)
        service.chat(max_tokens=1)
        assert opened.names() == {"demo.gguf"}
        opened.close()


def test_there_are_at_least_sixty_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_codings_that_are_understood_are_named(service: Service):
    response = answer_to(service, post(asks("demo"), CHAT, "Content-Encoding: br"))
    assert response.getheader("Accept-Encoding") == "gzip, deflate, zstd"


@pytest.mark.parametrize("size", [0, 3 * MIB])  # in memory, and in a file
@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_the_engine_gets_a_compressed_body_decoded(service: Service, coding: str, size: int):
    """Codex compresses by zstd, Claude Code by gzip above a size: both were told that the body is not JSON."""
    body = b'{"model": "demo", "prompt": "x", "max_tokens": 1, "user": "' + b"u" * size + b'"}'
    encoded = ENCODERS[coding](body)
    for request in (
        post(encoded, "/v1/completions", f"Content-Encoding: {coding}"),
        b"".join(chunked(iter([encoded[:20], encoded[20:]]), "/v1/completions")).replace(
            b"\r\n", f"\r\nContent-Encoding: {coding}\r\n".encode(), 1
        ),
    ):
        response = answer_to(service, request)
        assert (response.status, json.loads(response.body)["model"]) == (200, "demo")  # type: ignore[attr-defined]


def test_a_byte_order_mark_in_front_of_the_json_is_ignored(service: Service):
    """PowerShell writes one."""
    response = answer_to(service, post(b'\xef\xbb\xbf{"model": "demo", "prompt": "x", "max_tokens": 1}', "/completion"))
    assert response.status == 200


def test_a_chunked_body_is_rejected_once_it_exceeds_the_limit(service: Service):
    pieces = (b" " * MIB for _ in range(300))
    response = answer_to(service, chunked(pieces))
    assert_is(response, Case("", b"", 413, "request_too_large", "the body is larger than 268435456 bytes; .+"))
    assert service.chat(max_tokens=1).status_code == 200


def test_a_body_that_arrives_too_slowly_times_out(tmp_path: Path):
    with serving(tmp_path, SERVER__RECEIVE_TIMEOUT_SECONDS="0.3") as service:
        response = answer_to(service, plain("POST", CHAT, "Content-Length: 100") + b"{")
        assert_is(response, Case("", b"", 408, "request_timeout", "the request body was not received in time"))
        assert response.getheader("x-should-retry") == "false"


def test_a_wrong_method_gets_the_allowed_methods(service: Service):
    allowed = answer_to(service, plain("DELETE", "/v1/models")).getheader("Allow")
    assert set(allowed.split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_a_client_cannot_set_script_name(service: Service):
    """gunicorn trusts SCRIPT_NAME from loopback by default: every path without that prefix got a 500."""
    assert answer_to(service, plain("GET", "/livez", "SCRIPT_NAME: /x", "X-Forwarded-Proto: https")).status == 200


def test_pipelined_requests_do_not_accumulate_memory(service: Service):
    """Each request used to leave 64 KiB of read-ahead, copied again for every following request."""
    before = service.worker.memory_info().rss
    with service.connect() as connection:
        sender = threading.Thread(target=lambda: [connection.sendall(plain("GET", "/livez") * 1000) for _ in range(5)])
        sender.start()
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 5000:
            answers += connection.recv(1 << 20)
        sender.join()
    assert service.worker.memory_info().rss - before < 50 * MIB


def test_health_answers_while_many_large_bodies_are_read(service: Service):
    """Parsed in the service, each held the GIL; together they did for minutes."""
    heavy = post(b'{"model": "nope", "a": [' + b"[]," * 490_000 + b"[]]}")
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(answer_to, service, heavy) for _ in range(8)]
        slowest = 0.0
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            assert answer_to(service, plain("GET", "/livez")).status == 200
            slowest = max(slowest, time.monotonic() - began)
    assert {answer.result().status for answer in answers} == {404}
    assert slowest < 4.0  # expected: 0.2 s


def test_a_client_that_disconnects_during_its_body_does_no_harm(service: Service):
    connection: socket.socket = service.connect()
    connection.sendall(plain("POST", CHAT, "Content-Length: 100") + b"{")
    connection.close()
    assert service.chat(max_tokens=1).status_code == 200
