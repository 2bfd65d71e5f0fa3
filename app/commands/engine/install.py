"""The command `engine install`."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click

from app.commands.console import json_option, print_json
from app.commands.engine.build_progress import BuildProgress
from app.commands.engine.engine_names import engine_json
from app.commands.options import exit_no, exit_wrong_use
from app.terminal.text import printable_lines, size_cell
from app.use_cases.engines.source_packages import PINNED_VERSION

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("install")
@click.option("--cuda", is_flag=True, help="For the NVIDIA cards of this machine.")
@click.option("--vulkan", is_flag=True, help="For Vulkan.")
@click.option("--cpu", is_flag=True, help="For the CPU alone.")
@click.option("--version", show_default=PINNED_VERSION, help="Of xllamacpp, or llama.cpp's build number.")
@click.option("--sdist", type=click.Path(path_type=Path, exists=True), help="A source package that is already here.")
@json_option
def install_command(
    cuda: bool, vulkan: bool, cpu: bool, version: str | None, sdist: Path | None, as_json: bool
) -> None:
    """Build llama-server, try it, and install it.

    It is built from the source package of xllamacpp, and installed in the cache directory.

    Without --cuda, --vulkan or --cpu: for CUDA if this machine has NVIDIA cards, else for the CPU. What is interrupted
    goes on with the same command. Exit status: 0 it is installed, 1 it is not, 2 wrong use, 130 interrupted, 143
    terminated.

    \b
    --json prints {"name", "version", "backend", "architectures", "instruction_set", "source", "size_bytes", "path",
    "chosen"}
    """
    backend = _only_backend(cuda=cuda, vulkan=vulkan, cpu=cpu)
    if version and sdist:
        exit_wrong_use("--version or --sdist, not both: a source package is of one version")
    from app.entities.engines import Backend
    from workers.engine.installed_engines import chosen_engine
    from workers.engine_builds.install import BuildRequest, Reporter, install_engine
    from workers.engine_builds.machine import this_build_machine
    from workers.engine_builds.stopping import CannotContinue
    from workers.folders import cache_folder

    machine = this_build_machine()
    wanted = Backend(backend or ("cuda" if machine.has_cards else "cpu"))
    request, progress = BuildRequest(wanted, version or PINNED_VERSION, sdist), BuildProgress()
    try:
        with _stopped_by_signals(progress):
            engine = install_engine(request, cache_folder(), machine, Reporter(progress.say, progress.show))
    except (CannotContinue, OSError) as error:
        progress.clear()
        exit_no(printable_lines(str(error)))
    progress.clear()
    if as_json:
        print_json(engine_json(engine, chosen_engine(cache_folder())))
    else:
        click.echo(f"{engine.name} is installed ({size_cell(engine.size_bytes)}): {engine.binary}")
        click.echo("a service that runs uses it after a restart")


def _only_backend(**is_given: bool) -> str:
    """ "" if none is given; two end the command."""
    given = [name for name in is_given if is_given[name]]
    if len(given) > 1:
        exit_wrong_use(f"--{given[0]} or --{given[1]}, not both: an engine is built for one of them")
    return given[0] if given else ""


class _Stopped(KeyboardInterrupt):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals(progress: BuildProgress) -> Iterator[None]:
    """Ends the command at a signal, with its compilers: they are in a session of their own, which no terminal ends."""
    heeded = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, _stop) for number in heeded}
    try:
        yield
    except _Stopped as stopped:
        progress.say("stopped: the same command continues where it stopped")
        sys.exit(128 + stopped.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: object) -> NoReturn:
    for each in _STOP_SIGNALS:  # a second one would leave compilers behind
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)
