"""The command line. Heavy imports are inside the commands, so that --help is fast."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import click

from app.commands.check_config import check_config, config_option
from app.commands.completion import completion_command
from app.commands.convert_config import convert_config
from app.commands.doctor import doctor
from app.commands.downloads.pull import pull_command
from app.commands.downloads.remove import remove_command
from app.commands.downloads.served_model import served_model_settings
from app.commands.engine.group import engine_command
from app.commands.estimate import estimate
from app.commands.groups import GroupedCommands
from app.commands.install_service import install_service
from app.commands.launch import launch
from app.commands.options import WRONG_USE, exit_no, exit_wrong_use
from app.commands.plan import plan
from app.commands.ready_message import print_ready_message
from app.commands.reload import reload
from app.commands.service.decisions import decisions_command
from app.commands.service.load import load_command
from app.commands.service.logs import logs_command
from app.commands.service.models import models_command, show_command
from app.commands.service.pin import pin_command, unpin_command
from app.commands.service.ps import ps
from app.commands.service.run import run_command
from app.commands.service.top import top_command
from app.commands.service.unload import unload_command

GUNICORN_CANNOT_START = 4  # gunicorn's APP_LOAD_ERROR: a restart would fail too


@click.group(cls=GroupedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llama-smart-proxy")
def main() -> None:
    """One OpenAI-compatible address in front of every GGUF model on this machine.

    Commands under Use, Inspect and Control talk to the running service at LLAMA_SMART_PROXY_URL, with the key in
    LLAMA_SMART_PROXY_API_KEY. Exit status: 0 done, 1 the answer is no, 2 wrong use.
    """


@main.command()
@config_option
@click.option(
    "--host",
    help="Address to listen on. If other machines can reach it, keys or server.allow_open are required."
    "  [default: 127.0.0.1]",
)
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 picks a free one.  [default: 8080]")
@click.option(
    "--models-dir",
    "models_dirs",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Folder with *.gguf files to serve, each under its file name. May be repeated. "
    "If no model is configured, a tiny demo model is served, whose answers are noise.",
)
@click.option(
    "--model",
    metavar="NAME_OR_FILE",
    help="Model to serve: a *.gguf file, or user/repo:QUANT of Hugging Face, downloaded first if it is missing. "
    "Requests that name no model get it.",
)
def serve(
    config: Path | None, host: str | None, port: int | None, models_dirs: tuple[Path, ...], model: str | None
) -> None:
    """Serve models until Ctrl-C.

    The first request for a model starts a llama-server for it: the configured one, the one on PATH, or the
    embedded engine. Every setting can also come from the configuration file or from LLAMA_SMART_PROXY_* in the
    environment; the command line has the highest precedence.
    """
    typed = {
        "CONFIG": str(config.absolute()) if config else None,
        "SERVER__HOST": host,
        "SERVER__PORT": None if port is None else str(port),
        "CATALOG__MODELS_DIRS": json.dumps([str(folder.absolute()) for folder in models_dirs]) if models_dirs else None,
    }
    from app.settings.configuration import ConfigurationError, read_configuration
    from app.settings.values import PREFIX

    os.environ.update({PREFIX + name: value for name, value in typed.items() if value is not None})
    if model is not None:
        os.environ.update({PREFIX + name: value for name, value in served_model_settings(model).items()})
    try:
        configuration = read_configuration()
    except ConfigurationError as error:
        exit_wrong_use(f"configuration error:\n{error}")
    settings = configuration.settings
    _exit_if_address_in_use(settings.server.host, settings.server.port)
    _log_to_stderr()
    _log_warnings(configuration.warnings)
    _lock_state_or_exit()
    from workers.serve import Application

    arbiter_pid = os.getpid()
    try:
        Application(settings, functools.partial(print_ready_message, settings)).run()
    except SystemExit as end:  # also raised in the worker, which is a fork of this process
        is_arbiter = os.getpid() == arbiter_pid
        sys.exit(WRONG_USE if end.code == GUNICORN_CANNOT_START and is_arbiter else end.code)


for command in (
    check_config,
    convert_config,
    doctor,
    engine_command,
    estimate,
    install_service,
    launch,
    plan,
    reload,
    completion_command,
    ps,
    top_command,
    models_command,
    show_command,
    logs_command,
    decisions_command,
    pull_command,
    load_command,
    unload_command,
    pin_command,
    unpin_command,
    remove_command,
    run_command,
):
    main.add_command(command)


def _exit_if_address_in_use(host: str, port: int) -> None:
    """End the command with a hint: gunicorn would retry for five seconds first."""
    from workers.diagnosis.machine import why_not_listening

    if problem := why_not_listening(host, port):
        exit_no(f"cannot listen on {host} port {port}: {problem}; choose another with --port")


def _lock_state_or_exit() -> None:
    """Lock the state directory for the life of this process, or end the command."""
    from workers.folders import state_folder
    from workers.state_lock import StateInUse, lock_state

    try:
        lock_state(state_folder())
    except StateInUse as error:
        exit_no(f"cannot start: {error}")


def _log_to_stderr() -> None:
    """Log to stderr in gunicorn's format: time, level, thread, module, message."""
    import logging

    from workers.telemetry.log_format import LOG_FORMAT

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it logs three lines about the demo model
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs addresses, which may hold a signature


def _log_warnings(warnings: tuple[str, ...]) -> None:
    """Called once: gunicorn.conf.py and the worker read the settings again, without logging."""
    import logging

    for warning in warnings:
        logging.getLogger(__name__).warning("configuration: %s", warning)


if __name__ == "__main__":
    main()
