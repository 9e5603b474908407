"""Expression of a group in memory, and that of a batch: dense, or as a sparse matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.loader.held_counts import HeldCounts
from stformat.loader.memory import on_device
from stformat.store.reader import Slide

if TYPE_CHECKING:
    # Dear to import, and not for dense expression.
    from scipy import sparse

__all__ = ["ExpressionRule", "GeneMap", "GroupExpression", "Panel"]


class Panel(Protocol):
    """Genes that slides are read by, whether a slide measures all of them or not."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Key of each gene, in the order of the columns that are loaded."""

    def columns_in(self, slide: Slide) -> NDArray[np.int64]:
        """Return (n_genes,) columns of the slide's table, -1 for a gene that it does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionRule:
    """What becomes of counts."""

    n_genes: int
    """Number of columns."""

    normalize: Literal["log1p"] | None
    """The rule, or None for counts as they are."""

    target_sum: float
    """What rows are scaled to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneMap:
    """Where the genes of a table go; slides of one make share it."""

    target: NDArray[np.int64]
    """(n_vars,) column that each gene of the table goes to, or -1."""

    is_measured: NDArray[np.bool_]
    """(n_genes,) whether the table has a gene."""

    is_identity: bool
    """Whether every gene of the table stays in its column."""

    @classmethod
    def from_columns(cls, columns: NDArray[np.int64], n_vars: int) -> GeneMap:
        """Return the map for (n_genes,) columns of a table, -1 for a gene that it does not have."""
        target = np.full(n_vars, -1, np.int64)
        is_measured = columns >= 0
        target[columns[is_measured]] = np.flatnonzero(is_measured)
        is_identity = n_vars == len(columns) and bool((columns == np.arange(n_vars)).all())
        return cls(target=target, is_measured=is_measured, is_identity=is_identity)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Matrix:
    """Rows of slides that share a map."""

    data: Any
    indices: Any
    indptr: Any
    totals: Any
    """Sum of each row over all genes of its table; None where counts are not normalised."""

    target: Any
    """As `GeneMap.target`."""


