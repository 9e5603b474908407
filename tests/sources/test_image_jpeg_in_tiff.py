"""JPEG in TIFF has the colours that Pillow and tifffile give it, however the file tells them."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from stformat.sources._image import open_image


def smooth(height, width, samples):
    rng = np.random.default_rng(samples)
    y, x = np.mgrid[:height, :width]
    wave = (
        np.sin(y / 9)[..., None]
        + np.cos(x / 7)[..., None]
        + rng.random((height, width, samples)) / 4
    )
    return ((wave + 2) / 5 * 255).astype(np.uint8)


def assert_image_equal(path, expected):
    """Compare with `expected`, axes (y, x, c), at two heights of bands."""
    image = open_image(path)
    for height in (7, 1000):
        found = np.concatenate([band.copy() for band in image.iter_bands(height)], axis=1)
        np.testing.assert_array_equal(np.moveaxis(found, 0, -1), expected)
    return image


def load(path):
    with Pillow.open(path) as picture:
        pixels = np.asarray(picture)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 16}, {}])
@pytest.mark.parametrize("kind", ["ycbcr 4:2:0", "ycbcr 4:4:4", "rgb", "gray"])
def test_jpeg_in_tiff_equals_tifffile_and_pillow(tmp_path, layout, kind):
    pixels = smooth(75, 101, 1 if kind == "gray" else 3)
    path = tmp_path / "a.tif"
    arguments = {"level": 90}
    if kind.startswith("ycbcr"):
        arguments["outcolorspace"] = "ycbcr"
    elif kind == "rgb":
        arguments["outcolorspace"] = "rgb"
    tifffile.imwrite(
        path,
        pixels[:, :, 0] if kind == "gray" else pixels,
        photometric="minisblack" if kind == "gray" else "rgb",
        compression="jpeg",
        compressionargs=arguments,
        subsampling=(2, 2) if kind == "ycbcr 4:2:0" else (1, 1),
        **layout,
    )
    expected = tifffile.imread(path)
    expected = expected[:, :, None] if expected.ndim == 2 else expected
    image = assert_image_equal(path, expected)
    assert image.codec == "tiff/jpeg"
    np.testing.assert_array_equal(load(path), expected)
    # The colours are right, not only equal to another reader's.
    assert np.abs(expected.astype(int) - pixels).mean() < 8


def test_jpeg_in_tiff_with_shared_tables(tmp_path):
    path = tmp_path / "a.tif"
    Pillow.fromarray(smooth(75, 101, 3)).save(path, compression="jpeg", quality=90)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.jpegtables is not None
    assert_image_equal(path, load(path))


def test_jpeg_in_tiff_whose_page_alone_says_rgb(tmp_path):
    """As Aperio writes it: no marker and no name of a component tells RGB from YCbCr."""
    pixels = smooth(32, 48, 3)
    stream = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="rgb", outcolorspace="rgb")
    expected = imagecodecs.jpeg8_decode(stream)
    assert np.abs(expected.astype(int) - pixels).mean() < 8
    nameless = bytearray(stream)
    frame, scan = nameless.index(b"\xff\xc0") + 10, nameless.index(b"\xff\xda") + 5
    assert bytes(nameless[frame : frame + 9 : 3]) == b"RGB"
    assert bytes(nameless[scan : scan + 6 : 2]) == b"RGB"
    nameless[frame : frame + 9 : 3] = nameless[scan : scan + 6 : 2] = b"\1\2\3"
    assert bytes(nameless[2:4]) == b"\xff\xee"
    del nameless[2:18]  # Adobe's marker
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, iter([bytes(nameless)]), shape=pixels.shape, dtype=np.uint8, photometric="rgb",
        compression="jpeg", compressionargs={"outcolorspace": "rgb"}, rowsperstrip=32,
    )  # fmt: skip
    assert_image_equal(path, expected)
    np.testing.assert_array_equal(tifffile.imread(path), expected)


def test_jpeg_in_tiff_that_says_rgb_and_jfif(tmp_path):
    """JFIF streams are YCbCr by definition: the tag of the page does not make them RGB."""
    pixels = smooth(32, 48, 3)
    path = tmp_path / "a.tif"
    stream = imagecodecs.jpeg8_encode(pixels, level=95)
    assert stream[6:10] == b"JFIF"
    tifffile.imwrite(
        path, iter([stream]), shape=pixels.shape, dtype=np.uint8, photometric="rgb",
        compression="jpeg", compressionargs={"outcolorspace": "rgb"}, rowsperstrip=32,
    )  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric == tifffile.PHOTOMETRIC.RGB
    assert_image_equal(path, np.asarray(Pillow.open(io.BytesIO(stream))))
