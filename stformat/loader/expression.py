"""Expression of a group in memory, and that of a batch: dense, or as a sparse matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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

    target: NDArray[np.int64] | None
    """(n_vars,) column that each gene of the table goes to, or -1; None where every gene stays in
    its column."""

    is_measured: NDArray[np.bool_]
    """(n_genes,) whether the table has a gene."""

    @classmethod
    def from_columns(cls, columns: NDArray[np.int64], n_vars: int) -> GeneMap:
        """Return the map for (n_genes,) columns of a table, -1 for a gene that it does not have."""
        is_measured = columns >= 0
        if n_vars == len(columns) and (columns == np.arange(n_vars)).all():
            return cls(target=None, is_measured=is_measured)
        target = np.full(n_vars, -1, np.int64)
        target[columns[is_measured]] = np.flatnonzero(is_measured)
        return cls(target=target, is_measured=is_measured)


class GroupExpression:
    """The counts of a group's rows, each row once.

    Parameters
    ----------
    rule : ExpressionRule
        What becomes of them.
    held : HeldCounts
        The counts, in the columns of a batch.
    maps : sequence of GeneMap
        Where genes go, for each kind of table.
    map_of_row : (n,) ndarray of int64
        The map that each row belongs to.
    xp : module
        NumPy or CuPy: where rows are made dense. Counts are copied there when they are first
        needed, so that a GPU holds those of one group.
    """

    def __init__(
        self,
        rule: ExpressionRule,
        held: HeldCounts,
        maps: Sequence[GeneMap],
        map_of_row: NDArray[np.int64],
        xp: Any,  # noqa: ANN401 - a module
    ) -> None:
        self._rule = rule
        self._xp = xp
        self._maps = maps
        self._map_of_row = map_of_row
        self._held = held
        self._totals = held.totals
        self._moves_genes = any(genes.target is not None for genes in maps)

    def dense(self, rows: NDArray[np.int64], empty: Callable[..., Any]) -> Any:  # noqa: ANN401 - of NumPy or CuPy
        """Return (n, n_genes) float32 for rows of all slides in turn, in an array of `empty`."""
        return kernels.densify(
            n_out=self._rule.n_genes,
            rows=self._xp.asarray(rows),
            out=empty((len(rows), self._rule.n_genes), np.float32),
            **self._matrix,
        )

    def csr(self, rows: NDArray[np.int64]) -> sparse.csr_array:
        """Return (n, n_genes) values for rows of all slides in turn, in any order."""
        counts: sparse.csr_array = self._whole[rows]
        if self._totals is not None:
            counts.data = kernels.normalize_log1p(
                counts.data,
                counts.indptr,
                target_sum=self._rule.target_sum,
                totals=self._totals[rows],
            )
        if self._moves_genes:
            counts.sort_indices()
        return counts

    def is_measured(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n, n_genes) whether the slide of a row has a gene."""
        numbers, measured = self._measured
        return measured[np.searchsorted(numbers, self._map_of_row[rows])]

    @cached_property
    def _matrix(self) -> dict[str, Any]:
        """What does not change from batch to batch of the arguments of `kernels.densify`."""
        held, xp = self._held, self._xp
        columns = xp.arange(self._rule.n_genes)
        csr = {"data": held.data, "indices": held.indices, "indptr": held.indptr}
        matrix = {"gene_map": columns} | {k: on_device(part, xp) for k, part in csr.items()}
        if self._totals is None:
            return matrix
        scaled = {"target_sum": self._rule.target_sum, "log1p": True}
        return matrix | scaled | {"totals": on_device(self._totals, xp)}

    @cached_property
    def _measured(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The maps that rows belong to, ascending, and what each has measured."""
        numbers = np.unique(self._map_of_row)
        return numbers, np.stack([self._maps[number].is_measured for number in numbers.tolist()])

    @cached_property
    def _whole(self) -> sparse.csr_array:
        """The matrix as SciPy has it."""
        from scipy import sparse  # noqa: PLC0415 - see the module's imports

        data, indices, indptr = self._held.data, self._held.indices, self._held.indptr
        index_type = np.int64 if len(data) > np.iinfo(np.int32).max else indices.dtype
        whole = sparse.csr_array((len(indptr) - 1, self._rule.n_genes), dtype=data.dtype)
        # Set one by one: given together, SciPy copies parts of larger arrays, which these are.
        whole.data = data
        # SciPy copies indices and offsets of different types with every call.
        whole.indices = indices.astype(index_type, copy=False)
        whole.indptr = indptr.astype(index_type)
        return whole
