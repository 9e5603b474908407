"""Chunks that are decoded without zarr-python: equal to zarr-python's, and hostile ones refused."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec, ZstdCodec

from stformat.errors import CorruptStoreError, UnsupportedStoreError
from stformat.metadata.zarr_codecs import ChunkCoding, jpeg_codecs
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_blosc import blosc_bound, decode_blosc, encode_blosc
from stformat.store.chunk_codec import ChunkError, with_crc32c, without_crc32c
from stformat.store.chunk_jpeg import decode_jpeg, encode_jpeg, jpeg_bound, parse_frame
from stformat.store.zarr_bridge import open_array
from stformat.store.zarr_jpeg import JpegCodec

AS_IMAGE = {"filters": (TransposeCodec(order=(1, 2, 0)),), "compressors": (Crc32cCodec(),)}


def write(path: Path, data: np.ndarray, **options: Any) -> None:
    root = zarr.open_group(str(path), mode="a", zarr_format=3)
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = root.create_array(
            "a", shape=data.shape, dtype=data.dtype, overwrite=True, **options
        )
        array[...] = data


def read_all(reader: ArrayReader) -> np.ndarray:
    out = np.zeros(reader.shape, reader.dtype)
    for index in np.ndindex(*reader.grid):
        place = tuple(
            slice(i * n, (i + 1) * n) for i, n in zip(index, reader.metadata.chunks, strict=True)
        )
        out[place] = reader.read_chunk(index)
    return out


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    n_c = draw(st.sampled_from([1, 3]))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    edges = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (n_c, height, width))
    serializer = JpegCodec(
        level=draw(st.integers(1, 100)), subsampling=draw(st.sampled_from(["444", "422", "420"]))
    )
    options = {**AS_IMAGE, "chunks": (n_c, *edges), "serializer": serializer}
    if draw(st.booleans()):
        options["shards"] = (n_c, *(n * draw(st.integers(1, 3)) for n in edges))
    if draw(st.booleans()):
        options["compressors"] = ()
    return pixels.astype(np.uint8), options


@settings(deadline=None)
@given(images())
def test_jpeg_chunks_read_as_zarr_python_reads_them(tmp_path_factory, open_loose, case):
    pixels, options = case
    path = tmp_path_factory.mktemp("jpeg")
    write(path, pixels, **options)
    store = open_loose(path)
    reader = ArrayReader(store, "a")
    assert reader.metadata.coding == ChunkCoding(
        compression="jpeg",
        has_content_checksum=False,
        has_crc32c=bool(options["compressors"]),
    )
    found = read_all(reader)
    np.testing.assert_array_equal(found, zarr.open_array(str(path / "a"), mode="r")[...])
    np.testing.assert_array_equal(found, open_array(store, "a")[...])


@settings(deadline=None)
@given(
    data=st.binary(max_size=3000),
    cname=st.sampled_from(["lz4", "lz4hc", "blosclz", "zlib", "zstd"]),
    shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
    level=st.integers(0, 9),
    itemsize=st.sampled_from([1, 2, 4, 8]),
)
def test_blosc_buffers_decode_to_what_they_were(data, cname, shuffle, level, itemsize):
    chunk = np.frombuffer(data[: len(data) // 8 * 8], f"u{itemsize}")
    if not chunk.size:
        return
    buffer = encode_blosc(chunk, cname=cname, level=level, shuffle=shuffle)
    assert len(buffer) <= blosc_bound(chunk.nbytes)
    out = np.empty_like(chunk)
    decode_blosc(buffer, out)
    np.testing.assert_array_equal(out, chunk)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shuffle", ["noshuffle", "shuffle", "bitshuffle"])
def test_blosc_sorts_bytes_and_bits_of_whole_elements(dtype, shuffle):
    chunk = np.arange(5000).astype(dtype)
    buffer = encode_blosc(chunk, cname="lz4", level=5, shuffle=shuffle)
    codec = numcodecs.Blosc("lz4", 5, ["noshuffle", "shuffle", "bitshuffle"].index(shuffle))
    assert buffer == bytes(codec.encode(chunk))


@pytest.mark.parametrize(
    ("options", "coding"),
    [
        ({"compressors": (ZstdCodec(checksum=True),)}, ("zstd", True, False)),
        ({"compressors": (ZstdCodec(), Crc32cCodec())}, ("zstd", False, True)),
        ({"compressors": (BloscCodec(),)}, ("blosc", False, False)),
        ({"compressors": (BloscCodec(), Crc32cCodec())}, ("blosc", False, True)),
        ({"compressors": (BloscCodec(), Crc32cCodec(), Crc32cCodec())}, None),
        ({"compressors": (Crc32cCodec(),)}, None),
        ({"filters": (TransposeCodec(order=(1, 2, 0)),)}, None),
    ],
)
def test_codings_that_are_known(tmp_path, open_loose, options, coding):
    write(tmp_path, np.zeros((1, 4, 4), np.uint8), chunks=(1, 2, 2), **options)
    names = "compression", "has_content_checksum", "has_crc32c"
    expected = None if coding is None else ChunkCoding(**dict(zip(names, coding, strict=True)))
    metadata = open_loose(tmp_path).array("a")
    assert metadata.coding == expected
    assert read_all(ArrayReader(open_loose(tmp_path), "a")).sum() == 0


@pytest.mark.parametrize("change", [{"order": [2, 1, 0]}, {"lossless": True}, {"level": 200}])
def test_jpeg_that_decodes_otherwise_is_left_to_zarr_python(tmp_path, open_loose, change):
    write(
        tmp_path,
        np.zeros((3, 8, 8), np.uint8),
        chunks=(3, 8, 8),
        serializer=JpegCodec(),
        **AS_IMAGE,
    )
    path = tmp_path / "a/zarr.json"
    document = json.loads(path.read_text())
    document["codecs"] = jpeg_codecs(level=90, subsampling="444")
    at = 0 if "order" in change else 1
    document["codecs"][at]["configuration"].update(change)
    path.write_text(json.dumps(document))
    if change == {"level": 200}:  # of no concern to a decoder, but to the codec of zarr-python
        assert open_loose(tmp_path).array("a").coding is not None
        with pytest.raises(ValueError, match="1 to 100"):
            zarr.open_array(str(tmp_path / "a"), mode="r")
        return
    assert open_loose(tmp_path).array("a").coding is None
    if "order" in change:
        assert ArrayReader(open_loose(tmp_path), "a").read_chunk((0, 0, 0)).max() == 0
        return
    with pytest.raises(UnsupportedStoreError, match="lossless"):
        ArrayReader(open_loose(tmp_path), "a")


def test_the_codec_of_zarr_python_is_found_by_its_entry_point(tmp_path):
    pixels = np.full((3, 32, 32), 77, np.uint8)
    write(tmp_path, pixels, chunks=(3, 16, 16), serializer=JpegCodec(), **AS_IMAGE)
    program = (
        "import sys, zarr; values = zarr.open_array(sys.argv[1], mode='r')[...];"
        "print(values.shape, values.min(), values.max())"
    )
    out = subprocess.run(  # in another process: here the codec is known already
        [sys.executable, "-c", program, str(tmp_path / "a")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert out.stdout == "(3, 32, 32) 77 77\n"


@pytest.mark.parametrize(
    "options", [{"level": 0}, {"level": 101}, {"level": True}, {"subsampling": "411"}]
)
def test_a_codec_of_other_parameters_is_refused(options):
    with pytest.raises(ValueError, match="must be"):
        JpegCodec(**options)


@pytest.mark.parametrize("dtype", [np.uint16, np.int8])
def test_the_codec_takes_no_other_numbers(tmp_path, dtype):
    data = np.zeros((3, 8, 8), dtype)
    with pytest.raises(ValueError, match="of uint8 with 1 or 3 samples"):
        write(tmp_path, data, chunks=(3, 8, 8), serializer=JpegCodec(), **AS_IMAGE)


def test_edges_repeat_the_last_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 5), np.uint8)
    stream = encode_jpeg(pixels, (16, 16), level=100, subsampling="444")
    chunk = np.empty((3, 16, 16), np.uint8)
    decode_jpeg(stream, chunk)
    expected = np.pad(pixels, ((0, 0), (0, 7), (0, 11)), mode="edge").astype(int)
    assert np.abs(chunk - expected).max() <= 4
    assert encode_jpeg(pixels, (16, 16), level=100, subsampling="444") == stream


def marker(code: int, body: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def frame(height: int, width: int, n: int = 3, code: int = 0xC0, bits: int = 8) -> bytes:
    parts = b"".join(bytes([number, 0x11, 0]) for number in range(n))
    return marker(code, struct.pack(">BHHB", bits, height, width, n) + parts)


def scan(n: int = 3) -> bytes:
    return marker(0xDA, bytes([n]) + bytes([1, 0] * n) + b"\0\x3f\0")


SOI = b"\xff\xd8"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(SOI, id="a start"),
        pytest.param(b"\x89PNG", id="another format"),
        pytest.param(SOI + scan(), id="no frame"),
        pytest.param(SOI + frame(16, 16), id="no scan"),
        pytest.param(SOI + frame(65500, 65500) + scan(), id="a huge frame"),
        pytest.param(SOI + frame(16, 16, 1) + scan(1), id="one sample"),
        pytest.param(SOI + frame(16, 16, code=0xC2) + scan(), id="progressive"),
        pytest.param(SOI + frame(16, 16, code=0xC3) + scan(), id="lossless"),
        pytest.param(SOI + frame(16, 16, code=0xC9) + scan(), id="arithmetic coding"),
        pytest.param(SOI + frame(16, 16, bits=12) + scan(), id="12 bits"),
        pytest.param(SOI + frame(16, 16) + scan(1), id="one scan a sample"),
        pytest.param(SOI + frame(16, 16) + frame(16, 16) + scan(), id="two frames"),
        pytest.param(SOI + marker(0xE0, b"") * 2000 + frame(16, 16) + scan(), id="many segments"),
        pytest.param(SOI + b"\xff\xe0\xff\xff" + bytes(10), id="a segment cut short"),
        pytest.param(SOI + SOI + frame(16, 16) + scan(), id="two starts"),
        pytest.param(SOI + b"\xff" * 50, id="fill without end"),
    ],
)
def test_a_jpeg_stream_that_is_not_the_chunk_is_never_decoded(stream, monkeypatch):
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", None)
    with pytest.raises(ChunkError):
        decode_jpeg(stream, np.empty((3, 16, 16), np.uint8))


def test_headers_of_a_real_stream_are_read_through_fill_bytes():
    stream = encode_jpeg(np.zeros((1, 8, 4), np.uint8), (8, 4), level=50, subsampling="444")
    assert parse_frame(stream) == (8, 4, 1)
    assert parse_frame(stream[:2] + b"\xff\xff\xff" + stream[2:]) == (8, 4, 1)


def test_noise_of_the_highest_quality_is_within_the_bound():
    noise = np.random.default_rng(0).integers(0, 256, (3, 256, 256), np.uint8)
    stream = encode_jpeg(noise, (256, 256), level=100, subsampling="444")
    assert noise.nbytes < len(stream) <= jpeg_bound(noise.nbytes)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_make_the_jpeg_decoder_fail_in_another_way(noise, at):
    stream = encode_jpeg(
        np.arange(192, dtype=np.uint8).reshape(3, 8, 8), (8, 8), level=50, subsampling="420"
    )
    damaged = stream[:at] + noise + stream[at + len(noise) :]
    out = np.empty((3, 8, 8), np.uint8)
    try:
        decode_jpeg(damaged, out)
    except ChunkError:
        return


@settings(deadline=None, max_examples=300)
@given(
    st.binary(min_size=1, max_size=40),
    st.integers(0, 600),
    st.sampled_from(["lz4", "lz4hc", "blosclz", "zlib", "zstd"]),
)
def test_no_bytes_make_the_blosc_decoder_fail_in_another_way(noise, at, cname):
    chunk = np.arange(4096, dtype=np.uint16)
    buffer = encode_blosc(chunk, cname=cname, level=5, shuffle="bitshuffle")
    damaged = (buffer[:at] + noise + buffer[at + len(noise) :])[: len(buffer)]
    try:
        decode_blosc(damaged, np.empty_like(chunk))
    except ChunkError:
        return


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (4, 2**31 - 1, "2147483647 bytes of content instead of 64"),
        (4, 63, "63 bytes of content"),
        (12, 10**6, "a blosc buffer of 1000000 bytes"),
    ],
)
def test_a_blosc_buffer_of_another_size_is_never_decoded(monkeypatch, offset, value, message):
    buffer = bytearray(
        encode_blosc(np.arange(64, dtype=np.uint8), cname="lz4", level=1, shuffle="noshuffle")
    )
    struct.pack_into("<I", buffer, offset, value)
    monkeypatch.setattr(imagecodecs, "blosc_decode", None)
    with pytest.raises(ChunkError, match=message):
        decode_blosc(bytes(buffer), np.empty(64, np.uint8))
    with pytest.raises(ChunkError, match="no blosc buffer"):
        decode_blosc(bytes(buffer[:15]), np.empty(64, np.uint8))


@pytest.mark.parametrize("length", range(5))
def test_bytes_shorter_than_a_checksum(length):
    with pytest.raises(ChunkError):
        without_crc32c(b"\1" * length)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"compressors": (BloscCodec(), Crc32cCodec())}, id="blosc"),
        pytest.param({**AS_IMAGE, "serializer": JpegCodec()}, id="jpeg"),
        pytest.param({"compressors": (ZstdCodec(), Crc32cCodec())}, id="zstd"),
    ],
)
def test_no_flipped_bit_under_a_checksum_is_silent(tmp_path, open_loose, options):
    data = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    write(tmp_path, data, chunks=(3, 16, 16), **options)
    path = tmp_path / "a/c/0/0/0"
    whole = path.read_bytes()
    for at in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        store = open_loose(tmp_path)
        with pytest.raises(CorruptStoreError, match=r"chunk \(0, 0, 0\).*another checksum"):
            ArrayReader(store, "a").read_chunk((0, 0, 0))
        if at % 700 == 0:
            with pytest.raises(CorruptStoreError, match="another checksum"):
                open_array(store, "a")[...]


def test_a_jpeg_bomb_is_refused_by_every_reader(tmp_path, open_loose, monkeypatch):
    write(
        tmp_path,
        np.zeros((3, 16, 16), np.uint8),
        chunks=(3, 16, 16),
        serializer=JpegCodec(),
        **AS_IMAGE,
    )
    stream = bytearray((tmp_path / "a/c/0/0/0").read_bytes()[:-4])
    at = stream.index(b"\xff\xc0")
    struct.pack_into(">HH", stream, at + 5, 65500, 65500)
    (tmp_path / "a/c/0/0/0").write_bytes(with_crc32c(bytes(stream)))
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", None)
    store = open_loose(tmp_path)
    with pytest.raises(CorruptStoreError, match="65500 x 65500"):
        ArrayReader(store, "a").read_chunk((0, 0, 0))
    with pytest.raises(CorruptStoreError, match="bytes of content"):
        open_array(store, "a")[...]
    with pytest.raises(ChunkError, match="65500 x 65500"):
        zarr.open_array(str(tmp_path / "a"), mode="r")[...]


def test_a_missing_chunk_is_damage(tmp_path, open_loose):
    data = np.zeros((3, 32, 16), np.uint8)
    write(tmp_path, data, chunks=(3, 16, 16), serializer=JpegCodec(), **AS_IMAGE)
    shutil.rmtree(tmp_path / "a/c/0/1")
    reader = ArrayReader(open_loose(tmp_path), "a")
    reader.read_chunk((0, 0, 0))
    with pytest.raises(CorruptStoreError):
        reader.read_chunk((0, 1, 0))
