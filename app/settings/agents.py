"""Which agents are installed: functions of other packages, found by their entry points (docs/agents.md)."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

GROUP = "llama_smart_proxy.agents"


def installed_agents() -> dict[str, EntryPoint]:
    """By name. Nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}
