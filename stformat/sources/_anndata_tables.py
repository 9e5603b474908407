"""Tables of a slide from an AnnData object: its var, a table a type of features, labels in obs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CountsError, Problem
from stformat.genes.keys import key_kind as kind_of_keys
from stformat.genes.keys import parse_ensembl, split_ids_and_names, unique_keys
from stformat.model import Genes, Note, Spots, Table
from stformat.sources._anndata import Frame
from stformat.sources._anndata_matrix import Matrix, MatrixSummary, counts_of_matrix
from stformat.sources._counts_10x import GENES, check_packed_rows, check_rows
from stformat.sources._notes import counted, named
from stformat.sources._visium_tables import table_name

__all__ = ["AnnDataParts", "build_tables", "read_labels"]

MAX_LABELS = 1000
"""A column of more different texts names rows, it does not label them."""

_NAME = re.compile(r"(_?[A-Za-z0-9-][A-Za-z0-9_.-]*|_)(?<!\.json)", re.IGNORECASE)
_OWN = {
    "barcode", "region", "spot_id", "x", "y", "array_row", "array_col", "in_tissue", "in_image",
    "total_counts", "n_genes", "source_index", "section",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnDataParts:
    """What tables are made of."""

    where: str
    """File or element, for messages."""

    obs: Frame
    """Rows."""

    var: Frame
    """Columns."""

    opened: Callable[[], AbstractContextManager[Matrix]]
    """Opens the matrix."""

    shape: tuple[int, int]
    """Shape of the matrix."""

    summary: MatrixSummary
    """What its values are."""


def build_tables(
    parts: AnnDataParts,
    spots: Spots,
    *,
    rows: NDArray[np.int64] | None = None,
    key_kind: Literal["gene_id", "gene_name"] | None = None,
    name: Callable[[str], str] = table_name,
) -> tuple[tuple[Table, ...], tuple[Note, ...]]:
    """Make one table of each type of feature.

    Parameters
    ----------
    parts : AnnDataParts
        The object.
    spots : Spots
        Capture areas of all tables.
    rows : (n_obs,) ndarray of int64, optional
        Ascending rows of the matrix that `spots` are; None is all of them.
    key_kind : {"gene_id", "gene_name"}, optional
        What the index of var holds, where that is known.
    name : callable
        Names the table of a type of features.

    Returns
    -------
    tuple of Table
        Gene expression first, where there are genes.
    tuple of Note
        ``genes.repeated-names`` and the notes of the matrix.

    Raises
    ------
    CountsError
        If rows or columns are none or contradict the matrix, names of rows repeat, or two types of
        features would have one name.
    """
    found = len(parts.obs), len(parts.var)
    if found != parts.shape or min(found) == 0:
        raise CountsError(
            Problem(
                "anndata.shape",
                parts.where,
                "obs and var must not be empty, and must be as long as the matrix",
                f"{found[0]} x {found[1]}, and a matrix of {parts.shape[0]} x {parts.shape[1]}",
            )
        )
    if spots.barcodes.dtype.kind == "S":
        check_packed_rows(parts.where, cast("NDArray[np.bytes_]", spots.barcodes))
    else:
        check_rows(parts.where, tuple(spots.barcodes.tolist()))
    genes, gene_notes = _read_genes(parts.var, key_kind)
    types = set(genes.feature_type.tolist())
    kinds = sorted(types, key=lambda kind: (kind != GENES, kind))
    names = [name(kind) for kind in kinds]
    if len({table.lower() for table in names}) < len(names):
        raise CountsError(
            Problem(
                "counts.feature-types",
                parts.where,
                "types of features must differ in their names",
                ", ".join(kinds),
            )
        )
    tables = []
    for kind, table in zip(kinds, names, strict=True):
        columns = np.flatnonzero(genes.feature_type == kind)
        is_all = len(kinds) == 1
        counts = counts_of_matrix(
            parts.opened,
            parts.summary,
            parts.shape,
            rows=rows,
            columns=None if is_all else columns,
        )
        part = genes if is_all else _some_genes(genes, columns)
        tables.append(Table(name=table, spots=spots, genes=part, counts=counts))
    return tuple(tables), (*parts.summary.notes, *gene_notes)


def _read_genes(
    var: Frame, given_kind: Literal["gene_id", "gene_name"] | None
) -> tuple[Genes, tuple[Note, ...]]:
    """Read identifiers, symbols, types and genomes, under the names that readers give them."""
    names = var.index.tolist()
    if not all(names):
        raise CountsError(
            Problem("anndata.feature-names", var.where, "every feature needs a name", "none")
        )
    keys, n_renamed = unique_keys(names)
    gene_id, gene_name = split_ids_and_names(names)
    ids = var.text("gene_id", "gene_ids", "ensembl_id", "feature_id")
    symbols = var.text("gene_name", "gene_names", "gene_symbol", "gene_symbols", "feature_name")
    kind = given_kind or kind_of_keys(gene_id)
    if given_kind is None and _agree(symbols, names):
        kind = "gene_name"
    elif given_kind is None and _agree(ids, names):
        kind = "gene_id"
    if ids is not None:
        parsed = [None if text is None else parse_ensembl(text) for text in ids.tolist()]
        gene_id = np.array(
            [one or other for one, other in zip(parsed, gene_id, strict=True)], dtype=object
        )
    types, genomes = var.text("feature_type", "feature_types"), var.text("genome", "genomes")
    n_vars = len(keys)
    genes = Genes(
        keys=keys,
        key_kind=kind,
        gene_id=gene_id,
        gene_name=gene_name if symbols is None else symbols,
        feature_type=np.array(
            [GENES] * n_vars if types is None else [kind or GENES for kind in types], dtype=object
        ),
        genome=np.full(n_vars, None, dtype=object) if genomes is None else genomes,
    )
    if not n_renamed:
        return genes, ()
    repeated = [name for name, key in zip(names, keys, strict=True) if name != key]
    genes_repeat = counted(n_renamed, "gene repeats a name", "genes repeat a name")
    message = f"{genes_repeat} and got a suffix: {named(repeated)}."
    return genes, (Note(code="genes.repeated-names", message=message, count=n_renamed),)


def _agree(column: NDArray[np.object_] | None, names: list[str]) -> bool:
    """Whether a column repeats the index, for more than half of the rows."""
    if column is None:
        return False
    n_same = sum(bool(one == other) for one, other in zip(column.tolist(), names, strict=True))
    return bool(2 * n_same > len(names))


def _some_genes(genes: Genes, columns: NDArray[np.int64]) -> Genes:
    return Genes(
        keys=genes.keys[columns],
        key_kind=genes.key_kind,
        gene_id=genes.gene_id[columns],
        gene_name=genes.gene_name[columns],
        feature_type=genes.feature_type[columns],
        genome=genes.genome[columns],
    )


def read_labels(
    obs: Frame, *, known: frozenset[str]
) -> tuple[Mapping[str, NDArray[np.object_]], tuple[Note, ...]]:
    """Read the columns of obs that label rows.

    Parameters
    ----------
    obs : Frame
        Rows.
    known : frozenset of str
        Columns that mean something to the caller.

    Returns
    -------
    mapping
        Column to (n,) of str or None: columns of at most a thousand different texts whose names a
        column of a table may have.
    tuple of Note
        ``obs.columns-left-out`` names the others.

    Raises
    ------
    CountsError
        If a column is damaged.
    """
    labels: dict[str, NDArray[np.object_]] = {}
    left_out = []
    taken = {name.lower() for name in (*_OWN, *known)}
    for name in obs.names:
        if name in known or name.lower() in _OWN:
            continue
        values = obs.read(name)
        is_text = values.dtype == object
        if (
            not is_text
            or name.lower() in taken
            or not _NAME.fullmatch(name)
            or len(name) > 128
            or len(set(values.tolist())) > MAX_LABELS
        ):
            left_out.append(name)
            continue
        column = obs.text(name)
        if column is not None:
            labels[name] = column
            taken.add(name.lower())
    if not left_out:
        return labels, ()
    columns = counted(
        len(left_out),
        "column of obs is no label and was",
        "columns of obs are no labels and were",
    )
    message = f"{columns} left out: {named(left_out)}."
    note = Note(code="obs.columns-left-out", message=message, count=len(left_out))
    return labels, (note,)
