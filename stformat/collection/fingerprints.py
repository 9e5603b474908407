"""What stays the same of a slide under another name, converter or image format.

Specification: spec/decisions/0020, where the thresholds of `stformat.collection.duplicates` are
argued too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.collection.count_blocks import iter_blocks
from stformat.store.arrays import ArrayReader
from stformat.store.reader import Slide

__all__ = [
    "CountFingerprint",
    "count_fingerprint",
    "image_fingerprint",
    "perceptual_hash",
]

N_KEPT = 64
"""Rows and genes that a fingerprint keeps: those of the largest totals."""

MIN_GENE_TOTAL = 1024
"""Smaller totals of genes are shared by chance too often to tell slides apart."""

_MOST_TIED = 16 * N_KEPT
_THUMBNAIL_PX = 512
_GRAY_PX = 64
_N_FREQUENCIES = 16
_LEAST_CONTRAST = 1 / 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountFingerprint:
    """What identifies the counts of a table, whatever its rows and genes are called."""

    rows: NDArray[np.uint64]
    """(at most 64,) hash of the sorted values of each of the rows of the largest totals."""

    genes: NDArray[np.uint64]
    """(at most 64,) the largest totals of genes, from 1024 on, rounded to integers."""


def count_fingerprint(slide: Slide) -> CountFingerprint:
    """Take the fingerprint of the counts of a slide.

    Parameters
    ----------
    slide : Slide
        Bound to the table; rows that are not in tissue are left out where any are.

    Returns
    -------
    CountFingerprint
        The same for any order of rows and genes and any names of them, for genes and rows without
        counts more or less, and, of genes, for bins of any size.

    Raises
    ------
    CorruptStoreError
        If a chunk is missing or damaged.

    Notes
    -----
    Reads the counts once; keeps 9 bytes a row and 24 bytes a gene.
    """
    in_tissue = _in_tissue(slide)
    state: kernels.GeneMoments | None = None
    sums: list[NDArray[np.float64]] = [np.empty(0)]
    for block in iter_blocks(slide, np.arange(slide.n_vars), rows=in_tissue):
        state = kernels.gene_moments(
            block.data, block.indices, block.indptr, slide.n_vars, state=state
        )
        sums.append(kernels.row_sums(block.data, block.indptr))
    gene_totals = np.zeros(0) if state is None else np.round(state.sums)
    largest = np.sort(gene_totals[gene_totals >= MIN_GENE_TOTAL])[::-1][:N_KEPT]
    positions = np.flatnonzero(in_tissue)
    return CountFingerprint(
        rows=_row_hashes(slide, positions, np.concatenate(sums)),
        genes=largest.astype(np.uint64),
    )


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


def _row_hashes(
    slide: Slide, positions: NDArray[np.int64], totals: NDArray[np.float64]
) -> NDArray[np.uint64]:
    """Hash the values of the rows of the largest totals; ties are broken by the hash."""
    least = np.sort(totals)[::-1][:N_KEPT].min(initial=np.inf)
    chosen = np.flatnonzero((totals >= least) & (totals > 0))
    if len(chosen) > _MOST_TIED:
        # So many rows of one total tell nothing of which slide they are.
        chosen = np.flatnonzero(totals > least)
    counts = slide.counts[positions[chosen]]
    hashes = [_hash_values(row) for row in np.split(counts.data, counts.indptr[1:-1])]
    ranked = sorted(zip(-totals[chosen], hashes, strict=False))[:N_KEPT]
    return np.array([value for _, value in ranked], dtype=np.uint64)


def _hash_values(values: NDArray[Any]) -> int:
    content = np.sort(values).astype("<f8").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _in_tissue(slide: Slide) -> NDArray[np.bool_]:
    """Return the rows that are in tissue, or all where none is; without loading obs."""
    path = f"tables/{slide.counts.table}/obs/in_tissue"
    reader = ArrayReader(slide.opened.store, path)
    in_tissue = reader.read_1d(0, slide.n_obs).astype(np.bool_, copy=False)
    return in_tissue if in_tissue.any() else np.ones(slide.n_obs, dtype=np.bool_)
