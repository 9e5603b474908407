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
_HAEMATOXYLIN_GRAIN, _EOSIN_GRAIN, _SLIDE_GRAIN = 0.30, 0.22, 0.012

# One stream of random numbers a layer; the numbers are names.
_OUTLINE, _CANCER, _FAT, _IMMUNE, _LUMEN, _FIBRE, _WARP, _MOTTLE, _GRAIN, _FAT_CELLS = range(10)
_NUCLEI = (10, 11)
_FINE = 100  # added to a layer: its finer companion

_ROWS_PER_STREAM = 8
_GROUP_OFFSET = 1 << 20  # rows above the image have negative numbers, seeds must not

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noise:
    """Smooth noise in [0, 1): random values on a grid, blended between its points."""

    seed: int
    layer: int
    cell_y: float
    cell_x: float
    width: int

    def grid(self, top: int, height: int) -> _Floats:
        """Noise of a band of pixels."""
        row, row_part = _split((np.arange(top, top + height) + 0.5) / self.cell_y)
        column, column_part = _split((np.arange(self.width) + 0.5) / self.cell_x)
        values = self._values(int(row[0]), int(row[-1]) + 1)
        row -= row[0]
        lines = values[row] + (values[row + 1] - values[row]) * row_part[:, None]
        slopes = lines[:, 1:] - lines[:, :-1]
        result = slopes.take(column, axis=1)
        result *= column_part
        result += lines.take(column, axis=1)
        return result

    def at(self, x: _Floats, y: _Floats) -> _Floats:
        """Noise of single places; those beside the image take its edge's."""
        row, row_part = _split(y / np.float32(self.cell_y))
        column, column_part = _split(np.clip(x, 0, self.width - 1) / np.float32(self.cell_x))
        first = int(row.min(initial=0))
        values = self._values(first, int(row.max(initial=0)) + 1)
        n_columns = values.shape[1]
        corner = (row - first) * n_columns + column
        flat = values.ravel()
        left = flat.take(corner)
        above = left + (flat.take(corner + 1) - left) * column_part
        left = flat.take(corner + n_columns)
        below = left + (flat.take(corner + n_columns + 1) - left) * column_part
        result: _Floats = above + (below - above) * row_part
        return result

    def _values(self, first_row: int, last_row: int) -> _Floats:
        n_columns = int(self.width / self.cell_x) + 2
        return _random_rows(self.seed, self.layer, first_row, last_row, (n_columns,))


def _split(position: NDArray[np.floating]) -> tuple[NDArray[np.intp], _Floats]:
    """Grid index of positions, and how far they are blended into the next one."""
    index = np.floor(position)
    part = (position - index).astype(np.float32)
    return index.astype(np.intp), part * part * (3 - 2 * part)


def _random_rows(
    seed: int, layer: int, first_row: int, last_row: int, shape: tuple[int, ...]
) -> _Floats:
    """Random values in [0, 1) of some rows of a layer, whichever rows are asked for with them."""
    first, last = first_row // _ROWS_PER_STREAM, last_row // _ROWS_PER_STREAM
    groups = [
        np.random.Generator(np.random.SFC64((seed, layer, group + _GROUP_OFFSET))).random(
            (_ROWS_PER_STREAM, *shape), dtype=np.float32
        )
        for group in range(first, last + 1)
    ]
    start = first_row - first * _ROWS_PER_STREAM
    return np.concatenate(groups)[start : start + last_row - first_row + 1]


