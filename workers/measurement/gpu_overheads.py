"""The GPU memory of a llama-server besides its buffers, by GPU model, as measured with `bench/gpu`.

It is the CUDA context and its libraries, so it depends on the GPU and driver, not on the loaded model.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

TABLE = Path(__file__).with_name("gpu_overheads.json")


@functools.cache
def measured_overheads(file: Path = TABLE) -> dict[str, int]:
    """Bytes by NVML's name of the GPU."""
    return {name: int(entry["overhead_bytes"]) for name, entry in json.loads(file.read_text()).items()}
