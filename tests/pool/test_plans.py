"""Plans of models: their words on simulated GPUs, and when they are made and renewed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.entities.placement import PlacementConstraints
from app.errors import InvalidModelFile, InvalidRequest
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.reporting.plans import plan_list
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import GIB, a_model, a_placement_request, memory
from tests.helpers.gpu_play import GpuPlay, Hardware, eight_layers
from workers.pool import plans
from workers.pool.plans import Plans
from workers.telemetry.store import StateStore

ONE, TWO = {"GPU-a": 6.0}, {"GPU-a": 6.0, "GPU-b": 6.0}  # a model takes some 4.6 GiB, half a GiB is reserved


class Case:
    """Plans over a play's state. `gib`: what models need, by name; else they have eight layers."""

    def __init__(self, hardware: Hardware | None = None, gib: Mapping[str, float] = {}, **limits: Any) -> None:
        self.play = GpuPlay(hardware or Hardware(dict(TWO)), SchedulingLimits(**limits))
        self.play.post(self.play.polled(at=time.monotonic()))
        self.gib = gib
        self.made: list[str] = []
        self.ram_gib = 64.0
        self.store = StateStore(self.play.state)
        self.plans = Plans(self.store, self.request, self.read_memory)

    def request(self, model: Model) -> PlacementRequest:
        self.made.append(model.name)
        if model.name == "bad":
            raise InvalidModelFile(model.name, "its header ends too early")
        if model.name in self.gib:
            return a_placement_request(int(self.gib[model.name] * GIB), model.constraints)
        return eight_layers(constraints=model.constraints)

    def read_memory(self, pids: Mapping[int, int]) -> MemoryReading:
        return memory(time.monotonic(), self.ram_gib, 64.0)

    def loaded(self, *names: str, ago: float = 100.0) -> None:
        for name in names:
            self.play.loaded(name, at=time.monotonic() - ago)
        self.play.post(self.play.polled(at=time.monotonic()))

    def entries(self, *models: str | Model) -> list[dict[str, Any]]:
        self.store.pool = self.play.state
        named = [a_model(each) if isinstance(each, str) else each for each in models]
        found: Any = plan_list(named, self.plans.of(named), self.store.pool, lambda name: name)["models"]
        return list(found)

    def texts(self, *models: str | Model) -> list[str]:
        return [entry["text"] for entry in self.entries(*models)]


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "READING_SECONDS", 0.0)


def test_a_model_that_fits_says_where():
    (entry,) = Case().entries("m")
    assert entry["text"] == "fits GPU 0"
    assert (entry["outcome"], entry["state"], entry["device"]) == ("place", "unloaded", "cuda:0")
    assert 4 * GIB < entry["needed_bytes"] < 5 * GIB
    assert (entry["evict"], entry["pinned"], entry["ctx_size"]) == ([], False, 4096)


def test_a_model_for_which_others_would_be_evicted_names_them():
    case = Case()
    case.loaded("phi-4", "gemma")
    assert case.texts("m", "phi-4", "gemma") == ["fits GPU 0, would evict phi-4", "ready on GPU 0", "ready on GPU 1"]
    two = replace(a_model("large"), constraints=PlacementConstraints(min_gpus=2))
    (entry,) = case.entries(two)
    assert (entry["text"], entry["evict"]) == ("fits GPUs 0+1, would evict phi-4", ["phi-4"])


def test_a_loading_model_says_its_progress_and_the_others_wait_for_it():
    case = Case(Hardware(dict(ONE)))
    case.play.request("a", at=time.monotonic())
    assert case.texts("a", "m") == ["loading on GPU 0", "waits for a to finish loading"]


def test_a_model_that_can_never_fit_says_what_it_needs_and_what_there_is():
    small = Case(Hardware({"GPU-a": 1.5, "GPU-b": 1.5}))
    assert small.texts("m") == ["never: needs 4.0 GiB, the GPUs have 2.0 GiB"]
    assert Case(Hardware(dict(ONE)), {"m": 40}).texts("m") == ["never: needs 40.0 GiB, the GPU has 5.5 GiB"]
    on_the_cpu = Case(Hardware({}), {"m": 391})
    assert on_the_cpu.texts("m") == ["never: needs 391 GiB of RAM, there are 64.0 GiB"]


def test_a_model_on_a_machine_without_gpus_fits_the_ram():
    case = Case(Hardware({}), {"m": 5.1})
    case.ram_gib = 12
    assert case.texts("m") == ["fits the RAM: needs 5.1 GiB, 12.0 GiB free"]


def test_other_processes_and_pinned_models_in_the_way_are_named():
    case = Case(Hardware(dict(ONE), other_gib={"GPU-a": 4}))
    (entry,) = case.entries("m")
    assert entry["outcome"] == "refuse"
    assert entry["text"].startswith("no room: needs 4.")
    assert entry["text"].endswith(" GiB, 1.5 GiB free; other processes hold GPU 0")
    auto = replace(a_model("auto"), constraints=PlacementConstraints(has_auto_context=True))
    assert case.texts(auto)[0].startswith("no room: needs 4.9"), "not even the shortest context fits"


