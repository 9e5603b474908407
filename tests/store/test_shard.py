"""One shard file: frames, index, what must be refused."""

import errno
import itertools
import tempfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.errors import StoreWriteError
from stformat.metadata.zarr_array import array_document, parse_array
from stformat.metadata.zarr_codecs import zstd_codecs
from stformat.store.nodes import write_document
from stformat.store.shard import ZSTD_LEVEL, ShardWriter, encode_chunk

ABSENT = 2**64 - 1
DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float32", "float64")


def frame_header(frame):
    """Magic number, whether the checksum flag is set, and the stated content size (RFC 8878)."""
    descriptor = frame[4]
    has_single_segment = bool(descriptor & 0b100000)
    width = {0: 1 if has_single_segment else 0, 1: 2, 2: 4, 3: 8}[descriptor >> 6]
    start = 5 if has_single_segment else 6
    stated = int.from_bytes(frame[start : start + width], "little") if width else None
    if width == 2 and stated is not None:
        stated += 256
    return frame[:4], bool(descriptor & 0b100), stated


def read_index(path, grid):
    """Index of a shard as (offset, nbytes), its checksum verified."""
    size = 16 * int(np.prod(grid))
    content = path.read_bytes()
    index, checksum = content[-size - 4 : -4], content[-4:]
    assert google_crc32c.value(index) == int.from_bytes(checksum, "little")
    return np.frombuffer(index, "<u8").reshape(*grid, 2), len(content) - size - 4


