"""Counts from disk: random rows, and all rows of a few genes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stformat as stf
from peer_cases.case import Comparison, Peer, Work, at_least, equal_matrices
from peer_cases.data import N_VARS, Data

__all__ = ["COMPARISONS"]

_N_ROWS = 256
_N_GENES = 5
_TABLE = "tables/expression_square_008um"


class _Request:
    """A request of a store that is opened anew before each run: nothing is left from the last."""

    def __init__(self, open_store: Callable[[], Any], ask: Callable[[Any], Any]) -> None:
        self._open_store = open_store
        self._ask = ask

    def open(self) -> None:
        self._opened = self._open_store()

    def work(self) -> Work:
        return Work(run=lambda: self._ask(self._opened), n_units=1, before=self.open)


def _rows(data: Data) -> NDArray[np.int64]:
    n_obs = data.scale.n_bins
    return np.sort(np.random.default_rng(4).permutation(n_obs)[: min(_N_ROWS, n_obs)])


def _genes() -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(5).permutation(N_VARS)[:_N_GENES])


def _open_sparse_dataset(data: Data) -> Any:
    import anndata
    import zarr

    return anndata.io.sparse_dataset(zarr.open_group(data.hd_store, mode="r")[f"{_TABLE}/X"])


def _open_lazily(data: Data) -> Any:
    import anndata

    return anndata.experimental.read_lazy(data.hd_store / _TABLE).X


# ---- rows ----------------------------------------------------------------------------------------


def _our_rows(data: Data) -> Work:
    rows = _rows(data)
    return _Request(partial(stf.open_slide, data.hd_store), lambda slide: slide.counts[rows]).work()


def _backed_rows(data: Data) -> Work:
    rows = _rows(data)
    return _Request(partial(_open_sparse_dataset, data), lambda matrix: matrix[rows]).work()


def _lazy_rows(data: Data) -> Work:
    rows = _rows(data)
    return _Request(partial(_open_lazily, data), lambda matrix: matrix[rows].compute()).work()


# ---- genes ---------------------------------------------------------------------------------------


def _our_genes(data: Data) -> Work:
    names = [f"G{gene}" for gene in _genes()]
    return _Request(
        partial(stf.open_slide, data.hd_store), lambda slide: slide.counts.genes(names)
    ).work()


def _backed_genes(data: Data) -> Work:
    genes = _genes()
    return _Request(partial(_open_sparse_dataset, data), lambda matrix: matrix[:, genes]).work()


def _lazy_genes(data: Data) -> Work:
    genes = _genes()
    return _Request(partial(_open_lazily, data), lambda matrix: matrix[:, genes].compute()).work()


def _lookup(
    what: str,
    ours: Callable[[Data], Work],
    backed: Callable[[Data], Work],
    lazy: Callable[[Data], Work],
) -> Comparison:
    return Comparison(
        what=what,
        unit="request",
        ours=ours,
        peers=(
            Peer(
                name="anndata sparse_dataset",
                prepare=backed,
                target=at_least(5),
                agrees=equal_matrices,
                note="of our store",
            ),
            Peer(
                name="anndata read_lazy",
                prepare=lazy,
                target=at_least(100),
                agrees=equal_matrices,
                note="of our store",
            ),
        ),
    )


COMPARISONS = (
    _lookup("256 random rows from disk, Visium HD", _our_rows, _backed_rows, _lazy_rows),
    _lookup("5 genes of all rows from disk, Visium HD", _our_genes, _backed_genes, _lazy_genes),
)
