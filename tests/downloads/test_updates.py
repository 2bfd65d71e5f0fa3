"""What is newer upstream than in the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.repository import Repository, RepositoryFile
from app.errors import DownloadFailed
from app.use_cases.downloads.updates import Freshness, ModelUpdate, compare_with_upstream
from tests.helpers.builders import a_gguf
from workers.catalog.catalog import Catalog
from workers.downloads.updates import find_updates

OURS, THEIRS = "1" * 64, "2" * 64


def upstream(**files: str) -> Repository:
    return Repository("u/Foo", "c" * 40, tuple(RepositoryFile(f"{path}.gguf", 5, sha) for path, sha in files.items()))


@pytest.mark.parametrize(
    ("digests", "repository", "expected"),
    [
        ({"a.gguf": OURS}, upstream(a=OURS, b=THEIRS), ModelUpdate("m", Freshness.CURRENT)),
        ({"a.gguf": OURS, "b.gguf": OURS}, upstream(a=OURS, b=THEIRS), ModelUpdate("m", Freshness.OUTDATED, 5)),
        ({"a.gguf": OURS}, upstream(b=OURS), ModelUpdate("m", Freshness.REMOVED)),
    ],
)
def test_a_model_is_outdated_if_one_of_its_files_has_changed(
    digests: dict[str, str], repository: Repository, expected: ModelUpdate
):
    assert compare_with_upstream("m", digests, repository) == expected


def test_a_copy_whose_checksum_nobody_noted_is_not_called_current():
    assert compare_with_upstream("m", {"a.gguf": ""}, upstream(a=OURS)).freshness is Freshness.UNKNOWN


def test_a_repository_is_asked_once_and_a_failure_is_of_its_models_alone(tmp_path: Path):
    asked: list[str] = []

    def repository_of(repo: str) -> Repository:
        asked.append(repo)
        if repo == "u/Gone":
            raise DownloadFailed("it cannot be reached")
        return upstream(**{"F-Q4_0": hashlib.sha256(repo.encode()).hexdigest(), "F-Q8_0": THEIRS})

    for repo, path in [("u/Foo", "F-Q4_0"), ("u/Foo", "F-Q8_0"), ("u/Gone", "G-Q4_0")]:
        digest = OURS if path == "F-Q8_0" else hashlib.sha256(repo.encode()).hexdigest()
        folder = tmp_path / f"models--{repo.replace('/', '--')}"
        blob = a_gguf(folder / "blobs" / digest)
        link = folder / "snapshots" / ("a" * 40) / f"{path}.gguf"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    models = Catalog([], LaunchSettings(), hub_cache=tmp_path).models()
    assert find_updates(tmp_path, models, repository_of) == (
        ModelUpdate("u/Foo:Q4_0", Freshness.CURRENT),
        ModelUpdate("u/Foo:Q8_0", Freshness.OUTDATED, 5),
        ModelUpdate("u/Gone:Q4_0", Freshness.UNKNOWN, problem="it cannot be reached"),
    )
    assert asked == ["u/Foo", "u/Gone"]
