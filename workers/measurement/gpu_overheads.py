"""What a llama-server takes on a GPU beside its buffers, by the GPU's model, as `bench/gpu` measured it elsewhere.

The CUDA context and its libraries: it goes by the GPU and its driver, not by the model that is loaded.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

TABLE = Path(__file__).with_name("gpu_overheads.json")


@functools.cache
def measured_overheads(file: Path = TABLE) -> dict[str, int]:
    """Bytes by the name that NVML gives the GPU."""
    return {name: int(entry["overhead_bytes"]) for name, entry in json.loads(file.read_text()).items()}
