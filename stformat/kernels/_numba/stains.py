"""Compiled twin of `change_stains`."""

from __future__ import annotations

import numpy as np

from stformat.kernels._numba._compile import Array, compiled


@compiled
def change_stains(
    tiles: Array, factors: Array, densities: Array, samples: Array, out: Array
) -> None:
    """See `_reference.change_stains`. All channels of a pixel are read before one is written."""
    n, _, height, width = tiles.shape
    last = np.int32(samples.size - 1)
    half = np.int32(2048)
    for tile in range(n):
        changes = factors[tile]
        for row in range(height):
            red, green, blue = tiles[tile, 0, row], tiles[tile, 1, row], tiles[tile, 2, row]
            for k in range(width):
                d_red, d_green, d_blue = densities[red[k]], densities[green[k]], densities[blue[k]]
                for c in range(3):
                    total = np.int32(
                        changes[c, 0] * d_red
                        + changes[c, 1] * d_green
                        + changes[c, 2] * d_blue
                        + (changes[c, 3] << 12)
                        + half
                    )
                    density = min(max(np.int32(total >> 12), np.int32(0)), last)
                    out[tile, c, row, k] = samples[density]
