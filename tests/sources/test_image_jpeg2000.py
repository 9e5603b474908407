"""JPEG 2000 in TIFF, Aperio's too; streams that would take a decoder too far are refused."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from stformat.errors import ImageError
from stformat.sources import _image_jpeg2000, _image_tiff
from stformat.sources._image import open_image
from stformat.sources._image_jpeg2000 import parse_jpeg2000


def smooth(height, width, samples, dtype=np.uint8):
    rng = np.random.default_rng(samples)
    y, x = np.mgrid[:height, :width]
    wave = (
        np.sin(y / 9)[..., None] + np.cos(x / 7)[..., None] + rng.random((height, width, samples))
    )
    return np.squeeze(((wave + 2) / 5 * np.iinfo(dtype).max).astype(dtype))


def write(path, pixels, *, compression=34712, **options):
    """Write JPEG 2000 tiles under any of the numbers that stand for it."""
    is_colour = pixels.ndim == 3
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels,
        photometric="rgb" if is_colour else "minisblack",
        compression="jpeg2000",
        tile=(64, 48),
        **options,
    )
    content = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(content)) as parsed:
        entry = parsed.pages.first.tags[259]
    struct.pack_into("<H", content, entry.offset + 8, compression)
    path.write_bytes(content)


def read(path):
    image = open_image(path)
    return image, np.squeeze(np.moveaxis(np.concatenate(list(image.iter_bands(999)), 1), 0, -1))


@pytest.mark.parametrize("compression", [33005, 34712])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_tiles_equal_what_was_written(tmp_path, compression, samples, dtype):
    path = tmp_path / "a.svs"
    pixels = smooth(100, 130, samples, dtype)
    write(path, pixels, compression=compression)
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels)
    assert image.codec == "tiff/jpeg2000"


def test_lossy_tiles_equal_pillow(tmp_path):
    path = tmp_path / "a.svs"
    write(path, smooth(64, 48, 3), compressionargs={"level": 30})
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        data = path.read_bytes()[page.dataoffsets[0] :][: page.databytecounts[0]]
    expected = np.asarray(Pillow.open(io.BytesIO(data)))
    _, found = read(path)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found.astype(int) - smooth(64, 48, 3)).max() > 0


def test_aperio_ycbcr_is_converted(tmp_path):
    """Compression 33003: the stream holds YCbCr, whatever the page says."""
    path = tmp_path / "a.svs"
    ycbcr = smooth(100, 130, 3)
    write(path, ycbcr, compression=33003)
    _, found = read(path)
    # Pillow rounds its tables, not the sums.
    expected = np.asarray(Pillow.frombytes("YCbCr", (130, 100), ycbcr.tobytes()).convert("RGB"))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(found.astype(int) - ycbcr).max() > 50


def stream(*, width=64, height=48, samples=3, **options):
    pixels = smooth(height, width, samples)
    return bytearray(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=0, **options))


def offset_of(data, marker):
    return data.index(struct.pack(">H", marker))


def problem_of(data):
    with pytest.raises(ImageError) as caught:
        parse_jpeg2000(bytes(data), "a.svs")
    return caught.value.problems[0]


def test_headers():
    found = parse_jpeg2000(bytes(stream(samples=1)), "a.svs")
    assert (found.width, found.height, found.n_components, found.bits) == (64, 48, 1, 8)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9, 0.999])
def test_cut_streams(share):
    data = stream()
    assert problem_of(data[: int(len(data) * share)]).code in {
        "image.truncated",
        "image.unsupported",  # nothing but the first bytes
    }


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [
        (38, b"\x87", "image.unsupported"),  # Ssiz: signed
        (39, b"\x02", "image.unsupported"),  # XRsiz: subsampled
        (12, b"\0\0\0\1", "image.unsupported"),  # XOsiz
        (4, b"\0\0\0\0", "image.corrupt"),  # Xsiz
        (20, b"\0\0\0\0", "image.corrupt"),  # XTsiz
        (20, b"\0\0\0\1", "image.too-large"),  # 64 tiles across
        (36, b"\0\2", "image.corrupt"),  # Csiz
    ],
)
def test_sizes_that_are_refused(at, value, code, monkeypatch):
    monkeypatch.setattr(_image_jpeg2000, "_MAX_TILES", 63)
    data = stream()
    start = offset_of(data, 0xFF51) + 2 + at - 0
    data[start : start + len(value)] = value
    assert problem_of(data).code == code


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [
        (2, b"\0\0", "image.corrupt"),  # no layers
        (5, b"\x40", "image.corrupt"),  # 64 levels
        (0, b"\x01", "image.corrupt"),  # precincts that are not there
    ],
)
def test_codings_that_are_refused(at, value, code):
    data = stream()
    start = offset_of(data, 0xFF52) + 4 + at
    data[start : start + len(value)] = value
    assert problem_of(data).code == code


@pytest.mark.parametrize("limit", ["_MAX_PRECINCTS", "_MAX_CODE_BLOCKS", "_MAX_PACKETS"])
def test_more_parts_than_a_decoder_should_allocate(limit, monkeypatch):
    monkeypatch.setattr(_image_jpeg2000, limit, 10)
    assert problem_of(stream()).code == "image.too-large"


def test_tiny_precincts_and_blocks_of_a_large_image():
    """A few hundred bytes that would cost a decoder gigabytes."""
    data = stream()
    size, coding = offset_of(data, 0xFF51) + 4, offset_of(data, 0xFF52) + 4
    struct.pack_into(">II", data, size + 2, 2048, 2048)
    struct.pack_into(">II", data, size + 18, 2048, 2048)
    data[coding + 6 : coding + 8] = b"\0\0"
    assert problem_of(data).code == "image.too-large"


@pytest.mark.parametrize("marker", [0xFF53, 0xFF5F, 0xFF60])
def test_headers_that_change_the_coding(marker):
    data = stream()
    at = offset_of(data, 0xFF90)
    data[at:at] = struct.pack(">HHH", marker, 4, 0)
    assert problem_of(data).code == "image.unsupported"


def test_tiles_that_change_the_coding():
    data = stream()
    at = offset_of(data, 0xFF93)
    coding = offset_of(data, 0xFF52)
    data[at:at] = data[coding : coding + 14]
    assert problem_of(data).code == "image.unsupported"


def test_boxes_are_refused_as_a_kind():
    boxed = imagecodecs.jpeg2k_encode(smooth(48, 64, 3), codecformat="jp2", level=0)
    assert problem_of(boxed).code == "image.unsupported"


def test_tiles_of_too_many_pixels(tmp_path, monkeypatch):
    path = tmp_path / "a.svs"
    write(path, smooth(100, 130, 3))
    monkeypatch.setattr(_image_tiff, "_MAX_CODED_PIXELS", 1000)
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert caught.value.problems[0].code == "image.too-large"


def test_a_stream_of_another_size_or_depth(tmp_path):
    for pixels in (smooth(63, 48, 3), smooth(64, 48, 3, np.uint16), smooth(64, 48, 1)):
        data = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=0))
        path = tmp_path / "a.svs"
        tifffile.imwrite(
            path, iter([data]), shape=(64, 48, 3), dtype=np.uint8, photometric="rgb",
            compression="jpeg2000", tile=(64, 48),
        )  # fmt: skip
        with pytest.raises(ImageError) as caught:
            read(path)
        assert caught.value.problems[0].code == "image.corrupt"
