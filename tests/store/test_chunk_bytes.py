"""Bytes of chunks are found by an index that is verified, and read in few, bounded runs."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import ZstdCodec

from stformat.errors import CorruptStoreError
from stformat.store import chunk_bytes
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_bytes import ChunkBytes

N_CHUNKS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes")
    data = np.random.default_rng(0).integers(0, 256, 64 * N_CHUNKS).astype(np.uint8)
    array = zarr.open_group(str(path), mode="w", zarr_format=3).create_array(
        "a",
        shape=data.shape,
        dtype=data.dtype,
        chunks=(64,),
        shards=(64 * 16,),
        compressors=(ZstdCodec(level=1, checksum=True),),
    )
    array[...] = data
    return path


@pytest.fixture
def store(folder, open_loose):
    return open_loose(folder)


def open_bytes(store) -> ChunkBytes:
    return ChunkBytes(store.files, "a", store.array("a"), max_bytes=200)


@settings(deadline=None)
@given(st.sets(st.integers(0, N_CHUNKS - 1)).map(list), st.integers(1, 1000))
def test_runs_cover_each_chunk_once_and_no_byte_between(folder, open_loose, chunks, n_bytes):
    store = open_loose(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_bytes, "_MAX_RUN_BYTES", n_bytes)
        runs = open_bytes(store).locate(np.array(chunks, dtype=np.int64))
    assert sorted(at for run in runs for at in run.positions) == list(range(len(chunks)))
    for run in runs:
        assert [chunks[at] for at in run.positions] == run.chunks
        stops = [start + size for start, size in zip(run.starts, run.lengths, strict=True)]
        assert stops[:-1] == run.starts[1:]
        assert run.starts[-1] - run.starts[0] < n_bytes
        shards = {chunk // 16 for chunk in run.chunks}
        assert [f"a/c/{shard}" for shard in shards] == [run.key]


def test_adjacent_chunks_are_read_at_once_unless_threads_would_wait(store, monkeypatch):
    every = np.arange(16)
    monkeypatch.setattr(chunk_bytes, "thread_count", lambda: 1)
    few = open_bytes(store).locate(every)
    monkeypatch.setattr(chunk_bytes, "thread_count", lambda: 4)
    more = open_bytes(store).locate(every)
    assert 4 <= len(few) < len(more) <= 16


def test_an_index_is_read_once(store, monkeypatch):
    reader = ArrayReader(store, "a")
    reader.read_1d(0, 10)
    monkeypatch.setattr(store.files, "read_tail", None)
    reader.read_1d(64, 900)


def test_a_changed_index_is_damage_however_plausible(folder, open_loose, tmp_path):
    (tmp_path / "a/c").mkdir(parents=True)
    (tmp_path / "a/zarr.json").write_bytes((folder / "a/zarr.json").read_bytes())
    shard = bytearray((folder / "a/c/0").read_bytes())
    first, second = (slice(at, at + 16) for at in (len(shard) - 260, len(shard) - 244))
    shard[first], shard[second] = shard[second], shard[first]
    (tmp_path / "a/c/0").write_bytes(shard)
    with pytest.raises(CorruptStoreError, match="checksum of it"):
        ArrayReader(open_loose(tmp_path), "a").read_1d(0, 10)
