"""Genes of a matrix that has nothing but their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stformat.errors import CountsError, Problem
from stformat.genes.keys import key_kind, split_genome, split_ids_and_names, unique_keys
from stformat.model import Genes, Note
from stformat.sources._notes import counted, named

__all__ = ["genes_of_names", "non_integer_notes"]


def genes_of_names(names: Sequence[str], *, where: str) -> tuple[Genes, tuple[Note, ...]]:
    """Make the genes of a table from the names of its columns.

    Parameters
    ----------
    names : sequence of str
        Symbols or Ensembl identifiers; matrices of several genomes put the genome before them.
    where : str
        File that the names are from, for messages.

    Returns
    -------
    Genes
        Keys are the names as they are, suffixed only where they repeat; a genome stands apart
        from identifiers and symbols.
    tuple of Note
        Names that repeat.

    Raises
    ------
    CountsError
        If a name is empty.

    Examples
    --------
    >>> genes, _ = genes_of_names(["hg38_ERBB2", "mm10_Erbb2"], where="A1_count.csv")
    >>> genes.keys.tolist(), genes.gene_name.tolist(), genes.genome.tolist()
    (['hg38_ERBB2', 'mm10_Erbb2'], ['ERBB2', 'Erbb2'], ['hg38', 'mm10'])
    """
    if "" in names:
        raise CountsError(
            Problem(
                "counts.gene-names",
                where,
                "every gene needs a name",
                f"none for gene {list(names).index('') + 1}",
            )
        )
    keys, n_renamed = unique_keys(names)
    pairs = [split_genome(name) for name in names]
    gene_id, gene_name = split_ids_and_names([name for _, name in pairs])
    genes = Genes(
        keys=keys,
        key_kind=key_kind(gene_id),
        gene_id=gene_id,
        gene_name=gene_name,
        feature_type=np.full(len(keys), "Gene Expression", dtype=object),
        genome=np.array([genome for genome, _ in pairs], dtype=object),
    )
    if not n_renamed:
        return genes, ()
    repeated = [name for name, key in zip(names, keys, strict=True) if name != key]
    genes_repeat = counted(n_renamed, "gene repeats a name", "genes repeat a name")
    message = f"{genes_repeat} and got a suffix: {named(repeated)}."
    return genes, (Note(code="genes.repeated-names", message=message, count=n_renamed),)


def non_integer_notes(n_non_integer: int) -> tuple[Note, ...]:
    """Say how many values are no integers.

    Parameters
    ----------
    n_non_integer : int
        Their number.

    Returns
    -------
    tuple of Note
        ``counts.non-integer``, or nothing.
    """
    if not n_non_integer:
        return ()
    values = counted(n_non_integer, "value is no integer", "values are no integers")
    message = f"{values}: stored as float32, not as counts."
    return (Note(code="counts.non-integer", message=message, count=n_non_integer),)
