"""Access: compares API keys and recognizes loopback hosts. Pure; used by app/routes/authorization.py."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.entities.key import ApiKey

_PORT = re.compile(r":\d*$")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key sent with a request. `is_explicit`: set by the client, not sent automatically by a browser."""

    key: str
    is_explicit: bool


def credentials_offered(authorization: str, plain: Iterable[str]) -> list[Credentials]:
    """The keys in the headers: `plain` are those of x-api-key (Anthropic) and api-key (Azure), "" without one; then
    Bearer, or the password of Basic with any user name."""
    credentials = [Credentials(key.strip(), is_explicit=True) for key in plain if key.strip()]
    scheme, _, rest = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer" if rest.strip():
            credentials.append(Credentials(rest.strip(), is_explicit=True))
        case "basic":
            credentials += [Credentials(password, is_explicit=False) for password in _password(rest)]
    return credentials


def _password(encoded: str) -> list[str]:
    try:
        _, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return []
    return [password] if colon and password else []


def matching_key(keys: Iterable[ApiKey], offered: str) -> ApiKey | None:
    """The key whose SHA-256 matches `offered`, or None. Takes constant time whatever matches."""
    digest = hashlib.sha256(offered.encode("utf-8", "surrogateescape")).hexdigest()
    match = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            match = key
    return match


def is_from_another_site(sec_fetch_site: str, origin: str, host: str, public_origin: str) -> bool:
    """Whether a browser sent the request for a page of another site, by the headers that no page can set.

    Browsers send Sec-Fetch-Site to HTTPS and loopback addresses, and Origin to all, but not with every GET. Programs
    send neither. `public_origin` is that of `server.public_url`, which counts like the Host.
    """
    if sec_fetch_site:
        return sec_fetch_site.strip().lower() not in ("same-origin", "none")
    if not origin:
        return False
    scheme, _, name = origin.strip().lower().partition("://")
    is_own = scheme in ("http", "https") and bool(name) and name == host.strip().lower()
    return not is_own and origin.strip().lower() != (public_origin or None)


@functools.lru_cache(maxsize=1024)  # called for the Host header of every request
def is_loopback(host: str) -> bool:
    """Whether a host, as in a setting or a Host header (port and brackets allowed), is a loopback address."""
    name = _PORT.sub("", host.strip().lower()) if not _is_address(host.strip()) else host.strip()
    name = name.removeprefix("[").removesuffix("]").removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or (_is_address(name) and _address_is_loopback(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _address_is_loopback(name: str) -> bool:
    address = ipaddress.ip_address(name)
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
