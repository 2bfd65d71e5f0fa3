"""The file that `plan --gpus` reads: GPUs and the servers on them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from app.entities.placement import CPU, Card, GpuLimits, Policy, Resident
from app.entities.server import ServerState
from app.use_cases.placement.ledger import ENDING_STATES
from app.use_cases.placement.world import World


class InvalidGpusFile(Exception):
    """The file cannot be read or is not valid; the message is one line."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Gpu(_Strict):
    uuid: str = Field(min_length=1)
    name: str = "GPU"
    total_bytes: NonNegativeInt
    free_bytes: NonNegativeInt
    utilization_percent: float = Field(0.0, ge=0, le=100)


class _Server(_Strict):
    model: str
    state: ServerState = ServerState.READY
    busy: bool = False
    idle_seconds: NonNegativeFloat = 0.0
    bytes: dict[str, NonNegativeInt] = {}


class _File(_Strict):
    gpus: list[_Gpu]
    servers: list[_Server] = []


def read_world(file: Path, ram_bytes: int, gpu_limits: GpuLimits, policy: Policy) -> World:
    """What the file says, and what the settings hold back taken off each GPU. Raises InvalidGpusFile."""
    try:
        said = _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InvalidGpusFile(error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidGpusFile(": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))) from error
    known = {gpu.uuid for gpu in said.gpus}
    if CPU in known:
        raise InvalidGpusFile(f"no GPU has the uuid {CPU}")
    if len(known) != len(said.gpus):
        raise InvalidGpusFile("two GPUs have the same uuid")
    if strange := sorted({uuid for server in said.servers for uuid in server.bytes} - known):
        raise InvalidGpusFile(f"a server has memory on {strange[0]}, which is not one of the GPUs")
    here = [each for each in said.servers if each.state not in (ServerState.STOPPED, ServerState.FAILED)]
    cards = tuple(_card(index, gpu, here, gpu_limits) for index, gpu in enumerate(said.gpus))
    residents = tuple(
        Resident(
            *(number, each.model, each.bytes, each.busy, each.idle_seconds),
            is_loading=each.state is ServerState.STARTING,
        )
        for number, each in enumerate(here)
        if each.state not in ENDING_STATES
    )
    return World(cards, residents, {CPU: ram_bytes}, policy=policy)


def _card(index: int, gpu: _Gpu, servers: list[_Server], gpu_limits: GpuLimits) -> Card:
    def held(*states: ServerState) -> int:
        return sum(each.bytes.get(gpu.uuid, 0) for each in servers if not states or each.state in states)

    most, usable = gpu_limits.budget(gpu.total_bytes, gpu.free_bytes, held())
    back = held(ServerState.STOPPING), held(ServerState.DRAINING)
    return Card(gpu.uuid, gpu.name, index, most, usable, *back, gpu_limits.is_busy(gpu.utilization_percent))
