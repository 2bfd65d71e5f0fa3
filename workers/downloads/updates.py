"""Asks the repositories of cached models whether something newer is there; one request per repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.entities.model import Model
from app.entities.repository import Repository
from app.errors import ProxyError
from app.use_cases.downloads.updates import Freshness, ModelUpdate, compare_with_upstream
from workers.downloads.cache_layout import CachedFile, cached_file
from workers.downloads.removal import files_of


def find_updates(
    cache: Path, models: Sequence[Model], repository_of: Callable[[str], Repository]
) -> tuple[ModelUpdate, ...]:
    """Of those models that are in the cache, in their order. `repository_of` is given "user/repo", and raises
    ProxyErrors."""
    found: dict[str, Repository | ProxyError] = {}
    updates = []
    for model in models:
        files = [file for path in files_of(model) if (file := cached_file(cache, path))]
        if not files:
            continue
        repo = files[0].repo
        if repo not in found:
            found[repo] = _repository_or_error(repository_of, repo)
        updates.append(_update_of(model.name, files, found[repo]))
    return tuple(updates)


def _repository_or_error(repository_of: Callable[[str], Repository], repo: str) -> Repository | ProxyError:
    try:
        return repository_of(repo)
    except ProxyError as error:
        return error


def _update_of(model: str, files: Sequence[CachedFile], upstream: Repository | ProxyError) -> ModelUpdate:
    if isinstance(upstream, ProxyError):
        return ModelUpdate(model, Freshness.UNKNOWN, problem=str(upstream))
    digests: Mapping[str, str] = {file.path: file.sha256 for file in files if file.repo == files[0].repo}
    return compare_with_upstream(model, digests, upstream)
