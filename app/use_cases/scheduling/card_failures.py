"""Card failures: GPUs on which loads fail, and which of them are set aside.

A load that ends with a CUDA error, other than out of memory, is tried again on the other GPUs that its model may use.
If it fails on all GPUs, the model is to blame. A card is to blame, and set aside, once it fails where another works:

1. a model that failed on it was loaded on another card;
2. two models failed on it while a server is up on another card;
3. it had been set aside, and the next load failed again.

A card that an engine did not use at all, so that the model was on the CPU, is set aside at once. Unlike the others it
is not even used as the last one that is left: the next load would compute on the CPU as well.

A model with an engine of its own only avoids the cards on which that fails: it may be the engine's fault, and others
use them.

A card is set aside for ever longer, and forgiven by the first load that succeeds on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil, inf

from app.entities.gpu import GpuSnapshot
from app.entities.placement import CPU
from app.use_cases.scheduling.backoff import doubled

# The first pause and the longest one.
_PAUSE_SECONDS = FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 60.0, 3600.0  # the next try costs a request a failed load
# Without CUDA: as when the service starts before the driver is ready. A try ends before the weights are loaded.
_UNUSED_PAUSE_SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class CardFailure:
    """The loads in a row that failed on one GPU."""

    detail: str = ""  # the engine's words, of the last one
    models: frozenset[str] = frozenset()  # names of those that failed on it, and not on every other card too
    own_engines: frozenset[str] = frozenset()  # the same, of models with engines of their own
    is_unused: bool = False  # the engine ran without it
    pauses: int = 0  # how often in a row it was set aside
    until: float = -inf  # when it is tried again, in monotonic seconds

    def paused(self, at: float) -> CardFailure:
        """Set aside from `at` on."""
        pause = _UNUSED_PAUSE_SECONDS if self.is_unused else _PAUSE_SECONDS
        return replace(self, pauses=self.pauses + 1, until=at + doubled(*pause, self.pauses))

    def problem_at(self, now: float) -> str:
        seconds = self.until - now
        wait = f"{ceil(seconds / 60)} min" if seconds > 60 else f"{ceil(seconds / 10) * 10} s"
        why = "a load computed on the CPU" if self.is_unused else "loads failed on it"
        return f"set aside, next try in {wait}, because {why}: {self.detail}"


CardFailures = Mapping[str, CardFailure]  # by UUID


def with_failed_load(
    failures: CardFailures, uuids: Collection[str], model: str, detail: str, at: float, is_other_up: bool
) -> CardFailures:
    """After a load of `model` ended with a CUDA error on these GPUs. `is_other_up`: a server is up on another GPU."""
    changed = dict(failures)
    for uuid in uuids:
        before = failures.get(uuid, CardFailure())
        failure = replace(before, detail=detail, models=before.models | {model}, is_unused=False)
        is_to_blame = failure.pauses > 0 or (is_other_up and len(failure.models) > 1)
        changed[uuid] = failure.paused(at) if is_to_blame else failure
    return changed


def with_own_engine_failed(failures: CardFailures, uuids: Collection[str], model: str) -> CardFailures:
    """After a load of `model`, which has an engine of its own, failed on these GPUs."""
    known = ((uuid, failures.get(uuid, CardFailure())) for uuid in uuids)
    avoided = {uuid: replace(failure, own_engines=failure.own_engines | {model}) for uuid, failure in known}
    return {**failures, **avoided}


def with_unused_cards(failures: CardFailures, uuids: Collection[str], detail: str, at: float) -> CardFailures:
    """After a llama-server that was placed on these GPUs used none."""
    known = ((uuid, failures.get(uuid, CardFailure())) for uuid in uuids)
    unused = {uuid: replace(failure, detail=detail, is_unused=True).paused(at) for uuid, failure in known}
    return {**failures, **unused}


def with_successful_load(failures: CardFailures, uuids: Collection[str], model: str, at: float) -> CardFailures:
    """After `model` was loaded on these GPUs, or on the CPU, which says nothing about them."""
    if CPU in uuids:
        return failures
    # What engines of models' own failed on, they go on avoiding.
    kept = {uuid: CardFailure(own_engines=each) for uuid in uuids if (each := _own_engines(failures, uuid) - {model})}
    others = {uuid: failure for uuid, failure in failures.items() if uuid not in uuids}
    return kept | {
        uuid: failure.paused(at) if failure.until <= at and _is_to_blame(failure, model) else failure
        for uuid, failure in others.items()
    }


def _own_engines(failures: CardFailures, uuid: str) -> frozenset[str]:
    return failures[uuid].own_engines if uuid in failures else frozenset()


def _is_to_blame(failure: CardFailure, loaded: str) -> bool:
    """Whether the card is, now that a model was loaded on another one."""
    return not failure.pauses and (loaded in failure.models or len(failure.models) > 1)


def without_model(failures: CardFailures, model: str) -> CardFailures:
    """After `model` failed on every card: they are not to blame for it."""
    left = {
        uuid: replace(failure, models=failure.models - {model}, own_engines=failure.own_engines - {model})
        for uuid, failure in failures.items()
    }
    return {uuid: failure for uuid, failure in left.items() if failure.models or failure.own_engines or failure.pauses}


def without_own_engines(failures: CardFailures, kept: Collection[str]) -> CardFailures:
    """After a reload: only these models still have engines of their own."""
    left = {uuid: replace(each, own_engines=each.own_engines & frozenset(kept)) for uuid, each in failures.items()}
    return {uuid: failure for uuid, failure in left.items() if failure.models or failure.own_engines or failure.pauses}


def cards_tried(failures: CardFailures, model: str) -> frozenset[str]:
    """The GPUs that the next load of `model` avoids, because the last one failed there."""
    return frozenset(
        uuid
        for uuid, failure in failures.items()
        if model in failure.own_engines or (model in failure.models and not failure.pauses)
    )


def next_try_seconds(failures: CardFailures, now: float) -> float | None:
    """Until the first card that is set aside is tried again; None if there is none."""
    return min((failure.until - now for failure in failures.values() if now < failure.until), default=None)


def cards_in_doubt(failures: CardFailures, now: float) -> frozenset[str]:
    """The GPUs for which no server leaves the CPU yet: they were set aside, and no load has succeeded there since."""
    return frozenset(
        uuid for uuid, failure in failures.items() if now < failure.until + doubled(*_PAUSE_SECONDS, failure.pauses - 1)
    )


def without_set_aside(gpus: GpuSnapshot, failures: CardFailures, now: float) -> GpuSnapshot:
    """The snapshot with the cards that are set aside as missing, with the reason; not the last ones that are left,
    unless engines do not use them."""
    active = {uuid: failure for uuid, failure in failures.items() if now < failure.until}
    if not any(gpu.uuid in active for gpu in gpus.gpus):
        return gpus
    if all(gpu.uuid in active for gpu in gpus.gpus):
        active = {uuid: failure for uuid, failure in active.items() if failure.is_unused}
    return gpus.without({uuid: failure.problem_at(now) for uuid, failure in active.items()})
