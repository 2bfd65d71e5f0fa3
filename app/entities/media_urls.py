"""Which URLs of images, audio and video the engine may fetch for a client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaUrls:
    """`upstream.media_urls`. Media inside the request (data: URLs, base64) are always allowed."""

    any_host: bool = False
    hosts: frozenset[str] = frozenset()  # in lower case, as host or host:port


DATA_ONLY = MediaUrls()
ANY_MEDIA = MediaUrls(any_host=True)  # to read a body whose URLs are checked elsewhere
