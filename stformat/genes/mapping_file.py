"""Tables of symbols and identifiers that users bring, as CSV or Parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from stformat.errors import GenePanelError, Problem
from stformat.genes.vocabulary import GeneVocabulary

__all__ = ["read_vocabulary"]

_COLUMNS = ("symbol", "gene_id")


def read_vocabulary(
    table: str | os.PathLike[str] | Mapping[str, str],
    *,
    species: str | None = None,
    version: str | None = None,
) -> GeneVocabulary:
    """Read a vocabulary of genes.

    Parameters
    ----------
    table : path or mapping of str to str
        A CSV or Parquet file with the columns ``symbol`` and ``gene_id`` (others are not read;
        rows where one of the two is empty are of no use and passed over), or identifiers by
        symbol.
    species : str, optional
        The species, scientific or common name; a panel of slides of another one is refused.
    version : str, optional
        Name of this version, recorded in panels beside the digest of the content; by default the
        first digits of that.

    Returns
    -------
    GeneVocabulary
        One key a gene.

    Raises
    ------
    GenePanelError
        If the file cannot be read, or lacks one of the columns.

    Examples
    --------
    >>> read_vocabulary({"ERBB2": "ENSG00000141736.13"}, version="GENCODE 44").ids["ERBB2"]
    'ENSG00000141736'
    """
    if isinstance(table, Mapping):
        return GeneVocabulary.from_pairs(table.items(), species=species, version=version)
    path = Path(table)
    try:
        if path.suffix.lower() == ".parquet":
            found = parquet.read_table(path, columns=list(_COLUMNS))
        else:
            texts = csv.ConvertOptions(
                include_columns=list(_COLUMNS),
                column_types=dict.fromkeys(_COLUMNS, pa.string()),
                strings_can_be_null=True,
            )
            found = csv.read_csv(path, convert_options=texts)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise _unusable(path, str(error)) from error
    missing = [name for name in _COLUMNS if name not in found.column_names]
    if missing:
        raise _unusable(path, f"no column {' and no '.join(missing)}")
    columns = (found.column(name).cast(pa.string()).to_pylist() for name in _COLUMNS)
    pairs = ((name, gene_id) for name, gene_id in zip(*columns, strict=True) if name and gene_id)
    return GeneVocabulary.from_pairs(pairs, species=species, version=version)


def _unusable(path: Path, found: str) -> GenePanelError:
    return GenePanelError(
        Problem(
            "genes.mapping-file",
            str(path),
            "a table of genes is a CSV or Parquet file with the columns symbol and gene_id",
            found,
        )
    )
