"""Tables of counts on disk: opened, read by random rows, read by a few genes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import stformat as stf
from peer_cases.case import (
    Comparison,
    OutputsDifferError,
    Peer,
    Target,
    Work,
    at_least,
    equal_matrices,
    reported,
)
from peer_cases.data import N_VARS, Data, TableSize

__all__ = ["COMPARISONS", "added_bytes"]

_N_ROWS = 256
_N_GENES = 5
_NAME = "expression_square_008um"
_TABLE = f"tables/{_NAME}"
_BY_GENE = f"stformat/{_NAME}/by_gene"

type Task = Literal["open", "rows", "genes"]

_TASKS: dict[Task, str] = {
    "open": "opening a table",
    "rows": f"{_N_ROWS} random rows of a table",
    "genes": f"{_N_GENES} genes of all rows of a table",
}

# Memory is what a process adds to it that has done the same to a small store: nothing is loaded or
# compiled any more.
_MEASURE = """
import sys, warnings
warnings.simplefilter("ignore")
from peer_cases.lookup import added_bytes
print(added_bytes(*sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """A way to read tables of one of our stores."""

    module: str
    """What must be installed."""

    open: Callable[[Path], Any]
    """Open a store, or its table, without reading counts if that can be helped."""

    n_rows: Callable[[Any], int]
    """Number of rows of what is open."""

    rows: Callable[[Any, NDArray[np.int64]], Any]
    """Read rows."""

    genes: Callable[[Any, NDArray[np.int64]], Any]
    """Read all rows of some columns."""


def _ask(side: _Side, task: Task, store: Path) -> Any:
    opened = side.open(store)
    n_obs = side.n_rows(opened)
    if task == "open":
        return n_obs
    rng = np.random.default_rng(4)
    if task == "rows":
        return side.rows(opened, np.sort(rng.permutation(n_obs)[:_N_ROWS]))
    return side.genes(opened, np.sort(rng.permutation(N_VARS)[:_N_GENES]))


def added_bytes(name: str, task: Task, first: str, store: str) -> int:
    """Return the memory that a task adds to this process, at its peak.

    Parameters
    ----------
    name : str
        Side, as the table names it.
    task : str
        What is done.
    first, store : str
        Store that the task is done to beforehand, and the one that counts.
    """
    _ask(_SIDES[name], task, Path(first))
    # The high-water mark of this process starts anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    kept = _ask(_SIDES[name], task, Path(store))
    peak = _status("VmHWM")
    del kept
    return max(0, peak - before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


# ---- sides ---------------------------------------------------------------------------------------


def _our_genes(slide: stf.Slide, genes: NDArray[np.int64]) -> sparse.csc_array:
    return slide.counts.genes([f"G{gene}" for gene in genes])


def _open_group(store: Path) -> Any:
    import zarr

    return zarr.open_group(store, mode="r")


def _open_backed(store: Path) -> Any:
    import anndata

    return anndata.io.sparse_dataset(_open_group(store)[f"{_TABLE}/X"])


def _open_lazily(store: Path) -> Any:
    import anndata

    return anndata.experimental.read_lazy(store / _TABLE)


def _read_spatialdata(store: Path) -> Any:
    import spatialdata

    return spatialdata.read_zarr(store)[_NAME]


def _slices_by_hand(matrix: Any, major: NDArray[np.int64]) -> tuple[Any, Any, Any]:
    indptr = matrix["indptr"][:]
    spans = [slice(indptr[at], indptr[at + 1]) for at in major.tolist()]
    data, indices = (
        np.concatenate([matrix[name][span] for span in spans]) for name in ("data", "indices")
    )
    return data, indices, np.append(0, np.cumsum(indptr[major + 1] - indptr[major]))


def _rows_by_hand(group: Any, rows: NDArray[np.int64]) -> sparse.csr_array:
    parts = _slices_by_hand(group[f"{_TABLE}/X"], rows)
    return sparse.csr_array(parts, shape=(len(rows), N_VARS))


def _genes_by_hand(group: Any, genes: NDArray[np.int64]) -> sparse.csc_array:
    parts = _slices_by_hand(group[_BY_GENE], genes)
    return sparse.csc_array(parts, shape=(_n_rows_of_group(group), len(genes)))


def _n_rows_of_group(group: Any) -> int:
    return group[f"{_TABLE}/X"].attrs["shape"][0]


_OURS = "stformat"
_SIDES = {
    _OURS: _Side(
        module="stformat",
        open=stf.open_slide,
        n_rows=lambda slide: slide.n_obs,
        rows=lambda slide, rows: slide.counts[rows],
        genes=_our_genes,
    ),
    "anndata sparse_dataset": _Side(
        module="anndata",
        open=_open_backed,
        n_rows=lambda matrix: matrix.shape[0],
        rows=lambda matrix, rows: matrix[rows],
        genes=lambda matrix, genes: matrix[:, genes],
    ),
    "anndata read_lazy": _Side(
        module="anndata",
        open=_open_lazily,
        n_rows=lambda table: table.n_obs,
        rows=lambda table, rows: table.X[rows].compute(),
        genes=lambda table, genes: table.X[:, genes].compute(),
    ),
    "spatialdata read_zarr": _Side(
        module="spatialdata",
        open=_read_spatialdata,
        n_rows=lambda table: table.n_obs,
        rows=lambda table, rows: table.X[rows],
        genes=lambda table, genes: table.X[:, genes],
    ),
    "zarr-python by hand": _Side(
        module="zarr",
        open=_open_group,
        n_rows=_n_rows_of_group,
        rows=_rows_by_hand,
        genes=_genes_by_hand,
    ),
}
_NOTES = {
    "anndata sparse_dataset": "X alone, backed",
    "spatialdata read_zarr": "reads the whole store",
    "zarr-python by hand": "slices of data and indices; genes from the gene-major copy",
}
_TARGETS = {
    ("rows", "anndata sparse_dataset"): at_least(5),
    ("genes", "anndata sparse_dataset"): at_least(5),
    ("rows", "anndata read_lazy"): at_least(100),
    ("genes", "anndata read_lazy"): at_least(100),
}


# ---- comparisons ---------------------------------------------------------------------------------


def _prepared(name: str, task: Task, size: TableSize, data: Data) -> Work:
    side = _SIDES[name]
    import_module(side.module)
    store, first = data.table_store(size), data.table_store("small")

    def measure() -> int:
        result = subprocess.run(
            [sys.executable, "-c", _MEASURE, name, task, str(first), str(store)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(result.stdout.split()[-1])

    # Opened in every run: nothing is left from the one before.
    return Work(run=partial(_ask, side, task, store), n_units=1, added_bytes=measure)


def _same_size(ours: int, theirs: int) -> str:
    if ours != theirs:
        raise OutputsDifferError(f"{theirs} rows instead of {ours}")
    return "equal"


def _target(task: Task, size: TableSize, name: str) -> Target:
    return _TARGETS.get((task, name), reported()) if size == "large" else reported()


def _comparison(task: Task, size: TableSize) -> Comparison:
    return Comparison(
        what=f"{_TASKS[task]}, {size}",
        unit="request",
        ours=partial(_prepared, _OURS, task, size),
        peers=tuple(
            Peer(
                name=name,
                prepare=partial(_prepared, name, task, size),
                target=_target(task, size, name),
                agrees=_same_size if task == "open" else equal_matrices,
                note=_NOTES.get(name, ""),
            )
            for name in _SIDES
            if name != _OURS
        ),
    )


_SIZES: tuple[TableSize, ...] = ("small", "middle", "large")
COMPARISONS = tuple(_comparison(task, size) for task in _TASKS for size in _SIZES)
