"""Whether a service is there to do what a command could also do itself."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from app.commands.service_client import URL_VARIABLE, NoServiceAnswer, ask_service, exit_without_answer


def is_service_named() -> bool:
    """By --url or in the environment: then it has to answer. At the default address there need not be one."""
    source = click.get_current_context().get_parameter_source("url")
    return source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def status_or_reason(url: str, without_it: str = "") -> tuple[dict[str, Any], str]:
    """The body of GET /status, or {} and why there is none. The command ends if there has to be one; `without_it`: what
    does the same without a service."""
    with exit_without_answer():
        try:
            return ask_service(url, "GET", "/status").body, ""
        except NoServiceAnswer as no_answer:
            if is_service_named():
                text = str(no_answer).replace(f"set {URL_VARIABLE}", f"correct --url or {URL_VARIABLE}")
                raise NoServiceAnswer(text + without_it, no_answer.exit_status) from None
            return {}, str(no_answer).partition(": ")[0]  # without what would help a command that needs a service
