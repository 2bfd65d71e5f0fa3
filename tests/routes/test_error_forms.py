"""Each API's clients get errors in its own form."""

from __future__ import annotations

import json

import pytest

from app.errors import (
    BadUpstream,
    ErrorForm,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    NotAllowed,
    NotSupported,
    Overloaded,
    ProxyError,
    RequestTooLarge,
    UpstreamTimeout,
    error_form,
)
from workers.gunicorn_worker.error_answers import form_for, response_bytes


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/messages", ErrorForm.ANTHROPIC),
        ("/v1/messages/count_tokens", ErrorForm.ANTHROPIC),
        ("/messages?beta=true", ErrorForm.ANTHROPIC),
        ("/api/chat", ErrorForm.OLLAMA),
        ("/api/no-such-route", ErrorForm.OLLAMA),
        ("/v1/chat/completions", ErrorForm.OPENAI),
        ("/", ErrorForm.OPENAI),
    ],
)
def test_the_path_decides_the_form(path: str, form: ErrorForm):
    assert error_form(path) is form
    assert form_for(f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode()) is form


@pytest.mark.parametrize("received", [b"", b"POST", b"POST ", b"\xff\xff \xff"])
def test_a_request_whose_path_is_unknown_gets_openais_form(received: bytes):
    assert form_for(received) is ErrorForm.OPENAI


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (InvalidApiKey(has_credentials=False), "authentication_error"),
        (NotAllowed("x"), "permission_error"),
        (ModelNotFound("x"), "not_found_error"),
        (RequestTooLarge("x"), "request_too_large"),
        (Overloaded("x"), "overloaded_error"),
        (UpstreamTimeout("x"), "timeout_error"),
        (NotSupported("x"), "invalid_request_error"),
        (BadUpstream("x"), "api_error"),
        (ProxyError("x"), "api_error"),
    ],
)
def test_anthropics_error_has_the_type_of_its_status(error: ProxyError, name: str):
    assert ErrorForm.ANTHROPIC.body(error) == {"type": "error", "error": {"type": name, "message": str(error)}}


def test_events_have_the_form_of_their_api():
    error = BadUpstream('a "text"\nof two lines')
    openai, anthropic, ollama = (ErrorForm(name).event(error) for name in ("openai", "anthropic", "ollama"))
    assert openai.startswith(b"data: ") and json.loads(openai[6:])["error"]["code"] == "bad_upstream"
    name, data = anthropic.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error" and json.loads(data.removeprefix(b"data: "))["error"]["message"] == str(error)
    assert json.loads(ollama) == {"error": str(error)} and ollama.count(b"\n") == 1


def test_an_engines_error_becomes_an_event():
    answer = b'{"error": {\n"code": 400, "message": "too long", "type": "invalid_request_error"}}'
    assert json.loads(ErrorForm.OPENAI.engine_event(400, answer)[6:]) == json.loads(answer)
    for text, message in ((answer, "too long"), (b"plain", "plain"), (b"[1]", "[1]")):
        event = ErrorForm.ANTHROPIC.engine_event(400, text)
        assert event.startswith(b"event: error\ndata: ") and event.endswith(b"\n\n")
        error = {"type": "invalid_request_error", "message": message}
        assert json.loads(event.split(b"data: ")[1]) == {"type": "error", "error": error}


def test_what_the_worker_answers_itself_has_the_form_too():
    answer = response_bytes(Overloaded("full"), ErrorForm.OLLAMA)
    assert answer.startswith(b"HTTP/1.1 503") and json.loads(answer.split(b"\r\n\r\n")[1]) == {"error": "full"}
