"""Memory of chunks is used again, and never while somebody holds it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from stformat.store.chunk_cache import ChunkCache

SHAPE, DTYPE = (3, 4), np.dtype(np.uint16)
N_BYTES = 24


def put(cache, number):
    chunk = cache.empty(SHAPE, DTYPE)
    chunk[...] = number
    cache.put(("x", number), chunk)
    return chunk


def addresses(cache):
    return [spare.ctypes.data for spare in cache._spare]


def test_memory_of_a_chunk_that_nobody_holds_is_used_again():
    cache = ChunkCache(max_bytes=2 * N_BYTES)
    first = put(cache, 0).ctypes.data
    for number in (1, 2):
        put(cache, number)
    assert addresses(cache) == [first]
    again = cache.empty(SHAPE, DTYPE)
    assert (again.ctypes.data, again.flags.writeable) == (first, True)
    assert addresses(cache) == []


def test_memory_of_another_shape_or_type_is_not():
    cache = ChunkCache(max_bytes=N_BYTES)
    for number in (0, 1):
        put(cache, number)
    (spare,) = addresses(cache)
    for shape, dtype in (((4, 3), DTYPE), (SHAPE, np.dtype(np.int16))):
        assert cache.empty(shape, dtype).ctypes.data != spare


def test_memory_that_is_held_is_not_used_again():
    cache = ChunkCache(max_bytes=N_BYTES)
    put(cache, 0)
    whole, part = cache.get(("x", 0)), cache.get(("x", 0))[1:, :2]
    for number in (1, 2):
        put(cache, number)
    assert len(addresses(cache)) == 1  # that of chunk 1
    assert (whole == 0).all()
    del whole
    for number in (3, 4, 5):
        put(cache, number)
    assert part.ctypes.data not in addresses(cache)
    assert (part == 0).all()
    assert not part.flags.writeable


def test_few_chunks_are_spare_and_none_after_clearing():
    cache = ChunkCache(max_bytes=40 * N_BYTES)
    for number in range(40):
        put(cache, number)
    cache.max_bytes = N_BYTES
    put(cache, 40)
    assert len(addresses(cache)) == 16
    cache.clear()
    assert (addresses(cache), cache.n_bytes) == ([], 0)


def test_threads_never_see_another_chunk():
    cache = ChunkCache(max_bytes=4 * N_BYTES)

    def read(seed):
        rng = np.random.default_rng(seed)
        for number in rng.integers(0, 12, 3000).tolist():
            chunk = cache.get(("x", number))
            if chunk is None:
                chunk = put(cache, number)
            part = chunk[1]
            del chunk
            assert (part == number).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
