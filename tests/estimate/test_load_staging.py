"""What a load takes for a moment is booked where it exceeds what comes later."""

from __future__ import annotations

from app.entities.launch import LoadMode, ModelOptions
from app.use_cases.estimate.estimate import estimate_memory
from bench.estimate import shape_of

MIB = 1024**2
SHAPE = shape_of("llama-3.1-8b", "Q4_K_M")
LARGEST = SHAPE.output_bytes  # 128,256 x 4,096 values of Q6_K: 411 MiB; its norm and rope factors are in it


def margins(**options: object) -> list[int]:
    """Of RAM, by mode: mmap and auto, read, direct."""
    modes = (LoadMode.AUTO, LoadMode.MMAP, LoadMode.READ, LoadMode.DIRECT)
    estimates = [estimate_memory(SHAPE, ModelOptions(**options, load_mode=mode)) for mode in modes]
    assert estimates[0] == estimates[1] and len({each.devices for each in estimates}) == 1
    later = estimates[0].host.context_bytes + estimates[0].host.compute_bytes
    return [each.host.margin_bytes - estimates[0].host.margin_bytes + later for each in estimates[1:]]


def test_on_a_gpu_the_largest_tensor_passes_through_ram():
    later = estimate_memory(SHAPE, ModelOptions(ctx_size=4096)).host
    assert margins(ctx_size=4096) == [later.context_bytes + later.compute_bytes, LARGEST, LARGEST + 64 * MIB]


def test_nothing_is_added_where_the_kv_cache_in_ram_needs_more():
    # 131,072 tokens x 2 x 1,024 values x 2 bytes x 32 layers = 16 GiB
    on_cpu = estimate_memory(SHAPE, ModelOptions(ctx_size=131072, devices=0, n_gpu_layers=0)).host
    later = on_cpu.context_bytes + on_cpu.compute_bytes
    assert margins(ctx_size=131072, devices=0, n_gpu_layers=0) == [later, later, later]
