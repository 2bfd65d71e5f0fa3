"""The command `engine install`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click

from app.commands.console import json_option, print_json
from app.commands.engine.engine_names import engine_json
from app.commands.options import INTERRUPTED, exit_no
from app.terminal.text import printable_lines, size_cell
from app.use_cases.engines.source_packages import PINNED_VERSION

PROGRESS_SECONDS = 15.0  # between two lines where the output is no terminal


@click.command("install")
@click.option("--cuda", "backend", flag_value="cuda", help="For the NVIDIA cards of this machine.")
@click.option("--vulkan", "backend", flag_value="vulkan", help="For Vulkan.")
@click.option("--cpu", "backend", flag_value="cpu", help="For the CPU alone.")
@click.option("--version", default=PINNED_VERSION, show_default=True, help="Of xllamacpp, or llama.cpp's build number.")
@click.option("--sdist", type=click.Path(path_type=Path, exists=True), help="A source package that is already here.")
@json_option
def install_command(backend: str | None, version: str, sdist: Path | None, as_json: bool) -> None:
    """Build llama-server from the source package of xllamacpp, try it, and install it in the cache directory.

    Without --cuda, --vulkan or --cpu: for CUDA if this machine has NVIDIA cards, else for the CPU. What is interrupted
    goes on with the same command. Exit status: 0 it is installed, 1 it is not.

    \b
    --json prints {"name", "version", "backend", "architectures", "instruction_set", "source", "size_bytes", "path",
    "chosen"}
    """
    from app.entities.engines import Backend
    from workers.engine.installed_engines import chosen_engine
    from workers.engine_builds.install import BuildRequest, Reporter, install_engine
    from workers.engine_builds.machine import this_build_machine
    from workers.engine_builds.stopping import CannotContinue
    from workers.folders import cache_folder

    machine = this_build_machine()
    wanted = Backend(backend or ("cuda" if machine.has_cards else "cpu"))
    display = _Progress()
    try:
        _let_every_stop_interrupt()
        request = BuildRequest(wanted, version, sdist)
        engine = install_engine(request, cache_folder(), machine, Reporter(display.say, display.show))
    except (CannotContinue, OSError) as error:
        display.end_line()
        exit_no(printable_lines(str(error)))
    except KeyboardInterrupt:
        display.say("stopped: the same command goes on where it ended")
        sys.exit(INTERRUPTED)
    display.end_line()
    if as_json:
        print_json(engine_json(engine, chosen_engine(cache_folder())))
    else:
        click.echo(f"{engine.name} is installed ({size_cell(engine.size_bytes)}): {engine.binary}")
        click.echo("a service that runs uses it after a restart")


def _let_every_stop_interrupt() -> None:
    """A closed terminal and `kill` end the compilers, too, as Ctrl-C does: they run in a session of their own."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, signal.default_int_handler)


class _Progress:
    """On stderr: one line that is rewritten on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._next_at = 0.0  # monotonic seconds

    def say(self, line: str) -> None:
        self.end_line()
        click.echo(line, err=True)

    def end_line(self) -> None:
        """The progress makes way for what comes next."""
        click.echo("\r\x1b[K" if self._is_terminal else "", err=True, nl=False)

    def show(self, what: str, done: int, total: int) -> None:
        if not self._is_terminal and time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + PROGRESS_SECONDS
        share = f"{what}: {100 * done // total if total else 0} %"
        click.echo(f"\r\x1b[K{share}" if self._is_terminal else share, err=True, nl=not self._is_terminal)
