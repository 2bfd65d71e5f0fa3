"""The client of commands that talk to a running service: where it is, with which key, and what its answers mean.

`--url`, or LLAMA_SMART_PROXY_URL, names the service; LLAMA_SMART_PROXY_API_KEY is the key. There is no option for the
key: other users of the machine can read a command line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from app.commands.options import ANSWER_IS_NO, exit_wrong_use

DEFAULT_URL = "http://127.0.0.1:8080"
KEY_VARIABLE = "LLAMA_SMART_PROXY_API_KEY"
TIMEOUT_SECONDS = 600.0  # of one answer: a command may wait for running requests

url_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--url",
    envvar="LLAMA_SMART_PROXY_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    callback=lambda context, option, url: url.rstrip("/").removesuffix("/v1"),  # the base URL of OpenAI's clients
    help="Address of the running service.",
)


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """An answer of the service. `body` is its JSON."""

    status: int
    body: dict[str, Any]

    @property
    def is_yes(self) -> bool:
        return 200 <= self.status < 300

    @property
    def error(self) -> str:
        """The message of an error."""
        error = self.body.get("error")
        return str(error.get("message", "")) if isinstance(error, dict) else f"HTTP status {self.status}"


def call_service(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> ServiceAnswer:
    """The answer to a request with the key of the environment. Without an answer the command ends."""
    import requests

    if not url.startswith(("http://", "https://")):
        exit_wrong_use(f"{url}: the address of a service begins with http:// or https://")
    key = os.environ.get(KEY_VARIABLE, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with requests.Session() as session:
        session.trust_env = False  # neither ~/.netrc, whose password would replace the key, nor a proxy for loopback
        try:
            answer = session.request(method, url + path, json=body, headers=headers, timeout=TIMEOUT_SECONDS)
        except requests.exceptions.InvalidURL as error:
            exit_wrong_use(f"{url}: {error}")
        except (requests.RequestException, UnicodeError):
            _exit_without_answer(url)
    if answer.status_code == 401:
        _exit_no(f"{url} requires a key: set {KEY_VARIABLE}" + (" to one that it knows" if key else ""))
    return ServiceAnswer(answer.status_code, _json_of(answer.text, url))


def exit_with_error(answer: ServiceAnswer) -> NoReturn:
    """End the command because the answer is no."""
    _exit_no(answer.error)


def _exit_without_answer(url: str) -> NoReturn:
    _exit_no(f"nothing answers at {url}: start it with `llama-smart-proxy serve`, or set LLAMA_SMART_PROXY_URL")


def _exit_no(why: str) -> NoReturn:
    click.echo(why, err=True)
    sys.exit(ANSWER_IS_NO)


def _json_of(text: str, url: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        _exit_no(f"{url} answers, but is not a Llama Smart Proxy")
    return body
