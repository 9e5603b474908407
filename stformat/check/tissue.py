"""The smallest level of an image, and where tissue is on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stformat.store.tiles import TileEngine

__all__ = ["SmallImage", "TissueMask", "find_tissue", "otsu_threshold", "read_small_image"]

_N_BINS = 256
_FILTER_SHARE = 0.01  # of the longer edge: some 100 um on the slides of today
_MIN_FILTER_PX = 3
_FLAT_SHARE = 0.04
_GRAY_SHARE = 0.02
_FEW_STEPS = 2
_DARK_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallImage:
    """The last level of the pyramid, with what its samples say at a glance."""

    path: str
    """Path of the image in the store."""

    pixels: NDArray[np.float32]
    """(c, y, x) samples of the level."""

    downsample: int
    """Full-resolution pixels to one pixel of the level."""

    width: int
    """Columns of the full-resolution image."""

    height: int
    """Rows of the full-resolution image."""

    low: NDArray[np.float64]
    """(c,) value that all but a thousandth of the samples exceed."""

    high: NDArray[np.float64]
    """(c,) value that a thousandth of the samples exceed."""

    @property
    def is_blank(self) -> bool:
        """Whether all channels are of one value, a few stray pixels and some noise apart."""
        spread = self.high - self.low
        return bool((spread <= np.maximum(_FEW_STEPS, _FLAT_SHARE * self.high)).all())

    @property
    def is_grayscale(self) -> bool:
        """Whether the channels are nearly equal everywhere."""
        chroma = np.percentile(_chroma(self.pixels), 99)
        return bool(chroma <= max(_FEW_STEPS, _GRAY_SHARE * self.high.max()))

    @property
    def is_dark(self) -> bool:
        """Whether most of the image is dark, as fluorescence is and brightfield is not."""
        return bool(np.median(self.pixels.max(axis=0)) < _DARK_SHARE * self.high.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueMask:
    """Where tissue is, in pixels of a level."""

    is_tissue: NDArray[np.bool_]
    """(y, x) True on tissue."""

    downsample: int
    """Full-resolution pixels to one pixel of the mask."""

    def share_on_tissue(self, xy: NDArray[np.float64]) -> float:
        """Return the share of places that lie on tissue; outside the image there is none.

        Parameters
        ----------
        xy : (n, 2) ndarray of float64
            Places in full-resolution pixels, columns ``(x, y)``, at least one.

        Returns
        -------
        float
            From 0 to 1.

        Examples
        --------
        >>> mask = TissueMask(is_tissue=np.array([[True, False]]), downsample=4)
        >>> mask.share_on_tissue(np.array([[3.9, 0.0], [4.0, 0.0], [-1.0, 0.0]]))
        0.3333333333333333
        """
        height, width = self.is_tissue.shape
        column, row = np.floor(xy / self.downsample).astype(np.int64).T
        is_inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        n_on = np.count_nonzero(self.is_tissue[row[is_inside], column[is_inside]])
        return int(n_on) / len(xy)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and upper corner of the tissue in full-resolution pixels.

        Returns
        -------
        low, high : (2,) ndarray of float64
            ``(x, y)``; a hundredth of the tissue's pixels may lie outside on each side.
        """
        row, column = np.nonzero(self.is_tissue)
        places = np.stack([column, row], axis=1) + 0.5
        low, high = np.percentile(places, [1, 99], axis=0) * self.downsample
        return low, high


def read_small_image(engine: TileEngine, path: str) -> SmallImage:
    """Read the last level of a pyramid: at most 1024 pixels square in the format's own stores.

    Parameters
    ----------
    engine : TileEngine
        The image.
    path : str
        Path of the image in the store.

    Returns
    -------
    SmallImage
        The level.

    Raises
    ------
    CorruptStoreError
        If a chunk is missing or damaged.
    """
    level = engine.n_levels - 1
    pixels = engine.read_region(level, 0, 0, *engine.level_shape(level)).astype(np.float32)
    height, width = engine.level_shape(0)
    low, high = np.percentile(pixels, [0.1, 99.9], axis=(1, 2)).astype(np.float64)
    return SmallImage(
        path=path,
        pixels=pixels,
        downsample=2**level,
        width=width,
        height=height,
        low=low,
        high=high,
    )


def find_tissue(image: SmallImage, *, radius_px: float) -> TissueMask | None:
    """Tell tissue from its background.

    Colour marks tissue in brightfield: the background, the frame of a capture area and dirt are
    gray. Darkness does in a brightfield image without colour, and brightness in a dark image. The
    mark is averaged over a spot's width, so that lumina and fat cells do not count as holes, and
    cut at Otsu's threshold [1]_.

    Parameters
    ----------
    image : SmallImage
        The image.
    radius_px : float
        Radius of a spot in full-resolution pixels.

    Returns
    -------
    TissueMask or None
        None for a blank image, or one that is of one value where it is averaged.

    References
    ----------
    .. [1] N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions
       on Systems, Man, and Cybernetics 9 (1979), pp. 62-66.
    """
    if image.is_blank:
        return None
    mark = _tissue_mark(image)
    edge = max(2 * radius_px / image.downsample, _FILTER_SHARE * max(mark.shape), _MIN_FILTER_PX)
    smooth = ndimage.uniform_filter(mark, size=min(round(edge), *mark.shape))
    if smooth.min() == smooth.max():
        return None
    return TissueMask(is_tissue=smooth > otsu_threshold(smooth), downsample=image.downsample)


def otsu_threshold(values: NDArray[np.floating]) -> float:
    """Find the value that parts a distribution into two classes best.

    Parameters
    ----------
    values : ndarray of float
        Finite values of any shape, not all equal.

    Returns
    -------
    float
        The threshold, between two of 256 equal bins, that maximises the variance between the mean
        of the values below and the mean of those above [1]_; the middle one where several do.

    Raises
    ------
    ValueError
        If all values are equal.

    References
    ----------
    .. [1] N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions
       on Systems, Man, and Cybernetics 9 (1979), pp. 62-66.

    Examples
    --------
    >>> threshold = otsu_threshold(np.array([1.0, 1.1, 1.2, 5.0, 5.1]))
    >>> 1.2 < threshold < 5.0
    True
    """
    if values.min() == values.max():
        raise ValueError("values must not all be equal")
    n_values, edges = np.histogram(values.astype(np.float64), bins=_N_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    # Cut after each bin but the last: the first and the last bin are never empty.
    n_below = np.cumsum(n_values)[:-1]
    n_above = n_values.sum() - n_below
    sum_below = np.cumsum(n_values * centres)[:-1]
    sum_above = (n_values * centres).sum() - sum_below
    between = n_below * n_above * (sum_below / n_below - sum_above / n_above) ** 2
    best = np.flatnonzero(np.isclose(between, between.max(), rtol=1e-12))
    return float(edges[1:-1][best[len(best) // 2]])


def _tissue_mark(image: SmallImage) -> NDArray[np.float32]:
    """(y, x) float32, higher on tissue."""
    pixels = image.pixels
    if image.is_dark:
        # Exposures differ: each channel counts by its own range, and an empty one not at all.
        low, high = (ends.astype(np.float32)[:, None, None] for ends in (image.low, image.high))
        brightness: NDArray[np.float32] = ((pixels - low) / np.maximum(high - low, 1)).mean(axis=0)
        return brightness
    if image.is_grayscale:
        darkness: NDArray[np.float32] = pixels.max() - pixels.mean(axis=0)
        return darkness
    return _chroma(pixels)


def _chroma(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    difference: NDArray[np.float32] = pixels.max(axis=0) - pixels.min(axis=0)
    return difference
