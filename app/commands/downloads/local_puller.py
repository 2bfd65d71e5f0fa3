"""Models downloaded and planned by the command itself, into the Hugging Face cache of who runs it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.commands.options import exit_no, exit_wrong_use, read_settings
from app.entities.download import DownloadState

if TYPE_CHECKING:
    from app.entities.repository import RepositoryName

READ_SECONDS = 0.25


class LocalPuller:
    """By the same code as the service; the settings say where the cache is, and what of the machine may be used."""

    def __init__(self, why: str = "") -> None:
        """`why`: it is not the service that does it."""
        from app.commands.downloads.local_machine import LocalMachine
        from workers.build_downloads import build_downloads

        logging.getLogger("workers.downloads").addHandler(logging.NullHandler())  # the states say the same
        self._why, self._settings = why, read_settings(None)
        self._downloads = build_downloads(lambda: self._settings, lambda: None, LocalMachine(self._settings))

    @property
    def note(self) -> str:
        from workers.build_catalog import hugging_face_cache

        if (cache := hugging_face_cache(self._settings)) is None:
            exit_no("catalog.hugging_face.cache is off: there is no folder to download into")
        return f"{self._why}: downloading into {cache}" if self._why else f"downloading into {cache}"

    def plan(self, name: str) -> Mapping[str, Any]:
        from app.errors import ProxyError
        from app.use_cases.downloads.repository_plan import repository_plan_report

        try:
            return repository_plan_report(self._downloads.plan(parsed_name(name)), str)
        except ProxyError as error:
            exit_no(str(error))

    def pull(self, name: str) -> Iterator[Mapping[str, Any]]:
        configured = self._settings.models.get(name)
        wanted = parsed_name(configured.repo if configured and configured.repo else name)
        return self._states(wanted)

    def _states(self, wanted: RepositoryName) -> Iterator[Mapping[str, Any]]:
        from app.errors import ProxyError
        from app.use_cases.reporting.downloads import download_report

        download = self._downloads.start(wanted)
        yield download_report(download)
        while download.is_running:
            try:
                download = self._downloads.wait(wanted, READ_SECONDS) or download
            except ProxyError as error:
                download = replace(download, state=DownloadState.FAILED, problem=str(error), code=error.code)
            yield download_report(download)

    def stop(self, download: Mapping[str, Any]) -> bool:
        self._downloads.close()
        return True


def parsed_name(name: str) -> RepositoryName:
    """The command ends if it is no name of a repository."""
    from app.use_cases.downloads.repository_names import InvalidName, parse_name

    try:
        return parse_name(name)
    except InvalidName as error:
        exit_wrong_use(str(error))
