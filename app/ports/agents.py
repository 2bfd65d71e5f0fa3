"""Port of agents: functions of other packages that change, or answer, chat requests (docs/agents.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Body = dict[str, Any]  # of a chat request, parsed

# Returns None for a request that stays as it is, a changed request, or its answer: a chat completion with "choices".
Agent = Callable[[Body], Mapping[str, Any] | None]
