"""Who deletes a model: the service, if one answers, else the command itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from app.commands.downloads.named_service import status_or_reason
from app.commands.options import exit_no, logger_disabled, read_settings
from app.commands.service.model_names import LIST_COMMAND, LIST_ROUTE, exit_without_model, model_path
from app.commands.service_client import call_service, exit_with_error
from app.entities.model_name import folded
from app.terminal.downloads import is_running


class Deleter(Protocol):
    """Where the answer is no, the command ends."""

    place: str  # whose cache it is

    def find(self, name: str) -> tuple[str, int | None]:
        """The model's name in the catalogue, and the size of its files in bytes; None if only unfinished downloads of
        its repository can be there."""

    def delete(self, name: str) -> int:
        """The bytes that become free."""


def deleter(url: str) -> Deleter:
    status, _ = status_or_reason(url)
    return ServiceDeleter(url, status) if status else LocalDeleter()


class ServiceDeleter:
    def __init__(self, url: str, status: Mapping[str, Any]) -> None:
        self._url, self.place = url, f"the cache of the service at {url}"
        running = {folded(each["model"]) for each in status["downloads"] if is_running(each)}
        self._running = running | {name.partition(":")[0] for name in running}

    def find(self, name: str) -> tuple[str, int | None]:
        answer = call_service(self._url, "GET", model_path(name))
        if answer.status == 404:
            return _repository(name) or exit_without_model(answer), None
        if not answer.is_yes:
            exit_with_error(answer)
        return answer.body["id"], answer.body.get("size")

    def delete(self, name: str) -> int:
        answer = call_service(self._url, "DELETE", f"/models/{quote(name)}")
        if answer.status == 404:
            exit_without_model(answer)
        if not answer.is_yes:
            exit_with_error(answer)
        if not answer.body["freed_bytes"] and folded(name) in self._running:
            exit_no(f"the download of {name} is stopped; the same command deletes the partial download")
        return int(answer.body["freed_bytes"])


class LocalDeleter:
    """In the cache that the settings name, of the models that a service with them would have."""

    def __init__(self) -> None:
        from app.commands.downloads.local_machine import LocalMachine
        from workers.build_catalog import build_catalog, hugging_face_cache
        from workers.build_downloads import build_downloads

        settings = read_settings(None)
        self._downloads = build_downloads(lambda: settings, lambda: None, LocalMachine(settings))
        with logger_disabled("workers.catalog.catalog"):  # problems of other models are irrelevant here
            self._models = build_catalog(settings)
        self.place = str(hugging_face_cache(settings))

    def find(self, name: str) -> tuple[str, int | None]:
        from app.errors import ModelNotFound

        try:
            model = self._models.find(name)
        except ModelNotFound as error:
            return _repository(name) or exit_no(str(error).replace(LIST_ROUTE, LIST_COMMAND)), None
        return model.name, model.size_bytes

    def delete(self, name: str) -> int:
        from app.errors import NotSupported
        from app.use_cases.downloads.repository_names import parse_name

        model = self._models.definition(name)
        try:
            if model is None:
                freed_bytes = self._downloads.discard(parse_name(name))
                return freed_bytes or exit_no(f"there is nothing of {name} in {self.place}")
            others = [each for each in self._models.models() if each.name != name]
            return self._downloads.remove(model, others)
        except NotSupported as error:
            exit_no(str(error))


def _repository(name: str) -> str:
    """The name of a repository's model in its usual spelling; "" if it is none."""
    from app.use_cases.downloads.repository_names import InvalidName, parse_name

    try:
        return str(parse_name(name))
    except InvalidName:
        return ""
