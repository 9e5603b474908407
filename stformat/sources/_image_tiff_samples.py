"""From the samples that a TIFF stores to the values of pixels.

TIFF 6.0: sections 4 (bilevel, min-is-white), 5 (palette), 8 (FillOrder), 14 (differencing),
21 (YCbCr), 23 (L*a*b*).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from stformat.sources._image_lab import LabCoding, lab_to_srgb

__all__ = ["StoredSamples", "YcbcrCoding", "ycbcr_to_rgb"]

_FIXED_POINT_BITS = 16
_HALF = 1 << (_FIXED_POINT_BITS - 1)
_SLAB = 64
_MAX_VALUE = 4096

_SLAB_SAMPLES = 2**20
"""Samples that are converted at a time: what a conversion takes beside them is up to 8 times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YcbcrCoding:
    """Colours as luma and two differences, which may be shared by a block of pixels."""

    across: int = 1
    """Columns of a block."""

    down: int = 1
    """Rows of a block."""

    coefficients: tuple[float, float, float] = (0.299, 0.587, 0.114)
    """Share of red, green and blue in luma."""

    reference: tuple[float, float, float, float, float, float] = (0, 255, 128, 255, 128, 255)
    """Codes of black and white in luma and in each difference."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block: its lumas, row by row, then one of each difference."""
        return self.across * self.down + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSamples:
    """How the rows of a strip or tile are stored, once decompressed."""

    bits: int
    """Bits of a sample: 1, 2, 4, 8 or 16. Rows of less than 8 are packed and end on a byte."""

    per_pixel: int
    """Samples that lie side by side in a pixel."""

    is_signed: bool = False
    """Whether samples are two's complement; the least becomes 0."""

    is_inverted: bool = False
    """Whether 0 is white."""

    has_predictor: bool = False
    """Whether samples are differences from their left neighbours."""

    swap_bytes: bool = False
    """Whether 16-bit samples have the other byte order than this machine."""

    reverse_bits: bool = False
    """Whether bytes were written from their least significant bit on; undone before
    decompression."""

    palette: NDArray[np.uint8] | None = None
    """(2**bits, 3) colours that samples are indices of."""

    ycbcr: YcbcrCoding | None = None
    """Given where samples are YCbCr and no JPEG decoder turns them into RGB."""

    lab: LabCoding | None = None
    """Given where the first three samples of a pixel are L*, a* and b*."""

    @property
    def offset(self) -> int:
        """What is added to a sample so that none is negative."""
        return 1 << (self.bits - 1) if self.is_signed else 0

    @property
    def are_values(self) -> bool:
        """Whether whole samples become values in place."""
        return self.bits >= 8 and self.palette is None and self.ycbcr is None

    def n_bytes(self, n_rows: int, width: int) -> int:
        """Count the bytes of rows of `width` pixels."""
        if self.ycbcr is not None:
            blocks = -(-n_rows // self.ycbcr.down) * -(-width // self.ycbcr.across)
            return blocks * self.ycbcr.block_bytes
        return n_rows * -(-width * self.per_pixel * self.bits // 8)

    def to_values(self, stored: NDArray[np.uint8], out: NDArray[Any]) -> None:
        """Turn whole rows into values.

        Parameters
        ----------
        stored : ndarray of uint8
            ``n_bytes(*out.shape[:2])`` bytes; overwritten. May be the memory of `out` where
            `are_values`.
        out : (y, x, sample) ndarray of uint8 or uint16
            Values: of gray from black to white over the whole range of the type.
        """
        n_rows, width, _ = out.shape
        if self.ycbcr is not None:
            _ycbcr_rows(stored, self.ycbcr, out)
            return
        row_bytes = self.n_bytes(1, width)
        step = max(1, _SLAB_SAMPLES // (width * self.per_pixel))
        for top in range(0, n_rows, step):
            slab = out[top : top + step]
            first = top * row_bytes
            self._slab_to_values(stored[first : first + len(slab) * row_bytes], slab)

    def _slab_to_values(self, stored: NDArray[np.uint8], out: NDArray[Any]) -> None:
        n_rows, width, _ = out.shape
        if self.bits < 8:
            packed = stored.reshape(n_rows, -1)
            samples = _unpack(packed, self.bits)[:, : width * self.per_pixel]
            samples = samples.reshape(n_rows, width, self.per_pixel)
        else:
            dtype = np.dtype(np.uint8 if self.bits == 8 else np.uint16)
            samples = stored.view(dtype).reshape(n_rows, width, self.per_pixel)
            self._restore(samples)
        if self.palette is not None:
            np.take(self.palette, samples[:, :, 0], axis=0, out=out[:, :, :3], mode="clip")
            return
        if self.lab is not None:
            lab_to_srgb(samples[:, :, :3], self.lab, out=out[:, :, :3])
            return
        if self.bits < 8:
            np.multiply(samples, 255 // (2**self.bits - 1), out=out)
        elif not np.shares_memory(samples, out):
            np.copyto(out, samples)
        if self.is_inverted:
            np.invert(out, out=out)

    def _restore(self, samples: NDArray[Any]) -> None:
        """Undo byte order, differences and sign, in place."""
        if self.swap_bytes:
            samples.byteswap(inplace=True)
        if self.has_predictor:
            imagecodecs.delta_decode(samples, axis=1, out=samples)
        if self.is_signed:
            # Adds 2**(bits - 1) in two's complement.
            np.bitwise_xor(samples, self.offset, out=samples)


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Spread the samples of packed rows, the first in the most significant bits."""
    if bits == 1:
        return np.unpackbits(packed, axis=1)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    spread = (packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)
    return spread.reshape(len(packed), -1)


def _ycbcr_rows(stored: NDArray[np.uint8], coding: YcbcrCoding, out: NDArray[np.uint8]) -> None:
    """Convert blocks of pixels, a few rows of blocks at a time."""
    width = out.shape[1]
    across, down = coding.across, coding.down
    blocks = stored.reshape(-1, -(-width // across), coding.block_bytes)
    for first in range(0, len(blocks), _SLAB):
        slab = blocks[first : first + _SLAB]
        target = out[first * down : (first + _SLAB) * down]
        spread = np.empty((len(slab), down, slab.shape[1], across, 3), np.uint8)
        lumas = slab[:, :, :-2].reshape(len(slab), -1, down, across)
        spread[..., 0] = lumas.transpose(0, 2, 1, 3)
        spread[..., 1:] = slab[:, None, :, None, -2:]
        ycbcr = spread.reshape(len(slab) * down, -1, 3)
        ycbcr_to_rgb(ycbcr[: len(target), :width], coding, out=target)


def ycbcr_to_rgb(ycbcr: NDArray[np.uint8], coding: YcbcrCoding, *, out: NDArray[np.uint8]) -> None:
    """Convert luma and differences to RGB in 16-bit fixed point, as libtiff does.

    Parameters
    ----------
    ycbcr : (y, x, 3) ndarray of uint8
        Y, Cb and Cr of every pixel.
    coding : YcbcrCoding
        Coefficients and reference codes.
    out : (y, x, 3) ndarray of uint8
        Red, green and blue; may be the memory of `ycbcr`.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.array([[[128, 128, 255]]], np.uint8)
    >>> ycbcr_to_rgb(pixels, YcbcrCoding(), out=pixels)
    >>> pixels
    array([[[255,  37, 128]]], dtype=uint8)
    """
    luma, blue, red = _value_tables(coding)
    red_share, green_share, blue_share = (np.float32(share) for share in coding.coefficients)
    of_red, of_blue = np.float32(2) - 2 * red_share, np.float32(2) - 2 * blue_share
    red_to_red = (_fixed(of_red) * red + _HALF) >> _FIXED_POINT_BITS
    blue_to_blue = (_fixed(of_blue) * blue + _HALF) >> _FIXED_POINT_BITS
    red_to_green = -_fixed(red_share * of_red / green_share) * red
    blue_to_green = -_fixed(blue_share * of_blue / green_share) * blue + _HALF
    for top in range(0, len(ycbcr), _SLAB):
        y, cb, cr = np.moveaxis(ycbcr[top : top + _SLAB], -1, 0)
        base = luma[y]
        greens = (blue_to_green[cb] + red_to_green[cr]) >> _FIXED_POINT_BITS
        sums = base + red_to_red[cr], base + greens, base + blue_to_blue[cb]
        for channel, total in enumerate(sums):
            np.clip(total, 0, 255, out=out[top : top + _SLAB, :, channel], casting="unsafe")


def _fixed(value: np.float32) -> np.int32:
    return np.int32(float(np.clip(value, 0, 2)) * (1 << _FIXED_POINT_BITS) + 0.5)


def _value_tables(coding: YcbcrCoding) -> list[NDArray[np.int32]]:
    """Return the values that 256 codes of luma, Cb and Cr stand for."""
    reference = np.asarray(coding.reference, np.float32).reshape(3, 2)
    tables: list[NDArray[np.int32]] = []
    for (black, white), middle, full in zip(reference, (0, 128, 128), (255, 127, 127), strict=True):
        codes = np.arange(256, dtype=np.float32) - middle - np.trunc(black - middle)
        values = np.clip(codes * np.float32(full) / (white - black), -_MAX_VALUE, _MAX_VALUE)
        tables.append(values.astype(np.int32))
    return tables
