"""Models with damage that a scan does not see: it is found by the background check, or when they are requested."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from app.entities.launch import LaunchSettings
from app.entities.model import Model
from app.errors import InvalidModelFile, ModelNotFound
from tests.helpers.builders import GGUF_BYTES, a_gguf, a_model
from tests.helpers.gguf_bytes import TINY, a_file
from tests.helpers.opened_files import OpenedFiles
from tests.helpers.service import Service, wait_for
from tests.service.test_faults import error_of, faulty, journal
from workers.catalog import background_check
from workers.catalog.background_check import BackgroundCheck
from workers.catalog.catalog import Catalog, ConfiguredModel

DEADLINE_SECONDS = 10.0
CUT_OFF = "cut.gguf is truncated or still being written: it has 150 of 192 bytes"
NO_LAYERS = "zero.gguf is damaged: its layer count (llama.block_count) is 0"
NO_LANGUAGE = "flux.gguf is not a language model: it has no layer count (flux.block_count)"
NAN = "nan.gguf is damaged: llama.rope.freq_base is not a number (NaN)"
VOCABULARY = "vocab.gguf is not a model: its general.type is 'vocab'"


def broken_files(folder: Path) -> dict[str, str]:
    """Writes broken files to the folder; returns their problems by model name."""
    folder.mkdir(exist_ok=True)
    os.truncate(a_gguf(folder / "cut.gguf"), 150)
    (folder / "zero.gguf").write_bytes(a_file(TINY | {"llama.block_count": 0}))
    (folder / "flux.gguf").write_bytes(a_file({"general.architecture": "flux"}))
    (folder / "nan.gguf").write_bytes(a_file(TINY | {"llama.rope.freq_base": float("nan")}))
    (folder / "vocab.gguf").write_bytes(a_file(TINY | {"general.type": "vocab"}))
    return {"cut": CUT_OFF, "flux": NO_LANGUAGE, "nan": NAN, "vocab": VOCABULARY, "zero": NO_LAYERS}


def problems(catalog: Catalog) -> dict[str, str]:
    return {model.name: model.problem for model in catalog.models() if model.problem}


# --- the catalogue --------------------------------------------------------------------------------------------


def test_a_scan_reads_no_headers_and_the_background_check_does(tmp_path: Path):
    broken = broken_files(tmp_path)
    a_gguf(tmp_path / "good.gguf")
    catalog = Catalog([tmp_path], LaunchSettings())
    assert problems(catalog) == {}
    catalog.start()
    wait_for(lambda: problems(catalog) == broken, DEADLINE_SECONDS)
    assert catalog.find("nan").problem == NAN
    assert set(catalog.warnings) == {f"model {name} cannot be served: {problem}" for name, problem in broken.items()}


def test_a_replaced_file_is_read_again_after_the_next_scan(tmp_path: Path):
    path = tmp_path / "a.gguf"
    path.write_bytes(a_file(TINY | {"llama.block_count": 0}))
    catalog = Catalog([tmp_path], LaunchSettings())
    catalog.start()
    wait_for(lambda: problems(catalog), DEADLINE_SECONDS)
    a_gguf(path)
    assert problems(catalog), "not scanned again yet"
    catalog.reload()
    assert problems(catalog) == {} and catalog.warnings == ()
    path.write_bytes(a_file({"general.architecture": "flux"}))
    catalog.reload()
    problem = "a.gguf is not a language model: it has no layer count (flux.block_count)"
    wait_for(lambda: problems(catalog) == {"a": problem}, DEADLINE_SECONDS)


def test_unchanged_files_are_not_read_again_after_the_next_scan(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    broken_files(tmp_path)
    a_gguf(tmp_path / "good.gguf")
    catalog = Catalog([tmp_path], LaunchSettings())
    for model in catalog.models():
        if model.name != "good":
            with pytest.raises(InvalidModelFile):
                catalog.servable(model)
    known = problems(catalog)
    assert len(known) == 5 and [model.name for model in catalog._unchecked_models()] == ["good"]
    catalog.reload()
    assert problems(catalog) == known and [model.name for model in catalog._unchecked_models()] == ["good"]
    assert caplog.text.count("cannot be served") == 5, "each is logged once"


def test_a_model_requested_before_its_background_check_is_checked_at_once(tmp_path: Path):
    broken_files(tmp_path)
    catalog = Catalog([tmp_path], LaunchSettings())
    with pytest.raises(InvalidModelFile) as raised:
        catalog.servable(catalog.find("cut"))
    assert str(raised.value) == f"model 'cut' cannot be served: {CUT_OFF}"
    assert problems(catalog) == {"cut": CUT_OFF}


def test_a_download_completed_since_the_last_check_is_served(tmp_path: Path):
    path = a_gguf(tmp_path / "a.gguf")
    whole = path.read_bytes()
    os.truncate(path, 150)
    catalog = Catalog([tmp_path], LaunchSettings())
    with pytest.raises(InvalidModelFile):
        catalog.servable(catalog.find("a"))
    path.write_bytes(whole)
    assert catalog.servable(catalog.find("a")).problem == ""
    assert problems(catalog) == {}


def test_a_part_that_has_arrived_since_the_last_scan_completes_its_model(tmp_path: Path):
    """It took an explicit scan: the model's size did not include the missing parts."""
    for part in (1, 2):
        a_gguf(tmp_path / f"big-0000{part}-of-00002.gguf")
    (tmp_path / "big-00002-of-00002.gguf").rename(tmp_path / "aside")
    catalog = Catalog([tmp_path], LaunchSettings())
    (tmp_path / "aside").rename(tmp_path / "big-00002-of-00002.gguf")
    assert catalog.servable(catalog.find("big")).size_bytes == 2 * GGUF_BYTES


