"""The metrics of the service, beside those that other parts add."""

from __future__ import annotations

from workers.clients.daily_tokens import DailyTokens
from workers.downloads.downloader import Downloader
from workers.engine.engines import Engines
from workers.folders import version
from workers.peers.peer_group import PeerGroup
from workers.request_bodies.held_body import RequestBodies
from workers.telemetry.download_gauges import DownloadGauges
from workers.telemetry.gauges import Gauges
from workers.telemetry.key_gauges import KeyGauges
from workers.telemetry.peer_gauges import PeerGauges
from workers.telemetry.service_gauges import ServiceGauges
from workers.telemetry.store import StateStore


def build_gauges(
    store: StateStore,
    engines: Engines,
    tokens: DailyTokens,
    bodies: RequestBodies,
    downloads: Downloader,
    peers: PeerGroup,
) -> Gauges:
    gauges = Gauges(store, version())
    gauges.add(ServiceGauges(store, engines.service, engines.states))
    gauges.add(KeyGauges(tokens.all))
    gauges.add(DownloadGauges(downloads))
    gauges.add(PeerGauges(lambda: peers.statuses))
    help_text = "Memory taken by request bodies, those that were announced and have not arrived included."
    gauges.watch("request_bodies_bytes", help_text, lambda: bodies.budget.taken_bytes)
    return gauges
