"""The KV cache of a model that is unloaded: kept on disk, found again after the next load, and seen by nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.builders import a_gguf
from tests.helpers.service import Service, serving, wait_for
from tests.service.test_faults import faulty, journal
from workers.catalog.demo_model import write_demo_model

pytestmark = pytest.mark.integration

STORY = [{"role": "user", "content": "Once upon a time there was a fox. " * 20}]


@contextlib.contextmanager
def keeping(
    folder: Path, more: dict[str, Any] | None = None, others: dict[str, Any] | None = None, **settings: str
) -> Iterator[Service]:
    """The service with the demo as the model `fox`, whose cache is kept, and perhaps others."""
    if not (folder / "demo.gguf").exists():
        write_demo_model(folder)
    model = {"path": str(folder / "demo.gguf"), "keep_kv_cache": True, "ctx_size": 4096, **(more or {})}
    with serving(folder, MODELS=json.dumps({"fox": model, **(others or {})}), **settings) as service:
        yield service


def cached_tokens(service: Service, story: list[dict[str, str]] = STORY) -> int:
    """How many of the prompt's tokens its engine did not compute."""
    answer = service.post("/v1/chat/completions", {"model": "fox", "messages": story, "max_tokens": 4}).json()
    assert answer["timings"]["cache_n"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return int(answer["timings"]["cache_n"])


def unload(service: Service, model: str = "fox") -> float:
    """Seconds it took."""
    began = time.monotonic()
    assert service.post("/models/unload", {"model": model}).status_code == 200
    return time.monotonic() - began


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("slots/*/*") if path.is_file())


def said(service: Service, words: str) -> None:
    """Its log says so, or will as soon as it is read."""
    wait_for(lambda: words in service.output, 10, lambda: service.output)


def test_a_conversation_outlives_an_unload(tmp_path: Path):
    with keeping(tmp_path) as service:
        assert cached_tokens(service) == 0
        unload(service)
        (file,) = files(tmp_path)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (file.parent, file.parent.parent)} == {0o700}
        assert cached_tokens(service) > 400
        assert files(tmp_path) == [], "it is deleted once it is restored"
        said(service, "kv cache saved server=1 model=fox slots=1")
        said(service, "kv cache restored server=2 model=fox slots=1")


def test_each_slot_keeps_its_own(tmp_path: Path):
    tales = [[{"role": "user", "content": f"{who} " * 80}] for who in ("A fox.", "Two bears.", "7 wolves!")]
    with keeping(tmp_path) as service:
        assert [cached_tokens(service, tale) > 400 for tale in tales] == [False] * 3
        unload(service)
        assert len(files(tmp_path)) == 3
        assert [cached_tokens(service, tale) > 400 for tale in reversed(tales)] == [True] * 3


def test_without_the_setting_nothing_is_kept(tmp_path: Path):
    with keeping(tmp_path, {"keep_kv_cache": False}) as service:
        assert cached_tokens(service) == 0
        unload(service)
        assert files(tmp_path) == []
        assert cached_tokens(service) == 0


def test_it_outlives_an_unload_that_nothing_was_asked_before(tmp_path: Path):
    """What was restored is not named by /slots until it is used, and is saved again all the same."""
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        service.post("/models/load", {"model": "fox"})
        wait_for(lambda: service.servers()[0]["state"] == "ready", 20)
        unload(service)
        assert cached_tokens(service) > 400


def test_it_goes_when_nobody_asks_and_is_there_again(tmp_path: Path):
    with keeping(tmp_path, {"ttl_seconds": 0.2}) as service:
        cached_tokens(service)
        wait_for(lambda: not service.servers(), 10)
        assert cached_tokens(service) > 400