class GroupExpression:
    """The counts of a group's rows, each row once.

    Parameters
    ----------
    rule : ExpressionRule
        What becomes of them.
    maps : sequence of GeneMap
        Where genes go, for each kind of table.
    held : mapping of int to HeldCounts
        For each map that rows belong to, their counts.
    map_of_row : (n,) ndarray of int64
        The map that each row belongs to; rows of a map come in the order in which they are held.
    xp : module
        NumPy or CuPy: where rows are made dense. Counts are copied there when they are first
        needed, so that a GPU holds those of one group.
    """

    def __init__(
        self,
        rule: ExpressionRule,
        maps: Sequence[GeneMap],
        held: Mapping[int, HeldCounts],
        map_of_row: NDArray[np.int64],
        xp: Any,  # noqa: ANN401 - a module
    ) -> None:
        self._rule = rule
        self._maps = maps
        self._xp = xp
        self._map_of_row = map_of_row
        self._row_in_matrix = np.empty(len(map_of_row), np.int64)
        self._matrices: dict[int, _Matrix] = {}
        self._as_scipy: dict[int, sparse.csr_array] = {}
        for number, counts in held.items():
            is_here = map_of_row == number
            self._row_in_matrix[is_here] = np.arange(np.count_nonzero(is_here))
            self._matrices[number] = _matrix(counts, maps[number], rule)

    def dense(self, rows: NDArray[np.int64], empty: Callable[..., Any]) -> Any:  # noqa: ANN401 - of NumPy or CuPy
        """Return (n, n_genes) float32 for rows of all blocks in turn, in an array of `empty`."""
        of_row = self._map_of_row[rows]
        first = int(of_row[0])
        out = empty((len(rows), self._rule.n_genes), np.float32)
        if (of_row == first).all():
            return self._dense_of(first, rows, out)
        for number in np.unique(of_row).tolist():
            here = np.flatnonzero(of_row == number)
            out[self._xp.asarray(here)] = self._dense_of(number, rows[here])
        return out

    def csr(self, rows: NDArray[np.int64]) -> sparse.csr_array:
        """Return (n, n_genes) values for rows of all blocks in turn, in any order."""
        from scipy import sparse  # noqa: PLC0415 - see the module's imports

        if len(self._matrices) == 1:
            return self._sparse_of(next(iter(self._matrices)), rows)
        of_row = self._map_of_row[rows]
        parts: list[sparse.csr_array] = []
        order: list[NDArray[np.int64]] = []
        for number in np.unique(of_row).tolist():
            here = np.flatnonzero(of_row == number)
            parts.append(self._sparse_of(number, rows[here]))
            order.append(here)
        if len(parts) == 1:
            return parts[0]
        stacked = sparse.csr_array(sparse.vstack(parts, format="csr"))
        in_order: sparse.csr_array = stacked[np.argsort(np.concatenate(order))]
        return in_order

    def is_measured(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n, n_genes) whether the slide of a row has a gene."""
        of_row = self._map_of_row[rows]
        measured = np.empty((len(rows), self._rule.n_genes), np.bool_)
        for number in np.unique(of_row).tolist():
            measured[of_row == number] = self._maps[number].is_measured
        return measured

    def _on_device(self, number: int) -> _Matrix:
        matrix, xp = self._matrices[number], self._xp
        if not isinstance(matrix.data, xp.ndarray):
            parts = {name: getattr(matrix, name) for name in _Matrix.__slots__}
            matrix = self._matrices[number] = _Matrix(
                **{k: None if part is None else on_device(part, xp) for k, part in parts.items()}
            )
        return matrix

    def _dense_of(self, number: int, rows: NDArray[np.int64], out: Any = None) -> Any:  # noqa: ANN401 - of NumPy or CuPy
        matrix = self._on_device(number)
        scaled: dict[str, Any] = {}
        if matrix.totals is not None:
            target_sum = self._rule.target_sum
            scaled = {"totals": matrix.totals, "target_sum": target_sum, "log1p": True}
        return kernels.densify(
            matrix.data,
            matrix.indices,
            matrix.indptr,
            gene_map=matrix.target,
            n_out=self._rule.n_genes,
            rows=self._xp.asarray(self._row_in_matrix[rows]),
            out=out,
            **scaled,
        )

    def _whole(self, number: int) -> sparse.csr_array:
        """Return a matrix as SciPy has it, made once."""
        from scipy import sparse  # noqa: PLC0415 - see the module's imports

        if number not in self._as_scipy:
            matrix = self._matrices[number]
            is_huge = len(matrix.data) > np.iinfo(np.int32).max
            index_type = np.int64 if is_huge else matrix.indices.dtype
            shape = len(matrix.indptr) - 1, len(matrix.target)
            whole = sparse.csr_array(shape, dtype=matrix.data.dtype)
            # Set one by one: given together, SciPy copies parts of larger arrays, which these are.
            whole.data = matrix.data
            # SciPy copies indices and offsets of different types with every call.
            whole.indices = matrix.indices.astype(index_type, copy=False)
            whole.indptr = matrix.indptr.astype(index_type)
            self._as_scipy[number] = whole
        return self._as_scipy[number]

    def _sparse_of(self, number: int, rows: NDArray[np.int64]) -> sparse.csr_array:
        matrix, wanted = self._matrices[number], self._row_in_matrix[rows]
        counts: sparse.csr_array = self._whole(number)[wanted]
        if matrix.totals is not None:
            counts.data = kernels.normalize_log1p(
                counts.data,
                counts.indptr,
                target_sum=self._rule.target_sum,
                totals=matrix.totals[wanted],
            )
        if self._maps[number].is_identity:
            return counts
        return _in_columns(counts, matrix.target, self._rule.n_genes)


def _matrix(counts: HeldCounts, genes: GeneMap, rule: ExpressionRule) -> _Matrix:
    data, indptr = counts.data, counts.indptr
    return _Matrix(
        data=data,
        indices=counts.indices,
        indptr=indptr,
        totals=None if rule.normalize is None else kernels.row_sums(data, indptr),
        target=genes.target,
    )


def _in_columns(
    counts: sparse.csr_array, target: NDArray[np.int64], n_genes: int
) -> sparse.csr_array:
    """Return rows with each value in the column that its gene goes to, columns ascending."""
    from scipy import sparse  # noqa: PLC0415 - see the module's imports

    columns = target[counts.indices]
    is_wanted = columns >= 0
    kept = np.zeros(len(is_wanted) + 1, np.int64)
    np.cumsum(is_wanted, out=kept[1:])
    moved = sparse.csr_array(
        (counts.data[is_wanted], columns[is_wanted], kept[counts.indptr]),
        shape=(counts.shape[0], n_genes),
    )
    moved.sort_indices()
    return moved
