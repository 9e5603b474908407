"""Whether rows, shapes and genes are named so that they can be told apart and joined."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stformat.check.shapes_file import iter_shapes
from stformat.check.table_view import TableView
from stformat.errors import Problem
from stformat.store.files import StoreFiles

__all__ = ["barcode_problems", "gene_problems", "label_problems", "shape_problems"]

_MOST_LABELS = 50
_SHOWN = 3

_BARCODE = re.compile(r"(?:[ACGTN]{8,}|s_\d+um_\d+_\d+|cellid_\d+)(?P<suffix>-\d+)?(?:_.*)?")

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
# What a spreadsheet makes of symbols and identifiers that look like dates or numbers: SEPT2,
# MARCH1, DEC1; 2310009E13 (Ziemann, Eren and El-Osta, Genome Biology 17, 2016, 177).
_MANGLED = re.compile(
    # Genes of worms are called jun-1 and sep-1, in small letters.
    rf"\d{{1,2}}-{_MONTH}(?:-\d{{2,4}})?|(?-i:{_MONTH})-\d{{1,4}}"
    r"|\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d+\.\d+E\+\d+",
    re.IGNORECASE,
)


def shape_problems(files: StoreFiles, table: TableView) -> Iterator[Problem]:
    """Yield where rows of a table and the shapes of its region do not fit together.

    Parameters
    ----------
    files : StoreFiles
        The files of the store.
    table : TableView
        The table.

    Yields
    ------
    Problem
        ``check.id-mismatch``.
    """
    region = table.attributes.region
    found = list(_join_findings(files, table))
    n_elsewhere = int(np.count_nonzero(pd.Series(table.column("region")) != region))
    if n_elsewhere:
        found.append(f"{n_elsewhere} of {table.n_obs} rows whose region is another than {region!r}")
    for text in found:
        yield Problem(
            "check.id-mismatch",
            table.path,
            f"every row must name its own shape in shapes/{region}, at its own place",
            text,
            "another tool probably changed the table or the shapes without the other: undo that, "
            "or convert the slide again",
        )


def barcode_problems(table: TableView) -> Iterator[Problem]:
    """Yield a problem where barcodes repeat, or are of several formats.

    Parameters
    ----------
    table : TableView
        The table; its barcodes are read in blocks.

    Yields
    ------
    Problem
        ``check.id-mismatch``.
    """
    hashes = np.empty(table.n_obs, dtype=np.uint64)
    n_read = n_bare = n_suffixed = 0
    for block in table.iter_barcodes():
        hashes[n_read : n_read + len(block)] = pd.util.hash_array(block, categorize=False)
        n_read += len(block)
        matches = [match for text in block if (match := _BARCODE.fullmatch(text))]
        with_suffix = sum(match["suffix"] is not None for match in matches)
        n_suffixed += with_suffix
        n_bare += len(matches) - with_suffix
    repeated = _repeated_barcodes(table, hashes)
    if repeated:
        yield Problem(
            "check.id-mismatch",
            table.path,
            "barcodes must be unique",
            f"{sum(repeated.values()) - len(repeated)} that repeat, such as "
            f"{_shown(list(repeated))}",
            "tell the rows of several slides apart by a suffix before they are put together",
        )
    if n_bare and n_suffixed:
        yield Problem(
            "check.id-mismatch",
            table.path,
            "barcodes must be of one format",
            f"{n_suffixed} with a suffix such as -1, and {n_bare} without",
            "write all of them as the positions file does: labels and counts join on the whole "
            "barcode",
        )


def gene_problems(table: TableView) -> Iterator[Problem]:
    """Yield a problem where genes repeat an identifier, or a spreadsheet rewrote their names.

    Parameters
    ----------
    table : TableView
        The table.

    Yields
    ------
    Problem
        ``check.duplicate-genes`` or ``check.gene-key``.
    """
    genes = table.genes
    # Matrices of probes have several rows a gene, named ENSG...|SYMBOL|probe.
    is_probe = genes.index.str.contains("|", regex=False)
    gene_id = genes["gene_id"][~is_probe].dropna()
    repeated = gene_id[gene_id.duplicated()]
    if len(repeated):
        yield Problem(
            "check.duplicate-genes",
            f"{table.path}/var",
            "every gene must have an Ensembl identifier of its own",
            f"{len(repeated)} columns that repeat one, such as "
            f"{_shown(repeated.unique().tolist())}",
            "add their counts up before training; two versions of one gene, or two references, "
            "were probably joined",
        )
    names = dict.fromkeys([*genes.index, *genes["gene_name"].dropna()])
    mangled = [name for name in names if _MANGLED.fullmatch(name)]
    if mangled:
        yield Problem(
            "check.gene-key",
            f"{table.path}/var",
            "genes must be named as in their reference",
            f"{len(mangled)} dates or numbers where symbols were, such as {_shown(mangled)}",
            "a spreadsheet rewrote the table (MARCH1 becomes 1-Mar): convert the slide again from "
            "the original file, or key genes by Ensembl identifier",
        )


def label_problems(table: TableView) -> Iterator[Problem]:
    """Yield a problem for each column of labels that labels nothing.

    Parameters
    ----------
    table : TableView
        The table.

    Yields
    ------
    Problem
        ``check.labels``.
    """
    for name, values in table.labels():
        n_labels = values.nunique()
        # One label beside rows without any still tells rows apart.
        n_groups = n_labels + bool(n_labels and values.isna().any())
        if n_groups > 1 and n_labels <= _MOST_LABELS:
            continue
        yield Problem(
            "check.labels",
            f"{table.path}/obs/{name}",
            f"a column of labels must have from 2 to {_MOST_LABELS} different ones",
            f"{n_labels} in {len(values)} rows",
            "a column of identifiers is no annotation: leave it out"
            if n_labels > _MOST_LABELS
            else "check that the label file is of this slide, and that the right column was read",
        )


def _join_findings(files: StoreFiles, table: TableView) -> Iterator[str]:
    spot_id = pd.Index(pd.Series(table.column("spot_id")))
    is_first = ~spot_id.duplicated()
    if not is_first.all():
        n_again = np.count_nonzero(~is_first)
        yield f"{n_again} of {table.n_obs} rows with the spot_id of another"
    rows = np.flatnonzero(is_first)
    radii = table.radii()
    n_shapes = np.zeros(len(rows), dtype=np.int64)
    n_apart = 0
    wanted = spot_id[is_first]
    for ids, centres in iter_shapes(files, table.attributes.region):
        position = wanted.get_indexer(pd.Index(ids))
        is_wanted = position >= 0
        position = position[is_wanted]
        np.add.at(n_shapes, position, 1)
        here = rows[position]
        apart = centres[is_wanted] - table.xy[here]
        is_near = np.hypot(*apart.T) <= radii[here]  # not where a shape has no place
        n_apart += len(here) - int(np.count_nonzero(is_near))
    n_repeated = int((n_shapes - 1).clip(min=0).sum())
    if n_repeated:
        yield f"shapes that repeat the index of another: {n_repeated}"
    n_without = int(np.count_nonzero(n_shapes == 0))
    if n_without:
        yield f"{n_without} of {table.n_obs} rows whose spot_id no shape has"
    if n_apart:
        yield f"{n_apart} of {table.n_obs} rows whose shape lies at another place"


def _repeated_barcodes(table: TableView, hashes: NDArray[np.uint64]) -> Counter[str]:
    """Count the barcodes that repeat; equal hashes are only what leads to them."""
    ordered = np.sort(hashes)
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(suspects):
        return Counter()
    n_rows: Counter[str] = Counter()
    for block in table.iter_barcodes():
        is_suspect = np.isin(pd.util.hash_array(block, categorize=False), suspects)
        n_rows.update(block[is_suspect].tolist())
    return Counter({barcode: n for barcode, n in n_rows.items() if n > 1})


def _shown(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:_SHOWN])
