"""The command `top`: the service, live."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from app.commands.console import console, has_color
from app.commands.service.keyboard import DOWN, UP, Keyboard
from app.commands.service.live_status import LiveStatus
from app.commands.service_client import URL_VARIABLE, NoServiceAnswer, ask_service, service_json, url_option
from app.terminal.dashboard import Screen, dashboard, selected_server, unload_question
from app.terminal.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

REDRAW_SECONDS = 0.5  # how soon a new size of the terminal is noticed


@click.command("top")
@url_option
def top_command(url: str) -> None:
    """Show GPUs, servers, the queue and decisions, live.

    Bars: a model's memory under its name, `/` what a loading model will still allocate, `other` what is not the
    service's, `-` reserved, `.` free. On wide terminals a GPU's utilization of the last two minutes is beside it.

    \b
    q  quit           u  unload the selected model, for admins
    up, down  select  l  show its log; Ctrl-C comes back

    Where the output is no terminal, or one that cannot be drawn on (TERM=dumb), it is printed once. `ps --json` is for
    programs.
    """
    status = service_json(url, "/status")
    out = console()
    if not sys.stdout.isatty() or not sys.stdin.isatty() or out.is_dumb_terminal:
        _print_once(out, url, status)
        return
    with Keyboard() as keyboard, contextlib.suppress(KeyboardInterrupt, EOFError):
        Top(url, out, LiveStatus(url, status), keyboard).run()


def _print_once(out: Console, url: str, status: dict[str, Any]) -> None:
    columns = shutil.get_terminal_size((100, 24)).columns
    screen = Screen(columns, None, has_color(sys.stdout))
    with out.capture() as capture:
        out.print(dashboard(status, url, screen, datetime.now().astimezone()))
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip("\n"))


class Top:
    """The loop: a key, or something new, then one picture of the whole."""

    def __init__(self, url: str, out: Console, live: LiveStatus, keyboard: Keyboard) -> None:
        self._url, self._out, self._live, self._keyboard = url, out, live, keyboard
        self._selected = 0
        self._message = ""  # written by the thread of an unload too, as its last act
        self._question: str | None = None  # the model whose unload waits for a `y`

    def run(self) -> None:
        from rich.live import Live

        with Live(console=self._out, screen=True, auto_refresh=False, transient=True) as screen:
            while True:
                self._draw(screen)
                key = self._keyboard.wait(REDRAW_SECONDS, self._live.wakes)
                if key in ("q", "Q"):
                    return
                if key:
                    self._press(key, screen)

    def _draw(self, screen: Live) -> None:
        width, height = self._out.size
        message = self._message or (f"old: {self._live.problem}" if self._live.problem else "")
        size = Screen(width, height, has_color(sys.stdout), self._selected, message, trends=self._live.trends)
        screen.update(dashboard(self._live.status, self._url, size, datetime.now().astimezone()), refresh=True)

    def _press(self, key: str, screen: Live) -> None:
        model, self._question, self._message = self._question, None, ""
        server = selected_server(self._live.status, self._selected)
        if model is not None:
            if key in ("y", "Y"):
                self._unload(model)
        elif key in (UP, "k", DOWN, "j"):
            last = len(self._live.status["servers"]) - 1
            self._selected = max(0, min(last, self._selected + (1 if key in (DOWN, "j") else -1)))
        elif server and key == "u" and self._live.status["admin"]:
            self._question, self._message = server["model"], unload_question(server)
        elif server and key == "l" and self._live.status["admin"]:
            self._show_log(server["model"], screen)

    def _unload(self, model: str) -> None:
        self._message = f"unloading {model} ..."
        threading.Thread(target=self._post_unload, args=(model,), daemon=True).start()

    def _post_unload(self, model: str) -> None:
        try:
            answer = ask_service(self._url, "POST", "/models/unload", {"model": model})
            self._message = f"unloaded {model}" if answer.is_yes else answer.error
        except NoServiceAnswer as no_answer:
            self._message = str(no_answer)

    def _show_log(self, model: str, screen: Live) -> None:
        """`logs -f` on the ordinary screen, until Ctrl-C."""
        screen.stop()
        with self._keyboard.released():
            click.echo(f"log of {printable(model)}; Ctrl-C comes back")
            argv = [sys.executable, "-P", "-m", "app.commands.cli", "logs", "-f", "--", model]
            follow = subprocess.Popen(argv, env=os.environ | {URL_VARIABLE: self._url})
            status, is_interrupted = wait_through_interrupts(follow.wait)
        if status and not is_interrupted:
            self._message = f"no log of {model}: `llama-smart-proxy logs` ended with status {status}"
        screen.start()


def wait_through_interrupts(wait: Callable[[], int]) -> tuple[int, bool]:
    """The other program's exit status, and whether there was a Ctrl-C: it goes to both, and ends the other one."""
    is_interrupted = False
    while True:
        try:
            return wait(), is_interrupted
        except KeyboardInterrupt:
            is_interrupted = True
