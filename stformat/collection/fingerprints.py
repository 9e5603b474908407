"""What stays the same of a slide under another name, converter or image format.

Specification: spec/decisions/0030, where the thresholds of `stformat.collection.duplicates` are
argued too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.collection.count_blocks import iter_blocks
from stformat.collection.row_runs import merge_samples, sample_runs, smallest_above_0
from stformat.store.arrays import ArrayReader
from stformat.store.reader import Slide

__all__ = [
    "CountFingerprint",
    "count_fingerprint",
    "image_fingerprint",
    "largest_totals",
    "perceptual_hash",
]

N_KEPT = 64
"""Genes that a fingerprint keeps: those of the largest totals."""

MIN_GENE_TOTAL = 1024
"""Smaller totals of genes are shared by chance too often to tell slides apart."""

_THUMBNAIL_PX = 512
_GRAY_PX = 64
_N_FREQUENCIES = 16
_LEAST_CONTRAST = 1 / 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountFingerprint:
    """What identifies the counts of a table, whatever its rows and genes are called."""

    rows: NDArray[np.uint64]
    """(at most 128,) sample of runs of the largest values of rows, and of the totals of genes as of
    one row more, ascending; see `stformat.collection.row_runs.sample_runs`."""

    genes: NDArray[np.uint64]
    """(at most 64,) the largest totals of genes in units of the smallest value, of counts mostly 1:
    from 1024 on, rounded to integers."""


def count_fingerprint(slide: Slide) -> CountFingerprint:
    """Take the fingerprint of the counts of a slide.

    Parameters
    ----------
    slide : Slide
        Bound to the table; rows that are not in tissue are left out where any are.

    Returns
    -------
    CountFingerprint
        The same for any order of rows and genes and any names of them, and for genes and rows
        without counts more or less. What it has of rows stays for the most part where rows are
        left out, or genes that few rows have; what it has of genes stays where genes are left out,
        and for bins of any size. Rows that were scaled keep what it has of rows, as long as their
        smallest count is 1; logarithms share nothing with the counts.

    Raises
    ------
    CorruptStoreError
        If a chunk is missing or damaged.

    Notes
    -----
    Reads the counts once; keeps 24 bytes a gene.
    """
    state: kernels.GeneMoments | None = None
    runs = np.empty(0, dtype=np.uint64)
    unit = np.inf
    for block in iter_blocks(slide, np.arange(slide.n_vars), rows=_in_tissue(slide)):
        state = kernels.gene_moments(
            block.data, block.indices, block.indptr, slide.n_vars, state=state
        )
        runs = merge_samples(runs, sample_runs(block.data, block.indptr))
        unit = min(unit, smallest_above_0(block.data))
    sums = np.zeros(0) if state is None else np.round(state.sums / unit)
    # Shallow rows have no runs, their totals of genes have.
    runs = merge_samples(runs, sample_runs(sums, np.array([0, len(sums)]), unit=1.0))
    return CountFingerprint(rows=runs, genes=largest_totals(sums))


def largest_totals(sums: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the at most 64 largest totals of genes from 1024 on, rounded, descending."""
    totals = np.round(sums)
    return np.sort(totals[totals >= MIN_GENE_TOTAL])[::-1][:N_KEPT].astype(np.uint64)


def image_fingerprint(slide: Slide) -> bytes | None:
    """Take the fingerprint of the image of a slide: see `perceptual_hash`.

    Returns
    -------
    bytes or None
        None without an image, or where it shows next to nothing.
    """
    if not slide.has_image:
        return None
    return perceptual_hash(slide.thumbnail(_THUMBNAIL_PX).mean(axis=0))


def perceptual_hash(gray: NDArray[np.floating]) -> bytes | None:
    """Hash what an image looks like from afar.

    The image is averaged to 64 x 64 pixels; of its cosine transform the 16 x 16 lowest frequencies
    are kept, and each says by one bit whether it is above their median; the mean of the image
    counts for nothing.

    Parameters
    ----------
    gray : (y, x) ndarray of float
        One channel.

    Returns
    -------
    32 bytes or None
        Close images differ in few bits, also after compression with loss, at another resolution or
        brightness; turned or mirrored ones do not. None where the image is of one gray. The fewer
        details an image has, the more bits are left to chance.

    Examples
    --------
    >>> y, x = np.mgrid[:200, :300]
    >>> image = (x - 150) ** 2 / 40 + (y - 80) ** 2 / 30 + np.hypot(x, y)
    >>> small = image.reshape(100, 2, 150, 2).mean(axis=(1, 3))
    >>> perceptual_hash(image) == perceptual_hash(small)
    True
    """
    small = _averaging(gray.shape[0]) @ gray @ _averaging(gray.shape[1]).T
    if small.std() <= _LEAST_CONTRAST * max(float(np.abs(small).max()), 1e-9):
        return None
    cosines = np.cos(
        np.pi * np.arange(_N_FREQUENCIES)[:, None] * (np.arange(_GRAY_PX) + 0.5) / _GRAY_PX
    )
    frequencies = (cosines @ small @ cosines.T).ravel()
    frequencies[0] = np.median(frequencies[1:])
    return np.packbits(frequencies > frequencies[0]).tobytes()


def _averaging(n_px: int) -> NDArray[np.float64]:
    """Return the (64, n_px) matrix that averages pixels over 64 equal intervals."""
    edges = np.arange(_GRAY_PX + 1) * (n_px / _GRAY_PX)
    starts, stops = np.arange(n_px), np.arange(n_px) + 1
    low = np.maximum(edges[:-1, None], starts)
    high = np.minimum(edges[1:, None], stops)
    return np.asarray(np.maximum(high - low, 0.0) * (_GRAY_PX / n_px))


def _in_tissue(slide: Slide) -> NDArray[np.bool_]:
    """Return the rows that are in tissue, or all where none is; without loading obs."""
    path = f"tables/{slide.counts.table}/obs/in_tissue"
    reader = ArrayReader(slide.opened.store, path)
    in_tissue = reader.read_1d(0, slide.n_obs).astype(np.bool_, copy=False)
    return in_tissue if in_tissue.any() else np.ones(slide.n_obs, dtype=np.bool_)