def _ramp(value: NDArray[np.floating], start: float, stop: float) -> _Floats:
    """0 below `start`, 1 above `stop`, straight between them."""
    scaled = (value - np.float32(start)) * np.float32(1 / (stop - start))
    clipped: _Floats = np.clip(scaled, np.float32(0), np.float32(1))
    return clipped


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nuclei:
    """Ellipses in full-resolution pixels."""

    reach: int
    x: _Floats
    y: _Floats
    long: _Floats
    short: _Floats
    cosine: _Floats
    sine: _Floats
    dark: _Floats


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
        """Say what the tissue is at (n, 2) places in pixels, columns ``(x, y)``."""
        x, y = xy.astype(np.float32).T
        return self._fields(x, y, lambda noise: noise.at(x, y))

    def render(self, top: int, height: int) -> NDArray[np.uint8]:
        """Draw a band of rows: (3, height, width) uint8."""
        eosin, haematoxylin, solid = self._background(top, height)
        haematoxylin = np.maximum(haematoxylin, self._nuclei(top, height) * solid)
        last = top + height - 1
        grain = _random_rows(self.seed, _GRAIN, top, last, (self.width,)) - np.float32(0.5)
        index = _byte(haematoxylin * (1 + _HAEMATOXYLIN_GRAIN * grain) + _SLIDE_GRAIN * grain)
        index <<= 8
        index += _byte(eosin * (1 + _EOSIN_GRAIN * grain))
        return np.stack([plane.take(index) for plane in _STAIN_TABLE])

    def _noise(self, layer: int, cell_y: float, cell_x: float | None = None) -> _Noise:
        return _Noise(
            seed=self.seed,
            layer=layer,
            cell_y=cell_y,
            cell_x=cell_y if cell_x is None else cell_x,
            width=self.width,
        )

    def _fields(self, x: _Floats, y: _Floats, sample: Callable[[_Noise], _Floats]) -> TissueFields:
        broad = max(self.height, self.width) / 4.5

        def layered(layer: int, scale: float) -> _Floats:
            cell = broad * scale
            coarse = sample(self._noise(layer, cell))
            fine = sample(self._noise(layer + _FINE, cell / 3))
            return coarse * np.float32(0.72) + fine * np.float32(0.28)

        across = (x - np.float32(self.width / 2)) * np.float32(2 / self.width)
        down = (y - np.float32(self.height / 2)) * np.float32(2 / self.height)
        inside = 1 - 1.22 * (across * across + down * down)
        outline = inside + (layered(_OUTLINE, 1.0) - 0.5) * np.float32(0.9)
        return TissueFields(
            tissue=_ramp(outline, 0.0, 0.02),
            cancer=_ramp(layered(_CANCER, 0.8), 0.455, 0.505),
            fat=_ramp(layered(_FAT, 0.9) - 0.12 * inside, 0.54, 0.555),
            immune=_ramp(layered(_IMMUNE, 0.35), 0.70, 0.76),
        )

    def _background(self, top: int, height: int) -> tuple[_Floats, _Floats, _Floats]:
        """Eosin, haematoxylin of everything but nuclei, and where nuclei may lie."""
        y = np.arange(top, top + height, dtype=np.float32)[:, None] + np.float32(0.5)
        x = np.arange(self.width, dtype=np.float32)[None, :] + np.float32(0.5)

        def grid(noise: _Noise) -> _Floats:
            return noise.grid(top, height)

        fields = self._fields(x, y, grid)
        um = 1 / self.mpp
        mottle = grid(self._noise(_MOTTLE, 22 * um))
        solid_cancer = fields.cancer * (1 - fields.immune)
        stroma = (1 - fields.cancer) * fields.tissue
        eosin = 0.30 + 0.42 * self._fibres(top, mottle, stroma) + 0.16 * mottle
        eosin += (0.40 + 0.20 * mottle - eosin) * fields.cancer
        eosin += (np.float32(0.26) - eosin) * fields.immune
        haematoxylin = 0.03 + 0.13 * fields.cancer + 0.16 * fields.immune + 0.04 * mottle
        lumen = grid(self._noise(_LUMEN, 90 * um)) + grid(self._noise(_LUMEN + _FINE, 57 * um))
        opening = _ramp(lumen, 1.55, 1.60) * solid_cancer
        vacuoles = self._vacuoles(top, fields.fat * (1 - fields.immune) * fields.tissue)
        solid = fields.tissue * (1 - np.maximum(opening, vacuoles))
        return eosin * solid, haematoxylin * solid, solid

    def _fibres(self, top: int, mottle: _Floats, stroma: _Floats) -> _Floats:
        """Wavy collagen: noise that is long one way and thin the other, on bent lines."""
        um = 1 / self.mpp
        fibres = np.zeros_like(stroma)
        rows, columns = np.nonzero(stroma > 0)
        bend = self._noise(_WARP, 170 * um).grid(top, len(stroma))[rows, columns]
        line = (rows + top).astype(np.float32) + np.float32(0.5)
        line += (bend * 190 + mottle[rows, columns] * 14) * np.float32(um)
        noise = self._noise(_FIBRE, max(7 * um, 2.5), 70 * um)
        fibres[rows, columns] = noise.at(columns.astype(np.float32), line)
        return fibres

    def _vacuoles(self, top: int, fat: _Floats) -> _Floats:
        """Fat cells: empty but for their walls, which lie where two centres are equally far."""
        opening = np.zeros_like(fat)
        rows, columns = np.nonzero(fat > 0)
        if not rows.size:
            return opening
        cell = _FAT_CELL_UM / self.mpp
        y = ((rows + top + 0.5) / cell).astype(np.float32)
        x = ((columns + 0.5) / cell).astype(np.float32)
        row, column = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
        first = int(row.min()) - 1
        n_columns = int(self.width / cell) + 3  # one beside each edge
        shape = (n_columns, 2)
        random = _random_rows(self.seed, _FAT_CELLS, first, int(row.max()) + 1, shape)
        # Places are absolute: what they round to must not depend on the band.
        row_of = np.arange(first, first + len(random), dtype=np.float32)[:, None]
        centre_y = (random[..., 0] + row_of).ravel()
        centre_x = (random[..., 1] + np.arange(-1, n_columns - 1, dtype=np.float32)).ravel()
        nearest = np.full(rows.size, 9, dtype=np.float32)
        second = nearest.copy()
        for down in (0, 1, 2):
            for across in (0, 1, 2):
                place = (row - first - 1 + down) * n_columns + column + across
                dx, dy = centre_x.take(place) - x, centre_y.take(place) - y
                squared = dx * dx + dy * dy
                second = np.minimum(second, np.maximum(nearest, squared))
                nearest = np.minimum(nearest, squared)
        wall = max(0.07, 1.0 / cell)
        distance = np.sqrt(second) - np.sqrt(nearest)
        opening[rows, columns] = _ramp(distance, wall, 2 * wall) * fat[rows, columns]
        return opening

    def _nuclei(self, top: int, height: int) -> _Floats:
        """Haematoxylin of nuclei in a band: (height, width) from 0 to 1."""
        canvas = np.zeros(height * self.width, dtype=np.uint8)
        for layer in _NUCLEI:
            self._draw_nuclei(canvas, top, height, layer)
        return canvas.reshape(height, self.width) * np.float32(1 / 255)

    def _draw_nuclei(self, canvas: NDArray[np.uint8], top: int, height: int, layer: int) -> None:
        nuclei = self._place_nuclei(top, height, layer)
        for down in range(-nuclei.reach, nuclei.reach + 1):
            row = np.floor(nuclei.y).astype(np.int64) + down
            dy = row + np.float32(0.5) - nuclei.y
            near = np.flatnonzero((row >= top) & (row < top + height) & (np.abs(dy) < nuclei.long))
            x, dy, long, short = nuclei.x[near], dy[near], nuclei.long[near], nuclei.short[near]
            cosine, sine, dark = nuclei.cosine[near], nuclei.sine[near], nuclei.dark[near]
            left, start = np.floor(x).astype(np.int64), (row[near] - top) * self.width
            for across in range(-nuclei.reach, nuclei.reach + 1):
                column = left + across
                dx = column + np.float32(0.5) - x
                along = (dx * cosine + dy * sine) / long
                aside = (dy * cosine - dx * sine) / short
                inside = _ramp(1 - along * along - aside * aside, 0.0, 0.5)
                drawn = np.flatnonzero((inside > 0) & (column >= 0) & (column < self.width))
                value = (inside[drawn] * dark[drawn] * 255).astype(np.uint8)
                np.maximum.at(canvas, start[drawn] + column[drawn], value)

    def _place_nuclei(self, top: int, height: int, layer: int) -> _Nuclei:
        """Put at most one nucleus in each cell of a grid."""
        cell = max(_CELL_UM / self.mpp, 4.0)
        reach = int(np.ceil(max(_LARGEST_NUCLEUS_UM / self.mpp, 2.0))) + 1
        first, last = int((top - reach) // cell), int((top + height + reach) // cell)
        n_columns = int(self.width / cell) + 1
        random = _random_rows(self.seed, layer, first, last, (n_columns, 6))
        row_of = np.arange(first, last + 1, dtype=np.float32)[:, None]
        column_of = np.arange(n_columns, dtype=np.float32)
        x = ((column_of + random[..., 0]) * np.float32(cell)).ravel()
        y = ((row_of + random[..., 1]) * np.float32(cell)).ravel()
        weights = self.fields_at(np.stack([x, y], axis=1)).weights()
        present, size, angle, shade = random[..., 2:].reshape(-1, 4).T
        kept = np.flatnonzero(present < weights @ _NUCLEUS_SHARES[layer - _NUCLEI[0]])
        form = _NUCLEUS_FORMS[weights[kept].argmax(axis=1)]
        scale = (0.85 + 0.5 * size[kept]) / np.float32(self.mpp)
        turn = angle[kept] * np.float32(2 * np.pi)
        return _Nuclei(
            reach=reach,
            x=x[kept],
            y=y[kept],
            long=np.maximum(form[:, 0] * scale, np.float32(1.8)),
            short=np.maximum(form[:, 1] * scale, np.float32(1.2)),
            cosine=np.cos(turn),
            sine=np.sin(turn),
            dark=form[:, 2] * (0.7 + 0.3 * shade[kept]),
        )


# By region: how likely a cell of the grid holds a nucleus, in each of two layers.
_NUCLEUS_SHARES = np.array(
    [[0.86, 0.26, 0.05, 0.97, 0.0], [0.22, 0.05, 0.02, 0.92, 0.0]], dtype=np.float32
)
# By region: half the length and half the width in microns, and how dark.
_NUCLEUS_FORMS = np.array(
    [[4.6, 3.7, 0.72], [5.2, 1.5, 0.80], [3.4, 1.6, 0.80], [2.9, 2.8, 0.95], [3.0, 2.0, 0.0]],
    dtype=np.float32,
)


def _byte(amount: _Floats) -> NDArray[np.uint16]:
    """Amounts from 0 to 1 as 0 to 255, in a type that two of them fit."""
    return (np.clip(amount, np.float32(0), np.float32(1)) * 255 + np.float32(0.5)).astype(np.uint16)


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
