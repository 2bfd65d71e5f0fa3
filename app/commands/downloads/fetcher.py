"""Who fetches a model: the service, if one answers that lets this key, else the command itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import click
from click.core import ParameterSource

from app.commands.downloads.by_service import ByService
from app.commands.options import exit_no
from app.commands.service_client import KEY_VARIABLE, NoServiceAnswer, ask_service, exit_without_answer


class Fetcher(Protocol):
    """Downloads are as in GET /status, plans as in the answer to POST /models/pull."""

    def plan(self, name: str) -> Mapping[str, Any]:
        """The quants of a repository. Where there is none, the command ends."""

    def begin(self, name: str) -> Mapping[str, Any]:
        """The download, which has begun, or ran before. Where it cannot begin, the command ends."""

    def now(self, download: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its state now."""

    def stop(self, download: Mapping[str, Any]) -> bool:
        """Whether it ends: one that somebody else began goes on."""


def fetcher(url: str) -> Fetcher:
    """A service that was named has to answer; at the default address there need not be one."""
    source = click.get_current_context().get_parameter_source("url")
    if source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        with exit_without_answer():
            if why := _why_not_by(url):
                exit_no(why)
        return ByService(url)
    try:
        why = _why_not_by(url)
    except NoServiceAnswer as no_answer:
        why = str(no_answer)
    return _local(why) if why else ByService(url)


def _why_not_by(url: str) -> str:
    """ "" if the service lets this key fetch models. Raises NoServiceAnswer."""
    if ask_service(url, "GET", "/status").body.get("may_pull"):
        return ""
    return f"the service at {url} lets only an admin's key fetch models: set {KEY_VARIABLE}"


def _local(why: str) -> Fetcher:
    exit_no(why)
