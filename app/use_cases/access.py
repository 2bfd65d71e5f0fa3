"""Who may come in: keys compared, hosts told apart. Pure; app/routes/authorization.py asks."""

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
    """What a request offers as its key. `is_explicit`: a browser does not send it by itself to whoever asks."""

    key: str
    is_explicit: bool


def credentials_offered(authorization: str, x_api_key: str) -> list[Credentials]:
    """The keys in the two headers that clients use: Bearer, x-api-key, and Basic (the password; any user)."""
    found = [Credentials(x_api_key.strip(), is_explicit=True)] if x_api_key.strip() else []
    scheme, _, rest = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer" if rest.strip():
            found.append(Credentials(rest.strip(), is_explicit=True))
        case "basic":
            found += [Credentials(password, is_explicit=False) for password in _password(rest)]
    return found


def _password(encoded: str) -> list[str]:
    try:
        _, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return []
    return [password] if colon and password else []


def matching_key(keys: Iterable[ApiKey], offered: str) -> ApiKey | None:
    """The key whose hash is that of `offered`. Takes as long whichever it is, and if it is none."""
    digest = hashlib.sha256(offered.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


@functools.lru_cache(maxsize=1024)  # asked of every request's Host
def is_loopback(host: str) -> bool:
    """Whether a host as it stands in a setting or a Host header (port and brackets included) is this machine alone."""
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
