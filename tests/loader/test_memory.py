"""Memory comes back only when nobody holds it, is bounded, and bounds what an epoch takes."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys

import numpy as np
import pytest

from stformat.loader import TileLoader
from stformat.loader.memory import Memory

MIB = 2**20


def address(array: np.ndarray) -> int:
    return array.ctypes.data


@pytest.mark.parametrize("view", [np.ravel, np.transpose, lambda a: a[1:][::2], memoryview])
def test_a_view_keeps_the_memory(view):
    memory = Memory(max_bytes=64 * MIB)
    array = memory.empty((4, 5), np.float32)
    place = address(array)
    kept = view(array)
    del array
    assert address(memory.empty((4, 5), np.float32)) != place
    del kept
    gc.collect()
    reused = {address(array) for array in [memory.empty((20,), np.uint16) for _ in range(2)]}
    assert place in reused


def idle_mib(memory):
    return [owner.nbytes // MIB for owner in memory._idle.values()]


def test_memory_that_is_kept_is_bounded():
    memory = Memory(max_bytes=24 * MIB)
    arrays = [memory.empty((6 * MIB,), np.uint8) for _ in range(5)]
    assert len({address(array) for array in arrays}) == 5
    del arrays[:2]
    assert idle_mib(memory) == []  # three of 8 MiB are still in use
    del arrays[:2]
    assert idle_mib(memory) == [8, 8]
    larger = memory.empty((14 * MIB,), np.uint8)
    assert idle_mib(memory) == []  # made room: 8 and 14 are in use
    del arrays, larger
    assert 0 < sum(idle_mib(memory)) <= 24
    memory.clear()
    assert idle_mib(memory) == []
    assert not idle_mib(pickle.loads(pickle.dumps(memory)))  # noqa: S301 - our own
    assert memory.empty((0, 3), np.int64).shape == (0, 3)


def test_memory_that_is_somewhat_larger_is_used_again():
    memory = Memory(max_bytes=200 * MIB)
    held = [memory.empty((size * MIB,), np.uint8) for size in (32, 12, 16)]
    places = [address(array) for array in held]
    del held
    assert address(memory.empty((11 * MIB,), np.uint8)) == places[1]
    assert address(memory.empty((24 * MIB,), np.uint8)) == places[0]
    assert address(memory.empty((4 * MIB,), np.uint8)) not in places


def test_batches_that_are_kept_are_not_written_to(paths, same):
    options = {"tile_px": 40, "batch_size": 32, "dtype": "float32"}
    loader = TileLoader(paths, **options)
    kept = list(loader)
    again = TileLoader(paths, **options, workers=0)
    for _ in range(2):
        again.set_epoch(0)
        for one, two in zip(kept, again, strict=True):
            assert same(one, two)


def test_a_loader_uses_its_memory_again_and_gives_it_up(paths):
    loader = TileLoader(paths, tile_px=40, batch_size=32)
    for _ in loader:
        pass
    gc.collect()
    kept = idle_mib(loader._memory)
    assert kept
    addresses = set(loader._memory._idle)
    for _ in loader:
        pass
    gc.collect()
    assert addresses & set(loader._memory._idle)
    loader.close()
    assert idle_mib(loader._memory) == []


PEAK = """
import sys, psutil
from stformat.loader import TileLoader
import numba, scipy.sparse
process = psutil.Process()
def anonymous():
    memory = process.memory_info()
    return memory.rss - memory.shared
buffer_bytes, peak, n_bytes = 96 * 2**20, 0, 0
loader = TileLoader([sys.argv[1]] * 12, tile_px=224, batch_size=64, buffer_bytes=buffer_bytes)
before = anonymous()
for batch in loader:
    peak = max(peak, anonymous())
    n_bytes += batch["tile"].nbytes
print(peak - before, n_bytes)
"""


def test_an_epoch_takes_its_buffer_and_little_beside(store):
    """Tiles of 5 times the limit stream through."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(store("bins"))],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, n_bytes = map(int, done.stdout.split())
    limit = 96 * MIB
    assert n_bytes > 400 * MIB
    assert peak < limit + 150 * MIB
