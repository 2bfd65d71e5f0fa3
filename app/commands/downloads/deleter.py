"""Who deletes a model: the service, if one answers, else the command itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from app.commands.downloads.named_service import status_or_reason
from app.commands.options import exit_no, read_settings
from app.commands.service.model_names import exit_without_model, find_entry
from app.commands.service_client import call_service, exit_with_error

if TYPE_CHECKING:
    from app.entities.model import Model


class Deleter(Protocol):
    """Where the answer is no, the command ends."""

    place: str  # whose cache it is

    def find(self, name: str) -> tuple[str, int | None]:
        """The model's name in the catalogue, and the size of its files in bytes."""

    def delete(self, name: str) -> int:
        """The bytes that become free."""


def deleter(url: str) -> Deleter:
    status, _ = status_or_reason(url)
    return DeletesByService(url) if status else DeletesLocally()


class DeletesByService:
    def __init__(self, url: str) -> None:
        self._url, self.place = url, f"the cache of the service at {url}"

    def find(self, name: str) -> tuple[str, int | None]:
        entry = find_entry(self._url, name)
        return entry["id"], entry.get("size")

    def delete(self, name: str) -> int:
        answer = call_service(self._url, "DELETE", f"/models/{quote(name)}")
        if answer.status == 404:
            exit_without_model(answer)
        if not answer.is_yes:
            exit_with_error(answer)
        return int(answer.body["freed_bytes"])


class DeletesLocally:
    """In the cache that the settings name, of the models that a service with them would have."""

    def __init__(self) -> None:
        from workers.build_catalog import build_catalog, hugging_face_cache

        settings = read_settings(None)
        self._catalog = build_catalog(settings)
        self._settings = settings
        self.place = str(hugging_face_cache(settings))

    def find(self, name: str) -> tuple[str, int | None]:
        model = self._model(name)
        return model.name, model.size_bytes

    def delete(self, name: str) -> int:
        from app.errors import NotSupported
        from workers.build_downloads import build_downloads

        model = self._model(name)
        others = [each for each in self._catalog.models() if each.name != model.name]
        try:
            return build_downloads(lambda: self._settings, lambda: None).remove(model, others)
        except NotSupported as error:
            exit_no(str(error))

    def _model(self, name: str) -> Model:
        from app.errors import ModelNotFound

        try:
            return self._catalog.find(name)
        except ModelNotFound as error:
            exit_no(str(error))
