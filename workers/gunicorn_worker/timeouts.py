"""WorkerTimeouts: settings of the worker that gunicorn does not have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerTimeouts:
    receive_timeout_seconds: float = 10.0  # for a request head; for all pauses in a body together
    send_timeout_seconds: float = 300.0  # without progress, for a client that does not read
    drain_seconds: float = 30.0
    stop_seconds: float = 10.0