def write_array(directory, array, chunks, shards):
    """The plain way through ShardWriter: every chunk of every shard, C order."""
    grid = tuple(s // c for s, c in zip(shards, chunks, strict=True))
    for number in np.ndindex(*(-(-n // s) for n, s in zip(array.shape, shards, strict=True))):
        shard = ShardWriter(directory.joinpath("c", *map(str, number)))
        start = [i * s for i, s in zip(number, shards, strict=True)]
        inside = tuple(
            min(g, -(-(n - at) // c))
            for g, n, at, c in zip(grid, array.shape, start, chunks, strict=True)
        )
        for position in np.ndindex(*inside):
            window = tuple(
                slice(at + p * c, at + (p + 1) * c)
                for at, p, c in zip(start, position, chunks, strict=True)
            )
            padded = np.zeros(chunks, array.dtype)
            part = array[window]
            padded[tuple(slice(n) for n in part.shape)] = part
            shard.append(position, encode_chunk(padded))
        shard.finish(grid=grid, inside=inside)
    document = array_document(
        shape=array.shape,
        dtype=array.dtype,
        chunks=chunks,
        shards=shards,
        codecs=zstd_codecs(array.dtype, level=ZSTD_LEVEL),
    )
    write_document(directory, document)
    return document


@st.composite
def layouts(draw):
    rank = draw(st.integers(1, 3))
    chunks = tuple(draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank)))
    shards = tuple(c * draw(st.integers(1, 3)) for c in chunks)
    shape = tuple(draw(st.lists(st.integers(1, 17), min_size=rank, max_size=rank)))
    return shape, chunks, shards


@settings(deadline=None, max_examples=40)
@given(layouts(), st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_zarr_and_tensorstore_read_what_was_written(layout, dtype, seed):
    shape, chunks, shards = layout
    # Few distinct values: whole chunks of the fill value occur, and must be written too.
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        document = write_array(directory, array, chunks, shards)
        assert parse_array(document, "array").coding.compression == "zstd"
        with zarr.config.set({"array.read_missing_chunks": False}):
            np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[...], array)
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": folder}}
        np.testing.assert_array_equal(
            tensorstore.open(spec, read=True, open=True).result().read().result(), array
        )


def test_chunks_stand_without_gaps_and_overhanging_positions_are_absent(tmp_path):
    array = np.arange(5 * 7, dtype=np.uint16).reshape(5, 7)
    write_array(tmp_path, array, (2, 2), (4, 4))
    index, end = read_index(tmp_path / "c" / "1" / "1", (2, 2))
    # Rows 4 to 7 and columns 4 to 7 of 5 x 7: one row of chunks, two columns.
    assert (index[1] == ABSENT).all()
    (first, second) = index[0].tolist()
    assert first[0] == 0
    assert second[0] == first[1]
    assert second[0] + second[1] == end


@pytest.mark.parametrize("n_bytes", [1, 255, 256, 257, 65_791, 65_792, 3 * 256 * 256])
def test_frames_carry_checksum_and_content_size(n_bytes):
    rng = np.random.default_rng(n_bytes)
    for content in (np.zeros(n_bytes, np.uint8), rng.integers(0, 256, n_bytes, np.uint8)):
        magic, has_checksum, size = frame_header(encode_chunk(content))
        assert magic == b"\x28\xb5\x2f\xfd"
        assert has_checksum
        assert size == n_bytes


@pytest.mark.parametrize("dtype", [">u2", ">f8", "<i4"])
def test_frames_hold_little_endian_c_order(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    assert encode_chunk(np.asfortranarray(array)) == encode_chunk(plain)


def test_a_position_is_written_once(tmp_path):
    shard = ShardWriter(tmp_path / "0")
    shard.append((0,), b"x")
    with pytest.raises(ValueError, match="twice"):
        shard.append((0,), b"y")
    shard.close()


@pytest.mark.parametrize(
    "written", [[], [(0, 0)], [(0, 0), (0, 1), (1, 0)], [(0, 0), (1, 0)], [(0, 0), (2, 0)]]
)
def test_exactly_the_inside_must_be_written(tmp_path, written):
    shard = ShardWriter(tmp_path / "0")
    for position in written:
        shard.append(position, b"x")
    with pytest.raises(ValueError, match="must hold the inner chunks"):
        shard.finish(grid=(2, 2), inside=(1, 2))
    shard.close()


def test_an_unfinished_shard_has_no_index(tmp_path):
    shard = ShardWriter(tmp_path / "0")
    shard.append((0,), b"abc")
    shard.close()
    shard.close()
    assert (tmp_path / "0").read_bytes() == b"abc"


def test_an_existing_file_is_never_written_over(tmp_path):
    (tmp_path / "0").write_bytes(b"kept")
    with pytest.raises(StoreWriteError, match="EEXIST"):
        ShardWriter(tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == b"kept"


class FillingDisk:
    """A raw file that takes a few bytes a call, then no more."""

    def __init__(self, capacity, per_call):
        self.capacity, self.per_call, self.content = capacity, per_call, b""

    def write(self, data):
        room = min(len(data), self.per_call, self.capacity - len(self.content))
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.content += bytes(data[:room])
        return room

    def close(self):
        pass


def test_short_writes_are_continued_and_a_full_disk_is_said(tmp_path):
    shard = ShardWriter(tmp_path / "0")
    shard.close()
    disk = shard._file = FillingDisk(capacity=10, per_call=3)
    shard.append((0,), b"01234567")
    assert disk.content == b"01234567"
    with pytest.raises(StoreWriteError) as caught:
        shard.append((1,), b"89abcdef")
    problem = caught.value.problems[0]
    assert problem.code == "store.write"
    assert "ENOSPC" in problem.found
    assert "free space" in problem.remedy


def test_every_flipped_bit_of_a_frame_is_noticed_by_zarr(tmp_path):
    array = np.random.default_rng(0).integers(0, 4, 300).astype(np.uint8)
    write_array(tmp_path, array, (300,), (300,))
    path = tmp_path / "c" / "0"
    content = bytearray(path.read_bytes())
    payload = len(content) - 20
    for byte, bit in itertools.product(range(9, payload, 7), range(8)):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(RuntimeError):
            zarr.open_array(str(tmp_path), mode="r")[...]
