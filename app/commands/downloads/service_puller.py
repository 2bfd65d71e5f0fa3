"""Models downloaded and planned by a running service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from app.commands.options import exit_no
from app.commands.service_client import (
    ServiceAnswer,
    call_service,
    exit_with_error,
    exit_without_answer,
    open_answer,
    read_answer,
    service_json,
)
from app.terminal.downloads import is_running

Download = Mapping[str, Any]


class ServicePuller:
    """What a service does when it is asked to; where it answers no, the command ends."""

    note = ""

    def __init__(self, url: str) -> None:
        self.url = url
        self._others: set[float] = set()  # downloads that ran before, by their start

    def plan(self, name: str) -> Mapping[str, Any]:
        return _accepted(call_service(self.url, "POST", "/models/pull", {"model": name, "plan": True})).body

    def pull(self, name: str) -> Iterator[Download]:
        running = [each for each in service_json(self.url, "/status")["downloads"] if is_running(each)]
        self._others = {each["started_at"] for each in running}
        last: Download = {"state": "checking"}
        with exit_without_answer():
            for last in self._states(name):
                yield last
        if is_running(last):
            exit_no(
                "the service stopped before the model was complete: the partial download is kept, and pull resumes it"
            )

    def _states(self, name: str) -> Iterator[Download]:
        """Raises NoServiceAnswer."""
        body = {"model": name, "stream": True}
        with open_answer(self.url, "POST", "/models/pull", body) as response:
            if response.status_code >= 300:
                exit_with_error(read_answer(response, self.url))
            yield from (json.loads(line) for line in response.iter_lines(chunk_size=1) if line)

    def stop(self, download: Download) -> bool:
        if download["started_at"] in self._others:
            return False
        return call_service(self.url, "POST", "/models/unload", {"model": download["model"]}).is_yes


def _accepted(answer: ServiceAnswer) -> ServiceAnswer:
    if not answer.is_yes:
        exit_with_error(answer)
    return answer
