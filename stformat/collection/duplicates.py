"""Slides that are the same slide under another name, by their fingerprints.

Specification: spec/decisions/0030.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from stformat.collection.catalogue import CATALOGUE_NAME, FINGERPRINT_VERSION, Catalogue
from stformat.collection.row_runs import N_SAMPLED
from stformat.errors import CatalogueError, Problem

__all__ = [
    "DuplicatePair",
    "duplicate_groups",
    "find_duplicates",
    "runs_share",
    "totals_share",
]

MIN_SHARED_RUNS = 5
"""Fewer runs of values of rows in common are no evidence."""

MIN_RUNS = 0.05
"""Least share of runs, of those that both samples would hold, that two slides have in common."""

MIN_SHARED_TOTALS = 8
"""Fewer totals of genes in common are no evidence."""

MIN_TOTALS = 0.5
"""Least share of the shorter list of totals of genes that two slides have in common."""

MOST_BITS = 48
"""Most bits of 256 in which the images of two slides differ."""

MOST_STRETCH = 0.05
"""Most that the proportions of two images differ by."""

_BLOCK = 64
_MOST_SHARED = 1 << 22
"""Entries of the products of one block of slides."""


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
    """Share of the sampled runs of values of rows that both have, of those that both may have."""

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
        Pairs that have runs of values of their rows in common, or half of the largest totals of
        genes, or images of nearly the same perceptual hash and proportions, or the same manifest;
        in the order of `positions`.

    Raises
    ------
    CatalogueError
        If the catalogue has fingerprints of another version.

    Notes
    -----
    Found are copies by other converters, in another order and under other names, of any depth. Of
    some 400 counts a row and more they are found also without genes that few rows have, without the
    poorest rows, with rows scaled, and from a quarter of the rows on; images compressed again,
    smaller, darker or cropped at an edge by some 2 %. Whether a tenth of the rows is found, or a
    copy without genes of large values and without some rows, is chance. Not found, unless the image
    says so, are logarithms of counts, counts drawn again at another depth, and bins of some 40
    counts of which rows were left out; nor images that are turned or cropped further. Counts that
    agree are enough, whatever images and species say.

    Time grows with the square of the number of slides, that of 10,000 being some seconds; memory
    with the number of slides and of pairs found.

    Examples
    --------
    >>> import stformat as stf
    >>> stf.open_collection("stores").duplicates()  # doctest: +SKIP
    """
    if len(positions) == 0:
        return ()
    prints = _read(catalogue, positions)
    found = {
        *_pairs_of_values([np.array([text]) for text in prints.manifests], least=1),
        *_pairs_of_runs(prints.rows),
        *_pairs_of_totals(prints.genes),
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
            rows=runs_share(prints.rows[i], prints.rows[j]),
            genes=totals_share(prints.genes[i], prints.genes[j]),
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
    versions = {*table.column("fingerprint_version").to_pylist()} - {FINGERPRINT_VERSION}
    if versions:
        raise CatalogueError(
            Problem(
                "catalogue.fingerprints",
                CATALOGUE_NAME,
                f"this version compares fingerprints of version {FINGERPRINT_VERSION}",
                ", ".join(sorted(map(str, versions))),
                "refresh it with stformat collect",
            )
        )
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


def _pairs_of_runs(samples: Sequence[NDArray[np.uint64]]) -> Iterator[tuple[int, int]]:
    for i, j in _pairs_of_values(samples, least=MIN_SHARED_RUNS):
        share = runs_share(samples[i], samples[j])
        if share is not None and share >= MIN_RUNS:
            yield i, j


def _pairs_of_totals(totals: Sequence[NDArray[np.uint64]]) -> Iterator[tuple[int, int]]:
    for i, j in _pairs_of_values(totals, least=MIN_SHARED_TOTALS):
        share = totals_share(totals[i], totals[j])
        if share is not None and share >= MIN_TOTALS:
            yield i, j


def _pairs_of_values(values: Sequence[NDArray[Any]], *, least: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of slides that share `least` values; each value counts once a slide."""
    lengths = np.array([len(each) for each in values])
    _, columns, holders = np.unique(
        np.concatenate([*values]), return_inverse=True, return_counts=True
    )
    n_others = holders[columns] - 1
    slides = np.repeat(np.arange(len(values)), lengths)
    entries = np.ones(len(columns), dtype=np.int32), (slides, columns)
    has = sparse.csr_array(sparse.coo_array(entries, shape=(len(values), len(holders))))
    held = has.T.tocsr()
    # A value that many slides hold makes as many entries in each of their rows of the product.
    made = np.cumsum(np.bincount(slides, weights=n_others, minlength=len(values)))
    start = 0
    while start < len(values):
        before = made[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(made, before + _MOST_SHARED, side="right")))
        shared = (has[start:stop] @ held).tocoo()
        is_pair = (shared.data >= least) & (shared.col > shared.row + start)
        first, second = shared.row[is_pair] + start, shared.col[is_pair]
        yield from zip(first.tolist(), second.tolist(), strict=True)
        start = stop


def _pairs_of_images(prints: _Prints) -> Iterator[tuple[int, int]]:
    place_of = np.flatnonzero(prints.has_image)
    n = len(place_of)
    words = np.ascontiguousarray(prints.bits[place_of].T)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        differing = np.zeros((stop - start, n - start), dtype=np.uint16)
        for word in words[:, start:]:
            differing += np.bitwise_count(word[: stop - start, None] ^ word)
        is_pair = np.triu(differing <= MOST_BITS, k=1)
        for i, j in (place_of[start + np.argwhere(is_pair)]).tolist():
            if _image_share(prints, i, j) is not None:
                yield i, j


def runs_share(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float | None:
    """Return the share of runs in common; None where too few could be.

    Of a slide that holds many runs a sample keeps those of hashes up to some value. Below the
    lesser of two such values both samples have all that their slides have, so that a part of a
    slide shares nearly all that is sampled of it there.

    Examples
    --------
    >>> whole = np.arange(128, dtype=np.uint64)  # full: it holds no more above 127
    >>> part = np.arange(0, 256, 2, dtype=np.uint64)
    >>> runs_share(whole, part)
    1.0
    """
    if min(len(first), len(second)) == 0:
        return None
    tops = [sample[-1] for sample in (first, second) if len(sample) >= N_SAMPLED]
    if tops:
        first, second = (sample[sample <= min(tops)] for sample in (first, second))
    smaller = min(len(first), len(second))
    if smaller < MIN_SHARED_RUNS:
        return None
    return len(np.intersect1d(first, second)) / smaller


def totals_share(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float | None:
    """Return the share of the shorter list of totals in common; None where it is too short.

    Examples
    --------
    >>> totals_share(np.arange(10, 20, dtype=np.uint64), np.arange(15, 40, dtype=np.uint64))
    0.5
    """
    smaller = min(len(first), len(second))
    if smaller < MIN_SHARED_TOTALS:
        return None
    return len(np.intersect1d(first, second)) / smaller


def _image_share(prints: _Prints, i: int, j: int) -> float | None:
    if not (prints.has_image[i] and prints.has_image[j]):
        return None
    if abs(prints.proportions[i] - prints.proportions[j]) > MOST_STRETCH:
        return None
    return 1 - int(np.bitwise_count(prints.bits[i] ^ prints.bits[j]).sum()) / 256
