"""`models --updates`: which models of the Hugging Face cache have changed in their repositories."""

from __future__ import annotations

import sys
from typing import Any

import click

from app.commands.console import print_json, print_table
from app.commands.options import ANSWER_IS_NO, exit_no, logger_disabled, read_settings
from app.terminal.updates import EXPENDABLE, could_check, update_command, update_table


def show_updates(as_json: bool) -> None:
    """Of the cache that the settings name, not the service's; asks each repository once. Exit status 1 if nothing could
    be checked."""
    updates, cache = _updates()
    if as_json:
        print_json({"cache": cache, "updates": updates})
    elif updates:
        print_table(update_table(updates), EXPENDABLE)
        click.echo(update_command(updates))
    else:
        click.echo(f"no models in {cache}")
    if updates and not could_check(updates):
        sys.exit(ANSWER_IS_NO)


def _updates() -> tuple[list[dict[str, Any]], str]:
    """The updates, and the folder of the cache."""
    from dataclasses import asdict

    from workers.build_catalog import build_catalog, hugging_face_cache
    from workers.downloads.hub import Hub
    from workers.downloads.updates import find_updates

    settings = read_settings(None)
    if (cache := hugging_face_cache(settings)) is None:
        exit_no("catalog.hugging_face.cache is off: there are no models of repositories")
    with logger_disabled("workers.catalog.catalog"):
        models = build_catalog(settings).models()
    return [asdict(each) for each in find_updates(cache, models, Hub().repository)], str(cache)
