"""Compiling ahead of time: every kernel is called once with each usual kind of arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._counts import densify, normalize_log1p, normalize_log1p_inplace, row_sums
from stformat.kernels._floats import tiles_to_float
from stformat.kernels._images import (
    downsample_2x2,
    gather_tiles,
    gather_windows,
    resample_tiles,
    scatter_chunk,
)
from stformat.kernels._lzw import codes_after_clear_are_bytes
from stformat.kernels._moments import gene_moments
from stformat.kernels._pooling import pool_bins
from stformat.kernels._selection import select_genes_inplace
from stformat.kernels._stains import change_stains
from stformat.kernels._text import parse_count_rows

__all__ = ["WarmKernel", "warmup"]

SAMPLES: tuple[type[np.generic], ...] = (np.uint8, np.uint16)
# Counts as stores hold them, by rows and by genes, and as users' matrices have them.
COUNTS: tuple[type[np.generic], ...] = (np.uint8, np.uint16, np.uint32, np.int32, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmKernel:
    """A kernel that is ready for some types of arrays."""

    name: str
    """The public function."""

    dtypes: tuple[str, ...]
    """Types of its pixels or values."""

    seconds: float
    """What compiling took, or loading what was compiled before."""


def warmup(*, report: Callable[[WarmKernel], object] | None = None) -> list[WarmKernel]:
    """Compile every kernel for the usual types, so that no later call has to.

    Compiled code is cached on disk and loaded by later processes of this user, on processors like
    this one. With nothing left to compile a call takes about a second.

    Parameters
    ----------
    report : callable, optional
        Called with each kernel as soon as it is ready.

    Returns
    -------
    list of WarmKernel
        The kernels in the order in which they were compiled.

    Examples
    --------
    >>> "gather_tiles" in {kernel.name for kernel in warmup()}
    True
    """
    kernels = []
    for name, dtypes, call in _calls():
        start = time.perf_counter()
        for dtype in dtypes:
            call(dtype)
        kernel = WarmKernel(
            name=name,
            dtypes=tuple(np.dtype(dtype).name for dtype in dtypes),
            seconds=time.perf_counter() - start,
        )
        kernels.append(kernel)
        if report is not None:
            report(kernel)
    return kernels


type _Call = Callable[[type[np.generic]], object]
type _Calls = Iterator[tuple[str, tuple[type[np.generic], ...], _Call]]


def _calls() -> _Calls:
    """Yield each kernel with its types and how it is called with small arrays of a type."""
    yield from _image_calls()
    yield from _text_calls()
    yield from _count_calls()


def _image_calls() -> _Calls:
    window = np.zeros((1, 2), np.int64)
    first = np.zeros(1, np.int64)
    yield "gather_tiles", SAMPLES, lambda t: gather_tiles(_pixels(t)[0], window, 2)
    yield (
        "gather_windows",
        SAMPLES,
        lambda t: gather_windows(_pixels(t).reshape(-1), first, window, first, _pixels(t)),
    )
    yield (
        "scatter_chunk",
        SAMPLES,
        lambda t: scatter_chunk(_pixels(t)[0], 0, 0, window, first, _pixels(t)),
    )
    yield (
        "resample_tiles",
        SAMPLES,
        # Four source pixels make two, or four of half the size.
        lambda t: [
            resample_tiles(_pixels(t), tile_px=tile_px, step=step)
            for tile_px, step in ((2, 131072), (4, 32768))
        ],
    )
    yield "downsample_2x2", SAMPLES, lambda t: downsample_2x2(_pixels(t)[0])
    yield (
        "tiles_to_float",
        SAMPLES,
        lambda t: [tiles_to_float(_pixels(t), dtype=dtype) for dtype in (np.float32, np.float16)],
    )
    yield (
        "change_stains",
        (np.uint8,),
        lambda _: change_stains(np.ones((1, 3, 1, 1), np.uint8), np.zeros((1, 3, 4))),
    )


def _text_calls() -> _Calls:
    yield (
        "codes_after_clear_are_bytes",
        (np.uint8,),
        lambda _: codes_after_clear_are_bytes(np.zeros(2, np.uint8)),
    )
    yield (
        "parse_count_rows",
        (np.uint8,),
        lambda _: parse_count_rows(np.frombuffer(b"a,1\n", np.uint8), delimiter=",", n_columns=1),
    )


def _count_calls() -> _Calls:
    first = np.zeros(1, np.int64)
    indptr = np.array([0, 1])
    yield "row_sums", COUNTS, lambda t: row_sums(np.ones(1, t), indptr)
    yield (
        "normalize_log1p",
        COUNTS,
        lambda t: normalize_log1p(np.ones(1, t), indptr, target_sum=1.0),
    )
    yield (
        "normalize_log1p_inplace",
        (np.float32,),
        lambda _: normalize_log1p_inplace(np.ones(1, np.float32), indptr, target_sum=1.0),
    )
    by_column: list[tuple[str, Callable[[NDArray[Any], NDArray[Any]], object]]] = [
        ("densify", partial(_densify, indptr)),
        ("select_genes_inplace", partial(_select_genes, indptr)),
        ("gene_moments", lambda values, columns: gene_moments(values, columns, indptr, 1)),
        ("pool_bins", lambda values, columns: pool_bins(values, columns, indptr, first, 1)),
    ]
    for name, call in by_column:
        yield name, COUNTS, partial(_with_both_columns, call)


def _pixels(dtype: type[np.generic]) -> NDArray[Any]:
    return np.ones((1, 1, 4, 4), dtype)


def _densify(indptr: NDArray[Any], values: NDArray[Any], columns: NDArray[Any]) -> None:
    for log1p in (False, True):
        densify(values, columns, indptr, gene_map=np.zeros(1, np.int64), n_out=1, log1p=log1p)


def _select_genes(indptr: NDArray[Any], values: NDArray[Any], columns: NDArray[Any]) -> None:
    select_genes_inplace(values, columns, indptr, gene_map=np.zeros(1, np.int64), n_out=1)


def _with_both_columns(
    call: Callable[[NDArray[Any], NDArray[Any]], object], dtype: type[np.generic]
) -> None:
    for columns in (np.int32, np.int64):
        call(np.ones(1, dtype), np.zeros(1, columns))
