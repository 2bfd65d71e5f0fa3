"""Plans of repositories: what each quantization needs, where it would go, and which to take - by the headers alone."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.entities.repository import RepositoryName
from app.errors import DownloadFailed, ModelDoesNotFit, ModelNotFound, Overloaded
from app.settings.schema import Settings
from app.use_cases.downloads.repository_plan import repository_plan_report
from tests.downloads.pulls import downloader
from tests.downloads.remote_models import GIB, QUANTS, SimulatedMachine, a_remote_model, ten_quants
from tests.helpers.gguf_bytes import PROJECTOR, a_file
from tests.helpers.hub_server import HubServer
from workers.downloads import planner
from workers.downloads.downloader import MAX_PLANS
from workers.downloads.header_check import check_fits
from workers.downloads.hub import Hub
from workers.downloads.planner import plan_repository
from workers.downloads.remote_header import FIRST_WINDOW_BYTES
from workers.downloads.search import search_model

pytestmark = pytest.mark.integration
REPO = "u/Foo-GGUF"


def planned(hub: HubServer, machine: SimulatedMachine, choice: str = "", here: str = "") -> dict[str, Any]:
    """The rows of the plan by quantization."""
    plan = plan_repository(
        *(Hub(hub.endpoint), RepositoryName(REPO, choice), machine.machine),
        is_downloaded=lambda found: found.model.quantization == here,
    )
    quants: Any = repository_plan_report(plan, str)["quants"]
    return {quant["quant"]: quant for quant in quants}


def test_of_ten_quants_the_largest_that_fits_with_32k_is_recommended(hub: HubServer, tmp_path: Path):
    """36 layers of 7 billion parameters; 32k of context take 36 x 32768 x 2 x 1024 x 2 bytes = 4.5 GiB."""
    hub.add(REPO, ten_quants())
    found = planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}), here="Q4_0")
    assert set(found) == set(QUANTS)
    sizes = [row["size_bytes"] for row in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert [name for name, row in found.items() if row["recommended"]] == ["Q8_0"]
    assert {name for name, row in found.items() if not row["fits"]} == {"F16", "BF16"}
    best = found["Q8_0"]
    assert (best["name"], best["outcome"], best["ctx_size"]) == (f"{REPO}:Q8_0", "place", 32768)
    assert best["text"] == "fits GPU 0"
    assert best["size_bytes"] + 4.5 * GIB < best["needed_bytes"] < best["size_bytes"] + 6 * GIB
    assert found["F16"]["text"].startswith("never: needs ")
    assert [name for name, row in found.items() if row["downloaded"]] == ["Q4_0"]
    assert not any(row["problem"] for row in found.values())


def test_a_plan_reads_no_more_than_headers(hub: HubServer, tmp_path: Path):
    hub.add(REPO, ten_quants())
    planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}))
    assert hub.furthest_byte(REPO) <= FIRST_WINDOW_BYTES
    assert hub.bytes_served(REPO) <= len(QUANTS) * FIRST_WINDOW_BYTES


def test_what_would_be_evicted_is_told_by_names_that_the_reader_may_see(hub: HubServer, tmp_path: Path):
    hub.add(REPO, {"Foo-Q8_0.gguf": a_remote_model(8)})
    machine = SimulatedMachine(tmp_path, {"GPU-a": 16.0})
    machine.load("secret")
    plan = plan_repository(Hub(hub.endpoint), RepositoryName(REPO), machine.machine, is_downloaded=lambda found: False)
    quants: Any = repository_plan_report(plan, lambda name: "another model")["quants"]
    assert (quants[0]["outcome"], quants[0]["evict"]) == ("evict", ["another model"])
    assert quants[0]["text"] == "fits GPU 0, would evict another model"
    assert quants[0]["recommended"]


def test_one_that_is_whole_on_the_gpus_goes_before_a_larger_one_that_is_not(hub: HubServer, tmp_path: Path):
    hub.add(REPO, ten_quants())
    settings = Settings.model_validate({"defaults": {"partial_offload": "on"}})
    found = planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}, settings))
    assert found["F16"]["fits"]
    assert [name for name, row in found.items() if row["recommended"]] == ["Q8_0"]


def test_a_name_with_a_choice_is_planned_alone(hub: HubServer, tmp_path: Path):
    hub.add(REPO, ten_quants())
    found = planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}), "q6_k")
    assert list(found) == ["Q6_K"]
    assert found["Q6_K"]["recommended"]
    with pytest.raises(ModelNotFound, match="u/Foo-GGUF has no Q7_K; it has Q6_K, "):
        planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}), "Q7_K")


def test_a_short_training_context_is_planned_as_it_is(hub: HubServer, tmp_path: Path):
    hub.add(REPO, {"Foo-Q4_K_M.gguf": a_remote_model(12, trained_tokens=8192)})
    assert planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}))["Q4_K_M"]["ctx_size"] == 8192


def test_a_quant_that_cannot_be_served_says_why_beside_the_others(hub: HubServer, tmp_path: Path):
    files = {"Foo-Q8_0.gguf": b"<html>", "Foo-Q4_0.gguf": a_remote_model(2), "Foo-Q6_K.gguf": a_file(PROJECTOR)}
    files["Foo-Q2_K-00001-of-00002.gguf"] = b""
    hub.add(REPO, files)
    found = planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}))
    assert "is a web page" in found["Q8_0"]["problem"]
    assert "is a multimodal projector" in found["Q6_K"]["problem"]
    assert found["Q2_K"]["problem"] == "1 of 2 parts are missing"
    assert (found["Q4_0"]["problem"], found["Q4_0"]["recommended"]) == ("", True)
    assert (found["Q8_0"]["needed_bytes"], found["Q8_0"]["outcome"], found["Q8_0"]["fits"]) == (None, None, False)


def test_what_is_wrong_with_all_is_the_error_of_the_plan(hub: HubServer, tmp_path: Path):
    hub.add(REPO, ten_quants(), gated=True)
    with pytest.raises(DownloadFailed, match="is gated: accept its licence"):
        planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}))


def test_a_plan_ends_in_bounded_time(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planner, "PLAN_SECONDS", 1.0)
    hub.add(REPO, {"Foo-Q8_0.gguf": a_remote_model(8), "Foo-Q4_0.gguf": a_remote_model(2)})
    hub.hold("Q8_0", after=10)
    found = planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}))
    assert found["Q8_0"]["problem"] == "its header could not be read within 1 s"
    assert found["Q4_0"]["recommended"]
    readers = [each for each in threading.enumerate() if each.name == "remote-headers"]
    assert readers and all(each.daemon for each in readers), "the end of a command does not wait for them"


def test_a_hub_that_describes_a_repository_byte_by_byte_is_not_waited_for(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each byte was soon enough for the client's time limit."""
    monkeypatch.setattr(planner, "PLAN_SECONDS", 1.0)
    hub.add(REPO, ten_quants())
    hub.trickle("/api/models")
    with pytest.raises(DownloadFailed, match="did not describe it within 1 s"):
        planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0}))