def test_a_changed_size_or_time_makes_a_scans_verdict_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where no scan is due."""
    path, page = tmp_path / "a.gguf", b"<html>log in first</html>"
    path.write_bytes(page)
    catalog = Catalog([tmp_path], LaunchSettings())
    monkeypatch.setattr(catalog, "rescan", lambda: False)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InvalidModelFile, match="is a web page"):
        catalog.servable(catalog.find("a"))
    a_gguf(path)
    assert catalog.servable(catalog.find("a")).problem == ""
    path.with_name("a.gguf.aria2").touch()
    with pytest.raises(InvalidModelFile, match="still being written"):
        catalog.servable(catalog.find("a"))


def test_an_entry_is_served_as_soon_as_its_file_exists(tmp_path: Path):
    entry = ConfiguredModel("mine", LaunchSettings(), path=Path("late.gguf"))
    catalog = Catalog([tmp_path], LaunchSettings(), entries=[entry])
    a_gguf(tmp_path / "late.gguf")
    assert catalog.servable(catalog.find("mine")).path == str(tmp_path / "late.gguf")


def test_a_download_over_a_known_file_is_noticed_before_it_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = a_gguf(tmp_path / "a.gguf")
    catalog = Catalog([tmp_path], LaunchSettings())
    monkeypatch.setattr(catalog, "rescan", lambda: False)
    os.utime(path, ns=(1, 1))
    path.with_name("a.gguf.aria2").touch()
    with pytest.raises(InvalidModelFile, match="still being written"):
        catalog.servable(catalog.find("a"))


def test_what_a_header_lacks_causes_no_scan_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken_files(tmp_path)
    catalog = Catalog([tmp_path], LaunchSettings())
    scans: list[object] = []
    monkeypatch.setattr(catalog, "rescan", lambda: scans.append(1))
    for _ in range(3):
        with pytest.raises(InvalidModelFile):
            catalog.servable(catalog.find("nan"))
    assert not scans


def test_a_model_whose_file_was_removed_is_unknown(tmp_path: Path):
    path = a_gguf(tmp_path / "a.gguf")
    catalog = Catalog([tmp_path], LaunchSettings())
    model = catalog.find("a")
    path.unlink()
    with pytest.raises(ModelNotFound):
        catalog.servable(model)


def test_a_broken_model_causes_one_scan_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.gguf").touch()
    catalog = Catalog([tmp_path], LaunchSettings())
    scans: list[object] = []
    monkeypatch.setattr(catalog, "_read", lambda sources, read=catalog._read: scans.append(sources) or read(sources))
    for _ in range(20):
        with pytest.raises(InvalidModelFile):
            catalog.servable(catalog.find("a"))
    assert len(scans) == 1


def test_looking_up_a_model_known_to_be_broken_opens_no_file(tmp_path: Path):
    broken_files(tmp_path)
    catalog = Catalog([tmp_path], LaunchSettings())
    catalog.start()
    wait_for(lambda: len(problems(catalog)) == 5, DEADLINE_SECONDS)
    opened = OpenedFiles(tmp_path)
    assert catalog.find("cut").problem == CUT_OFF and len(problems(catalog)) == 5
    assert not opened.names()
    opened.close()


# --- the background ---------------------------------------------------------------------------------------------


class Checked:
    """A background check of `models`; `seen` has the names of those checked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rest: float, cpu_seconds: float = 0.0) -> None:
        monkeypatch.setattr(background_check, "REST_FACTOR", rest)
        self.seen: list[str] = []
        self.models: list[Model] = []
        self._cpu_seconds = cpu_seconds
        self._background = BackgroundCheck(lambda: self.models, self._check)
        self._background.start()

    def scan(self, *names: str) -> None:
        self.models = [a_model(name) for name in names]
        self._background.restart()

    def _check(self, model: Model) -> None:
        self.seen.append(model.name)
        until = time.thread_time() + self._cpu_seconds
        while time.thread_time() < until:
            assert model.name != "bug"


