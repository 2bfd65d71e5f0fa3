"""The page's style sheets, scripts and icon. They hold no data, so they are public.

They are read once, at start; a request's path is looked up among their names and never opens a file. The page names
them below a directory that is a hash of them all, and so do the modules that import each other by relative paths: after
an upgrade every address is new, and until then a browser need not ask.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, request

from app.routes.error_response import no_such_path
from app.routes.incoming_request import current_request

bp = Blueprint("assets", __name__)

FOLDER = Path(__file__).resolve().parents[2] / "templates" / "static"
# Not those of the machine's mime.types, which may be wrong: a browser would not run such a script.
CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
YEAR_SECONDS = 365 * 86400


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    content_type: str
    etag: str


@bp.get("/static/<version>/<name>")
def show_asset(version: str, name: str) -> Response:
    """At the address of another version: the asset of this one, which a browser must revalidate each time."""
    asset = assets().get(name)
    if asset is None:
        raise no_such_path(current_request())
    response = Response(asset.content, content_type=asset.content_type)
    response.headers["X-Content-Type-Options"] = "nosniff"
    if version == assets_version():
        response.headers["Cache-Control"] = f"public, max-age={YEAR_SECONDS}, immutable"
    else:
        response.headers["Cache-Control"] = "no-cache"
    response.set_etag(asset.etag)
    response.make_conditional(request)
    return response


@cache
def assets() -> dict[str, Asset]:
    """The files of the folder, by their names."""
    return {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in CONTENT_TYPES}


@cache
def assets_version() -> str:
    return _hash(b"".join(f"{name} {asset.etag}\n".encode() for name, asset in assets().items()))


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, f"{CONTENT_TYPES[path.suffix]}; charset=utf-8", _hash(content))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
