"""The kinds of faults. Each is a function of the target and of its own random choices, and leaves all as it was."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.soak.outcome import Answer
from bench.soak.target import Target

Fault = Callable[[Target, random.Random], None]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    """Registers a kind of fault under the function's name."""
    FAULTS[function.__name__] = function
    return function


class Together:
    """Requests in threads of their own while a fault happens: `with Together(target) as asked: asked.chat("alpha")`.
    At the end all have been answered and counted."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pool = ThreadPoolExecutor(200)

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def chat(self, model: str, **fields: Any) -> None:
        self._pool.submit(self._target.ask, model, **fields)

    def do(self, what: Callable[..., object], *arguments: Any) -> None:
        self._pool.submit(self._reported, what, *arguments)

    def _reported(self, what: Callable[..., object], *arguments: Any) -> None:
        try:
            what(*arguments)
        except Exception as error:
            self._target.account.fail(f"{what}: {error!r}")


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def is_refusal(answer: Answer) -> bool:
    return answer.status >= 400


LONG: dict[str, Any] = {"stream": True, "max_tokens": 2000, "ignore_eos": True}
