"""Settings of the listening service and its API keys."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

from pydantic import ByteSize, Field, field_validator, model_validator

from app.entities.key import ApiKey
from app.settings.values import APPLIES_AT_ONCE, NEEDS_RESTART, Name, Section, Text, url_origin
from app.use_cases.credentials import is_loopback

# A scheme and a host: browsers also send those of extensions and of apps (chrome-extension://..., app://obsidian.md).
# `null` is none: a page of any site can have it.
_ORIGIN = re.compile(r"(?i)[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/*?#@:\[\]\\]+)(:[0-9]{1,5})?/?")


class ServerSettings(Section):
    """Where the service listens, and limits on connections."""

    reload = NEEDS_RESTART  # of all keys but those that are marked APPLIES_AT_ONCE

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on. 0: the system chooses a free port.")
    threads: int = Field(
        512, ge=4, description="Threads that process requests. Each waiting or running request occupies one."
    )
    reserve_threads: int = Field(
        16, ge=1, description="Threads never used for inference, so that health checks are always answered."
    )
    max_body: ByteSize = Field(ByteSize(256 * 1024**2), description="Largest request body.")
    max_bodies: ByteSize = Field(
        ByteSize(1024**3),
        description="Memory for all request bodies together, at least one of `max_body`; further ones of more than "
        "256 KiB get 503. One key, or one address where there are no keys, gets half of it.",
    )
    receive_timeout_seconds: float = Field(
        10.0, gt=0, description="Timeout for a request's headers, and for a pause while its body arrives."
    )
    drain_seconds: float = Field(30.0, ge=0, description="How long running streams may continue after a stop signal.")
    stop_seconds: float = Field(10.0, gt=0, description="How long a llama-server may take to exit before it is killed.")
    allow_open: bool = Field(
        False, description="Without keys, let anyone who can reach the address use the service, under any Host name."
    )

    public_url: Text | None = Field(
        None,
        description=(
            "URL of the service as browsers know it, if a reverse proxy changes the Host header: "
            "https://llm.example.org. Its pages count as our own; see [keys.md](keys.md#browsers)."
        ),
    )

    cors_origins: Annotated[Literal["*"] | list[Text], APPLIES_AT_ONCE] = Field(
        [],
        description=(
            "Origins whose web pages may use the service: `[https://chat.example.org]`; `*`: pages of any site. "
            "See [keys.md](keys.md#pages-of-other-sites)."
        ),
    )

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str | list[str]) -> str | list[str]:
        if wrong := [origin for origin in origins if origin != "*" and not _ORIGIN.fullmatch(origin)]:
            raise ValueError(f"{wrong[0]!r} is not an origin; write https://chat.example.org, or * for any")
        return origins

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Those of cors_origins as browsers send them; {"*"}: any."""
        return frozenset(origin if origin == "*" else url_origin(origin) for origin in self.cors_origins)

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        try:
            is_valid = url is None or bool(re.match(r"(?i)https?://[^/]", url) and url_origin(url))
        except ValueError:
            is_valid = False
        if not is_valid:
            raise ValueError("must begin with http:// or https:// and a host name")
        return url

    @property
    def public_origin(self) -> str:
        """That of public_url; "" without one."""
        return url_origin(self.public_url) if self.public_url else ""

    @field_validator("host")
    @classmethod
    def _normalize_host(cls, host: str) -> str:
        bare = host.strip().removeprefix("[").removesuffix("]")
        return "0.0.0.0" if bare in ("", "*") else bare

    @model_validator(mode="after")
    def _reserve_below_threads(self) -> ServerSettings:
        if self.reserve_threads > self.threads - 2:
            raise ValueError(f"reserve_threads ({self.reserve_threads}) must be below threads ({self.threads}) - 1")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address. A name other than localhost may resolve to any address."""
        return is_loopback(self.host)


class ApiKeySettings(Section):
    """One API key and what it permits."""

    name: Name = Field(description="Name of the key in the log and in metrics.")
    sha256: str = Field(
        description='The hash of the key, never the key itself: `printf %s "$KEY" | sha256sum` prints it.'
    )
    models: list[Text] = Field(["*"], description="Models that the key may use; `*` and `?` are wildcards.")
    admin: bool = Field(
        False,
        description=(
            "May load and unload models, reload the configuration, change the engine's LoRA scales, use `/upstream`, "
            "and read `/decisions` and command lines."
        ),
    )
    requests_per_minute: int = Field(600, ge=1, description="Limit on inference requests per minute.")
    tokens_per_day: int | None = Field(
        None,
        ge=1,
        description="Limit on the tokens of prompts and answers per UTC day, cached prompts included. null: no limit.",
    )

    @field_validator("sha256")
    @classmethod
    def _check_hash(cls, digits: str) -> str:
        found = re.fullmatch(r"[0-9a-f]{64}", digits.strip().lower())
        if not found:
            raise ValueError(
                'must be the hash of a key (64 hexadecimal digits); create it with: printf %s "$KEY" | sha256sum'
            )
        if found[0] == hashlib.sha256(b"").hexdigest():
            raise ValueError("is the hash of an empty key")
        return found[0]

    def api_key(self) -> ApiKey:
        limits = self.requests_per_minute, self.tokens_per_day
        return ApiKey(self.name, self.sha256, tuple(self.models), self.admin, *limits)
