"""Tables of a Visium slide: genes and other features apart, rows as they joined."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CountsError, Problem
from stformat.genes.keys import key_kind, parse_ensembl, unique_keys
from stformat.model import Counts, Genes, Note, Spots, Table
from stformat.sources._counts_10x import GENES, Features
from stformat.sources._notes import counted, named

__all__ = ["build_tables", "species_of", "table_name"]

_SPECIES = {
    "human": re.compile(r"GRCh3[78]|hg19|hg38", re.IGNORECASE),
    "mouse": re.compile(r"GRCm3[89]|mm10|mm39", re.IGNORECASE),
}


def build_tables(
    features: Features,
    spots: Spots,
    counts: Callable[[NDArray[np.int64] | None], Counts],
    *,
    suffix: str = "",
) -> tuple[tuple[Table, ...], tuple[Note, ...]]:
    """Make one table of each type of feature.

    Parameters
    ----------
    features : Features
        Columns of the count matrix.
    spots : Spots
        Capture areas of all tables.
    counts : callable
        Returns the counts of some columns of the matrix, or of all for None, with a row for each
        capture area.
    suffix : str, default: ""
        What follows the names of tables, where a slide has several regions.

    Returns
    -------
    tuple of Table
        ``expression`` first, where there are genes; others are named for their type, such as
        ``antibody_capture``.
    tuple of Note
        ``genes.repeated-names``: identifiers that repeat and got a suffix.

    Raises
    ------
    CountsError
        If there are no features, or two types would have one name.
    """
    types = features.types
    kinds = sorted(set(types), key=lambda kind: (kind != GENES, kind))
    names = [table_name(kind) for kind in kinds]
    if not kinds or len(set(names)) < len(names):
        raise CountsError(
            Problem(
                "counts.feature-types",
                "count matrix",
                "features are needed, of types whose names differ",
                ", ".join(kinds) or "none",
            )
        )
    all_types = np.array(types, dtype=object)
    tables: list[Table] = []
    notes: list[Note] = []
    for kind, name in zip(kinds, names, strict=True):
        columns = np.flatnonzero(all_types == kind)
        genes, gene_notes = _genes(features, columns)
        part = counts(None if len(kinds) == 1 else columns)
        tables.append(Table(name=f"{name}{suffix}", spots=spots, genes=genes, counts=part))
        notes.extend(gene_notes)
    return tuple(tables), tuple(notes)


def table_name(kind: str) -> str:
    """Name the table of a type of features.

    Examples
    --------
    >>> table_name("Gene Expression"), table_name("Antibody Capture")
    ('expression', 'antibody_capture')
    """
    if kind == GENES:
        return "expression"
    name = re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")
    # A region, an image and the table of genes have these names.
    return f"{name or 'other'}_features" if name in {"", "spots", "he", "expression"} else name


def _genes(features: Features, columns: NDArray[np.int64]) -> tuple[Genes, tuple[Note, ...]]:
    ids = [features.ids[column] for column in columns]
    names = [features.names[column] for column in columns]
    genomes = [features.genomes[column] for column in columns]
    keys, n_renamed = unique_keys(ids)
    gene_id = np.array(
        [
            _gene_id(features.gene_ids[column], genome)
            for column, genome in zip(columns, genomes, strict=True)
        ],
        dtype=object,
    )
    kind: Literal["gene_id", "gene_name"] = "gene_id" if ids != names else key_kind(gene_id)
    genes = Genes(
        keys=keys,
        key_kind=kind,
        gene_id=gene_id,
        gene_name=np.array([name or None for name in names], dtype=object),
        feature_type=np.array([features.types[column] for column in columns], dtype=object),
        genome=np.array(genomes, dtype=object),
    )
    if not n_renamed:
        return genes, ()
    repeated = [name for name, key in zip(ids, keys, strict=True) if name != key]
    genes_repeat = counted(n_renamed, "gene repeats a name", "genes repeat a name")
    message = f"{genes_repeat} and got a suffix: {named(repeated)}."
    return genes, (Note(code="genes.repeated-names", message=message, count=n_renamed),)


def _gene_id(text: str, genome: str | None) -> str | None:
    """Ensembl identifier; matrices of several genomes put the genome before it."""
    if genome and text.startswith(f"{genome}_"):
        text = text.removeprefix(genome).lstrip("_")
    return parse_ensembl(text)


def species_of(features: Features) -> str | None:
    """Tell the species from the reference genome.

    Parameters
    ----------
    features : Features
        Columns of the count matrix.

    Returns
    -------
    str or None
        ``"human"`` or ``"mouse"``, where all genes are of one reference that is known.
    """
    genomes = {
        genome
        for genome, kind in zip(features.genomes, features.types, strict=True)
        if kind == GENES
    }
    if len(genomes) != 1:
        return None
    genome = genomes.pop() or ""
    return next((name for name, pattern in _SPECIES.items() if pattern.match(genome)), None)
