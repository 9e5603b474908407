"""Reading arrays by the chunk equals zarr-python's reading, and damage is never silent."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.codecs.numcodecs import Zlib as NumcodecsZlib
from zarr.codecs.numcodecs import Zstd as NumcodecsZstd

from stformat.errors import CorruptStoreError, UnsupportedStoreError
from stformat.metadata.zarr_codecs import zstd_codecs
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache

CHECKED = (ZstdCodec(level=1, checksum=True),)


def write(path: Path, data: np.ndarray, **options: Any) -> None:
    options = {"compressors": CHECKED, **options}
    root = zarr.open_group(str(path), mode="a", zarr_format=3)
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = root.create_array(
            "a", shape=data.shape, dtype=data.dtype, overwrite=True, **options
        )
        array[...] = data


def visit_all(reader: ArrayReader) -> np.ndarray:
    """Put an array together from its chunks."""
    out = np.zeros(reader.shape, dtype=reader.dtype)
    chunks = np.arange(np.prod(reader.grid))[::-1]
    seen: list[int] = []

    def place(position: int, chunk: np.ndarray) -> None:
        seen.append(position)
        index = np.unravel_index(chunks[position], reader.grid)
        start = [i * n for i, n in zip(index, reader.metadata.chunks, strict=True)]
        out[tuple(slice(s, s + n) for s, n in zip(start, chunk.shape, strict=True))] = chunk

    reader.visit_chunks(chunks, place)
    assert sorted(seen) == list(range(len(chunks)))
    return out


@st.composite
def chunked_arrays(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    rank = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    chunks = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    dtype = draw(st.sampled_from(["uint8", "uint16", "int32", "int64", "float32", "bool"]))
    seed = draw(st.integers(0, 2**16))
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    options: dict[str, Any] = {"chunks": chunks}
    if draw(st.booleans()):
        options["shards"] = tuple(n * draw(st.integers(1, 3)) for n in chunks)
    options["compressors"] = draw(
        st.sampled_from(
            [
                CHECKED,
                (ZstdCodec(level=0, checksum=False),),
                (BloscCodec(),),
                (BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()),
                (BloscCodec(cname="lz4", shuffle="shuffle"), Crc32cCodec()),
                (BloscCodec(cname="lz4hc", shuffle="noshuffle"),),
                (BloscCodec(cname="blosclz", clevel=9),),
                (BloscCodec(cname="zlib", clevel=0), Crc32cCodec()),
                (GzipCodec(),),
                (NumcodecsZlib(),),
                (NumcodecsZstd(),),
                (ZstdCodec(level=1, checksum=True), Crc32cCodec()),
                (GzipCodec(), Crc32cCodec()),
                (Crc32cCodec(),),
                (),
            ]
        )
    )
    if draw(st.booleans()):
        options["filters"] = (TransposeCodec(order=tuple(range(rank))[::-1]),)
    return values, options


@settings(deadline=None)
@given(chunked_arrays())
def test_every_codec_chain_reads_as_zarr_python_reads_it(tmp_path_factory, open_loose, case):
    data, options = case
    path = tmp_path_factory.mktemp("any")
    write(path, data, **options)
    reader = ArrayReader(open_loose(path), "a")
    np.testing.assert_array_equal(visit_all(reader), data)
    assert reader.dtype == data.dtype


@pytest.mark.parametrize("location", ["start", "end"])
def test_an_index_at_either_end(tmp_path, open_loose, location):
    from zarr.codecs import ShardingCodec

    data = np.arange(100, dtype=np.int32).reshape(10, 10)
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    array = root.create_array(
        "a",
        shape=data.shape,
        dtype=data.dtype,
        chunks=(6, 6),
        serializer=ShardingCodec(
            chunk_shape=(3, 2), codecs=[BytesCodec(), *CHECKED], index_location=location
        ),
        compressors=None,
    )
    array[...] = data
    reader = ArrayReader(open_loose(tmp_path), "a")
    assert (reader.metadata.coding is not None) == (location == "end")
    np.testing.assert_array_equal(visit_all(reader), data)
    shard = tmp_path / "a/c/0/1"
    for damaged in (shard.read_bytes()[:-5], b"", None):
        if damaged is None:
            shard.unlink()
        else:
            shard.write_bytes(damaged)
        with pytest.raises(CorruptStoreError):
            visit_all(ArrayReader(open_loose(tmp_path), "a"))


@pytest.fixture
def vector(tmp_path):
    data = np.random.default_rng(1).integers(0, 1000, 1000).astype(np.int32)
    write(tmp_path, data, chunks=(32,), shards=(128,))
    return tmp_path, data


ranges = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 200)).map(lambda r: (r[0], min(1000, sum(r)))),
    max_size=12,
)


@pytest.fixture(scope="module")
def shared_vector(tmp_path_factory):
    path = tmp_path_factory.mktemp("vector")
    data = np.random.default_rng(1).integers(0, 1000, 1000).astype(np.int32)
    write(path, data, chunks=(32,), shards=(128,))
    return path, data


@settings(deadline=None)
@given(ranges, st.sampled_from([0, 1000, 10**6]))
def test_ranges_are_slices_put_together(shared_vector, open_loose, wanted, cache_bytes):
    path, data = shared_vector
    reader = ArrayReader(open_loose(path), "a", cache=ChunkCache(cache_bytes))
    starts, stops = np.array(wanted, dtype=np.int64).reshape(-1, 2).T
    for _ in range(2):  # the second time from the cache, where there is one
        found = reader.read_1d_ranges(starts, stops)
        expected = [data[a:b] for a, b in wanted]
        np.testing.assert_array_equal(found, np.concatenate([data[:0], *expected]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), max_size=40))
def test_single_elements_are_fancy_indexing(shared_vector, open_loose, positions):
    path, data = shared_vector
    found = ArrayReader(open_loose(path), "a").take_1d(np.array(positions, dtype=np.int64))
    np.testing.assert_array_equal(found, data[positions])


def test_read_1d(vector, open_loose):
    path, data = vector
    reader = ArrayReader(open_loose(path), "a")
    np.testing.assert_array_equal(reader.read_1d(31, 33), data[31:33])
    assert reader.read_1d(5, 5).size == 0


def test_an_array_without_elements(tmp_path, open_loose):
    write(tmp_path, np.empty(0, np.int32), chunks=(1,), shards=(1,))
    reader = ArrayReader(open_loose(tmp_path), "a", cache=ChunkCache())
    assert reader.read_1d(0, 0).shape == reader.take_1d(np.empty(0, int)).shape == (0,)
    assert reader.dtype == np.int32


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 1001)])
def test_ranges_outside_the_array_are_refused(vector, open_loose, start, stop):
    with pytest.raises(ValueError, match="elements 0 to 1000"):
        ArrayReader(open_loose(vector[0]), "a").read_1d(start, stop)


def test_a_chunk_index_outside_the_grid_is_refused(vector, open_loose):
    with pytest.raises(IndexError, match=r"grid of \(32,\)"):
        ArrayReader(open_loose(vector[0]), "a").read_chunk((32,))


def test_each_chunk_is_decoded_once_a_request(vector, open_loose, monkeypatch):
    from stformat.store import chunk_source

    path, _ = vector
    decoded = []
    plain = chunk_source.decode_into
    monkeypatch.setattr(
        chunk_source, "decode_into", lambda *a, **k: (decoded.append(1), plain(*a, **k))
    )
    starts = np.array([0, 990, 5, 0, 40])
    ArrayReader(open_loose(path), "a").read_1d_ranges(starts, starts + 10)
    assert len(decoded) == 4  # chunks 0, 30, 31 and 1


def test_the_cache_spares_reading_and_stays_within_its_bytes(vector, open_loose, monkeypatch):
    path, data = vector
    store = open_loose(path)
    cache = ChunkCache(max_bytes=10 * 128)
    reader = ArrayReader(store, "a", cache=cache)
    reader.read_1d(0, 100)
    assert cache.n_bytes == 4 * 128
    monkeypatch.setattr(store.files, "read_range", None)
    np.testing.assert_array_equal(reader.read_1d(0, 100), data[:100])
    monkeypatch.undo()
    reader.read_1d(0, 1000)  # larger than the cache: what is kept stays as it is
    assert cache.n_bytes == 4 * 128
    for start in range(0, 1000, 32):
        reader.read_1d(start, start + 1)
        assert cache.n_bytes <= 10 * 128


def test_a_request_for_more_than_is_kept_leaves_nothing_behind(vector, open_loose):
    path, data = vector
    cache = ChunkCache(max_bytes=100 * 128)
    reader = ArrayReader(open_loose(path), "a", cache=cache, kept_bytes=2 * 128)
    np.testing.assert_array_equal(reader.read_1d(0, 300), data[:300])
    assert cache.n_bytes == 0
    reader.read_1d(0, 64)
    assert cache.n_bytes == 2 * 128


def test_cached_chunks_cannot_be_written_to(vector, open_loose):
    path, data = vector
    reader = ArrayReader(open_loose(path), "a", cache=ChunkCache())
    reader.read_chunk((0,))[:] = -1
    np.testing.assert_array_equal(reader.read_chunk((0,)), data[:32])

    def spoil(_: int, chunk: np.ndarray) -> None:
        chunk[:] = -1

    with pytest.raises(ValueError, match="read-only"):
        reader.visit_chunks(np.array([0]), spoil)


def test_threads_agree(vector, open_loose):
    path, data = vector
    reader = ArrayReader(open_loose(path), "a", cache=ChunkCache(2000))
    wrong: list[int] = []
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(40):
            starts = rng.integers(0, 900, 5)
            found = reader.read_1d_ranges(starts, starts + 100)
            expected = np.concatenate([data[s : s + 100] for s in starts])
            if not np.array_equal(found, expected):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def entry(shard: bytes, slot: int, n: int) -> tuple[int, int]:
    index = np.frombuffer(shard[-16 * n - 4 : -4], "<u8").reshape(n, 2)
    return int(index[slot, 0]), int(index[slot, 1])


def with_index(body: bytes, index: np.ndarray) -> bytes:
    document = index.astype("<u8").tobytes()
    return body + document + google_crc32c.value(document).to_bytes(4, "little")


@settings(deadline=None)
@given(st.data())
def test_no_flipped_bit_is_silent(shared_vector, open_loose, tmp_path_factory, data):
    path, values = shared_vector
    shard = (path / "a/c/0").read_bytes()
    at = data.draw(st.integers(0, 8 * len(shard) - 1))
    damaged = bytearray(shard)
    damaged[at // 8] ^= 1 << at % 8
    copy = tmp_path_factory.mktemp("flip")
    (copy / "a/c").mkdir(parents=True)
    (copy / "a/zarr.json").write_bytes((path / "a/zarr.json").read_bytes())
    (copy / "a/c/0").write_bytes(damaged)
    reader = ArrayReader(open_loose(copy), "a")
    try:
        found = reader.read_1d(0, 128)
    except CorruptStoreError:
        return
    # One bit of a frame's header is unused: it may flip, and the content is the committed one.
    np.testing.assert_array_equal(found, values[:128])


def test_damage_names_the_array_and_the_chunk(vector, open_loose):
    path, _ = vector
    shard = bytearray((path / "a/c/1").read_bytes())
    start, length = entry(bytes(shard), 2, 4)
    shard[start + length // 2] ^= 0xFF
    (path / "a/c/1").write_bytes(shard)
    reader = ArrayReader(open_loose(path), "a")
    reader.read_1d(128, 160)
    with pytest.raises(CorruptStoreError, match=r"a, chunk \(6,\).*damaged frame"):
        reader.read_1d(0, 1000)


def test_a_chunk_missing_from_its_shard_is_damage(vector, open_loose):
    path, _ = vector
    shard = (path / "a/c/0").read_bytes()
    index = np.frombuffer(shard[-68:-4], "<u8").reshape(4, 2).copy()
    index[1] = 2**64 - 1
    (path / "a/c/0").write_bytes(with_index(shard[:-68], index))
    reader = ArrayReader(open_loose(path), "a")
    reader.read_1d(0, 32)
    with pytest.raises(CorruptStoreError, match=r"chunk \(1,\).*no bytes"):
        reader.read_1d(0, 64)


@pytest.mark.parametrize("options", [{}, {"compressors": (BloscCodec(),)}])
@pytest.mark.parametrize("shards", [(128,), None])
def test_a_missing_file_is_damage(tmp_path, open_loose, options, shards):
    write(tmp_path, np.arange(256), chunks=(64,), shards=shards, **options)
    (tmp_path / "a/c/1").unlink()
    with pytest.raises(CorruptStoreError):
        visit_all(ArrayReader(open_loose(tmp_path), "a"))


@pytest.mark.parametrize(
    "codec",
    [BloscCodec(), GzipCodec(), ZstdCodec(checksum=False), NumcodecsZlib(), NumcodecsZstd()],
)
def test_a_truncated_chunk_of_any_codec_is_damage(tmp_path, open_loose, codec):
    write(tmp_path, np.arange(256), chunks=(64,), compressors=(codec,))
    chunk = tmp_path / "a/c/1"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(CorruptStoreError, match=r"chunk \(1,\)"):
        visit_all(ArrayReader(open_loose(tmp_path), "a"))


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([[0, 10**6]], id="longer than the file"),
        pytest.param([[10**6, 10]], id="beyond the end"),
        pytest.param([[2**64 - 2, 10]], id="sum overflows"),
        pytest.param([[0, 2**63]], id="length overflows"),
    ],
)
def test_an_index_that_points_outside_its_file_is_damage(tmp_path, open_loose, spans):
    write(tmp_path, np.arange(64), chunks=(64,), shards=(64,))
    path = tmp_path / "a/c/0"
    path.write_bytes(with_index(path.read_bytes()[:-20], np.array(spans, dtype=np.uint64)))
    with pytest.raises(CorruptStoreError, match="must lie in its file"):
        ArrayReader(open_loose(tmp_path), "a").read_1d(0, 64)


@pytest.mark.parametrize("length", [0, 3, 19])
def test_a_shard_shorter_than_its_index_is_damage(tmp_path, open_loose, length):
    write(tmp_path, np.arange(64), chunks=(64,), shards=(64,))
    (tmp_path / "a/c/0").write_bytes(bytes(length))
    with pytest.raises(CorruptStoreError, match="must end with its index"):
        ArrayReader(open_loose(tmp_path), "a").read_1d(0, 64)


@pytest.mark.parametrize("filters", [(), (TransposeCodec(order=(1, 0)),)])
def test_a_small_frame_that_unfolds_to_a_gigabyte_is_never_decoded(
    tmp_path, open_loose, monkeypatch, filters
):
    edge = (256, 256)
    write(tmp_path, np.zeros(edge, np.uint8), chunks=edge, shards=edge, filters=filters)
    bomb = imagecodecs.zstd_encode(bytes(2**27), level=3)
    bomb = bomb[:4] + bytes([bomb[4] | 4]) + bomb[5:]
    assert len(bomb) < 2**16
    path = tmp_path / "a/c/0/0"
    path.write_bytes(with_index(bomb, np.array([[0, len(bomb)]])))
    monkeypatch.setattr(imagecodecs, "zstd_decode", None)
    with pytest.raises(CorruptStoreError, match=f"{2**27} bytes of content"):
        ArrayReader(open_loose(tmp_path), "a").read_chunk((0, 0))


def test_a_frame_without_the_promised_checksum_is_damage(tmp_path, open_loose):
    write(tmp_path, np.arange(64, dtype=np.uint8), chunks=(64,))
    (tmp_path / "a/c/0").write_bytes(imagecodecs.zstd_encode(bytes(range(64))))
    with pytest.raises(CorruptStoreError, match="without a checksum"):
        ArrayReader(open_loose(tmp_path), "a").read_1d(0, 64)


@pytest.mark.parametrize(
    ("shape", "chunks", "shards"),
    [
        pytest.param([2**40], [2**40], [2**40], id="chunk"),
        pytest.param([2**40], [1], [2**40], id="shard"),
        pytest.param([2**60, 2**60], [1, 1], [1, 1], id="array"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(tmp_path, open_loose, shape, chunks, shards):
    from stformat.metadata.strict_json import dump_canonical
    from stformat.metadata.zarr_array import array_document

    document = array_document(
        shape=tuple(shape),
        dtype=np.dtype("uint8"),
        chunks=tuple(chunks),
        shards=tuple(shards),
        codecs=zstd_codecs(np.dtype("uint8"), level=1),
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a/zarr.json").write_bytes(dump_canonical(document))
    with pytest.raises(UnsupportedStoreError, match="must"):
        ArrayReader(open_loose(tmp_path), "a")


def test_a_declared_length_that_no_file_backs_is_found_before_memory_is_taken(tmp_path, open_loose):
    from stformat.metadata.strict_json import dump_canonical
    from stformat.metadata.zarr_array import array_document

    document = array_document(
        shape=(2**37,),
        dtype=np.dtype("int64"),
        chunks=(2**15,),
        shards=(2**22,),
        codecs=zstd_codecs(np.dtype("int64"), level=1),
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a/zarr.json").write_bytes(dump_canonical(document))
    with pytest.raises(CorruptStoreError):  # 1 TiB would be a MemoryError
        ArrayReader(open_loose(tmp_path), "a").read_1d(0, 2**37)


@pytest.mark.parametrize(
    "codec",
    [
        {"name": "imagecodecs_jpeg"},
        {"name": "blosc", "configuration": {"cname": "no such"}},
        {"name": "transpose", "configuration": {"order": [5]}},
        {"name": "gzip", "configuration": None},
    ],
)
def test_a_codec_that_zarr_python_cannot_make_is_refused(tmp_path, open_loose, codec):
    write(tmp_path, np.arange(64), chunks=(64,))
    document = json.loads((tmp_path / "a/zarr.json").read_text())
    is_filter = codec["name"] == "transpose"
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    document["codecs"] = [codec, plain] if is_filter else [plain, codec]
    (tmp_path / "a/zarr.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedStoreError):
        ArrayReader(open_loose(tmp_path), "a")


def test_a_request_of_too_many_chunks_is_refused(tmp_path, open_loose):
    from stformat.metadata.strict_json import dump_canonical
    from stformat.metadata.zarr_array import array_document

    document = array_document(
        shape=(2**30,),
        dtype=np.dtype("int8"),
        chunks=(1,),
        shards=(2**10,),
        codecs=zstd_codecs(np.dtype("int8"), level=1),
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a/zarr.json").write_bytes(dump_canonical(document))
    with pytest.raises(UnsupportedStoreError, match="2\\*\\*22 chunks"):
        ArrayReader(open_loose(tmp_path), "a").read_1d(0, 2**30)
