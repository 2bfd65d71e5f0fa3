"""The memory that an engine lists for a GPU: where NVML reports none, it tells whether that is the machine's RAM."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from app.entities.launch import EngineFacts
from workers.engine.gpu_probe import LIST_DEVICES
from workers.engine.probe_process import EngineNotFound, probe_output

log = logging.getLogger(__name__)

# Its free memory follows. For an integrated GPU, CUDA's total is about the RAM's (llama.cpp, ggml-cuda.cu, b11549).
_CUDA_DEVICE = re.compile(r"^ +CUDA\d+: .+\((\d{1,9}) MiB,", re.MULTILINE)


def listed_memory(engine: EngineFacts, extra: Mapping[str, str], uuid: str) -> int:
    """Bytes of this GPU in the engine's list of devices; 0 if it lists none, or cannot be asked. Takes seconds.

    `extra` is added to its environment, as for a server.
    """
    if LIST_DEVICES not in engine.flags:
        return 0
    try:
        text = probe_output((*engine.command, LIST_DEVICES), {**extra, "CUDA_VISIBLE_DEVICES": uuid})
    except EngineNotFound as error:
        log.warning("cannot ask the engine for the memory of GPU %s: %s", uuid, error)
        return 0
    found = _CUDA_DEVICE.search(text)
    return int(found[1]) * 1024**2 if found else 0