def test_free_memory_on_several_gpus_is_not_said_as_one_sum():
    """What fits none of the GPUs may be less than they have free together."""
    case = Case(Hardware(dict(TWO), other_gib={"GPU-a": 3, "GPU-b": 3.5}))
    (text,) = case.texts("m")
    assert text.startswith("no room: needs 4.")
    assert "GiB, the emptiest of 2 GPUs has 2.5 GiB free, all of them 4.5 GiB; other processes" in text


def test_a_model_that_cannot_be_served_says_why():
    broken = replace(a_model("broken"), problem="it has 12 of 40 bytes")
    (entry, bad) = Case().entries(broken, "bad")
    assert (entry["state"], entry["problem"]) == ("failed", "it has 12 of 40 bytes")
    assert (entry["outcome"], entry["text"]) == ("refuse", "cannot be served: it has 12 of 40 bytes")
    assert bad["outcome"] == "refuse" and "its header ends too early" in bad["text"]


def test_a_missing_gpu_is_why_nothing_fits():
    case = Case(Hardware(dict(ONE)))
    case.play.hardware.state, case.play.hardware.expected = GpuState.LOST, "it was there before"
    case.play.post(case.play.polled(at=time.monotonic()))
    (text,) = case.texts("m")
    assert "it was there before" in text


def test_plans_are_made_once_while_nothing_changes():
    case = Case()
    case.texts("a", "b")
    case.play.hardware.other_gib = {"GPU-a": 0.05}
    case.play.post(case.play.polled(at=time.monotonic()))
    case.ram_gib -= 0.1
    assert case.texts("a", "b") == ["fits GPU 0", "fits GPU 0"]
    assert case.made == ["a", "b"], "51 MiB more of other processes are not worth a new decision"
    case.texts(replace(a_model("a"), priority=7))
    assert case.made == ["a", "b", "a"], "its settings have changed"


def test_plans_are_renewed_when_the_machine_has_changed():
    case = Case()
    assert case.texts("m") == ["fits GPU 0"]
    case.loaded("a", "b")
    assert case.texts("m") == ["fits GPU 0, would evict a"]


def test_outdated_plans_stand_until_there_is_time_to_renew_them(monkeypatch: pytest.MonkeyPatch):
    case = Case()
    assert case.texts("m") == ["fits GPU 0"]
    monkeypatch.setattr(plans, "RENEWAL_BURST_SECONDS", 0.0)
    case.loaded("a", "b")
    assert case.texts("m") == ["fits GPU 0"]
    monkeypatch.setattr(plans, "RENEWAL_BURST_SECONDS", 0.25)
    case.plans._renewed_at -= 10
    assert case.texts("m") == ["fits GPU 0, would evict a"]


def test_models_without_a_plan_yet_have_the_outcome_null(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plans, "FIRST_SECONDS", 0.0)
    (entry,) = Case().entries("m")
    assert (entry["outcome"], entry["text"], entry["needed_bytes"]) == (None, "", None)


def test_nothing_is_planned_before_the_gpus_were_read():
    case = Case()
    case.play.state = replace(case.play.state, gpus=GpuSnapshot(GpuState.UNREAD, at=0.0))
    assert case.texts("m") == [""]


def test_gpus_that_are_asleep_are_planned_for_as_they_were_last_read_and_not_woken():
    case = Case()
    case.play.state = replace(case.play.state, gpus=case.play.state.gpus.asleep())
    polls, before = case.play.polls, case.play.state
    assert case.texts("m") == ["fits GPU 0"]
    assert case.plans.plan(a_model("m"), {}).decision.placement.device == "cuda:0"  # type: ignore[union-attr]
    assert (case.play.polls, case.store.pool) == (polls, before)


def test_typed_options_take_the_place_of_the_settings():
    case = Case()
    answer = case.plans.plan(a_model("m"), {"ctx_size": 8192})
    assert answer.decision.placement.ctx_size == 8192  # type: ignore[union-attr]
    answer = case.plans.plan(a_model("m"), {"devices": 2})
    assert len(answer.decision.placement.uuids) == 2  # type: ignore[union-attr]
    assert [gpu["uuid"] for gpu in answer.machine["gpus"]] == ["GPU-a", "GPU-b"]  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequest, match="split_mode none uses one GPU, not devices 2"):
        case.plans.plan(a_model("m"), {"devices": 2, "split_mode": "none"})
    with pytest.raises(InvalidRequest, match="cache_type_v q8_0 needs flash_attn on or auto"):
        case.plans.plan(a_model("m"), {"cache_type_v": "q8_0", "flash_attn": "off"})


def test_a_loaded_model_is_planned_as_if_it_were_not():
    case = Case(Hardware(dict(ONE)))
    case.loaded("m")
    case.texts("m")
    assert case.plans.plan(a_model("m"), {}).evict == ()


def test_the_state_is_never_changed():
    case = Case()
    case.loaded("a")
    before = case.play.state
    case.texts("a", "b")
    case.plans.plan(a_model("b"), {})
    assert isinstance(case.store.pool, PoolState) and case.store.pool is before
