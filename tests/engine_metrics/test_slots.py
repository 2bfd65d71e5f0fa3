"""The speed of an engine, by two readings of its slots."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.entities.engine_load import IDLE, EngineLoad
from app.ports import Address
from tests.helpers.builders import Play, a_model
from workers.engine_metrics import slots
from workers.engine_metrics.slots import VIEWED_SECONDS, EngineSlots, running_tasks

ADDRESS = Address(1, "a", 9001, "key")
FREE = {"id": 1, "n_ctx": 4096, "is_processing": False}


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(slots, "time", clock)
    return clock


def busy(prompt: int, completion: int, task: int = 7, **changes: Any) -> dict[str, Any]:
    """A slot as b11549 reports it."""
    next_token = [{"has_next_token": True, "n_remain": 10, "n_decoded": completion}]
    counts = {"n_prompt_tokens": prompt + completion, "n_prompt_tokens_processed": prompt, "next_token": next_token}
    return {"id": 0, "id_task": task, "is_processing": True, "prompt": "secret"} | counts | changes


def body(*found: dict[str, Any]) -> bytes:
    return json.dumps(found).encode()


def load_after(clock: Clock, *readings: list[dict[str, Any]], seconds: float = 2.0) -> EngineLoad:
    """Of readings so far apart."""
    engine_slots = EngineSlots(list, lambda: None)
    for found in readings:
        clock.now += seconds
        engine_slots.publish([(ADDRESS, body(*found))])
    return engine_slots.loads[1]


def test_a_speed_takes_two_readings(clock: Clock):
    assert load_after(clock, [busy(100, 10), FREE]) == EngineLoad(110)
    assert load_after(clock, [busy(100, 10), FREE], [busy(100, 70), FREE]) == EngineLoad(170, 0.0, 30.0)


def test_slots_are_added_up(clock: Clock):
    after = [busy(100, 20), busy(40, 6, task=8, id=1)]
    assert load_after(clock, [busy(100, 10), FREE], after) == EngineLoad(166, 20.0, 8.0)


def test_another_request_in_a_slot_begins_at_nothing(clock: Clock):
    assert load_after(clock, [busy(500, 90)], [busy(20, 4, task=8)]) == EngineLoad(24, 10.0, 2.0)


def test_a_reading_from_before_a_pause_says_nothing_about_the_speed(clock: Clock):
    assert load_after(clock, [busy(100, 10)], [busy(100, 70)], seconds=60.0) == EngineLoad(170)


def test_an_engine_that_has_just_finished_does_nothing(clock: Clock):
    assert load_after(clock, [busy(100, 10)], [FREE]) == IDLE


def test_the_object_of_earlier_builds_is_read():
    (task,) = (running_tasks(body(busy(1, 0, next_token={"n_decoded": 3}))) or {}).values()
    assert task.completion_tokens == 3


def test_a_build_that_reports_no_counts_has_no_speed(clock: Clock):
    bare = {"id": 0, "is_processing": True}
    assert load_after(clock, [bare], [bare]) == EngineLoad()


@pytest.mark.parametrize("wrong", [b"", b"{}", b"[1]", b'[{"id": 0}]', b'{"error": {}}', b"[" * 10_000])
def test_what_is_no_list_of_slots_is_left_out(wrong: bytes):
    engine_slots = EngineSlots(list, lambda: None)
    engine_slots.publish([(ADDRESS, body(FREE))])
    engine_slots.publish([(ADDRESS, wrong)])
    assert engine_slots.loads == {}


def test_an_impossible_count_is_unknown_and_other_engines_keep_their_speed(clock: Clock):
    engine_slots, other = EngineSlots(list, lambda: None), Address(2, "b", 9002, "key")
    for completion in (10, 30):
        engine_slots.publish([(ADDRESS, body(busy(10 ** (completion * 20), 0))), (other, body(busy(0, completion)))])
        clock.now += 1
    assert engine_slots.loads[1].prompt_tokens_per_second is None
    assert engine_slots.loads[2].tokens_per_second == 20.0


def test_of_prompts_nothing_is_kept():
    engine_slots = EngineSlots(list, lambda: None)
    engine_slots.publish([(ADDRESS, body(busy(1, 1)))])
    assert "secret" not in repr(engine_slots._readings)


def test_slots_are_read_while_somebody_looks_of_busy_servers_alone(clock: Clock):
    play, woken = Play(), list[float]()
    play.up(a_model("a"))
    engine_slots = EngineSlots(lambda: play.state.servers, lambda: woken.append(clock.now))
    assert not engine_slots.is_viewed()
    engine_slots.view()
    engine_slots.view()
    assert engine_slots.is_viewed() and len(woken) == 1
    assert not engine_slots.is_busy(ADDRESS)
    play.ask(a_model("a"), at=1.0)
    assert engine_slots.is_busy(ADDRESS)
    clock.now += VIEWED_SECONDS
    assert not engine_slots.is_viewed()
