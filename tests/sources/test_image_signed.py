"""Signed samples of gray are moved by half of their range, whatever they are."""

import numpy as np
import pytest
import tifffile

from stformat.errors import ImageError
from stformat.sources._image import open_image

LAYOUTS = [
    {},
    {"byteorder": ">"},
    {"tile": (16, 32), "byteorder": ">", "compression": "zlib", "predictor": True},
    {"compression": "lzw", "predictor": True, "rowsperstrip": 8},
]


def samples(dtype, *, is_negative):
    """Values over the whole range, or over its upper half."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    pixels = rng.integers(info.min if is_negative else 0, info.max, (40, 50), endpoint=True)
    pixels[0, :3] = [0, 1, info.max]
    if is_negative:
        pixels[1, :2] = [-1, info.min]
    return pixels.astype(dtype)


def read(path, **options):
    image = open_image(path, **options)
    return image, np.concatenate([band.copy() for band in image.iter_bands(7)], axis=1)


@pytest.mark.parametrize("is_negative", [False, True])
@pytest.mark.parametrize("stain", ["he", "if"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_half_of_the_range_is_added(tmp_path, dtype, layout, stain, is_negative):
    """The rule does not look at the samples: two slides of one scanner stay comparable."""
    path = tmp_path / "a.tif"
    pixels = samples(dtype, is_negative=is_negative)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, **layout)
    image, found = read(path, stain=stain)
    offset = 2 ** (8 * pixels.itemsize - 1)
    assert image.dtype == np.dtype(f"u{pixels.itemsize}")
    np.testing.assert_array_equal(found[0].astype(np.int32) - offset, pixels)
    assert image.background == (2 * offset - 1 if stain == "he" else offset)
    (note,) = image.notes
    assert note.code == "image.signed-samples"
    assert f"{offset} was added" in note.message
    assert note.count == pixels.size


def test_white_is_zero(tmp_path):
    path = tmp_path / "a.tif"
    pixels = samples(np.int8, is_negative=True)
    tifffile.imwrite(path, pixels, photometric="miniswhite", metadata=None)
    image, found = read(path)
    np.testing.assert_array_equal(found[0], 127 - pixels.astype(np.int16))
    assert [note.code for note in image.notes] == ["image.inverted", "image.signed-samples"]


def test_a_signed_palette_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 20), np.int8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags[262].valueoffset
    content = bytearray(path.read_bytes())
    content[at] = 3
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert "INT (2)" in caught.value.problems[0].found


@pytest.mark.parametrize("stain", ["he", "if"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("photometric", ["rgb", "icclab", "cielab", "ycbcr"])
def test_signed_colours_are_refused(tmp_path, photometric, dtype, stain):
    """Moved by half of the range black would be gray; nothing says where it is."""
    path = tmp_path / "a.tif"
    pixels = np.zeros((20, 20, 3), dtype)
    tifffile.imwrite(path, pixels, photometric=photometric, metadata=None)
    with pytest.raises(ImageError) as caught:
        open_image(path, stain=stain)
    assert caught.value.problems[0].code == "image.unsupported"
    assert "INT (2)" in caught.value.problems[0].found
