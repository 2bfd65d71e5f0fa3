"""EngineSlots: how fast the busy llama-servers are, from their /slots, read each second while anyone is viewing.

Of /slots, which may include prompts, nothing but numbers is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from app.entities.engine_load import IDLE, Drafts, EngineLoad
from app.entities.server import Server
from app.ports import Address
from workers.engine_metrics.reader import Answers

SLOTS_SECONDS = 1.0  # between two readings
VIEWED_SECONDS = 10.0  # a page without the stream asks every five seconds
MAX_PASSED_SECONDS = 5.0  # between two readings, for a speed


@dataclass(frozen=True, slots=True)
class _Task:
    """A running request, as its slot reports it."""

    id: object
    context_tokens: int | None
    prompt_tokens: int | None  # that were processed, without those found in the cache
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float  # monotonic seconds
    tasks: Mapping[object, _Task]  # by the slot's id
    load: EngineLoad


class EngineSlots:
    """`servers`: those that exist now; `wake` has the reader begin at once; `drafts`: what their metrics say."""

    def __init__(
        self,
        servers: Callable[[], Sequence[Server]],
        wake: Callable[[], None],
        drafts: Callable[[], Mapping[int, Drafts]] = dict,
    ) -> None:
        self._servers = servers
        self._drafts = drafts
        self._wake = wake
        self._viewed_at = -inf  # monotonic seconds; written by any thread
        self._readings: Mapping[int, _Reading] = {}  # by server id; replaced whole by `publish`
        self.loads: Mapping[int, EngineLoad] = {}  # the same

    @property
    def drafts(self) -> Mapping[int, Drafts]:
        return self._drafts()

    def view(self) -> None:
        """Somebody is viewing now. From any thread; never waits."""
        was_viewed = self.is_viewed()
        self._viewed_at = time.monotonic()
        if not was_viewed:
            self._wake()

    def is_viewed(self) -> bool:
        return time.monotonic() - self._viewed_at < VIEWED_SECONDS

    def is_busy(self, address: Address) -> bool:
        """Whether its server works: an idle one is not disturbed, and one that sleeps is not woken."""
        return any(server.id == address.server and server.leases for server in self._servers())

    def publish(self, answers: Answers) -> None:
        """Called by the thread that reads, with the answers of the servers that are busy."""
        now, before = time.monotonic(), self._readings
        readings = {
            address.server: _reading(tasks, before.get(address.server), now)
            for address, body in answers
            if (tasks := running_tasks(body)) is not None
        }
        self._readings, self.loads = readings, {server: reading.load for server, reading in readings.items()}


def running_tasks(body: bytes) -> dict[object, _Task] | None:
    """The slots that work on a request, by their ids; None if this is no /slots."""
    try:
        slots = json.loads(body)
        return {slot["id"]: _task(slot) for slot in slots if slot["is_processing"]} if slots else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _task(slot: Mapping[str, object]) -> _Task:
    """b11549: `next_token` is a list; in earlier builds it was an object."""
    next_token = slot.get("next_token")
    token = next_token[0] if isinstance(next_token, list) and next_token else next_token
    decoded = token.get("n_decoded") if isinstance(token, dict) else None
    counts = slot.get("n_prompt_tokens"), slot.get("n_prompt_tokens_processed"), decoded
    return _Task(str(slot.get("id_task")), *map(_count, counts))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**53 else None  # larger ones overflow a speed


def _reading(tasks: Mapping[object, _Task], before: _Reading | None, now: float) -> _Reading:
    context_tokens = _sum(task.context_tokens for task in tasks.values())
    passed = now - before.at if before else inf
    if before is None or passed > MAX_PASSED_SECONDS:
        return _Reading(now, tasks, EngineLoad(context_tokens) if tasks else IDLE)
    pairs = [(task, _earlier(task, before.tasks.get(slot))) for slot, task in tasks.items()]
    prompt = _speed([(new.prompt_tokens, old.prompt_tokens) for new, old in pairs], passed)
    completion = _speed([(new.completion_tokens, old.completion_tokens) for new, old in pairs], passed)
    return _Reading(now, tasks, EngineLoad(context_tokens, prompt, completion) if tasks else IDLE)


def _earlier(task: _Task, before: _Task | None) -> _Task:
    """What the slot reported before; nothing if it worked on another request then."""
    return before if before is not None and before.id == task.id else _Task(task.id, 0, 0, 0)


def _speed(counts: Sequence[tuple[int | None, int | None]], seconds: float) -> float | None:
    new = _sum(None if now is None or before is None else max(0, now - before) for now, before in counts)
    return None if new is None else round(new / seconds, 1)


def _sum(counts: Iterable[int | None]) -> int | None:
    """None if none is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
