"""Imports the agents that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.ports import Agent
from app.settings.agents import installed_agents
from app.settings.configuration import ConfigurationError


def load_agents(names: Sequence[str]) -> Mapping[str, Agent]:
    """The agents by name; `names` are installed. Raises ConfigurationError for one that cannot be used."""
    installed = installed_agents()
    return {name: _loaded(name, installed[name].load) for name in names}


def _loaded(name: str, load: Callable[[], Any]) -> Agent:
    try:
        agent = load()
    except Exception as error:  # whatever its module raises
        raise ConfigurationError(f"agents: {name} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(agent):
        raise ConfigurationError(f"agents: {name} is not a function, but {type(agent).__name__}")
    found: Agent = agent
    return found
