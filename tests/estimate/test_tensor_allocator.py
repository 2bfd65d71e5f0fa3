"""Tensors are placed as ggml-alloc places them."""

from app.use_cases.estimate.tensor_allocator import TensorAllocator


def test_a_tensor_goes_into_the_smallest_gap_that_holds_it():
    allocator = TensorAllocator()
    large, _, small, _ = (
        allocator.allocate(1024),
        allocator.allocate(128),
        allocator.allocate(512),
        allocator.allocate(128),
    )
    allocator.free(large, small)
    assert allocator.allocate(500) == (small[0], 512)  # sizes are rounded up to 128 bytes
    assert allocator.allocate(600) == (large[0], 640)


def test_of_equal_gaps_the_last_is_taken():
    allocator = TensorAllocator()
    first, _, second, _ = (allocator.allocate(256) for _ in range(4))
    allocator.free(first, second)
    assert allocator.allocate(256) == second


def test_neighbouring_gaps_become_one():
    allocator = TensorAllocator()
    tensors = [allocator.allocate(256) for _ in range(3)]
    allocator.allocate(256)
    allocator.free(tensors[0], tensors[2], tensors[1])
    assert allocator.allocate(768) == (0, 768)


def test_a_gap_that_is_too_small_makes_the_buffer_grow():
    allocator = TensorAllocator()
    freed, _ = allocator.allocate(256), allocator.allocate(256)
    allocator.free(freed)
    allocator.allocate(384)
    assert allocator.peak == 256 + 256 + 384


def test_memory_at_the_end_is_used_again():
    allocator = TensorAllocator()
    allocator.free(allocator.allocate(1024))
    allocator.allocate(2048)
    assert allocator.peak == 2048
