"""A terminal with a program in it: tmux, which draws as a real one does, and whose screen can be read."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.service import wait_for

PROGRAM = (sys.executable, "-P", "-m", "app.commands.cli")


class Terminal:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words], capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def press(self, *keys: str) -> None:
        """Names of keys as tmux has them: Down, C-c, Enter; or text."""
        self.tmux("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    @property
    def colored_screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-e")

    @property
    def is_alternate(self) -> bool:
        """Whether a program draws on the whole of it."""
        return self.tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def shows(self, *texts: str, seconds: float = 20) -> str:
        """The screen, once it has all of them."""
        wait_for(lambda: all(text in self.screen for text in texts), seconds, lambda: f"{texts}:\n{self.screen}")
        return self.screen

    def hides(self, text: str, seconds: float = 20) -> None:
        wait_for(lambda: text not in self.screen, seconds, lambda: self.screen)

    def ends(self) -> int:
        """The program's exit status."""
        wait_for(lambda: self.tmux("display-message", "-p", "#{pane_dead}").strip() == "1", 20, lambda: self.screen)
        return int(self.tmux("display-message", "-p", "#{pane_dead_status}"))


@contextlib.contextmanager
def terminal(
    folder: Path, url: str, *words: str, columns: int = 80, lines: int = 24, shell: str = "", **variables: str
) -> Iterator[Terminal]:
    """A terminal in which `llama-smart-proxy WORDS`, or the command line `shell`, runs."""
    shown = Terminal(folder / "tmux")
    environment = {"LLAMA_SMART_PROXY_URL": url, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables}
    assignments = [f"{name}={value}" for name, value in environment.items()]
    command = shell.replace("PROGRAM", shlex.join(PROGRAM)) or shlex.join([*PROGRAM, *words])
    argv = ["env", *assignments, "sh", "-c", command]
    size = ("-x", str(columns), "-y", str(lines))
    shown.tmux("new-session", "-d", *size, "sleep 600")  # options can be set only once a session is there
    try:
        shown.tmux("set-option", "-g", "default-terminal", "screen-256color")
        shown.tmux("set-option", "-g", "remain-on-exit", "on")
        shown.tmux("respawn-pane", "-k", shlex.join(argv))
        yield shown
    finally:
        shown.tmux("kill-server")
