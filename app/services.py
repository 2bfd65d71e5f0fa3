"""Services: what the HTTP routes may ask of the machine, so that no route imports from workers/.

Built once, by workers/runtime.py. Fields of type Any name the class they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import current_app

from app.entities.key import ApiKey
from app.entities.launch import EngineFacts

EXTENSION = "llama-smart-proxy"
DIRECT = "llama_smart_proxy.direct"  # in a request's environ: its client's socket to send an answer on, or None
END = "llama_smart_proxy.end"  # in a request's environ: end(status), for the worker to call if the application cannot


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What decides who may come in."""

    keys: tuple[ApiKey, ...] = ()
    host: str = "127.0.0.1"  # the address the service was told to listen on
    loopback_only: bool = True  # it listens there for this machine alone, and means it


@dataclass(frozen=True, slots=True)
class Services:
    catalog: Any  # workers.catalog.catalog.Catalog: find(name), models(), servable(model)
    store: Any  # workers.telemetry.store.StateStore: the published snapshots
    pool: Any  # workers.pool.pool.Pool: ask(), load(), unload(), address()
    relay: Any  # workers.relay.relay.Relay: send()
    clients: Any  # workers.clients.client_watch.ClientWatcher: watch(socket)
    admission: Any  # workers.clients.admission.Places: taken by inference requests, so that others always find a thread
    rates: Any  # workers.clients.rates.Rates: take(key)
    access_log: Any  # workers.telemetry.access_log.AccessLog: note(...)
    gauges: Any  # workers.telemetry.gauges.Gauges: what /metrics shows
    engine: EngineFacts | None  # None: there is none, and `engine_problem` says what to do about it
    engine_problem: str
    access_policy: AccessPolicy
    max_body: int  # bytes
    max_loaded: int | None
    max_wait_seconds: float
    loading_comments: bool | str  # "reasoning_content": as thoughts, which chat programs show
    version: str


def services() -> Services:
    """Those of the application that answers the present request."""
    found: Services = current_app.extensions[EXTENSION]
    return found
