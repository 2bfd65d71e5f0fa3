"""The client of commands that talk to a running service: where it is, with which key, and what its answers mean.

`--url`, or LLAMA_SMART_PROXY_URL, names the service; LLAMA_SMART_PROXY_API_KEY is the key. There is no option for the
key: other users of the machine can read a command line. The key goes to that address alone: no redirect is followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.commands.options import ANSWER_IS_NO, WRONG_USE
from app.terminal.text import printable_lines

if TYPE_CHECKING:
    from requests import Response

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "LLAMA_SMART_PROXY_URL"
KEY_VARIABLE = "LLAMA_SMART_PROXY_API_KEY"
ERROR_HEADER = "x-llama-smart-proxy-error"  # of errors that are the service's own
CONNECT_SECONDS = 10.0
TIMEOUT_SECONDS = 600.0  # without a byte: a command may wait for running requests
# A file with the certificates to trust: OpenSSL's variable, and that of requests.
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
# These decide where `serve` listens. Without them it is DEFAULT_URL, and the settings need not be read.
_ADDRESS_VARIABLES = ("LLAMA_SMART_PROXY_CONFIG", "LLAMA_SMART_PROXY_SERVER__HOST", "LLAMA_SMART_PROXY_SERVER__PORT")


class NoServiceAnswer(Exception):
    """There is no usable answer; the text says why, and what to do about it."""

    def __init__(self, text: str, exit_status: int = ANSWER_IS_NO) -> None:
        super().__init__(text)
        self.exit_status = exit_status


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


def configured_url() -> str:
    """Where `serve` listens with this environment."""
    if not any(map(os.environ.get, _ADDRESS_VARIABLES)):
        return DEFAULT_URL
    from app.settings.configuration import ConfigurationError, read_configuration

    try:
        server = read_configuration().settings.server
    except ConfigurationError:
        return DEFAULT_URL
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}" if server.port else DEFAULT_URL


def base_url(url: str) -> str:
    """The service's address, of which OpenAI's clients use the paths below /v1."""
    return url.rstrip("/").removesuffix("/v1")


url_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--url",
    envvar=URL_VARIABLE,
    default=configured_url,
    show_default=f"{DEFAULT_URL}, or the configured address",
    show_envvar=True,
    callback=lambda context, option, url: base_url(url),
    help="Address of the running service.",
)


def call_service(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> ServiceAnswer:
    """The answer to a request with the key of the environment. Without an answer the command ends."""
    with exit_without_answer():
        return ask_service(url, method, path, body)


def service_json(url: str, path: str) -> dict[str, Any]:
    """The body of a GET. The command ends if there is no answer, or if it is no."""
    answer = call_service(url, "GET", path)
    if not answer.is_yes:
        exit_with_error(answer)
    return answer.body


@contextlib.contextmanager
def exit_without_answer() -> Iterator[None]:
    """Ends the command at a NoServiceAnswer."""
    try:
        yield
    except NoServiceAnswer as no_answer:
        click.echo(printable_lines(str(no_answer)), err=True)
        sys.exit(no_answer.exit_status)


def ask_service(
    url: str, method: str, path: str, body: dict[str, Any] | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> ServiceAnswer:
    """The same as `call_service`, but raises NoServiceAnswer."""
    with open_answer(url, method, path, body, timeout_seconds) as response:
        return read_answer(response, url)


@contextlib.contextmanager
def open_answer(
    url: str, method: str, path: str, body: dict[str, Any] | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> Iterator[Response]:
    """The answer to a request, whose body may still be read piece by piece (`pieces_of`). `timeout_seconds`: without a
    byte. Raises NoServiceAnswer, also for what goes wrong while the body is read."""
    import requests

    if not url.startswith(("http://", "https://")):
        raise NoServiceAnswer(f"{url}: the address of a service begins with http:// or https://", WRONG_USE)
    key = os.environ.get(KEY_VARIABLE, "")
    headers = {"Authorization": b"Bearer " + os.fsencode(key)} if key else {}
    with requests.Session() as session:
        session.trust_env = False  # neither ~/.netrc, whose password would replace the key, nor a proxy for loopback
        session.verify = next(filter(None, map(os.environ.get, CA_VARIABLES)), True)
        times = min(CONNECT_SECONDS, timeout_seconds), timeout_seconds
        try:
            response = session.request(
                method, url + path, json=body, headers=headers, timeout=times, allow_redirects=False, stream=True
            )
        except (OSError, UnicodeError) as error:  # the base of requests' errors is OSError
            raise _no_answer(error, url) from error
        with response:
            _check_head(response, url, bool(key))
            try:
                yield response
            except requests.RequestException as error:
                raise NoServiceAnswer(f"the connection to {url} ended in the middle of an answer") from error


def _check_head(response: Response, url: str, has_key: bool) -> None:
    if response.is_redirect:
        place = response.headers["Location"]
        raise NoServiceAnswer(f"{url} redirects to {place}, which is not followed: set {URL_VARIABLE} to that service")
    if response.status_code == 401:
        raise NoServiceAnswer(
            f"{url} requires a key: set {KEY_VARIABLE}" + (" to one that it knows" if has_key else "")
        )


def _no_answer(error: Exception, url: str) -> NoServiceAnswer:
    from requests import exceptions

    match error:
        case exceptions.InvalidURL():
            return NoServiceAnswer(f"{url}: {error}", WRONG_USE)
        case exceptions.InvalidHeader():
            return NoServiceAnswer(f"{KEY_VARIABLE} is no key: it has a line break or a space at an end", WRONG_USE)
        case exceptions.SSLError():
            return NoServiceAnswer(_tls_problem(error, url))
        case exceptions.ReadTimeout():
            return NoServiceAnswer(f"{url} took the request and does not answer")
        case exceptions.RequestException() | UnicodeError():  # of a host name that cannot be one
            return NoServiceAnswer(
                f"nothing answers at {url}: start it with `llama-smart-proxy serve`, or set {URL_VARIABLE}"
            )
        case _:  # no such file
            return NoServiceAnswer(f"{' or '.join(CA_VARIABLES)}: {error}", WRONG_USE)


def _tls_problem(error: Exception, url: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return f"{url} does not speak TLS: use http://, or another port"
    return (
        f"the certificate of {url} is not trusted (self-signed, expired, or of another name): "
        f"set {CA_VARIABLES[0]} to the file of the certificate to trust"
    )


def read_answer(response: Response, url: str) -> ServiceAnswer:
    """Raises NoServiceAnswer if it is no JSON object, or a 404 of another program, such as a llama-server."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    is_other_program = response.status_code == 404 and ERROR_HEADER not in response.headers
    if not isinstance(body, dict) or is_other_program:
        raise NoServiceAnswer(f"{url} answers, but is not a Llama Smart Proxy")
    return ServiceAnswer(response.status_code, body)


def pieces_of(response: Response) -> Iterator[bytes]:
    """The body as it arrives. requests waits for a piece of the size it is asked for, unless the body is chunked."""
    yield from response.iter_content(chunk_size=None if getattr(response.raw, "chunked", False) else 1)


def exit_with_error(answer: ServiceAnswer) -> NoReturn:
    """End the command because the answer is no."""
    click.echo(printable_lines(answer.error), err=True)
    if answer.status == 403 and os.environ.get(KEY_VARIABLE):
        click.echo(f"set {KEY_VARIABLE} to a key that may", err=True)
    sys.exit(ANSWER_IS_NO)
