"""Models fetched and planned by a running service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.commands.options import exit_no
from app.commands.service_client import ServiceAnswer, call_service, exit_with_error, service_json
from app.terminal.downloads import is_running


class ByService:
    """What a service does when it is asked to; where it answers no, the command ends."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._is_ours = False  # the download; another one that ran before is not canceled

    def plan(self, name: str) -> Mapping[str, Any]:
        return _yes(call_service(self.url, "POST", "/models/pull", {"model": name, "plan": True}))

    def begin(self, name: str) -> Mapping[str, Any]:
        running = {each["model"] for each in self._downloads() if is_running(each)}
        download = _yes(call_service(self.url, "POST", "/models/pull", {"model": name}))
        self._is_ours = download["model"] not in running
        return download

    def now(self, download: Mapping[str, Any]) -> Mapping[str, Any]:
        name = download["model"]
        found = next((each for each in self._downloads() if each["model"] == name), None)
        return found or exit_no(f"the service was restarted: what came of {name} is kept, and pull goes on from there")

    def stop(self, download: Mapping[str, Any]) -> bool:
        return self._is_ours and call_service(self.url, "POST", "/models/unload", {"model": download["model"]}).is_yes

    def _downloads(self) -> list[Mapping[str, Any]]:
        return service_json(self.url, "/status")["downloads"]  # type: ignore[no-any-return]


def _yes(answer: ServiceAnswer) -> dict[str, Any]:
    if not answer.is_yes:
        exit_with_error(answer)
    return answer.body
