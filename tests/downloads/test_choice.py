"""Which files of a repository a name means."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.repository import Repository, RepositoryFile
from app.use_cases.downloads.choice import RepositoryModel, UnknownChoice, choose_model, models_of
from app.use_cases.downloads.model_names import models_by_folded_name
from app.use_cases.downloads.repository_names import parse_name
from tests.catalog.test_hub_cache import cached
from workers.catalog.catalog import Catalog

GIB = 1024**3


def a_repository(*paths: str, repo: str = "u/Foo") -> Repository:
    """Each file is one GiB larger than the one before."""
    files = tuple(RepositoryFile(path, (number + 1) * GIB) for number, path in enumerate(paths))
    return Repository(repo, "0" * 40, files)


def chosen(name: str, *paths: str) -> RepositoryModel:
    return choose_model(a_repository(*paths), parse_name(name))


def paths(model: RepositoryModel) -> list[str]:
    return [file.path for file in model.files]


QUANTS = ("Foo-Q8_0.gguf", "Foo-Q4_K_M.gguf", "Foo-IQ2_XS.gguf", "Foo-UD-Q4_K_XL.gguf", "imatrix.gguf", "README.md")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("u/Foo", "Foo-Q4_K_M.gguf"),
        ("u/Foo:Q8_0", "Foo-Q8_0.gguf"),
        ("u/foo:q8_0", "Foo-Q8_0.gguf"),
        ("u/Foo:Foo-Q8_0.gguf", "Foo-Q8_0.gguf"),
        ("u/Foo:Foo-Q8_0", "Foo-Q8_0.gguf"),
        ("u/Foo:Q4_K_XL", "Foo-UD-Q4_K_XL.gguf"),
        ("u/Foo/Foo-IQ2_XS.gguf", "Foo-IQ2_XS.gguf"),
    ],
)
def test_a_name_means_one_quantization_or_file(name: str, file: str):
    assert paths(chosen(name, *QUANTS)) == [file]


def test_without_q4_k_m_the_default_is_q8_0_then_the_first_file():
    assert paths(chosen("u/Foo", "Foo-F16.gguf", "Foo-Q8_0.gguf")) == ["Foo-Q8_0.gguf"]
    assert paths(chosen("u/Foo", "Foo-F16.gguf", "Foo-Q2_K.gguf", "mmproj.gguf")) == ["Foo-F16.gguf", "mmproj.gguf"]


def test_a_split_model_is_fetched_whole_in_order():
    parts = [f"Q8_0/Foo-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    model = chosen("u/Foo:Q8_0", *reversed(parts), "Foo-Q4_K_M.gguf")
    assert (paths(model), model.name, model.size_bytes) == (parts, "u/Foo:Q8_0", (1 + 2 + 3) * GIB)


def test_a_split_model_without_all_parts_is_refused():
    with pytest.raises(UnknownChoice, match="u/Foo:Q8_0 is not complete in its repository: 2 of 3 parts are missing"):
        chosen("u/Foo:Q8_0", "Foo-Q8_0-00002-of-00003.gguf")
    with pytest.raises(UnknownChoice, match="99998 of 99999 parts"):
        chosen("u/Foo", "Foo-00001-of-99999.gguf")


def test_the_best_projector_and_the_nearest_draft_head_of_each_method_come_along():
    model = chosen(
        "u/Foo:Q4_K_M",
        *("Foo-Q4_K_M.gguf", "mmproj-F32.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf"),
        *("mtp-Foo-Q2_K.gguf", "mtp-Foo-Q5_0.gguf", "eagle3-Foo-F16.gguf", "elsewhere/dflash-Foo.gguf"),
    )
    assert paths(model) == ["Foo-Q4_K_M.gguf", "mmproj-F16.gguf", "eagle3-Foo-F16.gguf", "mtp-Foo-Q5_0.gguf"]


def test_thousands_of_models_and_draft_heads_take_no_time():
    """A server says how many there are; the service answers nobody meanwhile."""
    listed = [f"{kind}{number}-Q4_K_M.gguf" for kind in ("foo", "mtp-foo") for number in range(3000)]
    began = time.thread_time()
    assert len(models_of(a_repository(*listed))) == 3000
    assert time.thread_time() - began < 10


def test_long_names_of_many_words_take_no_memory():
    """Each suffix of a name is a name, too: 20,000 files with a hundred words in each took 500 MB."""
    listed = [f"{'a-' * 110}{number}-Q4_K_M.gguf" for number in range(100)]
    assert len(models_by_folded_name("u/Foo", listed)) < 30 * len(listed)
    assert chosen("u/Foo:chat-Q8_0", f"{'a-' * 110}chat-Q8_0.gguf", "b-Q8_0.gguf")


def test_an_unknown_choice_says_what_there_is_the_nearest_first():
    with pytest.raises(UnknownChoice) as error:
        chosen("u/Foo:Q8_1", *QUANTS)
    assert str(error.value) == "u/Foo has no Q8_1; it has Q8_0, IQ2_XS, Q4_K_M, UD-Q4_K_XL"
    with pytest.raises(UnknownChoice, match=r"has no imatrix\.gguf; it has"):
        chosen("u/Foo:imatrix.gguf", *QUANTS)
    with pytest.raises(UnknownChoice, match=r"and 38 more$"):
        chosen("u/Foo:none", *(f"{number}.gguf" for number in range(50)))
    with pytest.raises(UnknownChoice, match="u/Foo has no GGUF models"):
        chosen("u/Foo", "model.safetensors")


def test_files_that_differ_only_in_case_are_two_models():
    assert [model.path for model in models_of(a_repository("x.gguf", "x.GGUF", "X.gguf"))] == [
        *("X.gguf", "x.GGUF", "x.gguf")
    ]


LAYOUTS = (
    QUANTS[:4],
    ("a-Q4_0.gguf", "b-Q4_0.gguf", "c-Q8_0.gguf"),
    ("a/x.gguf", "b/x.gguf", "mmproj-x-F16.gguf", "mmproj-x-Q8_0.gguf"),
    ("gemma-3-4b-it-q4_0.gguf", "mmproj-model-f16-4B.gguf"),
    ("Q4_K_M/F-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/F-Q4_K_M-00002-of-00002.gguf", "F-Q8_0.gguf", "mmproj-BF16.gguf"),
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_catalogue_finds_the_files_of_every_model_under_its_name_once_they_are_here(
    tmp_path: Path, layout: tuple[str, ...]
):
    cached(tmp_path, "u/Foo", *layout)
    catalog = Catalog([], LaunchSettings(), hub_cache=tmp_path)
    models = models_of(a_repository(*layout))
    assert [model.name for model in catalog.models()] == sorted(model.name for model in models)
    for model in models:
        found, snapshot = catalog.find(model.name), tmp_path / "models--u--Foo" / "snapshots" / "abc"
        projector = model.projector and str(snapshot / model.projector.path)
        assert (os.path.relpath(found.path, snapshot), found.launch.mmproj) == (model.path, projector)
