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
# The shell outlives Ctrl-C, which ends the command alone. Its last lines leave the screen as the command left it.
_AROUND = "trap : INT; COMMAND; echo $? > status.new; stty -a > modes; mv status.new status; exec sleep 600"


class Terminal:
    def __init__(self, folder: Path) -> None:
        self._socket, self._status, self._modes = folder / "tmux", folder / "status", folder / "modes"

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
        return self._flag("alternate_on")

    @property
    def has_cursor(self) -> bool:
        return self._flag("cursor_flag")

    def _flag(self, name: str) -> bool:
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip() == "1"

    def shows(self, *texts: str, seconds: float = 20) -> str:
        """The screen, once it has all of them."""
        wait_for(lambda: all(text in self.screen for text in texts), seconds, lambda: f"{texts}:\n{self.screen}")
        return self.screen

    def hides(self, text: str, seconds: float = 20) -> None:
        wait_for(lambda: text not in self.screen, seconds, lambda: self.screen)

    def ends(self) -> int:
        """The program's exit status."""
        wait_for(self._status.exists, 20, lambda: self.screen)
        return int(self._status.read_text())

    @property
    def modes(self) -> str:
        """Echo, line discipline and the like, once the program has ended."""
        return self._modes.read_text()


@contextlib.contextmanager
def terminal(
    folder: Path, url: str, *words: str, columns: int = 80, lines: int = 24, shell: str = "", **variables: str
) -> Iterator[Terminal]:
    """A terminal in which `llama-smart-proxy WORDS`, or the command line `shell`, runs."""
    shown = Terminal(folder)
    environment = {"LLAMA_SMART_PROXY_URL": url, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables}
    assignments = [f"{name}={value}" for name, value in environment.items()]
    command = shell.replace("PROGRAM", shlex.join(PROGRAM)) or shlex.join([*PROGRAM, *words])
    # readline, which pytest imports, puts the size of its own terminal into the environment of what it starts.
    argv = ["env", "-u", "COLUMNS", "-u", "LINES", *assignments, "sh", "-c", _AROUND.replace("COMMAND", command)]
    size = ("-x", str(columns), "-y", str(lines))
    shown.tmux("new-session", "-d", *size, "sleep 600")  # options can be set only once a session is there
    try:
        shown.tmux("set-option", "-g", "default-terminal", "screen-256color")
        shown.tmux("respawn-pane", "-k", "-c", str(folder), shlex.join(argv))
        yield shown
    finally:
        shown.tmux("kill-server")
