"""Chunks that a request wants whole are decoded where they go."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from stformat.store import chunk_source
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache

DATA = np.random.default_rng(1).integers(0, 1000, 1000).astype(np.int32)


@pytest.fixture
def vector(tmp_path, open_loose):
    """Chunks of 32 elements, the last of which overhangs."""
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    array = root.create_array(
        "a", shape=1000, dtype="int32", chunks=(32,), compressors=ZstdCodec(checksum=True)
    )
    array[:] = DATA
    return open_loose(tmp_path)


@pytest.fixture
def decoded(monkeypatch):
    """What chunks are decoded to, in order."""
    found = []
    original = chunk_source.decode_into

    def decode(frame, out, **settings):
        original(frame, out, **settings)
        found.append(out)

    monkeypatch.setattr(chunk_source, "decode_into", decode)
    monkeypatch.setenv("STFORMAT_NUM_THREADS", "1")
    return found


@pytest.mark.parametrize(
    ("ranges", "in_place"),
    [
        pytest.param([(3, 70)], [False, True, False], id="parts of the first and the last"),
        pytest.param([(32, 64), (64, 96), (0, 32)], [True, True, True], id="in any order"),
        pytest.param([(32, 64), (32, 64)], [False], id="twice"),
        pytest.param([(32, 48), (48, 64)], [True], id="in adjacent parts"),
        pytest.param([(32, 48), (0, 3), (48, 64)], [False, False], id="in parts that lie apart"),
        pytest.param([(960, 1000)], [True, False], id="the last one overhangs"),
    ],
)
def test_chunks_that_are_wanted_whole_are_decoded_where_they_go(vector, decoded, ranges, in_place):
    starts, stops = np.array(ranges).T
    found = ArrayReader(vector, "a").read_1d_ranges(starts, stops)
    by_place = sorted(decoded, key=lambda out: out.ctypes.data)
    assert sorted(np.shares_memory(out, found) for out in by_place) == sorted(in_place)
    np.testing.assert_array_equal(found, np.concatenate([DATA[a:b] for a, b in ranges]))


def test_other_types_and_chunks_that_are_kept_are_copied(vector, decoded):
    starts, stops = np.array([0]), np.array([64])
    wide = ArrayReader(vector, "a").read_1d_ranges(
        starts, stops, empty=lambda n: np.empty(n, np.int64)
    )
    kept = ArrayReader(vector, "a", cache=ChunkCache(10**6)).read_1d_ranges(starts, stops)
    for found in (wide, kept):
        assert not any(np.shares_memory(out, found) for out in decoded)
        np.testing.assert_array_equal(found, DATA[:64])
