"""GET /status: the one account of the running service that the status page, `ps` and `top` show.

All numbers are in base units; null means unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.entities.download import Download
from app.entities.engine_load import Drafts, EngineLoad
from app.entities.gpu import Gpu
from app.entities.launch import EngineFacts
from app.entities.memory import MemoryReading
from app.entities.peer import PeerStatus
from app.entities.placement import CPU
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.decision_text import decision_text
from app.use_cases.reporting.downloads import download_list
from app.use_cases.reporting.gpu_programs import other_processes
from app.use_cases.reporting.gpu_segments import gpu_segments
from app.use_cases.reporting.last_hour import ActivityCounts, last_hour
from app.use_cases.reporting.peer_models import peers_report
from app.use_cases.reporting.recent_requests import RequestRecord, requests_report
from app.use_cases.reporting.server_status import servers_status
from app.use_cases.reporting.waiting import queue_report
from app.use_cases.scheduling.pool_state import PoolState

MAX_DECISIONS = 20


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the report of one viewer is made of, all of the same moment."""

    pool: PoolState  # the whole
    visible: PoolState  # its servers and waiting requests that the viewer may see
    memory: MemoryReading | None  # now
    decisions: tuple[DecisionRecord, ...]  # that the viewer may see, newest last
    records: tuple[RequestRecord, ...]  # of requests to models that it may see, newest first
    loads: Mapping[int, EngineLoad]  # by the ids of the busy servers
    drafts: Mapping[int, Drafts]  # by the ids of those that draft
    hour: Sequence[ActivityCounts]  # of the last hour, of each of those models
    downloads: tuple[Download, ...]  # that the viewer may see, newest last
    peers: tuple[PeerStatus, ...]  # with their models that it may use
    reasons: tuple[str, ...]  # why the service is degraded
    engine: EngineFacts | None
    version: str
    sees_all: bool  # whether it may see every model: only then other processes are listed, hidden models among them
    is_admin: bool  # whether the viewer may load, unload, pin and read logs
    sees_paths: bool  # of this machine
    may_pull: bool  # whether it may order downloads of some models
    uptime_seconds: float
    now: float  # monotonic seconds
    at: float  # the same moment in Unix seconds


def service_status(facts: StatusFacts) -> dict[str, object]:
    """The body of GET /status."""
    pool, visible, now = facts.pool, facts.visible, facts.now
    return {
        "version": facts.version,
        "status": "draining" if pool.draining else "ok",
        "degraded": bool(facts.reasons),
        "reasons": list(facts.reasons),
        "at": round(facts.at, 3),
        "uptime_seconds": round(facts.uptime_seconds, 1),
        "admin": facts.is_admin,
        "engine": {"kind": facts.engine.kind, "version": facts.engine.version} if facts.engine else None,
        "waiting": len(visible.waiting),
        **_gpus(facts),
        "ram": _ram(pool, facts.memory),
        "servers": servers_status(visible, facts.loads, facts.drafts, now, facts.at, facts.sees_paths),
        "queue": queue_report(visible, now),
        "downloads": download_list(facts.downloads),
        "may_pull": facts.may_pull,
        "peers": peers_report(facts.peers),
        "decisions": _decisions(facts.decisions) if facts.is_admin else [],
        "requests": requests_report(facts.records, names_keys=facts.is_admin),
        "last_hour": last_hour(facts.hour),
    }


def _gpus(facts: StatusFacts) -> dict[str, object]:
    snapshot = facts.pool.gpus.as_of(facts.now)
    return {
        "gpus_state": snapshot.state,
        "gpus_problem": snapshot.problem,
        "gpus_age_seconds": round(facts.now - snapshot.at, 1) if snapshot.gpus else None,
        "driver_version": snapshot.driver_version,
        "cuda_version": snapshot.cuda_version,
        "gpus": [_gpu(gpu, facts) for gpu in snapshot.gpus],
        "missing_gpus": [
            {"index": each.index, "name": each.name, "uuid": each.uuid, "problem": each.problem}
            for each in snapshot.missing
        ],
    }


def _gpu(gpu: Gpu, facts: StatusFacts) -> dict[str, object]:
    pool = facts.pool
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "problem": gpu.problem,
        "total_bytes": gpu.total_bytes,
        "used_bytes": gpu.used_bytes,
        "free_bytes": gpu.free_bytes,
        "utilization_percent": gpu.utilization_percent,
        "temperature_celsius": gpu.temperature_celsius,
        "power_watts": gpu.power_watts,
        "drives_display": gpu.drives_display,
        "unified": gpu.is_unified,
        "segments": gpu_segments(gpu, pool, {server.id for server in facts.visible.servers}),
        "other_processes": other_processes(gpu, pool) if facts.sees_all else [],
    }


def _ram(pool: PoolState, memory: MemoryReading | None) -> dict[str, int] | None:
    if memory is None:
        return None
    booked = sum(server.placement.by_memory(server.booked)[CPU] for server in pool.servers)
    return {"total_bytes": memory.total_bytes, "available_bytes": memory.available_bytes, "booked_bytes": booked}


def _decisions(decisions: tuple[DecisionRecord, ...]) -> list[dict[str, object]]:
    return [
        {
            "at": round(record.at, 3),
            "model": record.model,
            "outcome": record.decision.outcome,
            "text": decision_text(record),
        }
        for record in reversed(decisions[-MAX_DECISIONS:])
    ]
