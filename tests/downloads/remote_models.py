"""Large models on the Hugging Face-shaped server, which cost nothing, and a machine with simulated GPUs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from app.entities.memory import MemoryReading
from app.settings.schema import Settings
from app.use_cases.model_shape.shape import model_shape
from tests.helpers.builders import memory
from tests.helpers.gguf_bytes import Info, a_header
from tests.helpers.gpu_play import METADATA, GpuPlay, Hardware
from tests.helpers.hub_repository import Content
from workers.build_downloads import ServiceMachine
from workers.catalog.model_headers import ModelHeaders
from workers.measurement.history import History
from workers.pool.estimate_source import EstimateSource
from workers.pool.plans import Plans
from workers.telemetry.store import StateStore

GIB = 1024**3
LAYERS = 36
QUANTS = {  # ggml's type of the weights
    "F16": 1,
    "BF16": 30,
    "Q8_0": 8,
    "Q6_K": 14,
    "Q5_K_M": 13,
    "Q4_K_M": 12,
    "Q4_0": 2,
    "IQ4_XS": 23,
    "Q3_K_M": 11,
    "Q2_K": 10,
}


def a_remote_model(type: int, layers: int = LAYERS, trained_tokens: int = 65536) -> Content:
    """A model of 7 billion parameters with 36 layers; an equal weight for every type."""
    infos = [Info("token_embd.weight", (4096, 32000), type), Info("output.weight", (4096, 32000), type)]
    for il in range(layers):
        infos += [Info(f"blk.{il}.{name}.weight", (4096, 14336), type) for name in ("ffn_gate", "ffn_up", "ffn_down")]
        infos += [Info(f"blk.{il}.{name}.weight", (4096, 4096), type) for name in ("attn_q", "attn_output")]
    header = a_header({**METADATA, "llama.block_count": layers, "llama.context_length": trained_tokens}, infos)
    return Content(header, len(header) + sum(info.size_bytes for info in infos) + 4096)


def ten_quants() -> dict[str, Content]:
    return {f"Foo-{name}.gguf": a_remote_model(type) for name, type in QUANTS.items()}


class SimulatedMachine:
    """GPUs by UUID with GiB of memory, 64 GiB of RAM, and the settings of an empty configuration or these."""

    def __init__(self, folder: Path, gpus: Mapping[str, float], settings: Settings | None = None) -> None:
        self._play = GpuPlay(Hardware(dict(gpus)))
        self._play.post(self._play.polled(at=time.monotonic()))
        self.store = StateStore(self._play.state)
        self._shapes = ModelHeaders(model_shape)
        needs = EstimateSource(History(folder / "history"), lambda own: None, self._shapes, lambda: self.store.gpus)
        plans = Plans(self.store, needs.placement_request, self._read_memory)
        self.machine = ServiceMachine(lambda: settings or Settings(), needs, plans)

    def load(self, name: str) -> None:
        """A model of eight layers, idle for 100 seconds."""
        self._play.loaded(name, at=time.monotonic() - 100)
        self._play.post(self._play.polled(at=time.monotonic()))
        self.store.pool = self._play.state

    def _read_memory(self, pids: Mapping[int, int]) -> MemoryReading:
        return memory(time.monotonic(), 64.0, 64.0)