def test_the_background_check_uses_a_twentieth_of_a_core(monkeypatch: pytest.MonkeyPatch):
    checked = Checked(monkeypatch, rest=background_check.REST_FACTOR, cpu_seconds=0.01)
    began = time.monotonic()
    checked.scan("a", "b", "c")
    wait_for(lambda: len(checked.seen) == 3, DEADLINE_SECONDS)
    assert time.monotonic() - began >= 2 * 20 * 0.01


def test_a_new_scan_restarts_the_background_check_at_once(monkeypatch: pytest.MonkeyPatch):
    # After the first model it would rest for a quarter of an hour.
    checked = Checked(monkeypatch, rest=1e6, cpu_seconds=0.001)
    checked.scan("old", "older")
    wait_for(lambda: checked.seen == ["old"], DEADLINE_SECONDS)
    checked.scan("new", "newer")
    wait_for(lambda: checked.seen == ["old", "new"], DEADLINE_SECONDS)


def test_an_exception_for_one_model_does_not_stop_the_background_check(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    checked = Checked(monkeypatch, rest=1, cpu_seconds=0.001)
    checked.scan("bug", "next")
    wait_for(lambda: checked.seen == ["bug", "next"], DEADLINE_SECONDS)
    assert "AssertionError" in caplog.text and "/models/bug.gguf" in caplog.text


# --- over HTTP ----------------------------------------------------------------------------------------------------


def listed(service: Service) -> dict[str, str]:
    """The message of each broken model in the list of models."""
    models = service.get("/models").json()["data"]
    offered = {model["id"] for model in service.get("/v1/models").json()["data"]}
    assert offered == {model["id"] for model in models if not model["status"].get("failed")}
    assert all(model["status"]["value"] == "unloaded" for model in models if model["status"].get("failed"))
    return {model["id"]: model["status"]["message"] for model in models if model["status"].get("failed")}


@pytest.mark.integration
def test_a_broken_file_is_422_and_nothing_is_started(tmp_path: Path):
    broken = broken_files(tmp_path / "models")
    with faulty(tmp_path) as service:
        for name, problem in broken.items():
            for answer in (
                service.chat(name),
                service.post("/models/load", {"model": name}),
                service.get(f"/slots?model={name}"),
            ):
                assert answer.status_code == 422
                assert error_of(answer) == {
                    "message": f"model '{name}' cannot be served: {problem}",
                    "type": "invalid_request_error",
                    "param": "model",
                    "code": "invalid_model_file",
                }
        assert listed(service) == broken
        assert not journal(service, "start")
        assert service.chat("m").status_code == 200


@pytest.mark.integration
def test_the_list_shows_broken_models_before_they_are_requested(tmp_path: Path):
    broken = broken_files(tmp_path / "models")
    with faulty(tmp_path) as service:
        wait_for(lambda: listed(service) == broken, DEADLINE_SECONDS)
        assert service.get("/v1/models/nan").json()["status"]["message"] == NAN
        assert NAN in service.get("/").text
        # An unknown name may be that of a new file.
        a_gguf(tmp_path / "models" / "new.gguf")
        assert service.chat("new").status_code == 200
        assert service.chat("nowhere").status_code == 404
        assert "new" in {model["id"] for model in service.get("/v1/models").json()["data"]}


@pytest.mark.integration
def test_requests_for_a_loaded_model_do_not_open_its_file(tmp_path: Path):
    with faulty(tmp_path) as service:
        assert service.chat("m").status_code == 200
        opened = OpenedFiles(tmp_path / "models")
        os.truncate(tmp_path / "models" / "m.gguf", 10)  # truncate opens nothing
        assert service.chat("m").status_code == 200
        assert not opened.names()
        opened.close()
        assert service.post("/models/unload", {"model": "m"}).status_code == 200
        assert service.chat("m").status_code == 422
        assert len(journal(service, "start")) == 2, (
            "an engine that cannot choose its port is started twice, and not once more"
        )
