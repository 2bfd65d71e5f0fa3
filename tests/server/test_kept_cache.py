"""The KV cache of an unloaded model: kept on disk, restored by the next load, and readable by nobody else."""

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
    """The service with the demo model as `fox`, whose cache is kept, and further models."""
    if not (folder / "demo.gguf").exists():
        write_demo_model(folder)
    model = {"path": str(folder / "demo.gguf"), "keep_kv_cache": True, "ctx_size": 4096, **(more or {})}
    with serving(folder, MODELS=json.dumps({"fox": model, **(others or {})}), **settings) as service:
        yield service


def cached_tokens(service: Service, story: list[dict[str, str]] = STORY) -> int:
    """The prompt tokens that the engine took from its cache."""
    response = service.post("/v1/chat/completions", {"model": "fox", "messages": story, "max_tokens": 4})
    assert response.status_code == 200, (response.text, service.output)
    answer = response.json()
    assert answer["timings"]["cache_n"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return int(answer["timings"]["cache_n"])


def unload(service: Service, model: str = "fox") -> float:
    """Unload the model; returns the seconds it took."""
    began = time.monotonic()
    assert service.post("/models/unload", {"model": model}).status_code == 200
    return time.monotonic() - began


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("slots/*/*") if path.is_file())


def wait_for_log(service: Service, words: str) -> None:
    """Wait until the service's log contains the text."""
    wait_for(lambda: words in service.output, 10, lambda: service.output)


def test_a_conversation_is_kept_over_an_unload(tmp_path: Path):
    with keeping(tmp_path) as service:
        assert cached_tokens(service) == 0
        unload(service)
        (file,) = files(tmp_path)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (file.parent, file.parent.parent)} == {0o700}
        assert cached_tokens(service) > 400
        assert files(tmp_path) == [], "it is deleted once it is restored"
        wait_for_log(service, "kv cache saved server=1 model=fox slots=1")
        wait_for_log(service, "kv cache restored server=2 model=fox slots=1")


def test_each_slot_is_kept_separately(tmp_path: Path):
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


def test_a_restored_cache_that_is_not_used_is_saved_again(tmp_path: Path):
    """/slots omits restored slots until they are used."""
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        service.post("/models/load", {"model": "fox"})
        wait_for(lambda: service.servers()[0]["state"] == "ready", 20)
        unload(service)
        assert cached_tokens(service) > 400


def test_a_cache_is_kept_when_its_model_is_unloaded_for_being_idle(tmp_path: Path):
    with keeping(tmp_path, {"ttl_seconds": 0.2}) as service:
        cached_tokens(service)
        wait_for(lambda: not service.servers(), 10)
        assert cached_tokens(service) > 400


def test_a_cache_is_kept_when_its_model_is_evicted(tmp_path: Path):
    settings = {"SCHEDULING__MAX_LOADED": "1", "SCHEDULING__MIN_RESIDENCY_SECONDS": "0"}
    with keeping(tmp_path, others={"other": {"path": str(tmp_path / "demo.gguf")}}, **settings) as service:
        cached_tokens(service)
        assert service.chat("other").status_code == 200
        assert len(files(tmp_path)) == 1
        assert cached_tokens(service) > 400
        assert len(files(tmp_path)) == 0, "of the other one nothing is kept"


