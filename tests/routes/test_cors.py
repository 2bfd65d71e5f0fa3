"""CORS: which answers a browser gives to the page of another site."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.routes.cors import EXPOSED, MAX_AGE_SECONDS, METHODS, with_cors
from app.services import ANSWER_HEADERS, AccessPolicy, RequestSettings

PAGE = "https://chat.example.org"
LISTED, ANY, OFF = frozenset({PAGE, "app://obsidian.md"}), frozenset({"*"}), frozenset[str]()


def answer(origins: frozenset[str], method: str = "POST", **variables: str) -> tuple[str, list[tuple[str, str]]]:
    """Status and headers of the answer; 200 is the application's."""
    policy = AccessPolicy(cors_origins=origins)
    services: Any = SimpleNamespace(settings=RequestSettings(access_policy=policy))
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": "/v1/models"}
    environ |= {f"HTTP_{name}": value for name, value in variables.items()}
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    list(with_cors(services, application)(environ, lambda status, headers: answers.append((status, headers))))
    if answers[0][0] == "200 OK":
        assert [("Content-Type", "text/plain"), *environ.get(ANSWER_HEADERS, [])] == answers[0][1]
    return answers[0]


def preflight(origins: frozenset[str], **variables: str) -> tuple[str, dict[str, str]]:
    status, headers = answer(origins, "OPTIONS", ACCESS_CONTROL_REQUEST_METHOD="POST", **variables)
    return status, dict(headers)


def test_a_preflight_is_answered_without_the_application():
    """It has no key: behind the key check it was 401, and no page could use the service."""
    status, headers = preflight(LISTED, ORIGIN=PAGE, ACCESS_CONTROL_REQUEST_HEADERS="authorization,content-type")
    assert (status, headers) == (
        "204 No Content",
        {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": PAGE,
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
            "Access-Control-Allow-Headers": "authorization, content-type",
        },
    )


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("", None),
        ("X-Stainless-OS , authorization", "X-Stainless-OS, authorization"),
        ("a b, ok, x\r\ny, n\u00e4me, ", "ok"),
        ("<script>", None),
    ],
)
def test_only_names_of_headers_are_echoed(requested: str, allowed: str | None):
    headers = preflight(ANY, ORIGIN=PAGE, ACCESS_CONTROL_REQUEST_HEADERS=requested)[1]
    assert headers.get("Access-Control-Allow-Headers") == allowed


def test_access_to_a_private_network_is_allowed_where_it_is_asked_for():
    assert "Access-Control-Allow-Private-Network" not in preflight(LISTED, ORIGIN=PAGE)[1]
    headers = preflight(LISTED, ORIGIN=PAGE, ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK="true")[1]
    assert headers["Access-Control-Allow-Private-Network"] == "true"


def test_every_answer_to_an_allowed_page_names_its_origin_and_what_it_may_read():
    exposed = ("Access-Control-Expose-Headers", ", ".join(EXPOSED))
    own = ("Content-Type", "text/plain")
    for page in (PAGE, "HTTPS://CHAT.example.org", "app://obsidian.md"):
        expected = [own, ("Vary", "Origin"), ("Access-Control-Allow-Origin", page), exposed]
        assert answer(LISTED, ORIGIN=page) == ("200 OK", expected)
    for page in (PAGE, "null"):
        expected = [own, ("Vary", "Origin"), ("Access-Control-Allow-Origin", "*"), exposed]
        assert answer(ANY, ORIGIN=page) == ("200 OK", expected)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://chat.example.org", PAGE + ":8443", PAGE + "."]
)
def test_other_pages_are_told_nothing(origin: str):
    """The preflight goes on to the application, which answers it as any OPTIONS; the answer varies all the same."""
    assert preflight(LISTED, ORIGIN=origin) == ("200 OK", {"Content-Type": "text/plain", "Vary": "Origin"})
    assert answer(LISTED, ORIGIN=origin)[1] == answer(LISTED)[1] == [("Content-Type", "text/plain"), ("Vary", "Origin")]


def test_what_browsers_add_by_themselves_is_never_allowed():
    for origins in (LISTED, ANY):
        for headers in (preflight(origins, ORIGIN=PAGE)[1], dict(answer(origins, ORIGIN=PAGE)[1])):
            assert "Access-Control-Allow-Credentials" not in headers


def test_an_options_request_of_a_program_is_no_preflight():
    assert answer(ANY, "OPTIONS", ORIGIN=PAGE)[0] == "200 OK"


def test_without_origins_nothing_changes():
    assert answer(OFF, ORIGIN=PAGE) == ("200 OK", [("Content-Type", "text/plain")])
    assert preflight(OFF, ORIGIN=PAGE) == ("200 OK", {"Content-Type": "text/plain"})
