"""bench.load: its figures, and files that are in the page cache or not; bench.gpu: a load in each mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cold_files import COLD, WARM, NotAsWanted, bring_to
from bench.gpu.loads import ROUNDS, load_rows
from bench.load import figures_of
from workers.catalog.demo_model import write_demo_model
from workers.engine.binary import find_engine
from workers.engine_builds.stopping import Deadline
from workers.model_files.page_cache import cached_share


def test_ratios_are_of_one_round():
    seconds = {
        "disk": [2.0, 1.0],
        "cold mmap alone": [4.0, 2.0],
        "cold mmap ours": [6.0, 2.0],
        "warm mmap alone": [1.0, 1.0],
        "warm mmap ours": [1.0, 3.0],
    }
    figures = figures_of(seconds, 1024**3)
    assert figures["disk"]["mib_per_second"] == 683  # 1024 MiB in 1.5 s
    assert figures["cold mmap ours to alone"] == {"min": 1.0, "median": 1.25, "max": 1.5}
    assert figures["cold mmap ours to disk"] == {"min": 2.0, "median": 2.5, "max": 3.0}
    assert figures["warm mmap ours to alone"]["median"] == 2.0 and "warm mmap ours to disk" not in figures


def test_a_file_is_brought_to_either_temperature(tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(bytes(64 * 1024**2))
    for temperature, share in ((COLD, 0.0), (WARM, 1.0), (COLD, 0.0)):
        bring_to(file, temperature)
        assert cached_share([str(file)]) == pytest.approx(share, abs=0.02)
    (tmp_path / "empty").touch()
    with pytest.raises(NotAsWanted):
        bring_to(tmp_path / "empty", WARM)


@pytest.mark.integration
def test_the_kit_loads_a_model_in_each_mode(tmp_path: Path):
    model = write_demo_model(tmp_path)
    rows = load_rows(model, find_engine("embedded"), None, tmp_path / "logs", Deadline(300.0))
    assert not [row for row in rows if "error" in row]
    cases = {(row["file"], row.get("mode")) for row in rows}
    assert cases == {("disk", None)} | {(t, m) for t in (COLD, WARM) for m in ("mmap", "read", "direct")}
    assert len(rows) == 7 * ROUNDS
