"""Who downloads a model: the service, if one answers that lets this key, else the command itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from app.commands.downloads.local_puller import LocalPuller
from app.commands.downloads.named_service import is_service_named, status_or_reason
from app.commands.downloads.service_puller import ServicePuller
from app.commands.options import exit_no
from app.commands.service_client import KEY_VARIABLE

_LOCAL = "`pull --local` downloads without a service"


class Puller(Protocol):
    """Downloads are as in GET /status, plans as in the answer to POST /models/pull."""

    @property
    def note(self) -> str:
        """Who does it, and into which folder; "" if it goes without saying."""

    def plan(self, name: str) -> Mapping[str, Any]:
        """The quants of a repository. Where there is none, the command ends."""

    def pull(self, name: str) -> Iterator[Mapping[str, Any]]:
        """The states of the download, the last one final. Where it cannot begin, the command ends."""

    def stop(self, download: Mapping[str, Any]) -> bool:
        """Whether it ends: one that somebody else began goes on."""


def puller(url: str, is_local: bool) -> Puller:
    """The command ends if a service was named that does not download."""
    if is_local:
        return LocalPuller()
    status, why = status_or_reason(url, f"; {_LOCAL}")
    if status.get("may_pull"):
        return ServicePuller(url)
    why = why or f"the service at {url} downloads models only for an admin"
    if is_service_named():
        exit_no(f"{why}: set {KEY_VARIABLE} to an admin's key; {_LOCAL}")
    return LocalPuller(why)
