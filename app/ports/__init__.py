"""Ports: what the HTTP layer asks of the machine, and the values that cross the border.

`app` may not import `workers`, so the routes know the pool, the catalogue and the rest by these protocols. Each names
the class that implements it; the composition root (workers/runtime.py) is type-checked against them. Other packages
import the names from here.
"""

from app.ports.agents import Agent
from app.ports.bodies import Bodies, BodyFile, RequestBody
from app.ports.clients import Admission, Clients, RateLimits, SharedTexts, TokenCounts, WatchedClient
from app.ports.downloads import Downloads
from app.ports.logs import Logs
from app.ports.models import ModelCatalog
from app.ports.peers import Peers
from app.ports.plans import ModelPlans, Pins, PlanAnswer
from app.ports.relay import ClientSocket, EngineAnswer, RequestRelay, UpstreamRequest
from app.ports.servers import Address, Lease, ServerPool, SlotRequest
from app.ports.state import Reloader, Snapshots
from app.ports.telemetry import EngineLoads, Metrics, RecentActivity, Refusals, RequestLog, Trends

__all__ = [
    "Address",
    "Admission",
    "Agent",
    "Bodies",
    "BodyFile",
    "ClientSocket",
    "Clients",
    "Downloads",
    "EngineAnswer",
    "EngineLoads",
    "Lease",
    "Logs",
    "Metrics",
    "ModelCatalog",
    "ModelPlans",
    "Peers",
    "Pins",
    "PlanAnswer",
    "RateLimits",
    "RecentActivity",
    "Refusals",
    "Reloader",
    "RequestBody",
    "RequestLog",
    "RequestRelay",
    "ServerPool",
    "SharedTexts",
    "SlotRequest",
    "Snapshots",
    "TokenCounts",
    "Trends",
    "UpstreamRequest",
    "WatchedClient",
]
