"""What Prometheus may scrape, as its HTTP service discovery wants it (`http_sd_configs`)."""

from __future__ import annotations

from collections.abc import Iterable

from app.entities.server import Server

KIND = "__meta_llama_smart_proxy_kind"  # to select by; Prometheus drops __meta_ labels after relabelling


def scrape_targets(address: str, servers: Iterable[Server]) -> list[dict[str, object]]:
    """The service, then the llama-server of each loaded model, by way of the service. `address`: HOST:PORT."""
    models = dict.fromkeys(server.model.name for server in servers if server.is_up)
    service = {KIND: "service"}
    engines = [{"__param_model": name, "model": name, KIND: "engine"} for name in models]
    return [
        {"targets": [address], "labels": {"__metrics_path__": "/metrics", **labels}} for labels in (service, *engines)
    ]
