"""Which column of a count matrix a gene's key, identifier or name means."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stformat.errors import GeneLookupError, Problem

__all__ = ["GeneIndex"]

_N_SHOWN = 5


class GeneIndex:
    """The genes of one table, found by key, else by Ensembl identifier or by name.

    Parameters
    ----------
    keys : sequence of str
        Unique key of each column.
    gene_id : sequence of str or None
        Ensembl identifier of each column without its version, where known.
    gene_name : sequence of str or None
        Name of each column, where known.

    Raises
    ------
    ValueError
        If the three differ in length, or a key repeats.

    Examples
    --------
    >>> index = GeneIndex(["ENSG00000141736", "ENSG00000188389"], [None, None], ["ERBB2", "PDCD1"])
    >>> index.resolve(["PDCD1", "ENSG00000141736"])
    array([1, 0])
    """

    def __init__(
        self,
        keys: Sequence[str],
        gene_id: Sequence[str | None],
        gene_name: Sequence[str | None],
    ) -> None:
        if not len(keys) == len(gene_id) == len(gene_name):
            raise ValueError(
                "keys, gene_id and gene_name must have one entry a column, got "
                f"{len(keys)}, {len(gene_id)} and {len(gene_name)}"
            )
        self._keys = list(keys)
        self._column_of_key = {key: column for column, key in enumerate(self._keys)}
        if len(self._column_of_key) != len(self._keys):
            raise ValueError(f"keys must be unique, got {len(self._keys)} of which some repeat")
        self._names = (gene_id, gene_name)

    def __len__(self) -> int:
        return len(self._keys)

    def resolve(self, genes: Iterable[str]) -> NDArray[np.int64]:
        """Find genes.

        Parameters
        ----------
        genes : iterable of str
            Keys, identifiers or names, mixed as one likes. A key that is also the name of other
            genes means the column that it is the key of.

        Returns
        -------
        (k,) ndarray of int64
            Column of each gene, in the order of `genes`.

        Raises
        ------
        TypeError
            If `genes` is a single string.
        GeneLookupError
            If something is the name of several genes, whose keys are then listed, or of none. All
            such are named.
        """
        if isinstance(genes, str):
            raise TypeError(f"genes must be a list of names, got the string {genes!r}")
        columns: list[int] = []
        problems: list[Problem] = []
        for gene in genes:
            found = self._columns(gene)
            if len(found) == 1:
                columns.append(found[0])
            else:
                problems.append(self._problem(gene, found))
        if problems:
            raise GeneLookupError(*problems)
        return np.array(columns, dtype=np.int64)

    @cached_property
    def _columns_of_name(self) -> dict[str, list[int]]:
        """Columns of each identifier and name; made once something is asked for that is no key."""
        columns_of_name: dict[str, list[int]] = {}
        for names in self._names:
            for column, name in enumerate(names):
                if name is not None:
                    columns = columns_of_name.setdefault(name, [])
                    if column not in columns:
                        columns.append(column)
        return columns_of_name

    def _columns(self, gene: str) -> list[int]:
        column = self._column_of_key.get(gene)
        return self._columns_of_name.get(gene, []) if column is None else [column]

    def _problem(self, gene: str, columns: list[int]) -> Problem:
        if columns:
            keys = [self._keys[column] for column in columns]
            return Problem(
                "genes.ambiguous",
                str(gene),
                "a gene's name must mean one gene, or its key must be given",
                f"{len(keys)} genes of that name",
                f"choose among the keys {', '.join(keys)}",
            )
        close = self._close_to(str(gene))
        return Problem(
            "genes.unknown",
            str(gene),
            "a gene must be among the keys, identifiers or names of the table",
            "no such gene",
            f"did you mean {', '.join(close)}?" if close else "",
        )

    def _close_to(self, gene: str) -> list[str]:
        known = {name.casefold(): name for name in (*self._columns_of_name, *self._keys)}
        found = difflib.get_close_matches(gene.casefold(), known, n=_N_SHOWN, cutoff=0.75)
        return [known[name] for name in found]
