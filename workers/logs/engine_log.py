"""EngineLog: what one llama-server logs, for the history and the files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from app.entities.launch import EngineFacts
from app.entities.server import Server
from app.use_cases.launch.command_line import LaunchPlan
from app.use_cases.launch.log_verbosity import logs_prompts
from workers.logs.engine_text import is_abort, is_debug_line, is_idle_line, kept_text
from workers.logs.files import LogFiles
from workers.logs.history import LogHistory

IN_MEMORY_ONLY = "its log may have prompts and answers at this verbosity: it is kept in memory only, not in files"

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters; shorter values, such as a number, are parts of other words


def secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """The values of variables whose names say that they are secrets, the engine's own key among them."""
    return tuple(value for name, value in env.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET)


class EngineLog:
    """Of one process of server `server`; used by its thread alone."""

    def __init__(
        self,
        history: LogHistory,
        files: LogFiles,
        model: str,
        server: int,
        logs_prompts: bool,
        pid: int,
        secrets: tuple[str, ...] = (),
    ) -> None:
        """`logs_prompts`: it was started with a verbosity at which llama-server logs prompts. `secrets`: are
        replaced."""
        self._history = history
        self._files = files
        self._model = model
        self._server = str(server)
        self._logs_prompts = logs_prompts
        self._secrets = secrets
        self._has_aborted = False
        self._is_idle = False  # its last line said so
        self._keep([f"--- started, pid {pid}" + (f"; {IN_MEMORY_ONLY}" if logs_prompts else "")])

    def add(self, texts: Iterable[str], has_requests: bool) -> None:
        """New lines. `has_requests`: it has had, or may have, requests whose text a line could quote."""
        kept = []
        for line in (line for text in texts for line in text.splitlines()):
            self._note(line)
            text = self._kept(line, has_requests)
            if text is None or (self._is_idle and is_idle_line(text)):
                continue
            self._is_idle = is_idle_line(text)
            kept.append(text)
        if kept:
            self._keep(kept)

    def ended(self, how: str) -> None:
        """The process has ended."""
        self._keep([f"--- {how}"])

    def _note(self, line: str) -> None:
        self._has_aborted |= is_abort(line)
        if not self._logs_prompts and is_debug_line(line):
            self._logs_prompts = True
            self._history.add(self._model, self._server, [f"--- {IN_MEMORY_ONLY}"], time.time())

    def _kept(self, line: str, has_requests: bool) -> str | None:
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return kept_text(line, has_requests, self._has_aborted)

    def _keep(self, texts: list[str]) -> None:
        at = time.time()
        self._history.add(self._model, self._server, texts, at)
        if not self._logs_prompts:
            head = f"{datetime.fromtimestamp(at).isoformat(' ', 'milliseconds')} [{self._server}]"
            self._files.append(self._model, "".join(f"{head} {text}\n" for text in texts))


@dataclass(frozen=True, slots=True)
class EngineLogs:
    """Where all llama-servers log to."""

    history: LogHistory
    files: LogFiles

    def begin(self, server: Server, engine: EngineFacts, plan: LaunchPlan, pid: int) -> EngineLog:
        """The log of a process that was just started."""
        has_prompts = logs_prompts(plan.argv, plan.env, engine)
        return EngineLog(
            self.history, self.files, server.model.name, server.id, has_prompts, pid, secret_values(plan.env)
        )
