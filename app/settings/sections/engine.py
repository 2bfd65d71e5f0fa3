"""Settings of all llama-servers: which one runs, how long its responses may take, what it may fetch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from app.entities.media_urls import MediaUrls
from app.settings.values import NEEDS_RESTART, Arguments, Section, Text, Variables

_HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?")


class EngineSettings(Section):
    """Which llama-server runs, and options for all of them."""

    binary: Annotated[str, NEEDS_RESTART] = Field(
        "auto",
        description="auto, embedded, the name of an installed one, or a path. auto: the first that can use the GPUs, "
        "else the first that works, of llama-server on PATH, those of `engine install` and the embedded engine; "
        "`engine use` chooses one.",
    )
    args: Arguments = Field(
        [], description="Additional arguments for every llama-server, one word per item. A model's own come after them."
    )
    env: Annotated[Variables, NEEDS_RESTART] = Field({}, description="Environment variables of every llama-server.")
    assume_gpu: Annotated[bool, NEEDS_RESTART] = Field(
        False, description="Assume that the engine supports NVIDIA GPUs instead of probing it; for wrapper scripts."
    )
    log_files: bool = Field(
        True,
        description="Keep what llama-servers log in files below the state directory, 20 MiB and 7 days for each model: "
        "docs/logs.md.",
    )


class UpstreamSettings(Section):
    """Timeouts for responses of a llama-server, and what it may fetch."""

    first_byte_seconds: float = Field(
        3600.0,
        gt=0,
        description="How long a llama-server may take to begin its response; without `stream`, to complete it.",
    )
    stall_seconds: float = Field(300.0, gt=0, description="How long a response that has begun may pause.")
    media_urls: Literal["data", "http"] | list[Text] = Field(
        "data",
        description=(
            "URLs of images, audio and video that a request may name; llama-server fetches them from this machine. "
            "data: only data: URLs, which are a part of the request; http: any http: or https: URL; or a list of "
            "hosts (`example.com`, or `example.com:8443` for another port than the default one)."
        ),
    )

    @field_validator("media_urls")
    @classmethod
    def _check_hosts(cls, allowed: str | list[str]) -> str | list[str]:
        if isinstance(allowed, list) and (wrong := [host for host in allowed if not _HOST.fullmatch(host)]):
            raise ValueError(f"{wrong[0]!r} is not a host; write example.com, 10.0.0.7:8080 or [fd00::7]")
        return allowed

    def allowed_media_urls(self) -> MediaUrls:
        if isinstance(self.media_urls, str):
            return MediaUrls(any_host=self.media_urls == "http")
        return MediaUrls(hosts=frozenset(host.lower() for host in self.media_urls))
