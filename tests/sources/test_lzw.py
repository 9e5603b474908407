"""LZW data that would take the decoder through memory it never set are refused first."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from stformat.errors import ImageError
from stformat.sources._image import open_image
from stformat.sources._lzw import codes_after_clear_are_bytes


def packed(codes):
    """Pack codes of 9 bits, as they are up to the 254th after a clear code."""
    bits = "".join(format(code, "09b") for code in codes)
    return bytearray(int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8)))


@given(data=st.binary(max_size=400), times=st.integers(1, 60))
def test_what_an_encoder_writes_passes(data, times):
    assert codes_after_clear_are_bytes(bytearray(imagecodecs.lzw_encode(data * times)))


@pytest.mark.parametrize("n_bytes", [253, 254, 255, 510, 511, 1022, 1023, 2046, 4093, 4094, 50_000])
def test_codes_of_every_length(n_bytes):
    """A walk that lost its place would find clear codes where there are none."""
    noise = np.random.default_rng(n_bytes).integers(0, 256, n_bytes, np.uint8)
    data = bytearray(imagecodecs.lzw_encode(noise.tobytes()))
    assert codes_after_clear_are_bytes(data)
    last = packed([256, 300])
    # One code of the table in place of the first byte, and everything after it as it was.
    broken = bytearray(data)
    broken[: len(last)] = last
    assert not codes_after_clear_are_bytes(broken)


@pytest.mark.parametrize(
    ("codes", "is_good"),
    [
        ([256, 65, 258, 257], True),
        ([256, 256, 65, 257], True),
        ([256, 257], True),
        ([256, 258], False),
        ([256, 65, 256, 511, 257], False),
        ([256, 256, 300], False),
        ([256, 65, 257, 256, 300], True),
        ([], True),
    ],
)
def test_first_codes(codes, is_good):
    assert codes_after_clear_are_bytes(packed(codes)) is is_good


def test_a_tiff_with_such_codes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, iter([bytes(packed([256, 65, 256, 422, 66, 257]))]), shape=(2, 2), dtype=np.uint8,
        compression="lzw", photometric="minisblack",
    )  # fmt: skip
    with pytest.raises(ImageError) as caught:
        list(open_image(path).iter_bands(2))
    assert caught.value.problems[0].code == "image.corrupt"
