"""A synthetic slide: tissue, spots and counts that fit one another, from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing._expression import draw_counts, gene_names
from stformat.testing._histology import REGIONS, Tissue

__all__ = ["SyntheticSlide", "make_slide"]

type LatticeShape = Literal["square", "hexagonal"]

PITCH_UM: dict[LatticeShape, float] = {"square": 200.0, "hexagonal": 100.0}
"""Distance of neighbouring spots on the arrays that are imitated, in microns: legacy ST, Visium."""

# Pixels for one unit of the array's columns and rows, over the pitch. Every second place of a
# hexagonal array is empty.
_UNITS: dict[LatticeShape, tuple[float, float]] = {
    "square": (1.0, 1.0),
    "hexagonal": (0.5, math.sqrt(3) / 2),
}

_BAND_PX = 256
_MAX_JITTER = 0.3  # of the pitch: a spot stays nearest to its own place


# No slots: `image` is drawn when it is first asked for, and kept.
@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticSlide:
    """A slide of which everything is known.

    See Also
    --------
    make_slide : How one is made.
    stformat.testing.write_legacy_st : Its files, as a study would publish them.
    """

    slide_id: str
    """Identifier of the slide."""

    tissue: Tissue
    """The tissue section, which can be asked for any band of the image."""

    pitch_px: float
    """Distance of neighbouring spots in pixels."""

    array_xy: NDArray[np.int64]
    """(n_spots, 2) places on the capture array, columns ``(x, y)``: from 1 on a square array, from
    0 on a hexagonal one, whose rows use every second column."""

    new_xy: NDArray[np.float64]
    """(n_spots, 2) places on the array as measured, to three decimals, columns ``(x, y)``."""

    xy: NDArray[np.float64]
    """(n_spots, 2) centres in pixels, to two decimals, columns ``(x, y)``."""

    in_tissue: NDArray[np.bool_]
    """(n_spots,) True where tissue covers the spot."""

    labels: NDArray[np.object_]
    """(n_spots,) str: the region that the spot lies in."""

    gene_names: tuple[str, ...]
    """Names of the genes, unique."""

    counts: sparse.csr_array
    """(n_spots, n_genes) int32."""

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        return self.tissue.height

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        return self.tissue.width

    @property
    def mpp(self) -> float:
        """Microns per pixel: spots are 200 um apart, or 100 um on a hexagonal array."""
        return self.tissue.mpp

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """(3, height, width) uint8 brightfield image, axes ``('c', 'y', 'x')``."""
        return np.concatenate(list(self.iter_bands(_BAND_PX)), axis=1)

    def iter_bands(self, height: int) -> Iterator[NDArray[np.uint8]]:
        """Draw the image from the top in bands, without holding it.

        Parameters
        ----------
        height : int
            Rows of a band, at least 1; the last band has what remains.

        Yields
        ------
        (3, height, width) ndarray of uint8
            The same pixels as `image`, whatever the height.
        """
        for top in range(0, self.height, height):
            yield self.tissue.render(top, min(height, self.height - top))


def make_slide(
    *,
    height: int,
    width: int,
    seed: int,
    n_genes: int = 2000,
    pitch_px: float = 110.0,
    slide_id: str = "S1",
    rotation_deg: float = 0.3,
    jitter: float = 0.02,
    array_shape: tuple[int, int] = (35, 33),
    lattice: LatticeShape = "square",
) -> SyntheticSlide:
    """Make a slide of spatial transcriptomics that never was.

    Parameters
    ----------
    height, width : int
        Size of the image in pixels, at least three pitches each.
    seed : int
        Not negative. The same arguments give the same slide.
    n_genes : int, default: 2000
        Number of genes, at least 1. The first are symbols of real markers, which are high where
        the image shows their tissue.
    pitch_px : float, default: 110.0
        Distance of neighbouring spots in pixels, at least 4; stands for 200 um, or for 100 um on a
        hexagonal array.
    slide_id : str, default: "S1"
        Identifier, and name of the sample in files.
    rotation_deg : float, default: 0.3
        Angle of the array on the image; a large one takes corners of the array off the image.
    jitter : float, default: 0.02
        Standard deviation of a spot's distance from its place, over the pitch.
    array_shape : tuple of int, default: (35, 33)
        Most rows of the capture array and most spots of a row; what fits the image is used, in its
        middle. Visium's are (78, 64) and (128, 112).
    lattice : {"square", "hexagonal"}, default: "square"
        How spots are placed: as on legacy ST arrays, or as on Visium's.

    Returns
    -------
    SyntheticSlide
        Image, spots and counts that fit one another.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> slide = make_slide(height=600, width=700, n_genes=100, seed=0)
    >>> slide.counts.shape, slide.image.shape
    ((30, 100), (3, 600, 700))
    """
    if pitch_px < 4 or min(height, width) < 3 * pitch_px:
        raise ValueError(
            f"pitch_px must be at least 4 and height and width three times that, got {pitch_px}, "
            f"{height} and {width}"
        )
    if n_genes < 1 or seed < 0:
        raise ValueError(f"n_genes must be at least 1 and seed at least 0, got {n_genes}, {seed}")
    random = np.random.default_rng(seed)
    tissue = Tissue(height=height, width=width, mpp=PITCH_UM[lattice] / pitch_px, seed=seed)
    units = np.array(_UNITS[lattice]) * pitch_px
    is_hexagonal = lattice == "hexagonal"
    rows = min(array_shape[0], int(height / units[1]))
    # Every second row of a hexagonal array begins half a pitch to the right.
    columns = min(array_shape[1], int(width / pitch_px - 0.5 * is_hexagonal))
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    array_xy = (
        np.stack([2 * x + y % 2, y], axis=-1) if is_hexagonal else np.stack([x, y], axis=-1) + 1
    ).reshape(-1, 2)
    shift = np.clip(random.normal(0.0, jitter, array_xy.shape), -_MAX_JITTER, _MAX_JITTER)
    new_xy = np.round(array_xy + shift, 3)
    turn = np.deg2rad(rotation_deg)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    middle = (array_xy.min(axis=0) + array_xy.max(axis=0)) / 2
    xy = np.round((new_xy - middle) * units @ rotation + np.array([width, height]) / 2, 2)
    fields = tissue.fields_at(xy)
    weights = fields.weights()
    names = gene_names(n_genes)
    return SyntheticSlide(
        slide_id=slide_id,
        tissue=tissue,
        pitch_px=pitch_px,
        array_xy=array_xy,
        new_xy=new_xy,
        xy=xy,
        in_tissue=fields.tissue > 0.5,
        labels=np.array(REGIONS, dtype=object)[weights.argmax(axis=1)],
        gene_names=names,
        counts=draw_counts(names, weights, random),
    )