def test_a_cache_is_kept_over_a_restart_of_the_service(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        assert service.stop() == 0
    with keeping(tmp_path) as service:
        assert cached_tokens(service) > 400


@pytest.mark.parametrize("change", [{"args": ["--rope-freq-base", "20000"]}, {"ctx_size": 2048}])
def test_changed_settings_discard_the_cache(tmp_path: Path, change: dict[str, Any]):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        service.stop()
    assert len(files(tmp_path)) == 1
    with keeping(tmp_path, change) as service:
        assert cached_tokens(service) == 0
        wait_for_log(service, "the model's file, engine or settings have changed")
        assert files(tmp_path) == []


def test_a_file_that_has_changed_discards_the_cache(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        at = (tmp_path / "demo.gguf").stat().st_mtime - 3600
        os.utime(tmp_path / "demo.gguf", (at, at))
        service.get("/models?reload=1")
        assert cached_tokens(service) == 0


def test_a_file_that_changed_without_a_new_scan_discards_the_cache(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        at = (tmp_path / "demo.gguf").stat().st_mtime - 3600
        os.utime(tmp_path / "demo.gguf", (at, at))
        assert cached_tokens(service) == 0
        wait_for_log(service, "the model's file, engine or settings have changed")


def test_a_saved_file_that_crashes_llama_cpp_costs_the_cache_and_no_request(tmp_path: Path):
    """A truncated file, as after a power failure."""
    quickly = {"GGML_NO_BACKTRACE": "1"}  # with a debugger, a crash takes longer than the restore timeout
    with keeping(tmp_path, ENGINE__ENV=json.dumps(quickly)) as service:
        cached_tokens(service)
        unload(service)
        (file,) = files(tmp_path)
        os.truncate(file, file.stat().st_size // 2)
        assert cached_tokens(service) == 0
        assert files(tmp_path) == []
        unload(service)
        assert cached_tokens(service) > 400


@pytest.mark.parametrize("change", [{"keep_kv_cache": False}, {"path": "nowhere.gguf"}])
def test_files_of_models_that_are_no_longer_kept_are_deleted(tmp_path: Path, change: dict[str, Any]):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        service.stop()
    assert len(files(tmp_path)) == 1
    with keeping(tmp_path, change) as service:
        service.get("/health")
        assert not list(tmp_path.rglob("slots"))


def test_incomplete_files_of_an_earlier_run_are_deleted(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        service.stop()
    (file,) = files(tmp_path)
    for suffix in (".writing", ".reading"):
        Path(f"{file}{suffix}").write_text("")
    with keeping(tmp_path) as service:
        service.get("/health")
        assert files(tmp_path) == [file]


def test_a_slot_that_exceeds_the_quota_is_not_saved(tmp_path: Path):
    with keeping(tmp_path, SCHEDULING__KV_CACHE_DISK="1MiB") as service:
        cached_tokens(service)
        unload(service)
        assert files(tmp_path) == []
        wait_for_log(service, "kv cache not saved model=fox slot=3 mib=")
        assert cached_tokens(service) == 0


def test_a_file_that_cannot_be_read_affects_no_other(tmp_path: Path):
    with keeping(tmp_path) as service:
        cached_tokens(service)
        unload(service)
        files(tmp_path)[0].write_bytes(b"something else")
        assert cached_tokens(service) == 0
        wait_for_log(service, "kv cache not restored server=2 model=fox slot=3: 400 ")
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


# --- engines without saved slots ---------------------------------------------------------------------------------

KEPT = {"MODELS": '{"m": {"keep_kv_cache": true}}', "SERVER__STOP_SECONDS": "2"}
LONG = {"SERVER__STOP_SECONDS": "60"}  # a save may take half of it: anything faster did not wait


def test_an_engine_without_the_option_is_used_without_saving(tmp_path: Path):
    with faulty(tmp_path, KEPT | LONG, FAKE_PORT_ZERO=1) as service:
        service.chat("m")
        assert unload(service, "m") < 10
        assert service.chat("m").status_code == 200
        wait_for_log(service, "kv cache not kept model=m: this llama-server has no --slot-save-path")


def test_a_rejected_save_delays_nothing(tmp_path: Path):
    with faulty(tmp_path, KEPT | LONG, FAKE_PORT_ZERO=1, FAKE_SAVE=501) as service:
        service.chat("m")
        assert unload(service, "m") < 10
        wait_for_log(service, "kv cache not saved server=1 model=m: 501 told to fail")
        assert files(tmp_path) == []


def test_a_save_that_hangs_takes_at_most_half_of_stop_seconds(tmp_path: Path):
    with faulty(tmp_path, KEPT | {"SERVER__STOP_SECONDS": "4"}, FAKE_PORT_ZERO=1, FAKE_SAVE="hang") as service:
        service.chat("m")
        assert 1.9 < unload(service, "m") < 3.9
        assert service.chat("m").status_code == 200
        assert files(tmp_path) == []
        wait_for_log(service, "ended by SIGTERM")


def test_a_save_that_hangs_does_not_delay_the_end_of_the_service(tmp_path: Path):
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


def test_a_file_that_crashes_the_engine_is_tried_once(tmp_path: Path):
    with faulty(tmp_path, KEPT, FAKE_PORT_ZERO=1, FAKE_SAVE="ok", FAKE_RESTORE="die") as service:
        service.chat("m")
        unload(service, "m")
        assert len(files(tmp_path)) == 1
        assert service.chat("m").status_code == 200
        assert files(tmp_path) == []
        wait_for_log(service, "server=2 exited while its saved kv cache was restored; retrying without")


def test_a_file_larger_than_expected_replaces_the_oldest(tmp_path: Path):
    a_gguf(tmp_path / "models" / "n.gguf")
    kept = '{"m": {"keep_kv_cache": true}, "n": {"keep_kv_cache": true}}'
    settings = KEPT | {"MODELS": kept, "SCHEDULING__KV_CACHE_DISK": "1MiB"}
    with faulty(tmp_path, settings, FAKE_PORT_ZERO=1, FAKE_SAVE="ok", FAKE_SAVE_BYTES=700_000) as service:
        for model in "mn":
            service.chat(model)
            unload(service, model)
        (file,) = files(tmp_path)
        assert file.parent.name.startswith("n-")
