"""Slides that are the same slide under another name, by their fingerprints.

Specification: spec/decisions/0020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from stformat.collection.catalogue import Catalogue

__all__ = ["DuplicatePair", "duplicate_groups", "find_duplicates"]

MIN_SHARED = 8
"""Fewer rows, or totals of genes, in common are no evidence."""

MIN_SHARE = 0.5
"""Least share of the smaller fingerprint that two slides have in common."""

MOST_BITS = 25
"""Most bits of 256 in which the images of two slides differ."""

MOST_STRETCH = 0.02
"""Most that the proportions of two images differ by."""

_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePair:
    """Two slides of a catalogue that look like one, and why; shares are None without fingerprints.

    Examples
    --------
    >>> print(DuplicatePair(first="TENX128", second="TENX155", paths=("a.zarr", "b.zarr"),
    ...                     same_files=False, rows=1.0, genes=0.98, image=0.99))
    TENX128 = TENX155: rows 100 %, genes 98 %, image 99 %
    """

    first: str
    """Identifier of the first slide."""

    second: str
    """Identifier of the second slide."""

    paths: tuple[str, str]
    """Paths of their stores."""

    same_files: bool
    """Whether the stores have the same manifest."""

    rows: float | None
    """Share of rows of the largest totals that both have."""

    genes: float | None
    """Share of the largest totals of genes that both have."""

    image: float | None
    """Share of bits of the perceptual hashes that are equal; None too where proportions differ."""

    def to_json(self) -> dict[str, Any]:
        """Return the pair as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        known = {"rows": self.rows, "genes": self.genes, "image": self.image}
        shares = [f"{name} {share:.0%}".replace("%", " %") for name, share in known.items()
                  if share is not None]  # fmt: skip
        files = ["same files"] if self.same_files else []
        return f"{self.first} = {self.second}: {', '.join([*files, *shares])}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prints:
    """Fingerprints of slides."""

    manifests: list[str]
    rows: list[NDArray[np.uint64]]
    genes: list[NDArray[np.uint64]]
    has_image: NDArray[np.bool_]
    bits: NDArray[np.uint64]
    """(n, 4) bits of perceptual hashes; 0 without one."""
    proportions: NDArray[np.float64]
    """(n,) logarithm of width over height; NaN without an image."""


def find_duplicates(
    catalogue: Catalogue, positions: NDArray[np.int64]
) -> tuple[DuplicatePair, ...]:
    """Find slides that look like the same.

    Parameters
    ----------
    catalogue : Catalogue
        The catalogue.
    positions : (n,) ndarray of int64
        Its rows to compare.

    Returns
    -------
    tuple of DuplicatePair
        Pairs that have half of the rows of the largest totals in common, or half of the largest
        totals of genes, or images of nearly the same perceptual hash and proportions, or the same
        manifest; in the order of `positions`.

    Notes
    -----
    Time grows with the square of the number of slides, that of 10,000 being some seconds; memory
    with the number of slides and of pairs found.
    """
    prints = _read(catalogue, positions)
    found = {
        *_pairs_of_values([np.array([text]) for text in prints.manifests], least=1),
        *_pairs_of_values(prints.rows, least=MIN_SHARED),
        *_pairs_of_values(prints.genes, least=MIN_SHARED),
        *_pairs_of_images(prints),
    }
    table = catalogue.table.take(positions)
    ids, paths = (table.column(name).to_pylist() for name in ("slide_id", "path"))
    return tuple(
        DuplicatePair(
            first=ids[i],
            second=ids[j],
            paths=(paths[i], paths[j]),
            same_files=prints.manifests[i] == prints.manifests[j],
            rows=_share(prints.rows[i], prints.rows[j]),
            genes=_share(prints.genes[i], prints.genes[j]),
            image=_image_share(prints, i, j),
        )
        for i, j in sorted(found)
    )


def duplicate_groups(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return the smallest place that each of n slides is joined with by pairs.

    Examples
    --------
    >>> duplicate_groups(5, [(1, 3), (3, 4)])
    [0, 1, 2, 1, 1]
    """
    first, second = np.array([*pairs], dtype=np.int64).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    _, labels = csgraph.connected_components(graph, directed=False)
    _, smallest, group = np.unique(labels, return_index=True, return_inverse=True)
    return [int(place) for place in smallest[group]]


def _read(catalogue: Catalogue, positions: NDArray[np.int64]) -> _Prints:
    table = catalogue.table.take(positions)
    prints = catalogue.fingerprints().take(positions)
    hashes = prints.column("fingerprint_image").to_pylist()
    bits = [bytes(32) if each is None else each for each in hashes]
    height, width = (
        np.array(table.column(name).to_pylist(), dtype=np.float64)
        for name in ("image_height", "image_width")
    )
    rows, genes = (
        [np.unique(np.array(each or [], dtype=np.uint64)) for each in column.to_pylist()]
        for column in (prints.column("fingerprint_rows"), prints.column("fingerprint_genes"))
    )
    return _Prints(
        manifests=table.column("manifest_sha256").to_pylist(),
        rows=rows,
        genes=genes,
        has_image=np.array([each is not None for each in hashes], dtype=np.bool_),
        bits=np.frombuffer(b"".join(bits), dtype="<u8").reshape(-1, 4).astype(np.uint64),
        proportions=np.log(width / height),
    )


def _pairs_of_values(values: Sequence[NDArray[Any]], *, least: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of slides that share `least` values and `MIN_SHARE` of the shorter list."""
    lengths = np.array([len(each) for each in values])
    _, columns = np.unique(np.concatenate([*values]), return_inverse=True)
    shape = (len(values), int(columns.max(initial=0)) + 1)
    indptr = np.append(0, np.cumsum(lengths))
    has = sparse.csr_array((np.ones(len(columns), dtype=np.int32), columns, indptr), shape=shape)
    shared = sparse.triu(has @ has.T, k=1).tocoo()
    needed = MIN_SHARE * np.minimum(lengths[shared.row], lengths[shared.col])
    is_pair = (shared.data >= least) & (shared.data >= needed)
    yield from zip(shared.row[is_pair].tolist(), shared.col[is_pair].tolist(), strict=True)


def _pairs_of_images(prints: _Prints) -> Iterator[tuple[int, int]]:
    n = len(prints.bits)
    words = np.ascontiguousarray(prints.bits.T)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        differing = np.zeros((stop - start, n - start), dtype=np.uint16)
        for word in words[:, start:]:
            differing += np.bitwise_count(word[: stop - start, None] ^ word)
        for i, j in np.argwhere(differing <= MOST_BITS).tolist():
            if i < j and _image_share(prints, start + i, start + j) is not None:
                yield start + i, start + j


def _share(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float | None:
    smaller = min(len(first), len(second))
    if smaller < MIN_SHARED:
        return None
    return len(np.intersect1d(first, second)) / smaller


def _image_share(prints: _Prints, i: int, j: int) -> float | None:
    if not (prints.has_image[i] and prints.has_image[j]):
        return None
    if abs(prints.proportions[i] - prints.proportions[j]) > MOST_STRETCH:
        return None
    return 1 - int(np.bitwise_count(prints.bits[i] ^ prints.bits[j]).sum()) / 256
