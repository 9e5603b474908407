"""Sparse expression in memory: normalised, and dense for a batch of rows."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from peer_cases.case import (
    Comparison,
    OutputsDifferError,
    Peer,
    Work,
    at_least,
    at_most,
    close,
)
from peer_cases.data import N_VARS, Data
from stformat import kernels
from stformat.kernels._pool import run_blocks, thread_count

__all__ = ["COMPARISONS"]

_TARGET_SUM = 1e4
_STREAMED_AT_ONCE = 1 << 18
_BATCH_ROWS = 512
_N_BATCHES = 8

type Kind = Literal["visium", "hd"]

_NAMES: dict[Kind, str] = {"visium": "Visium", "hd": "Visium HD"}


def _matrix(kind: Kind, data: Data) -> sparse.csr_array:
    return data.visium if kind == "visium" else data.hd


# ---- normalize_log1p -----------------------------------------------------------------------------


def _normalized(kind: Kind, data: Data) -> Work:
    matrix = _matrix(kind, data)
    out = np.zeros_like(matrix.data)
    return Work(
        run=lambda: kernels.normalize_log1p(
            matrix.data, matrix.indptr, target_sum=_TARGET_SUM, out=out
        ),
        n_units=matrix.nnz,
    )


def _normalized_in_place(kind: Kind, data: Data) -> Work:
    matrix = _matrix(kind, data)
    values = matrix.data.copy()

    def run() -> NDArray[np.float32]:
        kernels.normalize_log1p_inplace(values, matrix.indptr, target_sum=_TARGET_SUM)
        return values

    return Work(run=run, n_units=matrix.nnz, before=lambda: np.copyto(values, matrix.data))


def _scanpy(kind: Kind, data: Data) -> Work:
    import anndata
    import scanpy

    matrix = _matrix(kind, data)
    table = anndata.AnnData(sparse.csr_matrix(matrix, copy=True))

    def run() -> NDArray[np.float32]:
        scanpy.pp.normalize_total(table, target_sum=_TARGET_SUM)
        scanpy.pp.log1p(table)
        return table.X.data

    def before() -> None:
        table.uns.pop("log1p", None)
        np.copyto(table.X.data, matrix.data)

    return Work(run=run, n_units=matrix.nnz, before=before)


def _definition(kind: Kind, data: Data) -> Work:
    """Every step in float64, rounded once at the end."""
    matrix = _matrix(kind, data)

    def run() -> NDArray[np.float32]:
        totals = np.add.reduceat(matrix.data, matrix.indptr[:-1], dtype=np.float64)
        values = np.repeat(_TARGET_SUM / totals, np.diff(matrix.indptr))
        values *= matrix.data
        return np.log1p(values, out=values).astype(np.float32)

    return Work(run=run, n_units=matrix.nnz)


@njit(nogil=True)
def _read_and_write(source, target):
    for at in range(source.size):
        target[at] = source[at] + np.float32(1)


def _streamed(kind: Kind, data: Data, *, by: Literal["numba", "memcpy"]) -> Work:
    """Read every value once and write as many."""
    source = _matrix(kind, data).data
    target = np.zeros_like(source)
    stream = _read_and_write if by == "numba" else lambda a, b: np.copyto(b, a)

    def block(start: int, stop: int) -> None:
        stream(source[start:stop], target[start:stop])

    return Work(
        run=lambda: run_blocks(block, source.size, block=_STREAMED_AT_ONCE), n_units=source.size
    )


def _within_ulp(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> str:
    """Compare with the definition."""
    apart = np.abs(ours.view(np.int32).astype(np.int64) - theirs.view(np.int32))
    if apart.max(initial=0) > 1:
        raise OutputsDifferError(f"{apart.max()} ulp apart")
    return f"at most {apart.max(initial=0)} ulp apart, {np.mean(apart == 0):.5%} equal"


def _normalize(kind: Kind, of_stream: float) -> tuple[Comparison, ...]:
    threads = f"{thread_count()} threads"
    return (
        Comparison(
            what=f"normalize_log1p, {_NAMES[kind]}",
            unit="value",
            ours=partial(_normalized, kind),
            peers=(
                Peer(
                    name=f"bound: stream, numba, {threads}",
                    prepare=partial(_streamed, kind, by="numba"),
                    target=at_most(of_stream),
                    agrees=None,
                    note="every value read and written once",
                ),
                Peer(
                    name=f"bound: stream, memcpy, {threads}",
                    prepare=partial(_streamed, kind, by="memcpy"),
                    target=at_most(of_stream),
                    agrees=None,
                    note="every value read and written once",
                ),
                Peer(
                    name="the definition in NumPy, float64",
                    prepare=partial(_definition, kind),
                    agrees=_within_ulp,
                ),
            ),
        ),
        Comparison(
            what=f"normalize_log1p in place, {_NAMES[kind]}",
            unit="value",
            ours=partial(_normalized_in_place, kind),
            peers=(
                Peer(
                    name="scanpy in place",
                    prepare=partial(_scanpy, kind),
                    target=at_least(8),
                    agrees=close(1e-5),
                    note="normalize_total and log1p",
                ),
            ),
        ),
    )


# ---- densify -------------------------------------------------------------------------------------


def _batches(matrix: sparse.csr_array) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(2)
    n_rows = min(_BATCH_ROWS, matrix.shape[0])
    return [rng.permutation(matrix.shape[0])[:n_rows] for _ in range(_N_BATCHES)]


def _panel(n_genes: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(3).permutation(N_VARS)[:n_genes])


def _totals(matrix: sparse.csr_array) -> NDArray[np.float64]:
    return np.add.reduceat(matrix.data, matrix.indptr[:-1], dtype=np.float64)


def _densified(kind: Kind, n_genes: int, data: Data) -> Work:
    matrix = _matrix(kind, data)
    batches, totals = _batches(matrix), _totals(matrix)
    gene_map = np.full(N_VARS, -1)
    gene_map[_panel(n_genes)] = np.arange(n_genes)
    out = np.zeros((len(batches[0]), n_genes), np.float32)

    def run() -> NDArray[np.float32]:
        for rows in batches:
            kernels.densify(
                matrix.data,
                matrix.indices,
                matrix.indptr,
                gene_map=gene_map,
                n_out=n_genes,
                rows=rows,
                totals=totals,
                target_sum=_TARGET_SUM,
                log1p=True,
                out=out,
            )
        return out.copy()

    return Work(run=run, n_units=len(batches) * len(batches[0]))


def _scipy(kind: Kind, n_genes: int, data: Data, *, into: Literal["new", "out"]) -> Work:
    matrix = _matrix(kind, data)
    batches, totals, genes = _batches(matrix), _totals(matrix), _panel(n_genes)
    out = np.zeros((len(batches[0]), n_genes), np.float32) if into == "out" else None

    def dense(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = matrix[rows]
        if n_genes < N_VARS:
            batch = batch[:, genes]
        scales = (_TARGET_SUM / totals[rows]).astype(np.float32)
        batch.data *= np.repeat(scales, np.diff(batch.indptr))
        np.log1p(batch.data, out=batch.data)
        if out is None:
            return batch.toarray()
        out.fill(0)
        return batch.toarray(out=out)

    def run() -> NDArray[np.float32]:
        for rows in batches:
            values = dense(rows)
        return values.copy()

    return Work(run=run, n_units=len(batches) * len(batches[0]))


def _densify(kind: Kind, n_genes: int, over_scipy: float | None) -> Comparison:
    target: dict[str, Any] = {} if over_scipy is None else {"target": at_least(over_scipy)}
    return Comparison(
        what=f"densify 512 random rows to {n_genes:,} genes, {_NAMES[kind]}",
        unit="row",
        ours=partial(_densified, kind, n_genes),
        peers=(
            Peer(
                name="SciPy",
                prepare=partial(_scipy, kind, n_genes, into="new"),
                agrees=close(1e-5),
                note="slice, scale, log1p, toarray",
                **target,
            ),
            Peer(
                name="SciPy, toarray(out=)",
                prepare=partial(_scipy, kind, n_genes, into="out"),
                agrees=close(1e-5),
                note="into the array of the batch before, as ours",
            ),
        ),
    )


COMPARISONS = (
    *_normalize("visium", of_stream=1.8),
    *_normalize("hd", of_stream=1.9),
    _densify("visium", N_VARS, over_scipy=6),
    _densify("hd", N_VARS, over_scipy=6),
    _densify("visium", 2000, over_scipy=None),
    _densify("hd", 2000, over_scipy=None),
)
