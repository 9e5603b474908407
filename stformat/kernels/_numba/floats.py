"""Compiled twins of `tiles_to_float` and `tiles_to_half`: pixels to a model's floats."""

from __future__ import annotations

import numpy as np

from stformat.kernels._numba._compile import Array, compiled, inlined

SIGN = 0x80000000
SMALLEST_NORMAL_HALF = 0x38800000
INFINITE_HALF = 0x7C00


@inlined
def _half_bits(value: float) -> np.uint16:
    """Return the bits of the float16 nearest to a float32, ties to even; no branch, no NaN.

    Of a normal half, the 13 bits too many are rounded off and the exponent's bias falls from 127
    to 15. Below, adding 1/2 leaves the multiple of 2**-24 in the low bits, rounded by the addition.
    """
    bits = np.float32(value).view(np.uint32)
    magnitude = np.uint32(bits & np.uint32(SIGN - 1))
    odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
    rounded = np.uint32(magnitude + np.uint32(0xFFF) + odd - np.uint32(112 << 23))
    normal = min(np.uint32(rounded >> np.uint32(13)), np.uint32(INFINITE_HALF))
    shifted = np.float32(magnitude.view(np.float32) + np.float32(0.5)).view(np.uint32)
    small = np.uint32(shifted - np.uint32(126 << 23))
    half = normal if magnitude >= np.uint32(SMALLEST_NORMAL_HALF) else small
    return np.uint16(half | np.uint32((bits & np.uint32(SIGN)) >> np.uint32(16)))


@inlined
def _scaled(pixel: int, factor: float, offset: float) -> float:
    return np.float32(np.float32(np.float32(pixel) * factor) + offset)  # type: ignore[return-value] # float32


@compiled
def tiles_to_float(  # noqa: PLR0917 - compiled functions are called by position
    tiles: Array, factors: Array, offsets: Array, flips: Array, turns: Array, out: Array
) -> None:
    n, n_c, height, width = tiles.shape
    for tile in range(n):
        # A quarter turn reads columns for rows, the second half of a turn begins at the far end.
        is_mirrored = flips[tile, 0] != (turns[tile] == 1 or turns[tile] == 2)
        is_upended = flips[tile, 1] != (turns[tile] == 2 or turns[tile] == 3)
        for c in range(n_c):
            factor, offset = factors[c], offsets[c]
            for row in range(out.shape[2]):
                target = out[tile, c, row]
                if turns[tile] % 2 == 1:
                    column = tiles[tile, c, :, width - 1 - row if is_mirrored else row]
                    _fill(column, is_upended, factor, offset, target)
                else:
                    line = tiles[tile, c, height - 1 - row if is_upended else row]
                    _fill(line, is_mirrored, factor, offset, target)


@inlined
def _fill(pixels: Array, is_reversed: bool, factor: float, offset: float, target: Array) -> None:  # noqa: FBT001 - compiled
    last = np.uint64(target.size - 1)
    if is_reversed:
        for k in range(target.size):
            target[k] = _scaled(pixels[last - np.uint64(k)], factor, offset)
    else:
        for k in range(target.size):
            target[k] = _scaled(pixels[np.uint64(k)], factor, offset)


@compiled
def tiles_to_half(  # noqa: PLR0917 - compiled functions are called by position
    tiles: Array, factors: Array, offsets: Array, flips: Array, turns: Array, out: Array
) -> None:
    """Write the bits of float16: numba does not compute with that type on a CPU."""
    n, n_c, _, _ = tiles.shape
    plane = np.empty((1, 1, out.shape[2], out.shape[3]), np.float32)
    for tile in range(n):
        for c in range(n_c):
            tiles_to_float(
                tiles[tile : tile + 1, c : c + 1],
                factors[c : c + 1],
                offsets[c : c + 1],
                flips[tile : tile + 1],
                turns[tile : tile + 1],
                plane,
            )
            for row in range(out.shape[2]):
                values, target = plane[0, 0, row], out[tile, c, row]
                for k in range(target.size):
                    target[k] = _half_bits(values[k])
