"""How fast models were loaded is remembered by kind of load."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.entities.launch import LoadMode
from app.entities.load import LoadReport
from tests.helpers.builders import replace
from workers.model_files.load_rates import LoadRates

GIB = 1024**3
LOAD = LoadReport(LoadMode.READ, 8 * GIB, 4.0, "ext4 /models", 0.0)  # 2 GiB/s


def test_a_load_is_told_in_words():
    assert replace(LOAD, size_bytes=int(18.5 * GIB), seconds=6.1).text == "18.5 GiB in 6.1 s, 3.0 GiB/s"
    assert replace(LOAD, size_bytes=GIB // 2, seconds=2.0).text == "512 MiB in 2.0 s, 256 MiB/s"


@pytest.mark.parametrize(("share", "source"), [(None, ""), (0.1, "disk"), (0.5, "part"), (0.9, "cache")])
def test_where_a_file_came_from_is_by_what_was_in_the_page_cache(share: float | None, source: str):
    assert replace(LOAD, cached_share=share).source == source


def test_the_last_loads_of_a_kind_count_and_outlive_a_restart(tmp_path: Path):
    rates = LoadRates(tmp_path / "rates.json")
    assert rates.usual(LOAD, "cuda") is None
    for seconds in (100.0, 8.0, 4.0, 4.0, 2.0, 2.0):  # the first is forgotten
        rates.note(replace(LOAD, seconds=seconds), "cuda")
    for known in (rates, LoadRates(tmp_path / "rates.json")):
        assert known.usual(LOAD, "cuda") == 2 * GIB


@pytest.mark.parametrize(
    "other",
    [
        replace(LOAD, mode=LoadMode.DIRECT),
        replace(LOAD, file_system="xfs /fast"),
        replace(LOAD, cached_share=1.0),
    ],
)
def test_kinds_of_loads_are_kept_apart(tmp_path: Path, other: LoadReport):
    rates = LoadRates(tmp_path / "rates.json")
    rates.note(LOAD, "cuda")
    assert rates.usual(other, "cuda") is None and rates.usual(LOAD, "cpu") is None


def test_small_files_and_unknown_sources_teach_nothing(tmp_path: Path):
    rates = LoadRates(tmp_path / "rates.json")
    rates.note(replace(LOAD, size_bytes=255 * 1024**2), "cuda")
    rates.note(replace(LOAD, cached_share=None), "cuda")
    assert not (tmp_path / "rates.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"a": 3}', '{"a": ["x"]}'])
def test_a_broken_file_is_begun_anew(tmp_path: Path, text: str):
    file = tmp_path / "rates.json"
    file.write_text(text)
    rates = LoadRates(file)
    rates.note(LOAD, "cuda")
    assert LoadRates(file).usual(LOAD, "cuda") == 2 * GIB
