"""CCITT fax coding of black and white images: modified Huffman, Group 3 and Group 4.

ITU-T T.4 and T.6; TIFF 6.0, sections 10 and 11.

Decoders in common use paint over damage and go on. This one stops at the first code that cannot be
and at the first row that does not end where it must.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CcittCoding", "CcittError", "decode_ccitt"]

_WHITE = 0

# Codes of the runs 0 to 63, then of 64, 128, ... 1728.
_WHITE_CODES = """
00110101 000111 0111 1000 1011 1100 1110 1111 10011 10100 00111 01000 001000 000011 110100 110101
101010 101011 0100111 0001100 0001000 0010111 0000011 0000100 0101000 0101011 0010011 0100100
0011000 00000010 00000011 00011010 00011011 00010010 00010011 00010100 00010101 00010110 00010111
00101000 00101001 00101010 00101011 00101100 00101101 00000100 00000101 00001010 00001011 01010010
01010011 01010100 01010101 00100100 00100101 01011000 01011001 01011010 01011011 01001010 01001011
00110010 00110011 00110100
11011 10010 010111 0110111 00110110 00110111 01100100 01100101 01101000 01100111 011001100
011001101 011010010 011010011 011010100 011010101 011010110 011010111 011011000 011011001 011011010
011011011 010011000 010011001 010011010 011000 010011011
"""
_BLACK_CODES = """
0000110111 010 11 10 011 0011 0010 00011 000101 000100 0000100 0000101 0000111 00000100 00000111
000011000 0000010111 0000011000 0000001000 00001100111 00001101000 00001101100 00000110111
00000101000 00000010111 00000011000 000011001010 000011001011 000011001100 000011001101 000001101000
000001101001 000001101010 000001101011 000011010010 000011010011 000011010100 000011010101
000011010110 000011010111 000001101100 000001101101 000011011010 000011011011 000001010100
000001010101 000001010110 000001010111 000001100100 000001100101 000001010010 000001010011
000000100100 000000110111 000000111000 000000100111 000000101000 000001011000 000001011001
000000101011 000000101100 000001011010 000001100110 000001100111
0000001111 000011001000 000011001001 000001011011 000000110011 000000110100 000000110101
0000001101100 0000001101101 0000001001010 0000001001011 0000001001100 0000001001101 0000001110010
0000001110011 0000001110100 0000001110101 0000001110110 0000001110111 0000001010010 0000001010011
0000001010100 0000001010101 0000001011010 0000001011011 0000001100100 0000001100101
"""
# Codes of the runs 1792, 1856, ... 2560, the same for both colours.
_LONG_CODES = """
00000001000 00000001100 00000001101 000000010010 000000010011 000000010100 000000010101
000000010110 000000010111 000000011100 000000011101 000000011110 000000011111
"""

_PASS, _HORIZONTAL = 100, 101
# The numbers are the offset of a change from the one above it.
_MODE_CODES = {
    "1": 0, "011": 1, "000011": 2, "0000011": 3, "010": -1, "000010": -2, "0000010": -3,
    "0001": _PASS, "001": _HORIZONTAL,
}  # fmt: skip

_RUN_BITS = 13
_MODE_BITS = 7
_END_OF_LINE_BITS = 12


class CcittError(ValueError):
    """The bits are no image of the declared size."""


class _Code(NamedTuple):
    """What the bits that lie ahead begin with."""

    value: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CcittCoding:
    """How rows are coded: the TIFF tags Compression, T4Options and FillOrder."""

    scheme: Literal["rle", "g3", "g4"]
    """``"rle"`` is modified Huffman, compression 2; ``"g3"`` is compression 3, ``"g4"`` 4."""

    is_two_dimensional: bool = False
    """Whether rows of Group 3 may be coded by what changes from the row above."""


def _lookup(codes: Mapping[str, int], n_bits: int) -> list[_Code | None]:
    """Index codes by every value that the next `n_bits` bits may have."""
    table: list[_Code | None] = [None] * (1 << n_bits)
    for code, value in codes.items():
        free = n_bits - len(code)
        start = int(code, 2) << free
        table[start : start + (1 << free)] = [_Code(value, len(code))] * (1 << free)
    return table


def _runs(codes: str) -> dict[str, int]:
    lengths = [*range(64), *range(64, 1729, 64), *range(1792, 2561, 64)]
    return dict(zip((codes + _LONG_CODES).split(), lengths, strict=True))


_RUNS = (_lookup(_runs(_WHITE_CODES), _RUN_BITS), _lookup(_runs(_BLACK_CODES), _RUN_BITS))
_MODES = _lookup(_MODE_CODES, _MODE_BITS)


def decode_ccitt(data: bytes, coding: CcittCoding, *, out: NDArray[np.uint8]) -> None:
    """Decode a strip or tile.

    Parameters
    ----------
    data : bytes
        Code words from the most significant bit on.
    coding : CcittCoding
        How they are coded.
    out : (y, x) ndarray of uint8
        Filled with 0 where a pixel is white, 255 where it is black; its shape is what the data
        must hold.

    Raises
    ------
    CcittError
        If a code is none, a row is not as wide as `out`, or the data end early.

    Notes
    -----
    Takes about a microsecond a code word, which has at least one bit: bound the length of `data`.

    Examples
    --------
    A white row, then one that is black from its third pixel on, in Group 4:

    >>> bits = "1" + "001" + "0111" + "10" + "000000000001" + "000000000001"
    >>> data = int(bits.ljust(40, "0"), 2).to_bytes(5)
    >>> pixels = np.empty((2, 5), np.uint8)
    >>> decode_ccitt(data, CcittCoding(scheme="g4"), out=pixels)
    >>> pixels
    array([[  0,   0,   0,   0,   0],
           [  0,   0, 255, 255, 255]], dtype=uint8)
    """
    bits = _Bits(data)
    height, width = out.shape
    changes: list[int] = []
    for row in range(height):
        try:
            changes = _decode_row(bits, changes, width, coding)
        except CcittError as error:
            raise CcittError(f"{error} in row {row} of {height}") from None
        out[row] = 0
        for start, stop in zip_longest(changes[::2], changes[1::2], fillvalue=width):
            out[row, start:stop] = 255


class _Bits:
    """A place in a sequence of bits; what lies beyond its end reads as zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data + bytes(4)
        self._end = 8 * len(data)
        self.at = 0

    def peek(self, n: int) -> int:
        """Return the next `n` bits, at most 24, as a number."""
        start, shift = divmod(self.at, 8)
        window = int.from_bytes(self._data[start : start + 4])
        return (window >> (32 - shift - n)) & ((1 << n) - 1)

    def skip(self, n: int) -> None:
        """Pass over `n` bits."""
        self.at += n
        if self.at > self._end:
            raise CcittError("the data end early")

    def skip_end_of_line(self) -> bool:
        """Pass over an end of line and the zeros that fill up the row before it, if one follows."""
        if self.peek(_END_OF_LINE_BITS - 1):
            return False
        while not self.peek(8):
            self.skip(8)
        self.skip(9 - self.peek(8).bit_length())
        return True

    def align(self) -> None:
        """Pass over what is left of a byte."""
        self.skip(-self.at % 8)

    def code(self, table: list[_Code | None], n_bits: int) -> int:
        """Take the code that follows."""
        code = table[self.peek(n_bits)]
        if code is None:
            raise CcittError(f"the bits {self.peek(n_bits):0{n_bits}b} are no code")
        self.skip(code.length)
        return code.value

    def run(self, colour: int) -> int:
        """Take the length of a run: codes of 64 pixels and more, then one of less."""
        length = 0
        while True:
            part = self.code(_RUNS[colour], _RUN_BITS)
            length += part
            if part < 64:
                return length