def test_it_makes_way_for_another_and_is_there_again(tmp_path: Path):
    settings = {"SCHEDULING__MAX_LOADED": "1", "SCHEDULING__MIN_RESIDENCY_SECONDS": "0"}
    with keeping(tmp_path, others={"other": {"path": str(tmp_path / "demo.gguf")}}, **settings) as service:
        cached_tokens(service)
        assert service.chat("other").status_code == 200
        assert len(files(tmp_path)) == 1
        assert cached_tokens(service) > 400
        assert len(files(tmp_path)) == 0, "of the other one nothing is kept"


def test_it_outlives_the_service(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        assert service.stop() == 0
    with keeping(tmp_path) as service:
        assert cached_tokens(service) > 400


@pytest.mark.parametrize("change", [{"args": ["--rope-freq-base", "20000"]}, {"ctx_size": 2048}])
def test_a_model_that_is_started_otherwise_does_not_get_it(tmp_path: Path, change: dict[str, Any]):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        service.stop()
    assert len(files(tmp_path)) == 1
    with keeping(tmp_path, change) as service:
        assert cached_tokens(service) == 0
        said(service, "its model is started otherwise now")
        assert files(tmp_path) == []


def test_nor_does_a_file_that_has_changed(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        at = (tmp_path / "demo.gguf").stat().st_mtime - 3600
        os.utime(tmp_path / "demo.gguf", (at, at))
        service.get("/models?reload=1")
        assert cached_tokens(service) == 0


def test_nor_does_a_file_that_has_changed_and_was_not_looked_for_again(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        at = (tmp_path / "demo.gguf").stat().st_mtime - 3600
        os.utime(tmp_path / "demo.gguf", (at, at))
        assert cached_tokens(service) == 0
        said(service, "its model is started otherwise now")


def test_a_saved_file_that_llama_cpp_aborts_at_costs_the_cache_and_no_request(tmp_path: Path):
    """As it may be after a loss of power."""
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        (file,) = files(tmp_path)
        os.truncate(file, file.stat().st_size // 2)
        assert cached_tokens(service) == 0
        assert files(tmp_path) == []
        unload(service)
        assert cached_tokens(service) > 400


@pytest.mark.parametrize("change", [{"keep_kv_cache": False}, {"path": "nowhere.gguf"}])
def test_nothing_stays_of_what_is_not_kept_any_more(tmp_path: Path, change: dict[str, Any]):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        service.stop()
    assert len(files(tmp_path)) == 1
    with keeping(tmp_path, change) as service:
        service.get("/health")
        assert not list(tmp_path.rglob("slots"))


def test_what_an_earlier_life_did_not_finish_is_swept_up(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        service.stop()
    (file,) = files(tmp_path)
    for suffix in (".writing", ".reading"):
        Path(f"{file}{suffix}").write_text("")
    with keeping(tmp_path) as service:
        service.get("/health")
        assert files(tmp_path) == [file]


def test_what_exceeds_the_quota_is_not_saved(tmp_path: Path):
    with keeping(tmp_path, SCHEDULING__KV_CACHE_DISK="1MiB") as service:
        cached_tokens(service)
        unload(service)
        assert files(tmp_path) == []
        said(service, "kv cache not saved model=fox slot=3 mib=")
        assert cached_tokens(service) == 0


def test_a_file_that_cannot_be_read_costs_only_itself(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        files(tmp_path)[0].write_bytes(b"something else")
        assert cached_tokens(service) == 0
        said(service, "kv cache not restored server=2 model=fox slot=3: 400 ")
        assert files(tmp_path) == []


def test_clients_cannot_save_or_restore(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        for action in ("save", "restore"):
            for path, refused in (
                ("/slots/3", (400, "invalid_request")),
                ("/%73lots/3", (400, "invalid_request")),
                ("/slots/-1", (404, "not_found")),
                ("/SLOTS/3", (404, "not_found")),
            ):
                answer = service.post(f"{path}?action={action}", {"model": "fox", "filename": "mine.bin"})
                assert (answer.status_code, answer.json()["error"]["code"]) == refused
        assert files(tmp_path) == []
        assert service.get("/slots?model=fox").status_code == 200


def test_clients_can_erase(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        answer = service.post("/slots/3?action=erase", {"model": "fox"})
        assert answer.status_code == 200 and answer.json()["n_erased"] > 0, answer.text
        assert cached_tokens(service) == 0


# --- an engine that does not do it -------------------------------------------------------------------------------

KEPT = {"MODELS": '{"m": {"keep_kv_cache": true}}', "SERVER__STOP_SECONDS": "2"}
LONG = {"SERVER__STOP_SECONDS": "60"}  # a save is waited for half of it: what takes less did not wait


def test_an_engine_that_cannot_is_served_without(tmp_path: Path):
    with faulty(tmp_path, KEPT | LONG, FAKE_PORT_ZERO=1) as service:
        service.chat("m")
        assert unload(service, "m") < 10
        assert service.chat("m").status_code == 200
        said(service, "kv cache not kept model=m: this llama-server has no --slot-save-path")


def test_a_save_that_is_refused_holds_nothing_up(tmp_path: Path):
    with faulty(tmp_path, KEPT | LONG, FAKE_PORT_ZERO=1, FAKE_SAVE=501) as service:
        service.chat("m")
        assert unload(service, "m") < 10
        said(service, "kv cache not saved server=1 model=m: 501 told to fail")
        assert files(tmp_path) == []


def test_a_save_that_hangs_is_waited_for_half_of_the_time_to_stop(tmp_path: Path):
    with faulty(tmp_path, KEPT | {"SERVER__STOP_SECONDS": "4"}, FAKE_PORT_ZERO=1, FAKE_SAVE="hang") as service:
        service.chat("m")
        assert 1.9 < unload(service, "m") < 3.9
        assert service.chat("m").status_code == 200
        assert files(tmp_path) == []
        said(service, "ended by SIGTERM")


def test_nor_is_the_end_of_the_service_held_up(tmp_path: Path):
    with faulty(tmp_path, KEPT, FAKE_PORT_ZERO=1, FAKE_SAVE="hang") as service:
        service.chat("m")
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 15


def test_a_second_stop_signal_does_not_wait_for_a_save(tmp_path: Path):
    with faulty(tmp_path, KEPT | LONG, FAKE_PORT_ZERO=1, FAKE_SAVE="hang") as service:
        service.chat("m")
        service.process.terminate()
        wait_for(lambda: "/slots/0?action=save" in [path for _, path in journal(service, "request")], 10)
        time.sleep(1.1)  # a signal within the first second counts as the first
        began = time.monotonic()
        service.process.terminate()
        service.process.wait(20)
        assert time.monotonic() - began < 15


def test_a_file_that_takes_the_engine_down_is_tried_once(tmp_path: Path):
    with faulty(tmp_path, KEPT, FAKE_PORT_ZERO=1, FAKE_SAVE="ok", FAKE_RESTORE="die") as service:
        service.chat("m")
        unload(service, "m")
        assert len(files(tmp_path)) == 1
        assert service.chat("m").status_code == 200
        assert files(tmp_path) == []
        said(service, "server=2 ended at its saved kv cache; starting it without")


def test_what_comes_to_more_than_was_expected_pushes_out_the_oldest(tmp_path: Path):
    a_gguf(tmp_path / "models" / "n.gguf")
    kept = '{"m": {"keep_kv_cache": true}, "n": {"keep_kv_cache": true}}'
    settings = KEPT | {"MODELS": kept, "SCHEDULING__KV_CACHE_DISK": "1MiB"}
    with faulty(tmp_path, settings, FAKE_PORT_ZERO=1, FAKE_SAVE="ok", FAKE_SAVE_BYTES=700_000) as service:
        for model in "mn":
            service.chat(model)
            unload(service, model)
        (file,) = files(tmp_path)
        assert file.parent.name.startswith("n-")
