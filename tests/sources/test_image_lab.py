"""CIE L*a*b* becomes the sRGB that the formulas of both standards give."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stformat.errors import ImageError
from stformat.sources._image import open_image
from stformat.sources._image_lab import lab_to_srgb

D50 = np.array([0.9642, 1.0, 0.8249])
# Colorants of sRGB under D50 (IEC 61966-2-1, adapted by Bradford's matrix as ICC profiles are).
TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169],
     [0.0139322, 0.0971045, 0.7141733]]
)  # fmt: skip


def srgb(lightness, a, b):
    """Convert by the definitions, to 0 to 1."""
    y = (lightness + 16) / 116
    roots = np.stack([y + a / 500, y, y - b / 200], axis=-1)
    xyz = D50 * np.where(roots > 24 / 116, roots**3, (roots - 16 / 116) * 108 / 841)
    linear = np.clip(xyz @ np.linalg.inv(TO_XYZ).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def codes(lightness, a, b, photometric, dtype):
    """Store L*a*b* as the encodings are defined."""
    is_wide = dtype == np.uint16
    white = (65280 if photometric == "icclab" else 65535) if is_wide else 255
    unit, middle = (256, 32768) if is_wide else (1, 128)
    shift = middle if photometric == "icclab" else 0
    stored = np.stack([lightness * white / 100, a * unit + shift, b * unit + shift], axis=-1)
    return np.round(stored).astype(np.int64).astype(dtype)


def field():
    """Colours of stained tissue and of slides, all inside sRGB."""
    y, x = np.mgrid[:40, :50]
    return 30 + 60 * x / 49.0, 10 + 15 * np.sin(y / 5), -12 + 10 * np.cos(x / 6)


def read(path):
    image = open_image(path)
    pixels, whole = (
        np.concatenate([band.copy() for band in image.iter_bands(height)], axis=1)
        for height in (7, 100)
    )
    np.testing.assert_array_equal(pixels, whole)
    return image, np.moveaxis(pixels, 0, -1)


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.uint8, 3.5), (np.uint16, 40)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
        {"tile": (16, 32), "compression": "lzw"},
    ],
)
def test_equals_the_definitions(tmp_path, photometric, dtype, tolerance, options):
    """To within what one code of L*, a* and b* is worth."""
    path = tmp_path / "a.tif"
    values = field()
    stored = codes(*values, photometric, dtype)
    tifffile.imwrite(path, stored, photometric=photometric, metadata=None, **options)
    image, found = read(path)
    assert image.channel_names == ("r", "g", "b")
    assert image.dtype == dtype
    assert np.abs(found - srgb(*values) * np.iinfo(dtype).max).max() < tolerance
    (note,) = image.notes
    assert note.code == "image.converted-from-lab"
    assert "cannot be undone" in note.message
    assert note.count == 2000


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_and_white(photometric, dtype):
    coding = {"cielab": "cie", "icclab": "icc"}[photometric]
    pixels = codes(np.array([[0.0, 100.0]]), np.zeros((1, 2)), np.zeros((1, 2)), photometric, dtype)
    lab_to_srgb(pixels, coding, out=pixels)
    assert np.abs(pixels - np.array([[[0], [np.iinfo(dtype).max]]], np.int64)).max() <= 2


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_any_colour_is_off_by_rounding_at_most(icc):
    """Also outside of sRGB, where a coarse grid of colours is tens of codes off."""
    out = np.empty_like(icc)
    lab_to_srgb(icc, "icc", out=out)
    exact = srgb(icc[..., 0] / 2.55, icc[..., 1] - 128.0, icc[..., 2] - 128.0) * 255
    assert np.abs(out - exact).max() < 1.5
    cie = icc ^ np.array([0, 128, 128], np.uint8)
    lab_to_srgb(cie, "cie", out=cie)
    np.testing.assert_array_equal(cie, out)


def test_opacity_beside_lab_is_dropped(tmp_path):
    path = tmp_path / "a.tif"
    values = field()
    stored = codes(*values, "icclab", np.uint8)
    with_alpha = np.concatenate([stored, np.full((40, 50, 1), 9, np.uint8)], axis=-1)
    tifffile.imwrite(
        path, with_alpha, photometric="icclab", extrasamples=["unassalpha"], metadata=None
    )
    image, found = read(path)
    assert np.abs(found - srgb(*values) * 255).max() < 3.5
    assert [note.code for note in image.notes] == [
        "image.alpha-dropped", "image.converted-from-lab",
    ]  # fmt: skip


WHITE_D65 = [(318, 5, 2, (3127, 10000, 3290, 10000), True)]
WHITE_D50 = [(318, 5, 2, (3457, 10000, 3585, 10000), True)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"extratags": WHITE_D65}, "white point of 0.3127 and 0.3290"),
        ({"compression": "jpeg"}, "jpeg"),
        ({"planarconfig": "separate"}, "segments of 3 samples"),
        ({"photometric": "itulab"}, "ITULAB"),
    ],
)
def test_lab_without_a_rule_is_refused(tmp_path, options, found):
    path = tmp_path / "a.tif"
    stored = codes(*field(), "cielab", np.uint8)
    if "planarconfig" in options:
        stored = np.moveaxis(stored, -1, 0)
    tifffile.imwrite(path, stored, **({"photometric": "cielab", "metadata": None} | options))
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert caught.value.problems[0].code == "image.unsupported"
    assert found in caught.value.problems[0].found


def test_a_white_point_of_d50_says_nothing_new(tmp_path):
    path = tmp_path / "a.tif"
    stored = codes(*field(), "cielab", np.uint8)
    tifffile.imwrite(path, stored, photometric="cielab", extratags=WHITE_D50, metadata=None)
    assert open_image(path).shape == (3, 40, 50)