def test_many_models_are_not_all_planned(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planner, "MAX_MODELS", 2)
    hub.add(REPO, ten_quants())
    problems = [row["problem"] for row in planned(hub, SimulatedMachine(tmp_path, {"GPU-a": 16.0})).values()]
    assert problems.count("") == 2
    assert problems.count("not planned: only 2 models are; ask for it alone") == 8


def test_without_gpus_the_plan_is_for_the_ram(hub: HubServer, tmp_path: Path):
    hub.add(REPO, ten_quants())
    found = planned(hub, SimulatedMachine(tmp_path, {}))
    assert found["Q4_0"]["text"].startswith("fits the RAM: needs ")


def test_too_many_plans_at_once_are_refused(hub: HubServer, tmp_path: Path):
    began, go_on = threading.Semaphore(0), threading.Event()

    def plan(name: RepositoryName) -> Any:
        began.release()
        go_on.wait(20)

    with closing(downloader(hub, tmp_path, plan=plan)) as found:
        threads = [threading.Thread(target=found.plan, args=(RepositoryName(REPO),)) for _ in range(MAX_PLANS)]
        for thread in threads:
            thread.start()
            assert began.acquire(timeout=20)
        with pytest.raises(Overloaded, match="4 repositories are being planned"):
            found.plan(RepositoryName(REPO))
        go_on.set()
        for thread in threads:
            thread.join(20)
        found.plan(RepositoryName(REPO))


# --- before a download ---------------------------------------------------------------------------------------


def test_a_model_that_can_never_fit_is_refused_with_its_numbers_before_its_weights(hub: HubServer, tmp_path: Path):
    hub.add(REPO, {"Foo-F16.gguf": a_remote_model(1, layers=200)})
    machine, access = SimulatedMachine(tmp_path, {"GPU-a": 16.0}).machine, Hub(hub.endpoint)
    with pytest.raises(ModelDoesNotFit) as error:
        check_fits(access, machine, search_model(access, RepositoryName(REPO)))
    fields = error.value.fields
    assert isinstance(fields["needed_bytes"], int) and fields["needed_bytes"] > 70 * GIB
    assert str(error.value).startswith(f"{REPO}:F16: it needs 84,010 MiB on one GPU; usable at most: GPU 0 (card) ")
    assert hub.furthest_byte(REPO) <= FIRST_WINDOW_BYTES


def test_one_that_fits_now_or_after_evictions_may_be_fetched(hub: HubServer, tmp_path: Path):
    hub.add(REPO, ten_quants())
    machine, access = SimulatedMachine(tmp_path, {"GPU-a": 16.0}), Hub(hub.endpoint)
    machine.load("other")
    check_fits(access, machine.machine, search_model(access, RepositoryName(REPO, "Q8_0")))


def test_the_settings_of_the_entry_that_names_the_file_count(hub: HubServer, tmp_path: Path):
    hub.add(REPO, ten_quants())
    entry = {"repo": f"{REPO}:Foo-Q8_0.gguf", "ctx_size": 65536, "parallel": 16, "kv_unified": False}
    settings = Settings.model_validate({"models": {"foo": entry}})
    access, machine = Hub(hub.endpoint), SimulatedMachine(tmp_path, {"GPU-a": 14.0}, settings).machine
    with pytest.raises(ModelDoesNotFit):
        check_fits(access, machine, search_model(access, RepositoryName(REPO, "Q8_0")))
    check_fits(access, machine, search_model(access, RepositoryName(REPO, "Q6_K")))


def test_a_machine_whose_gpus_are_gone_refuses_nothing_for_good(hub: HubServer, tmp_path: Path):
    hub.add(REPO, {"Foo-F16.gguf": a_remote_model(1)})
    access, machine = Hub(hub.endpoint), SimulatedMachine(tmp_path, {})
    check_fits(access, machine.machine, search_model(access, RepositoryName(REPO)))
    assert os.listdir(tmp_path) == []
