"""What is no whole image ends in ImageError: quickly, in little memory, with nothing left open."""

import io
import os
import random
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from stformat import scratch
from stformat.errors import ImageError, StoreWriteError
from stformat.sources import _image_file, _image_jpeg
from stformat.sources._image import open_image


def noise(height, width, samples, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(3).integers(0, top, (height, width, samples)).astype(dtype)


def jpeg(height=60, width=80, **options):
    buffer = io.BytesIO()
    Pillow.fromarray(noise(height, width, 3)).save(buffer, "jpeg", **options)
    return buffer.getvalue()


def png(height=60, width=80, **options):
    buffer = io.BytesIO()
    Pillow.fromarray(noise(height, width, 3)).save(buffer, "png", **options)
    return buffer.getvalue()


def tiff(compression, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        noise(60, 80, 3),
        photometric="rgb",
        compression=compression,
        metadata=None,
        **({"tile": (32, 32)} | options),
    )
    return buffer.getvalue()


SEEDS = {
    "jpeg": jpeg(),
    "jpeg progressive": jpeg(progressive=True),
    "jpeg restarts": jpeg(restart_marker_rows=1),
    "png": png(),
    "tiff none": tiff(None),
    "tiff strips": tiff(None, tile=None, rowsperstrip=7),
    "tiff deflate": tiff("zlib"),
    "tiff lzw": tiff("lzw"),
    "tiff zstd": tiff("zstd"),
    "tiff packbits": tiff("packbits"),
    "tiff jpeg": tiff("jpeg"),
    "bigtiff": tiff("zlib", bigtiff=True, byteorder=">"),
}


def read_all(path):
    for _ in open_image(path).iter_bands(16):
        pass


def problem_of(path, reader=read_all):
    with pytest.raises(ImageError) as caught:
        reader(path)
    (problem,) = caught.value.problems
    assert problem.code.startswith("image.")
    assert str(path.parent) not in str(problem)
    return problem


@pytest.mark.parametrize("kind", SEEDS)
def test_seeds_are_whole(tmp_path, kind):
    path = tmp_path / "a"
    path.write_bytes(SEEDS[kind])
    read_all(path)


@pytest.mark.parametrize("kind", SEEDS)
def test_every_truncation_is_an_error(tmp_path, kind):
    """tifffile writes the tags of a small file first, so each cut takes pixels away."""
    path = tmp_path / "a"
    content = SEEDS[kind]
    length = len(content)
    cuts = {0, 1, 4, 8, 60, length // 4, length // 2, length - 500, length - 5, length - 1}
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        problem_of(path)


def test_a_thumbnail_does_not_pass_for_the_end(tmp_path):
    buffer = io.BytesIO()
    Pillow.fromarray(noise(16, 16, 3)).save(buffer, "jpeg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(buffer.getvalue()) + 8) + b"Exif\0\0"
    whole = jpeg()
    content = whole[:2] + thumbnail + buffer.getvalue() + whole[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    read_all(path)
    path.write_bytes(content[: len(content) // 2])
    assert problem_of(path).code == "image.truncated"


def test_a_truncated_jpeg_segment_inside_a_tiff(tmp_path):
    """The byte count is honest, the stream inside is not."""
    path = tmp_path / "a.tif"
    cut = imagecodecs.jpeg8_encode(noise(32, 32, 3))[:-200]
    tifffile.imwrite(
        path, iter([cut]), shape=(32, 32, 3), dtype=np.uint8, photometric="ycbcr",
        compression="jpeg", tile=(32, 32), subsampling=(1, 1),
    )  # fmt: skip
    assert problem_of(path).code == "image.truncated"


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
def test_a_segment_of_too_few_pixels(tmp_path, compression):
    path = tmp_path / "a.tif"
    encode = getattr(imagecodecs, f"{compression}_encode")
    short = bytes(encode(noise(30, 32, 3).tobytes()))
    tifffile.imwrite(
        path, iter([short]), shape=(32, 32, 3), dtype=np.uint8, photometric="rgb",
        compression=compression, tile=(32, 32),
    )  # fmt: skip
    assert problem_of(path).code == "image.truncated"


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_segment_of_too_many_pixels(tmp_path, compression):
    path = tmp_path / "a.tif"
    encode = getattr(imagecodecs, f"{compression}_encode")
    long = bytes(encode(bytes(64 * 2**20)))
    tifffile.imwrite(
        path, iter([long]), shape=(32, 32, 3), dtype=np.uint8, photometric="rgb",
        compression=compression, tile=(32, 32),
    )  # fmt: skip
    assert problem_of(path).code == "image.corrupt"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-LFS pointer"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "HTML"),
        (b"<html>", "HTML"),
        (b"<?xml version='1.0'?>", "XML"),
        (b"a,b\n1,2\n", "text"),
        (b'{"a": 1}', "JSON"),
        (b"GIF89a\1\0", "GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"PK\3\4", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (bytes(100), "zero bytes"),
        (b"\x01\x02\x03", "01 02 03"),
        ("Größe".encode(), "text"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, found):
    path = tmp_path / "slide.tif"
    path.write_bytes(content)
    problem = problem_of(path, open_image)
    assert problem.code == "image.not-an-image"
    assert found in problem.found


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, found in (("missing", "No such file"), (".", "directory"), ("pipe", "special")):
        with pytest.raises(ImageError) as caught:
            open_image(tmp_path / name)
        assert found in caught.value.problems[0].found


def ifd(tags, byteorder="<"):
    """A classic TIFF of one directory and no pixels; `tags` is (code, type, count, value)."""
    body = struct.pack(f"{byteorder}H", len(tags))
    for tag in tags:
        body += struct.pack(f"{byteorder}HHII", *tag)
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(4)


def declared(width, height, compression, length, *, bits=8):
    return ifd([
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression),
        (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, length),
    ])  # fmt: skip


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000])
@pytest.mark.parametrize("length", [50, 2**31])
def test_a_tiff_that_declares_more_than_it_holds(tmp_path, compression, length):
    path = tmp_path / "a.tif"
    path.write_bytes(declared(100_000, 100_000, compression, length) + bytes(100))
    assert problem_of(path, open_image).code == "image.truncated"


def test_a_jpeg_in_a_tiff_that_declares_more_than_it_holds(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(declared(60_000, 60_000, 7, 50) + bytes(100))
    assert problem_of(path, open_image).code == "image.truncated"


def test_pixel_budget_of_each_format(tmp_path):
    for name, content in (("jpeg", jpeg()), ("png", png()), ("tiff", tiff(None))):
        path = tmp_path / name
        path.write_bytes(content)
        assert open_image(path, max_pixels=4800).shape == (3, 60, 80)
        with pytest.raises(ImageError) as caught:
            open_image(path, max_pixels=4799)
        assert caught.value.problems[0].code == "image.too-large"


def test_a_png_that_declares_more_than_it_holds(tmp_path):
    path = tmp_path / "a.png"
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    whole = png()
    path.write_bytes(
        whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[12 + 17 + 4 :]
    )
    assert problem_of(path, open_image).code == "image.truncated"


def test_a_jpeg_that_declares_more_than_it_holds(tmp_path):
    content = jpeg()
    at = content.index(b"\xff\xc0") + 5
    path = tmp_path / "a.jpg"
    path.write_bytes(content[:at] + struct.pack(">HH", 65_000, 65_000) + content[at + 4 :])
    assert problem_of(path, open_image).code == "image.truncated"


def test_a_progressive_jpeg_of_too_many_coefficients(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(SEEDS["jpeg progressive"])
    monkeypatch.setattr(_image_jpeg, "_MAX_COEFFICIENT_BYTES", 1000)
    problem = problem_of(path, open_image)
    assert problem.code == "image.too-large"
    assert "jpegtran" in problem.remedy
    path.write_bytes(SEEDS["jpeg"])
    read_all(path)


def test_a_jpeg_of_too_many_scans_or_segments(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(SEEDS["jpeg progressive"])
    monkeypatch.setattr(_image_jpeg, "_MAX_SCANS", 3)
    assert problem_of(path, open_image).code == "image.too-large"
    path.write_bytes(SEEDS["jpeg"])
    monkeypatch.setattr(_image_jpeg, "_MAX_SEGMENTS", 5)
    assert problem_of(path, open_image).code == "image.corrupt"


@pytest.mark.parametrize("at", [30, 100, -20])
def test_a_png_with_a_wrong_checksum(tmp_path, at):
    content = bytearray(png())
    content[at] ^= 1
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert problem_of(path, open_image).code == "image.corrupt"


def test_a_png_whose_data_end_early(tmp_path):
    """Every chunk is whole and its checksum right; the pixels are not all there."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(21 * 10)))
        + chunk(b"IEND", b"")
    )
    assert problem_of(path).code == "image.corrupt"


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "jpeg"), ("CMYK", "tiff"), ("F", "tiff"), ("I", "tiff")],
)
def test_kinds_that_are_not_read(tmp_path, mode, kind):
    path = tmp_path / "a"
    Pillow.fromarray(noise(20, 20, 3)).convert(mode).save(path, format=kind)
    problem = problem_of(path, open_image)
    assert problem.code == "image.unsupported"
    assert "TIFF" in problem.remedy


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzma"},
        {"compression": "jpegxl"},
        {"photometric": "minisblack", "planarconfig": "contig"},
        {"photometric": "miniswhite", "planarconfig": "contig"},
        {"volumetric": True},
    ],
)
def test_tiffs_that_are_not_read(tmp_path, options):
    path = tmp_path / "a.tif"
    pixels = noise(16, 16, 3)
    if options.pop("volumetric", False):
        pixels = np.zeros((16, 16, 16, 3), np.uint8)
        options = {"volumetric": True, "tile": (16, 16, 16)}
    tifffile.imwrite(path, pixels, **({"photometric": "rgb"} | options))
    assert problem_of(path, open_image).code == "image.unsupported"


@pytest.mark.parametrize("tag", ["TileOffsets", "TileByteCounts"])
@pytest.mark.parametrize("kind", ["tiff none", "tiff deflate"])
def test_sparse_tiffs_are_refused(tmp_path, kind, tag):
    """A zero stands for a tile that was never written: nothing says what its pixels are."""
    path = tmp_path / "a.tif"
    content = bytearray(SEEDS[kind])
    with tifffile.TiffFile(io.BytesIO(content)) as parsed:
        entry = parsed.pages.first.tags[tag]
    struct.pack_into("<I" if entry.dtype == 4 else "<H", content, entry.valueoffset, 0)
    path.write_bytes(content)
    assert problem_of(path, open_image).code == "image.truncated"


def test_a_file_that_changes_under_the_reader(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(SEEDS["tiff none"])
    image = open_image(path)
    path.write_bytes(SEEDS["tiff strips"])
    with pytest.raises(ImageError) as caught:
        list(image.iter_bands(16))
    assert caught.value.problems[0].code == "image.changed"
    path.write_bytes(SEEDS["tiff none"])
    iterator = open_image(path).iter_bands(16)
    next(iterator)
    os.truncate(path, 3000)
    with pytest.raises(ImageError) as caught:
        list(iterator)
    assert caught.value.problems[0].code == "image.truncated"


def test_a_full_scratch_directory(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    path.write_bytes(SEEDS["tiff deflate"])
    monkeypatch.setattr(_image_file, "IN_MEMORY_LIMIT", 100)

    def full(_descriptor, _n_bytes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch, "_reserve", full)
    with pytest.raises(StoreWriteError, match="No space left"):
        read_all(path)


DESCRIPTORS = Path("/proc/self/fd")


def open_files():
    # The listing itself opens one, which is gone when it is asked for. What has no path is a
    # socket or a pipe, which other tests may have left to threads.
    found = [str(entry.readlink()) for entry in DESCRIPTORS.iterdir() if entry.exists()]
    return sorted(path for path in found if path.startswith("/"))


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff none", "tiff deflate"])
def test_no_descriptor_stays_open(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(_image_file, "IN_MEMORY_LIMIT", 100)
    monkeypatch.setattr(scratch.scratch_array, "__kwdefaults__", {"in_memory": 100})
    path = tmp_path / "a"
    path.write_bytes(SEEDS[kind])
    list(open_image(path).iter_bands(16))
    before = open_files()
    image = open_image(path)
    assert open_files() == before
    list(image.iter_bands(16))
    assert open_files() == before
    iterator = image.iter_bands(16)
    next(iterator)
    assert len(open_files()) > len(before)
    iterator.close()
    del iterator
    assert open_files() == before
    path.write_bytes(SEEDS[kind][:-300])
    with pytest.raises(ImageError):
        read_all(path)
    assert open_files() == before


@pytest.mark.parametrize("kind", SEEDS)
def test_mutations_end_well_or_typed(tmp_path, kind):
    """Any other exception than ImageError fails this test."""
    rng = random.Random(kind)
    seed = SEEDS[kind]
    path = tmp_path / "a"
    n_refused = 0
    for _ in range(60):
        content = bytearray(seed)
        # Headers are where it hurts; for a TIFF they may lie at either end.
        regions = [(0, min(400, len(seed))), (max(0, len(seed) - 400), len(seed)), (0, len(seed))]
        for _ in range(rng.choice([1, 1, 2, 8])):
            content[rng.randrange(*rng.choice(regions))] = rng.choice(
                [0, 1, 127, 255, rng.randrange(256)]
            )
        path.write_bytes(content)
        try:
            image = open_image(path, max_pixels=10**8)
            for _ in image.iter_bands(64):
                pass
        except ImageError:
            n_refused += 1
    assert n_refused > 0
