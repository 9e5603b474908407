"""A section of breast tissue stained with haematoxylin and eosin, drawn from noise.

Every pixel is a function of the seed and of its own place alone, so that a slide of any size is
drawn in bands of any height and comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["REGIONS", "Tissue", "TissueFields"]

REGIONS = (
    "invasive cancer",
    "connective tissue",
    "adipose tissue",
    "immune infiltrate",
    "undetermined",
)
"""Names of regions; the last one is off the tissue."""

type _Floats = NDArray[np.float32]

_WHITE = 244.0
# Optical densities of the two stains in red, green and blue, at their full amounts.
_HAEMATOXYLIN = (1.35, 1.45, 0.62)
_EOSIN = (0.10, 0.98, 0.42)

# One stream of random numbers a layer; the numbers are names.
_OUTLINE, _CANCER, _FAT, _IMMUNE, _LUMEN, _FIBRE, _WARP, _MOTTLE, _GRAIN, _FAT_CELLS = range(10)
_NUCLEI = (10, 11)
_ROW_OFFSET = 1 << 20  # rows of cells above the image have negative numbers, seeds must not

_CELL_UM = 11.0
_FAT_CELL_UM = 62.0
_LARGEST_NUCLEUS_UM = 7.5


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueFields:
    """What the tissue is at some places: amounts from 0 to 1, one array shape."""

    tissue: _Floats
    """Covered by tissue."""

    cancer: _Floats
    """Invasive cancer; what is none of the three is connective tissue."""

    fat: _Floats
    """Adipose tissue."""

    immune: _Floats
    """Immune infiltrate."""

    def weights(self) -> _Floats:
        """Shares of `REGIONS`: (..., 5) float32, non-negative, summing to 1."""
        stroma = (1 - self.cancer) * (1 - self.fat) * (1 - self.immune)
        cancer = self.cancer * (1 - self.fat) * (1 - self.immune)
        fat = self.fat * (1 - self.immune)
        inside = np.stack([cancer, stroma, fat, self.immune], axis=-1) * self.tissue[..., None]
        return np.concatenate([inside, 1 - inside.sum(axis=-1, keepdims=True)], axis=-1)


@dataclass(frozen=True, slots=True)
class _Noise:
    """Smooth noise in [0, 1): random values on a grid, blended between its points."""

    seed: int
    layer: int
    cell_y: float
    cell_x: float

    def grid(self, top: int, height: int, width: int) -> _Floats:
        """Noise of a band of pixels."""
        row, row_part = _split((np.arange(top, top + height) + 0.5) / self.cell_y)
        column, column_part = _split((np.arange(width) + 0.5) / self.cell_x)
        values = self._values(int(row[0]), int(row[-1]) + 2, int(column[-1]) + 2)
        row = row - row[0]
        lines = values[row] + (values[row + 1] - values[row]) * row_part[:, None]
        slopes = lines[:, 1:] - lines[:, :-1]
        # take() into contiguous rows is the quick way to stretch a line.
        return lines.take(column, axis=1) + slopes.take(column, axis=1) * column_part

    def at(self, x: _Floats, y: _Floats) -> _Floats:
        """Noise of single places."""
        row, row_part = _split(y / np.float32(self.cell_y))
        column, column_part = _split(x / np.float32(self.cell_x))
        first_row, first_column = (int(index.min(initial=0)) for index in (row, column))
        values = self._values(
            first_row, int(row.max(initial=0)) + 2, int(column.max(initial=0)) + 2
        )
        n_columns = values.shape[1]
        # Places left of the image take the first column's values.
        flat = (row - first_row) * n_columns + np.maximum(column, 0)
        upper = values.ravel()
        here = upper.take(flat)
        above = here + (upper.take(flat + 1) - here) * column_part
        here = upper.take(flat + n_columns)
        below = here + (upper.take(flat + n_columns + 1) - here) * column_part
        result: _Floats = above + (below - above) * row_part
        return result

    def _values(self, first_row: int, last_row: int, n_columns: int) -> _Floats:
        rows = [
            _stream(self.seed, self.layer, row).random(n_columns, dtype=np.float32)
            for row in range(first_row, last_row)
        ]
        return np.stack(rows)


def _split(position: NDArray[np.floating]) -> tuple[NDArray[np.intp], _Floats]:
    """Grid index of positions, and how far they are blended into the next one."""
    index = np.floor(position)
    part = (position - index).astype(np.float32)
    return index.astype(np.intp), part * part * (3 - 2 * part)


def _stream(seed: int, layer: int, row: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64((seed, layer, row + _ROW_OFFSET)))


def _ramp(value: _Floats, start: float, stop: float) -> _Floats:
    """0 below `start`, 1 above `stop`, straight between them."""
    return np.clip((value - np.float32(start)) * np.float32(1 / (stop - start)), 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """A tissue section on an image."""

    height: int
    """Height of the image in pixels."""

    width: int
    """Width of the image in pixels."""

    mpp: float
    """Microns per pixel: how large cells are drawn."""

    seed: int
    """Seed of everything random, not negative."""

    def fields_at(self, xy: NDArray[np.float64]) -> TissueFields:
        """What the tissue is at (n, 2) places in pixels, columns ``(x, y)``."""
        x, y = xy.astype(np.float32).T
        return self._fields(x, y, lambda noise: noise.at(x, y))

    def render(self, top: int, height: int) -> NDArray[np.uint8]:
        """Draw a band of rows: (3, height, width) uint8."""
        eosin, haematoxylin, mask = self._background(top, height)
        nuclei = self._nuclei(top, height)
        haematoxylin = np.maximum(haematoxylin, nuclei * mask)
        grain = _Noise(self.seed, _GRAIN, 1.0, 1.0).grid(top, height, self.width) - 0.5
        index = (
            np.clip(haematoxylin * (1 + 0.30 * grain) + 0.012 * grain, 0, 1) * 255 + 0.5
        ).astype(np.uint16)
        index <<= 8
        index += (np.clip(eosin * (1 + 0.22 * grain), 0, 1) * 255 + 0.5).astype(np.uint16)
        return np.stack([plane.take(index) for plane in _STAIN_TABLE])

    def _fields(self, x: _Floats, y: _Floats, sample: Callable[[_Noise], _Floats]) -> TissueFields:
        broad = max(self.height, self.width) / 4.5

        def layered(layer: int, scale: float) -> _Floats:
            cell = broad * scale
            coarse = sample(_Noise(self.seed, layer, cell, cell))
            fine = sample(_Noise(self.seed, layer + 100, cell / 3, cell / 3))
            return coarse * np.float32(0.72) + fine * np.float32(0.28)

        across = (x - np.float32(self.width / 2)) * np.float32(2 / self.width)
        down = (y - np.float32(self.height / 2)) * np.float32(2 / self.height)
        inside = 1 - 1.22 * (across * across + down * down)
        outline = inside + (layered(_OUTLINE, 1.0) - 0.5) * np.float32(0.9)
        return TissueFields(
            tissue=_ramp(outline, 0.0, 0.02),
            cancer=_ramp(layered(_CANCER, 0.8), 0.455, 0.505),
            fat=_ramp(layered(_FAT, 0.9) - 0.12 * inside, 0.50, 0.515),
            immune=_ramp(layered(_IMMUNE, 0.35), 0.70, 0.76),
        )

    def _background(self, top: int, height: int) -> tuple[_Floats, _Floats, _Floats]:
        """Eosin, haematoxylin of everything but nuclei, and where nuclei may lie."""
        y = np.arange(top, top + height, dtype=np.float32)[:, None] + np.float32(0.5)
        x = np.arange(self.width, dtype=np.float32)[None, :] + np.float32(0.5)

        def grid(noise: _Noise) -> _Floats:
            return noise.grid(top, height, self.width)

        fields = self._fields(x, y, grid)
        um = 1 / self.mpp
        mottle = grid(_Noise(self.seed, _MOTTLE, 22 * um, 22 * um))
        fibre = self._fibres(x, y, mottle)
        lumen = grid(_Noise(self.seed, _LUMEN, 75 * um, 75 * um))
        stroma_eosin = 0.30 + 0.42 * fibre + 0.16 * mottle
        cancer_eosin = 0.40 + 0.20 * mottle
        eosin = stroma_eosin + (cancer_eosin - stroma_eosin) * fields.cancer
        eosin += (np.float32(0.26) - eosin) * fields.immune
        haematoxylin = 0.03 + 0.13 * fields.cancer + 0.16 * fields.immune + 0.04 * mottle
        opening = _ramp(lumen, 0.83, 0.86) * fields.cancer * (1 - fields.immune)
        opening = np.maximum(opening, self._vacuoles(top, height, fields.fat * (1 - fields.immune)))
        solid = fields.tissue * (1 - opening)
        return eosin * solid, haematoxylin * solid, solid

    def _fibres(self, x: _Floats, y: _Floats, mottle: _Floats) -> _Floats:
        """Wavy collagen: noise that is long one way and thin the other, on bent lines."""
        um = 1 / self.mpp
        bend = _Noise(self.seed, _WARP, 170 * um, 170 * um).grid(int(y[0, 0]), len(y), self.width)
        line = y + (bend * 190 + mottle * 14) * np.float32(um)
        along = np.broadcast_to(x, line.shape)
        return (
            _Noise(self.seed, _FIBRE, max(7 * um, 2.5), 70 * um)
            .at(along.ravel(), line.ravel())
            .reshape(line.shape)
        )

    def _vacuoles(self, top: int, height: int, fat: _Floats) -> _Floats:
        """Fat cells: empty but for their walls, which lie where two centres are equally far."""
        opening = np.zeros((height, self.width), dtype=np.float32)
        rows, columns = np.nonzero(fat > 0)
        if not rows.size:
            return opening
        cell = _FAT_CELL_UM / self.mpp
        y, x = (
            ((rows + top + 0.5) / cell).astype(np.float32),
            ((columns + 0.5) / cell).astype(np.float32),
        )
        cell_row, cell_column = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
        first = int(cell_row.min()) - 1
        n_columns = int(self.width / cell) + 4
        centres = np.stack(
            [
                _stream(self.seed, _FAT_CELLS, row).random((n_columns, 2), dtype=np.float32)
                for row in range(first, int(cell_row.max()) + 2)
            ]
        ).reshape(-1, 2)
        nearest = np.full(rows.size, 9, dtype=np.float32)
        second = nearest.copy()
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                near_row, near_column = cell_row + down, cell_column + across
                centre = centres.take((near_row - first) * n_columns + near_column + 1, axis=0)
                dy = near_row + centre[:, 0] - y
                dx = near_column + centre[:, 1] - x
                distance = np.sqrt(dx * dx + dy * dy)
                second = np.minimum(second, np.maximum(nearest, distance))
                nearest = np.minimum(nearest, distance)
        wall = max(0.07, 1.0 / cell)
        opening[rows, columns] = _ramp(second - nearest, wall, 2 * wall) * fat[rows, columns]
        return opening

    def _nuclei(self, top: int, height: int) -> _Floats:
        """Haematoxylin of nuclei in a band: (height, width) from 0 to 1."""
        canvas = np.zeros(height * self.width, dtype=np.uint8)
        for layer in _NUCLEI:
            self._draw_nuclei(canvas, top, height, layer)
        return canvas.reshape(height, self.width) * np.float32(1 / 255)

    def _draw_nuclei(self, canvas: NDArray[np.uint8], top: int, height: int, layer: int) -> None:
        cell = max(_CELL_UM / self.mpp, 4.0)
        reach = int(np.ceil(max(_LARGEST_NUCLEUS_UM / self.mpp, 2.0))) + 1
        first, last = int((top - reach) // cell), int((top + height + reach) // cell)
        n_columns = int(self.width / cell) + 1
        random = np.stack(
            [
                _stream(self.seed, layer, row).random((n_columns, 6), dtype=np.float32)
                for row in range(first, last + 1)
            ]
        )
        row_of = np.arange(first, last + 1, dtype=np.float32)[:, None]
        x = ((np.arange(n_columns, dtype=np.float32) + random[..., 0]) * np.float32(cell)).ravel()
        y = ((row_of + random[..., 1]) * np.float32(cell)).ravel()
        present, size, angle, shade = random[..., 2:].reshape(-1, 4).T
        weights = self.fields_at(np.stack([x, y], axis=1)).weights()
        shares = _NUCLEUS_SHARES[layer - _NUCLEI[0]]
        kept = np.flatnonzero(present < weights @ shares)
        x, y, size, angle, shade = x[kept], y[kept], size[kept], angle[kept], shade[kept]
        kind = _NUCLEUS_FORMS[weights[kept].argmax(axis=1)]
        scale = np.maximum((0.75 + 0.5 * size) / np.float32(self.mpp), 0)
        long, short = (
            np.maximum(kind[:, axis] * scale, least) for axis, least in ((0, 1.6), (1, 1.1))
        )
        turn = angle * np.float32(2 * np.pi)
        cosine, sine = np.cos(turn), np.sin(turn)
        dark = kind[:, 2] * (0.7 + 0.3 * shade)
        left, upper = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        for down in range(-reach, reach + 1):
            row = upper + down
            dy = row + np.float32(0.5) - y
            is_near = (row >= top) & (row < top + height) & (np.abs(dy) <= long * 1.2)
            near = np.flatnonzero(is_near)
            for across in range(-reach, reach + 1):
                column = left[near] + across
                dx = column + np.float32(0.5) - x[near]
                along = (dx * cosine[near] + dy[near] * sine[near]) / long[near]
                aside = (dy[near] * cosine[near] - dx * sine[near]) / short[near]
                inside = _ramp(1.25 - along * along - aside * aside, 0.0, 0.6)
                drawn = np.flatnonzero((inside > 0) & (column >= 0) & (column < self.width))
                value = (inside[drawn] * dark[near[drawn]] * 255).astype(np.uint8)
                place = (row[near[drawn]] - top) * self.width + column[drawn]
                np.maximum.at(canvas, place, value)


# By region: how likely a cell of the grid holds a nucleus, in each of two layers.
_NUCLEUS_SHARES = np.array(
    [[0.86, 0.26, 0.05, 0.97, 0.0], [0.22, 0.05, 0.02, 0.92, 0.0]], dtype=np.float32
)
# By region: half the length and half the width in microns, and how dark.
_NUCLEUS_FORMS = np.array(
    [[4.6, 3.7, 0.72], [5.2, 1.5, 0.80], [3.4, 1.6, 0.80], [2.9, 2.8, 0.95], [3.0, 2.0, 0.0]],
    dtype=np.float32,
)


def _stain_table() -> NDArray[np.uint8]:
    """(3, 65536) red, green, blue by 256 * haematoxylin + eosin, as Beer and Lambert have it."""
    amount = np.arange(256) / 255
    density = (
        np.array(_HAEMATOXYLIN)[:, None, None] * amount[None, :, None]
        + np.array(_EOSIN)[:, None, None] * amount[None, None, :]
    )
    table: NDArray[np.uint8] = np.rint(_WHITE * np.exp(-density)).astype(np.uint8).reshape(3, -1)
    return table


_STAIN_TABLE = _stain_table()
