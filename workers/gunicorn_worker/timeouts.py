"""WorkerTimeouts: the settings of the worker that gunicorn has no names for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerTimeouts:
    receive_timeout_seconds: float = 10.0  # for a head; for the silences in a body, together
    send_timeout_seconds: float = 300.0  # for a client that does not read
    drain_seconds: float = 30.0
    stop_seconds: float = 10.0
