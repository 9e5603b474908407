"""LZW data that would take the decoder through memory it never set are refused first."""

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.kernels import _reference, codes_after_clear_are_bytes


def array(data):
    return np.frombuffer(bytes(data), np.uint8)


def packed(codes):
    """Pack codes in the lengths that the specification gives them."""
    bits, n_since_clear = "", 0
    for code in codes:
        # The table has 258 entries, and one more with each code but the first.
        n_entries = 258 + max(0, n_since_clear - 1)
        length = next(n for n in (9, 10, 11, 12) if n_entries < 2**n - 1 or n == 12)
        bits += format(code, f"0{length}b")
        n_since_clear = 0 if code == 256 else n_since_clear + 1
    n_bytes = -(-len(bits) // 8)
    return bytearray(int("0" + bits.ljust(8 * n_bytes, "0"), 2).to_bytes(n_bytes))


@settings(deadline=None)
@given(data=st.binary(max_size=400), times=st.integers(1, 60))
def test_what_an_encoder_writes_passes(data, times):
    assert codes_after_clear_are_bytes(array(imagecodecs.lzw_encode(data * times)))


@pytest.mark.parametrize("n", [1, 253, 254, 255, 256, 766, 767, 1789, 1790, 1791, 3836, 3837])
def test_codes_of_every_length(n):
    """A walk that lost its place would see other codes."""
    pixels = [value % 251 for value in range(n)]
    whole = packed([256, *pixels, 256, 65, 66, 257])
    assert bytes(imagecodecs.lzw_decode(whole)) == bytes([*pixels, 65, 66])
    assert codes_after_clear_are_bytes(array(whole))
    assert not codes_after_clear_are_bytes(array(packed([256, *pixels, 256, 300, 66, 257])))


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
    assert codes_after_clear_are_bytes(array(packed(codes))) is is_good


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 65, 255, 256, 257, 258, 300, 511]), max_size=700), st.binary())
def test_the_twin_is_its_definition(codes, junk):
    for data in (array(packed(codes)), array(junk)):
        expected = _reference.codes_after_clear_are_bytes(data)
        assert codes_after_clear_are_bytes(data) is expected


@pytest.mark.parametrize("data", [b"\x80", np.zeros(2, np.int32)])
def test_what_is_no_array_of_bytes_is_refused(data):
    with pytest.raises(TypeError, match=r"NumPy array, got bytes|uint8, got int32"):
        codes_after_clear_are_bytes(data)
