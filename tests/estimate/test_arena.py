"""The arena places tensors as ggml's allocator does."""

from app.use_cases.estimate.arena import Arena


def test_a_tensor_goes_into_the_smallest_gap_that_holds_it():
    arena = Arena()
    large, _, small, _ = arena.take(1024), arena.take(128), arena.take(512), arena.take(128)
    arena.free(large, small)
    assert arena.take(500) == (small[0], 512)  # sizes are rounded up to 128 bytes
    assert arena.take(600) == (large[0], 640)


def test_of_equal_gaps_the_last_is_taken():
    arena = Arena()
    first, _, second, _ = (arena.take(256) for _ in range(4))
    arena.free(first, second)
    assert arena.take(256) == second


def test_neighbouring_gaps_become_one():
    arena = Arena()
    rooms = [arena.take(256) for _ in range(3)]
    arena.take(256)
    arena.free(rooms[0], rooms[2], rooms[1])
    assert arena.take(768) == (0, 768)


def test_a_gap_that_is_too_small_makes_the_buffer_grow():
    arena = Arena()
    freed, _ = arena.take(256), arena.take(256)
    arena.free(freed)
    arena.take(384)
    assert arena.peak == 256 + 256 + 384


def test_room_at_the_end_is_used_again():
    arena = Arena()
    arena.free(arena.take(1024))
    arena.take(2048)
    assert arena.peak == 2048
