"""Asks the server what a repository has."""

from __future__ import annotations

from huggingface_hub import HfApi

from app.entities.repository import Repository, RepositoryFile, RepositoryName
from app.errors import ModelNotFound
from app.use_cases.downloads.choice import UnknownChoice, choose_model
from workers.downloads.failures import failure_of
from workers.downloads.found_model import FoundModel


def find_plainly(name: RepositoryName) -> FoundModel:
    """Raises ModelNotFound and DownloadFailed."""
    try:
        info = HfApi().model_info(name.repo, files_metadata=True, timeout=10)
    except Exception as error:
        raise failure_of(error, name.repo) from error
    files = tuple(
        RepositoryFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else "")
        for each in getattr(info, "siblings", None) or ()
    )
    repository = Repository(name.repo, info.sha or "", files)
    try:
        return FoundModel(repository, choose_model(repository, name))
    except UnknownChoice as error:
        raise ModelNotFound(str(name), str(error)) from error
