"""The command `check-config`, and how commands read the configuration that `serve` would."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.console import json_option, print_json
from app.commands.options import ANSWER_IS_NO, WRONG_USE

if TYPE_CHECKING:
    from app.settings.check import ConfigurationCheck
    from app.settings.schema import Settings
    from workers.catalog.catalog import Catalog

config_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--config", type=click.Path(path_type=Path), help="YAML or JSON file with the settings."
)


@click.command("check-config")
@config_option
@json_option
def check_config(config: Path | None, as_json: bool) -> None:
    """Check the configuration, without starting anything.

    Reads what `serve` would read: the file, LLAMA_SMART_PROXY_* variables, the model files (a broken one is a warning)
    and, for pinned models, this machine's GPUs and RAM. Secrets are not printed. Exit status: 0 valid, 1 invalid,
    2 no such file.
    """
    check = checked_configuration(config)
    if check.configuration:
        settings = check.configuration.settings
        # These loggers would repeat the warnings.
        with _loggers_disabled("workers.catalog.catalog", "workers.pool.pinned_models"):
            errors, warnings = _check_this_machine(settings)
            catalog = _catalog(settings)
        errors = (*_errors_in_model_engines(settings), *errors)
        warnings = (*_warnings_about_engine(settings), *catalog.warnings, *warnings)
        check = check.with_models(catalog.models()).with_warnings(warnings).with_errors(errors)
    if as_json:
        print_json(check.as_json())
    else:
        click.echo("\n".join(check.lines()), err=not check.is_good)
    if not check.is_good:
        sys.exit(ANSWER_IS_NO if check.file_exists else WRONG_USE)


def checked_configuration(file: Path | None) -> ConfigurationCheck:
    """What `serve` would read with this file; None: the one of the environment, if any."""
    from app.settings.check import check_configuration
    from app.settings.values import PREFIX

    if file:
        os.environ[PREFIX + "CONFIG"] = str(file.absolute())
    return check_configuration()


def _check_this_machine(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Errors and warnings that depend on this machine's hardware."""
    from workers.check_pinned import check_pinned_models

    errors, warnings = check_pinned_models(settings) if settings.pinned else ((), ())
    return errors, warnings


def _warnings_about_engine(settings: Settings) -> list[str]:
    from workers.engine.binary import engine_program
    from workers.engine.probe_process import EngineNotFound
    from workers.folders import cache_folder

    binary = settings.engine.binary
    if binary in ("auto", "embedded"):
        return []
    try:
        engine_program(binary, cache=cache_folder())
    except EngineNotFound:
        return [f"engine.binary: no such program: {binary}; no model can be served without it"]
    return []


def _errors_in_model_engines(settings: Settings) -> Iterator[str]:
    """A line for each model whose own engine does not exist, or cannot be run."""
    from workers.engine.binary import engine_program
    from workers.engine.probe_process import EngineNotFound
    from workers.folders import cache_folder

    for engine, use in settings.own_engines().items():
        for name in use.models if engine.binary not in ("auto", "embedded") else ():
            try:
                engine_program(engine.binary, cache=cache_folder(), key=f"models.{name}.engine")
            except EngineNotFound as error:
                yield str(error)


def _catalog(settings: Settings) -> Catalog:
    """Its warnings: a line for each model that cannot be served, and for other problems with model files."""
    from workers.build_catalog import build_catalog

    return build_catalog(settings, with_demo=False)


@contextlib.contextmanager
def _loggers_disabled(*names: str) -> Iterator[None]:
    import logging

    logs = [logging.getLogger(name) for name in names]
    for log in logs:
        log.disabled = True
    try:
        yield
    finally:
        for log in logs:
            log.disabled = False
