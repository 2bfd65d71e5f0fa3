"""Settings of peers: other addresses whose models are served here."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from app.entities.model_name import folded
from app.entities.peer import Peer
from app.settings.values import File, ModelName, Section, Text
from app.use_cases.credentials import is_loopback

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_PORTS = {"http": 80, "https": 443}


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a peer's name has letters, digits, `.`, `_` and `-` only: it is the part before the `/`")
    return name


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):  # and a key would be shown as if it were a name
        raise ValueError("must be the name of an environment variable, in capital letters, not the key itself")
    return name


PeerName = Annotated[Text, AfterValidator(_check_name)]
Variable = Annotated[Text, AfterValidator(_check_variable)]


class PeerSettings(Section):
    """Another address with OpenAI's API, whose models are served here."""

    url: Text = Field(
        description=(
            "Its base URL, as OpenAI's clients are given it: `https://openrouter.ai/api/v1`. To one without a path, "
            "`/v1` is added: `http://192.168.1.7:8080`."
        )
    )
    api_key_env: Variable | None = Field(
        None, description="The environment variable with the key that is sent to it. Clients' keys never are."
    )
    api_key_file: File | None = Field(
        None, description="The file with that key, instead. It is read at each use, so that it may be replaced."
    )
    models: Literal["auto"] | list[ModelName] = Field(
        "auto",
        description="Its models that are served. auto: those that it lists, read once a minute; or a list of names.",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_complete = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_complete = False
        if not is_complete:
            raise ValueError("must begin with http:// or https:// and a host name, such as http://192.168.1.7:8080")
        if "@" in parts.netloc:
            raise ValueError("must not contain a name or password; use api_key_env or api_key_file")
        if "?" in url or "#" in url:
            raise ValueError("must not contain `?` or `#`: it is the beginning of all addresses of the peer")
        _check_parts(parts)
        return url

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env and api_key_file exclude each other; remove one")
        return self

    @field_validator("models")
    @classmethod
    def _names_models(cls, models: str | list[str]) -> str | list[str]:
        if isinstance(models, list) and not models:
            raise ValueError("is empty; list at least one model, or write auto")
        return models

    @property
    def hides_key(self) -> bool:
        """Whether nobody on a network can read what is sent to it."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or is_loopback(parts.hostname or "")

    def peer(self, name: str) -> Peer:
        parts = urlsplit(self.url)
        return Peer(
            name=name,
            host_name=parts.hostname or "",
            port=parts.port or _PORTS[parts.scheme],
            path=parts.path.rstrip("/") or "/v1",
            is_tls=parts.scheme == "https",
            key_variable=self.api_key_env or "",
            key_file=str(self.api_key_file or ""),
            models=None if self.models == "auto" else tuple(dict.fromkeys(self.models)),
        )


def _check_parts(parts: SplitResult) -> None:
    if not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError("its host name must be ASCII: write an international one as xn--...")
    if not _PATH.fullmatch(parts.path) or {".", ".."} & set(parts.path.split("/")):
        raise ValueError("its path must be plain, such as /v1 or /api/v1")


def unique_names(peers: dict[str, PeerSettings]) -> dict[str, PeerSettings]:
    """The peers. Raises ValueError if two names are one to clients, which may write them in any case."""
    for name in peers:
        if other := next((each for each in peers if each != name and folded(each) == folded(name)), None):
            raise ValueError(f"{name} and {other} differ only in case; rename one")
    return peers
