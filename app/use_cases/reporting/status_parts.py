"""What the status page and the terminal both derive from GET /status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_numbers(status: Mapping[str, Any]) -> dict[str, int]:
    """A number for each loaded model, by which its colour is chosen, in the order of the servers: a model keeps its
    colour while those before it stay."""
    return {name: number for number, name in enumerate(dict.fromkeys(each["model"] for each in status["servers"]))}


def ram_parts(ram: Mapping[str, int]) -> tuple[int, int, int]:
    """Bytes of the models, of other programs, and free ones. What is booked for models counts as theirs, as far as it
    is in use."""
    used = max(0, ram["total_bytes"] - ram["available_bytes"])
    of_models = min(ram["booked_bytes"], used)
    return of_models, used - of_models, ram["total_bytes"] - used
