"""CCITT data decode to what libtiff encoded, and damage does not pass for pixels."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from stformat.sources._ccitt import CcittCoding, CcittError, decode_ccitt

CODINGS = {
    "group3": ("group3", {}, CcittCoding(scheme="g3")),
    "group3 rows above": (
        "group3",
        {292: 1},
        CcittCoding(scheme="g3", is_two_dimensional=True),
    ),
    "group3 aligned": ("group3", {292: 4}, CcittCoding(scheme="g3")),
    "group3 both": ("group3", {292: 5}, CcittCoding(scheme="g3", is_two_dimensional=True)),
    "group4": ("group4", {}, CcittCoding(scheme="g4")),
    "group4 from bit 0": ("group4", {266: 2}, CcittCoding(scheme="g4")),
    "rle": ("tiff_ccitt", {}, CcittCoding(scheme="rle")),
}


def decode(data, shape, coding):
    out = np.full(shape, 7, np.uint8)
    decode_ccitt(data, coding, out=out)
    assert set(np.unique(out)) <= {0, 255}
    return out // 255


def encode(is_black, kind):
    """Let libtiff encode one strip; white codes stand for a bit that is not set."""
    compression, tags, coding = CODINGS[kind]
    buffer = io.BytesIO()
    height = len(is_black)
    Pillow.fromarray(is_black).save(
        buffer, "tiff", compression=compression, tiffinfo={**tags, 278: height}, strip_size=2**30
    )
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as tiff:
        page = tiff.pages.first
        (start,), (length,) = page.dataoffsets, page.databytecounts
        assert page.photometric == 1
        assert page.tags.valueof(292, 0) == tags.get(292, 0)
    data = buffer.getvalue()[start : start + length]
    return bytes(imagecodecs.bitorder_decode(data)) if 266 in tags else data, coding


@pytest.mark.parametrize("kind", CODINGS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("width", [1, 64, 131])
def test_equals_what_libtiff_encoded(kind, share, width):
    is_black = np.random.default_rng(4).random((60, width)) < share
    data, coding = encode(is_black, kind)
    np.testing.assert_array_equal(decode(data, (60, width), coding), is_black)


@pytest.mark.parametrize("kind", ["group3", "group4"])
@pytest.mark.parametrize("is_black", [False, True])
def test_every_length_of_a_run(kind, is_black):
    """Runs of 0 to 5200 pixels: every code of both colours, and some that repeat."""
    lengths = np.r_[np.arange(2700), 5119, 5120, 5121, 5200]
    picture = (np.arange(5201) < lengths[:, None]) == is_black
    data, coding = encode(picture, kind)
    np.testing.assert_array_equal(decode(data, picture.shape, coding), picture)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_rows(data):
    kind = data.draw(st.sampled_from(list(CODINGS)))
    width = data.draw(st.integers(1, 80))
    rows = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=12))
    picture = np.array([[bool(row >> at & 1) for at in range(width)] for row in rows])
    coded, coding = encode(picture, kind)
    np.testing.assert_array_equal(decode(coded, picture.shape, coding), picture)


@pytest.mark.parametrize("kind", CODINGS)
def test_cut_data_are_an_error(kind):
    is_black = np.random.default_rng(4).random((60, 131)) < 0.3
    data, coding = encode(is_black, kind)
    for stop in range(0, len(data) - 20, 97):
        with pytest.raises(CcittError):
            decode(data[:stop], (60, 131), coding)


@pytest.mark.parametrize("kind", CODINGS)
def test_another_width_is_an_error(kind):
    is_black = np.random.default_rng(4).random((60, 131)) < 0.3
    data, coding = encode(is_black, kind)
    for width in (130, 132):
        with pytest.raises(CcittError, match="row"):
            decode(data, (60, width), coding)


G3_ROWS_ABOVE = CcittCoding(scheme="g3", is_two_dimensional=True)


@pytest.mark.parametrize(
    ("codes", "coding", "message"),
    [
        ("0000000 1", CcittCoding(scheme="g4"), "0000000 are no code in row 0 of 2"),
        ("0000000011111", CcittCoding(scheme="rle"), "are no code"),
        # One black pixel at column 4; then white 0, black 3, and a change 3 before column 4.
        (
            "001 1011 010 1  001 00110101 10 0000010",
            CcittCoding(scheme="g4"),
            "before the one to its left in row 1",
        ),
        ("1", G3_ROWS_ABOVE, "begin with an end of line"),
        ("00000000000", CcittCoding(scheme="g3"), "end early"),
        ("11011 11011 00110101", CcittCoding(scheme="rle"), "column 128 of 100"),
    ],
)
def test_what_cannot_be(codes, coding, message):
    bits = codes.replace(" ", "").ljust(64, "0")
    with pytest.raises(CcittError, match=message):
        decode(int(bits, 2).to_bytes(8), (2, 100), coding)
