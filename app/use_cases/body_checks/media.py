"""Media: the images, audio and video that a body names by URL. llama-server fetches them itself, from where it runs.

It does so for the parts of a message's content, of a tool's result and of an embedding's input: handle_media in
server-common.cpp (b11549), to which /v1/responses and /v1/messages convert their own forms. It fetches what begins
with "http", follows 20 redirects, and takes anything without a scheme as base64.
"""

from __future__ import annotations

import ipaddress
import re

from app.entities.media_urls import MediaUrls
from app.use_cases.body_checks.violation import Violation

# Values of "type". Newer engines may know more of them than 11549 does.
_PART_TYPES = frozenset(
    [
        *("image_url", "input_image", "image", "input_audio", "audio_url", "audio"),
        *("input_video", "video_url", "video", "input_file", "file", "document"),
    ]
)
# Members of a part, or of the object in one, that hold a URL.
_SOURCES = frozenset(
    [
        *("url", "data", "source", "image_url", "input_image", "image", "input_audio", "audio_url", "audio"),
        *("input_video", "video_url", "video", "file", "file_url"),
    ]
)
_CONTAINERS = (tuple, list)  # types are compared, which takes half the time of isinstance
_FETCHED = ("http", "file:")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SEND_IT = "send the media itself, as a data: URL with base64"
_OLD_IPV4 = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")


def disallowed_media(value: object, allowed: MediaUrls) -> Violation | None:
    """The first URL of a media part, anywhere in a parsed body, that the engine must not fetch."""
    if type(value) is tuple:
        return _in_object(value, allowed)
    if type(value) is list:
        for index, item in enumerate(value):
            if type(item) in _CONTAINERS and (found := disallowed_media(item, allowed)):
                return found.below(f"[{index}]")
    return None


def _in_object(pairs: tuple[tuple[str, object], ...], allowed: MediaUrls) -> Violation | None:
    for key, value in pairs:
        if type(value) in _CONTAINERS:
            if found := disallowed_media(value, allowed):
                return found.below(key)
        elif key == "type" and value in _PART_TYPES and (found := _in_part(pairs, allowed, may_nest=True)):
            return found
    return None


def _in_part(pairs: tuple[tuple[str, object], ...], allowed: MediaUrls, may_nest: bool) -> Violation | None:
    for key, value in pairs:
        if key not in _SOURCES:
            continue
        if isinstance(value, str) and (why := _why_disallowed(value, allowed)):
            return Violation(why, key)
        if may_nest and isinstance(value, tuple) and (found := _in_part(value, allowed, may_nest=False)):
            return found.below(key)
    return None


def _why_disallowed(url: str, allowed: MediaUrls) -> str:
    """ "" if the engine may get this string."""
    if not url.startswith(_FETCHED):
        return ""
    if not (allowed.any_host or allowed.hosts):
        return f"only data: URLs are allowed here (upstream.media_urls); {_SEND_IT}"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return "only data:, http: and https: URLs are allowed (upstream.media_urls)"
    host, port = _target(rest)
    if allowed.any_host:
        return "a link-local address is not allowed (upstream.media_urls)" if _is_link_local(host) else ""
    names = {f"{host}:{port or _DEFAULT_PORTS[scheme]}"} | ({host} if port in ("", _DEFAULT_PORTS[scheme]) else set())
    target = f"{host}:{port}" if port else host
    # The engine takes what follows the first @ for the host, even if that is in the path; others do not.
    return (
        ""
        if names & allowed.hosts and "@" not in rest
        else f"{target[:200]!r} is not in upstream.media_urls; {_SEND_IT}"
    )


def _target(rest: str) -> tuple[str, str]:
    """Host and port of what follows `://`, as llama-server reads them (common_http_parse_url in common/http.h)."""
    before, at, after = rest.partition("@")
    authority = (after if at else before).partition("/")[0].lower()
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return f"[{host}]", port.removeprefix(":")
    host, _, port = authority.partition(":")
    return host, port


def _is_link_local(host: str) -> bool:
    """Whether it is written as an address of 169.254.0.0/16 or fe80::/10, where clouds keep their credentials."""
    try:
        address = _address(host.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_link_local


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Raises ValueError. Knows the forms of inet_aton, which resolvers accept: 0xa9fea9fe, 2852039166, 169.16689662."""
    if not _OLD_IPV4.fullmatch(host):
        return ipaddress.ip_address(host)
    *first, last = [_number(part) for part in host.split(".")]
    if last >= 256 ** (4 - len(first)) or any(number > 255 for number in first):
        raise ValueError
    return ipaddress.IPv4Address(sum(number << (24 - 8 * place) for place, number in enumerate(first)) + last)


def _number(text: str) -> int:
    if text.startswith("0x"):
        return int(text, 16)
    return int(text, 8 if text.startswith("0") else 10)
