"""Memory comes back only when nobody holds it, is bounded, and bounds what an epoch takes."""

from __future__ import annotations

import gc
import json
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
import json, sys, time, psutil
from stformat.loader import TileLoader
import numba, scipy.sparse
process = psutil.Process()
def anonymous():
    memory = process.memory_info()
    return memory.rss - memory.shared
peak, n_bytes = 0, 0
loader = TileLoader([sys.argv[1]] * int(sys.argv[2]), tile_px=224, **json.loads(sys.argv[3]))
before = anonymous()
for batch in loader:
    n_bytes += batch["tile"].nbytes
    time.sleep(0.1)  # as long as whoever trains: all that is made ahead is made
    peak = max(peak, anonymous())
print(peak - before, n_bytes)
"""


@pytest.mark.parametrize(
    ("kind", "n_slides", "options", "limit"),
    [
        pytest.param(
            "bins", 12, {"batch_size": 64, "buffer_bytes": 96 * MIB}, 96 * MIB, id="overlapping"
        ),
        pytest.param(
            "spots", 40, {"batch_size": 144, "buffer_bytes": 384 * MIB, "dtype": "float32"},
            384 * MIB, id="floats",
        ),
        pytest.param(
            "spots", 40, {"batch_size": 64, "buffer_bytes": 128 * MIB}, 170 * MIB, id="apart"
        ),
        pytest.param(
            "spots", 50, {"batch_size": 64, "buffer_bytes": 48 * MIB, "workers": 4}, 246 * MIB,
            id="4 workers, whose groups take more than twice the buffer",
        ),
    ],
)  # fmt: skip
def test_an_epoch_takes_its_buffer_and_little_beside(store, kind, n_slides, options, limit):
    """Tiles of more than the limit stream through."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(store(kind)), str(n_slides), json.dumps(options)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, n_bytes = map(int, done.stdout.split())
    assert n_bytes > 1.5 * limit
    assert peak < limit
