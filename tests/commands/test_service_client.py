"""Commands that talk to a running service: where it is, with which key, and what they say when it does not answer."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.commands.cli import main
from app.commands.service_client import configured_url

pytestmark = pytest.mark.integration


class Answering(BaseHTTPRequestHandler):
    """Gives every request the answer of its server, and notes what it was sent."""

    server: AnsweringServer

    def do_POST(self) -> None:
        self.server.heads.append(dict(self.headers))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class AnsweringServer(ThreadingHTTPServer):
    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.status, self.body, self.headers = status, body, headers
        self.heads: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def answering(status: int, body: bytes = b"{}", **headers: str) -> Iterator[AnsweringServer]:
    with AnsweringServer(status, body, headers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def reload_at(url: str, key: str = "", **environment: str) -> Result:
    return CliRunner().invoke(main, ["reload", "--url", url], env={"LLAMA_SMART_PROXY_API_KEY": key, **environment})


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("http://127.0.0.1:9", 1, "nothing answers at http://127.0.0.1:9: start it with `llama-smart-proxy serve`"),
        ("http://no-such-host.invalid", 1, "nothing answers at http://no-such-host.invalid"),
        ("localhost:8080", 2, "begins with http:// or https://"),
        ("http://[", 2, "http://["),
    ],
)
def test_without_a_service_the_command_says_where_it_looked(url: str, status: int, message: str):
    result = reload_at(url)
    assert result.exit_code == status
    assert message in result.output


def test_a_redirect_is_not_followed_so_that_the_key_stays_where_it_was_sent():
    with answering(200) as other, answering(307, Location=other.url) as service:
        result = reload_at(service.url, "secret")
    assert (result.exit_code, other.heads) == (1, [])
    assert f"redirects to {other.url}" in result.output


def test_a_key_that_is_not_ascii_is_sent_as_it_was_typed():
    with answering(200) as service:
        assert reload_at(service.url, "schlüssel").exit_code == 0
    assert service.heads[0]["Authorization"].encode("latin-1").decode() == "Bearer schlüssel"


def test_a_key_that_no_header_can_have_is_wrong_use():
    with answering(200) as service:
        result = reload_at(service.url, "two\nlines")
    assert (result.exit_code, service.heads) == (2, [])
    assert "LLAMA_SMART_PROXY_API_KEY is no key" in result.output


def test_an_error_cannot_command_the_terminal():
    body = json.dumps({"error": {"message": "one\n\x1b[2Jtwo"}}).encode()
    with answering(400, body) as service:
        assert reload_at(service.url).output == "one\n" + r"\x1b[2Jtwo" + "\n"


@pytest.mark.parametrize(("key", "names_the_variable"), [("a user's", True), ("", False)])
def test_a_key_that_may_not_is_told_which_variable_to_set(key: str, names_the_variable: bool):
    with answering(403, json.dumps({"error": {"message": "may not"}}).encode()) as service:
        result = reload_at(service.url, key)
    assert result.exit_code == 1
    assert ("LLAMA_SMART_PROXY_API_KEY" in result.output) == names_the_variable


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
def test_another_program_is_no_service(body: bytes):
    with answering(200, body) as service:
        assert "is not a Llama Smart Proxy" in reload_at(service.url).output


def test_a_llama_server_is_no_service():
    with answering(404, b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}') as service:
        assert "is not a Llama Smart Proxy" in reload_at(service.url).output


def test_a_connection_that_ends_in_the_middle_of_an_answer_is_told_so():
    with answering(200, b"{", **{"Content-Length": "100"}) as service:
        assert "ended in the middle of an answer" in reload_at(service.url).output


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_is_not_trusted_can_be(tmp_path: Path):
    certificate, key = make_certificate(tmp_path)
    with answering(200) as service:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        service.socket = context.wrap_socket(service.socket, server_side=True)
        url = service.url.replace("http:", "https:")
        untrusted, trusted = reload_at(url), reload_at(url, SSL_CERT_FILE=str(certificate))
        missing = reload_at(url, SSL_CERT_FILE="/no/such/file")
    assert (untrusted.exit_code, trusted.exit_code, missing.exit_code) == (1, 0, 2)
    assert "set SSL_CERT_FILE to the file of the certificate" in untrusted.output
    assert "/no/such/file" in missing.output


def make_certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    name = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    argv = ["openssl", *kind.split(), *name.split(), "-out", certificate, "-keyout", key]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key


def test_https_to_a_service_that_speaks_http_says_so():
    with answering(200) as service:
        assert "does not speak TLS" in reload_at(service.url.replace("http:", "https:")).output


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        (None, None, "http://127.0.0.1:8080"),
        (None, "9000", "http://127.0.0.1:9000"),
        ("::", "9000", "http://[::1]:9000"),
        ("0.0.0.0", "0", "http://127.0.0.1:8080"),
        ("192.0.2.1", None, "http://192.0.2.1:8080"),
    ],
)
def test_the_service_is_looked_for_where_it_is_configured_to_listen(
    monkeypatch: pytest.MonkeyPatch, host: str | None, port: str | None, url: str
):
    monkeypatch.setenv("LLAMA_SMART_PROXY_SERVER__ALLOW_OPEN", "true")
    for name, value in (("HOST", host), ("PORT", port)):
        if value is not None:
            monkeypatch.setenv(f"LLAMA_SMART_PROXY_SERVER__{name}", value)
    assert configured_url() == url