def _decode_row(bits: _Bits, above: list[int], width: int, coding: CcittCoding) -> list[int]:
    """Return the columns where a row turns black, white, black, ...; it begins white."""
    if coding.scheme == "g4":
        return _decode_changes(bits, above, width)
    if coding.scheme == "rle":
        bits.align()
        return _decode_runs(bits, width)
    has_end_of_line = bits.skip_end_of_line()
    if not coding.is_two_dimensional:
        return _decode_runs(bits, width)
    if not has_end_of_line:
        raise CcittError("a row does not begin with an end of line")
    is_run_coded = bits.peek(1)
    bits.skip(1)
    return _decode_runs(bits, width) if is_run_coded else _decode_changes(bits, above, width)


def _decode_runs(bits: _Bits, width: int) -> list[int]:
    """Decode a row of white and black runs in turn."""
    changes: list[int] = []
    at = 0
    colour = _WHITE
    while at < width:
        at += bits.run(colour)
        _turn(changes, at, width)
        colour ^= 1
    return changes


def _decode_changes(bits: _Bits, above: list[int], width: int) -> list[int]:
    """Decode a row by how its changes of colour differ from those of the row above."""
    changes: list[int] = []
    # The first pixel may be a change: nothing lies on the row before it.
    last, at = -1, 0
    colour = _WHITE
    while at < width:
        # The next change above that is of the same kind as the one looked for.
        index = bisect_right(above, last)
        index += (index & 1) != colour
        mode = bits.code(_MODES, _MODE_BITS)
        if mode == _PASS:
            at = above[index + 1] if index + 1 < len(above) else width
        elif mode == _HORIZONTAL:
            for run_colour in (colour, colour ^ 1):
                at += bits.run(run_colour)
                _turn(changes, at, width)
        else:
            target = (above[index] if index < len(above) else width) + mode
            if target < at:
                raise CcittError("a change lies before the one to its left")
            at = target
            _turn(changes, at, width)
            colour ^= 1
        last = at
    return changes


def _turn(changes: list[int], at: int, width: int) -> None:
    """Note that the colour changes; two changes in one place are none."""
    if at > width:
        raise CcittError(f"a run reaches column {at} of {width}")
    if changes and changes[-1] == at:
        changes.pop()
    elif at < width:
        changes.append(at)
