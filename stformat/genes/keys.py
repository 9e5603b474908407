"""Keys of genes: which names are Ensembl identifiers, and how repeated names become unique."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["key_kind", "parse_ensembl", "split_genome", "split_ids_and_names", "unique_keys"]

_GENOME = re.compile(
    r"((?:hg|mm|rn|danRer|susScr)\d{1,2}|GRC[hmzr]\d{1,2}|Rnor\d?|Sscrofa[\d.]+)_+(.+)"
)
_ENSEMBL_GENE = re.compile(r"(ENS(?:[A-Z]{3,4})?G\d{11})(?:\.\d+)?")


def parse_ensembl(name: str) -> str | None:
    """Read an Ensembl gene identifier.

    Parameters
    ----------
    name : str
        Name of a gene as a source spells it.

    Returns
    -------
    str or None
        The identifier without its version, or None where `name` is something else.

    Examples
    --------
    >>> parse_ensembl("ENSMUSG00000064339.1")
    'ENSMUSG00000064339'
    >>> parse_ensembl("ENSA") is None
    True
    """
    match = _ENSEMBL_GENE.fullmatch(name)
    return match[1] if match else None


def split_genome(name: str) -> tuple[str | None, str]:
    """Tell the reference genome from the name of a gene that it stands before.

    Parameters
    ----------
    name : str
        Name of a gene as a source spells it.

    Returns
    -------
    genome : str or None
        Name of an assembly, as UCSC or the Genome Reference Consortium name them; None where
        `name` does not begin with one.
    rest : str
        The name without it.

    Examples
    --------
    >>> split_genome("hg38_ERBB2"), split_genome("GRCh38___ENSG00000141736")
    (('hg38', 'ERBB2'), ('GRCh38', 'ENSG00000141736'))
    >>> split_genome("RP11_206L10")
    (None, 'RP11_206L10')
    """
    match = _GENOME.fullmatch(name)
    return (match[1], match[2]) if match else (None, name)


def unique_keys(names: Sequence[str]) -> tuple[NDArray[np.object_], int]:
    """Make names unique by suffixes, never meeting a name that exists.

    Parameters
    ----------
    names : sequence of str
        Names in the order of the columns.

    Returns
    -------
    keys : (n,) ndarray of str
        The first of equal names as it is, the others with ``-1``, ``-2``, ... in their order; a
        suffixed name that some other column already has is skipped.
    n_renamed : int
        How many keys differ from their names.

    Examples
    --------
    >>> keys, n_renamed = unique_keys(["TBCE", "ATXN7", "TBCE", "TBCE-1", "TBCE"])
    >>> keys.tolist(), n_renamed
    (['TBCE', 'ATXN7', 'TBCE-2', 'TBCE-1', 'TBCE-3'], 2)
    """
    taken = set(names)
    keys = np.array(names, dtype=object)
    if len(taken) == len(keys):
        return keys, 0
    last: dict[str, int] = {}
    n_renamed = 0
    for column, name in enumerate(names):
        if name not in last:
            last[name] = 0
            continue
        number = last[name] + 1
        while (key := f"{name}-{number}") in taken:
            number += 1
        last[name] = number
        taken.add(key)
        keys[column] = key
        n_renamed += 1
    return keys, n_renamed


def split_ids_and_names(
    names: Sequence[str],
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Tell Ensembl identifiers from symbols.

    Parameters
    ----------
    names : sequence of str
        Names in the order of the columns.

    Returns
    -------
    gene_id, gene_name : (n,) ndarray of str or None
        An identifier stands in `gene_id`, without its version, and leaves `gene_name` None; every
        other name stands in `gene_name` as it is spelled.

    Examples
    --------
    >>> gene_id, gene_name = split_ids_and_names(["ERBB2", "ENSG00000141736.13"])
    >>> gene_id.tolist(), gene_name.tolist()
    ([None, 'ENSG00000141736'], ['ERBB2', None])
    """
    gene_id = np.array([parse_ensembl(name) for name in names], dtype=object)
    gene_name = np.array(names, dtype=object)
    gene_name[gene_id != np.array(None)] = None
    return gene_id, gene_name


def key_kind(gene_id: NDArray[np.object_]) -> Literal["gene_id", "gene_name"]:
    """Say what the keys of a table are.

    Parameters
    ----------
    gene_id : (n,) ndarray of str or None
        From `split_ids_and_names`.

    Returns
    -------
    {"gene_id", "gene_name"}
        ``"gene_id"`` where more than half of the columns carry an identifier: references keep a
        few identifiers among their symbols, and spike-ins stand among identifiers.

    Examples
    --------
    >>> key_kind(np.array(["ENSG00000141736", None, None], dtype=object))
    'gene_name'
    """
    n_ids = int(np.count_nonzero(gene_id != np.array(None)))
    return "gene_id" if 2 * n_ids > len(gene_id) else "gene_name"
