"""Which columns of different tables are the same gene."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from stformat.genes.keys import parse_ensembl, split_genome
from stformat.genes.names import GeneNames
from stformat.terms.tables import species_term

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SOURCE_KEYS", "GeneVocabulary", "first_columns", "species_of_genome"]

_SPECIES_OF_GENOME = (
    (re.compile(r"hg\d+|GRCh\d+"), "Homo sapiens"),
    (re.compile(r"mm\d+|GRCm\d+"), "Mus musculus"),
    (re.compile(r"rn\d+|Rnor.*|GRCr\d+|mRatBN.*"), "Rattus norvegicus"),
    (re.compile(r"danRer\d+|GRCz\d+"), "Danio rerio"),
    (re.compile(r"susScr\d+|Sscrofa.*"), "Sus scrofa"),
)
_SPECIES_OF_ID = (
    ("ENSG0", "Homo sapiens"),
    ("ENSMUSG", "Mus musculus"),
    ("ENSRNOG", "Rattus norvegicus"),
    ("ENSDARG", "Danio rerio"),
    ("ENSSSCG", "Sus scrofa"),
)
_LENGTH_OF_VERSION = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneVocabulary:
    """What genes are called in tables that name them differently: one key for each.

    The key of a column is its Ensembl identifier without version where the table has it; else the
    identifier of its symbol in `ids`; else the symbol as the source spells it. Where the reference
    genome of a column is of another species than its slide, as in a graft, a symbol is not looked
    up and keeps the genome before it. A symbol that means several identifiers stands in
    `ambiguous` and is never taken for one of them.

    Examples
    --------
    >>> vocabulary = GeneVocabulary.from_pairs(
    ...     [("ERBB2", "ENSG00000141736.13"), ("TBCE", "ENSG00000116957"),
    ...      ("TBCE", "ENSG00000284770")], species="Homo sapiens")
    >>> vocabulary.ids, vocabulary.ambiguous
    (mappingproxy({'ERBB2': 'ENSG00000141736'}), ('TBCE',))
    """

    kind: Literal["genes", "source-keys"] = "genes"
    """Whether columns are joined by gene, or by the text of their keys as the sources have them."""

    species: str | None = None
    """Species of the symbols, by its scientific name; None where it is not known."""

    version: str
    """Name of this version; by default the first digits of the digest of the content. Two contents
    may bear one name: `sha256` tells them apart."""

    ids: Mapping[str, str]
    """Identifier of each symbol that means one gene."""

    ambiguous: tuple[str, ...] = ()
    """Symbols that mean several genes, ascending."""

    sha256: str = ""
    """Digest of species, identifiers and ambiguous symbols of the whole vocabulary, also where
    this is a part of it; empty of one that has no content of its own."""

    def __post_init__(self) -> None:
        """Take the content for the whole where nothing else is said."""
        if self.kind == "genes" and not self.sha256:
            whole = _digest(self.species, self.ids, self.ambiguous)
            object.__setattr__(self, "sha256", whole)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping that cannot be changed cannot be pickled.
        return GeneVocabulary.from_json, (self.to_json(),)

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[tuple[str, str]],
        *,
        species: str | None = None,
        version: str | None = None,
    ) -> Self:
        """Make a vocabulary of symbols and identifiers.

        Parameters
        ----------
        pairs : iterable of (str, str)
            A symbol and an identifier, in any order and with repetitions; versions of Ensembl
            identifiers and genomes before symbols are left out.
        species : str, optional
            The species, scientific or common name.
        version : str, optional
            Name of this version.

        Returns
        -------
        GeneVocabulary
            The same whatever the order of `pairs`.
        """
        species = _scientific(species)
        found: dict[str, set[str]] = {}
        for symbol, gene_id in pairs:
            name = split_genome(symbol)[1]
            found.setdefault(name, set()).add(parse_ensembl(gene_id) or gene_id)
        ids = {name: next(iter(found[name])) for name in sorted(found) if len(found[name]) == 1}
        ambiguous = tuple(name for name in sorted(found) if len(found[name]) > 1)
        sha256 = _digest(species, ids, ambiguous)
        return cls(
            species=species,
            version=version or sha256[:_LENGTH_OF_VERSION],
            ids=MappingProxyType(ids),
            ambiguous=ambiguous,
            sha256=sha256,
        )

    @classmethod
    def from_tables(
        cls, tables: Iterable[pd.DataFrame | GeneNames], *, species: str | None = None
    ) -> GeneVocabulary:
        """Make a vocabulary of what tables say of their own genes.

        Parameters
        ----------
        tables : iterable of DataFrame or GeneNames
            ``var`` of slides, all of one species: columns gene_id, gene_name and genome.
        species : str, optional
            The species, scientific or common name.

        Returns
        -------
        GeneVocabulary
            Every symbol that stands beside an identifier somewhere; not those of genes that by
            their genome or their identifier are of another species.
        """
        home = _scientific(species)
        pairs: set[tuple[str, str]] = set()
        for table in tables:
            names = _names(table)
            rows = zip(names.gene_id, names.gene_name, names.genome, strict=True)
            for gene_id, name, genome in rows:
                if gene_id is None or name is None or _is_foreign(genome, home):
                    continue
                if home is None or _species_of_id(gene_id) in {None, home}:
                    pairs.add((name, gene_id))
        return cls.from_pairs(pairs, species=home)

    def keys_of(
        self, var: pd.DataFrame | GeneNames, *, species: str | None = None
    ) -> NDArray[np.object_]:
        """Return the key of each column of a table.

        Parameters
        ----------
        var : DataFrame or GeneNames
            Columns of the table: index of source's keys, columns gene_id, gene_name and genome.
        species : str, optional
            The species of the slide, scientific or common name.

        Returns
        -------
        (n_vars,) ndarray of str
            Keys; two columns that name the same gene have the same.

        Examples
        --------
        >>> import pandas as pd
        >>> var = pd.DataFrame({"gene_id": [None, None, "ENSG00000141736"],
        ...                     "gene_name": ["ERBB2", "Erbb2", None],
        ...                     "genome": ["hg38", "mm10", None]}, index=["a", "b", "c"])
        >>> vocabulary = GeneVocabulary.from_pairs([("ERBB2", "ENSG00000141736")])
        >>> vocabulary.keys_of(var, species="Homo sapiens").tolist()
        ['ENSG00000141736', 'mm10_Erbb2', 'ENSG00000141736']
        """
        names = _names(var)
        keys = np.empty(len(names), dtype=object)
        if self.kind == "source-keys":
            keys[:] = names.keys
            return keys
        home = self._home(species)
        ids = self.ids if self.species is None or home == self.species else {}
        symbols = self.symbols_of(names, species=species)
        columns = zip(names.keys, names.gene_id, symbols, strict=True)
        for column, (own, gene_id, symbol) in enumerate(columns):
            if gene_id is not None:
                keys[column] = parse_ensembl(gene_id) or gene_id
            else:
                keys[column] = own if symbol is None else ids.get(symbol, symbol)
        return keys

    def symbols_of(
        self, var: pd.DataFrame | GeneNames, *, species: str | None = None
    ) -> list[str | None]:
        """Return the symbol that a table has for each column, whether it has an identifier or not.

        Parameters
        ----------
        var : DataFrame or GeneNames
            See `keys_of`.
        species : str, optional
            See `keys_of`.

        Returns
        -------
        list of str or None
            Symbols, with the genome before those of another species; None where there is none.
        """
        names = _names(var)
        home = self._home(species)
        foreign = {genome for genome in set(names.genome) if _is_foreign(genome, home)}
        if not foreign:
            return names.gene_name
        return [
            f"{genome}_{name}" if name is not None and genome in foreign else name
            for name, genome in zip(names.gene_name, names.genome, strict=True)
        ]

    def _home(self, species: str | None) -> str | None:
        """Return the species of a slide, that of the symbols where it is not known."""
        return _scientific(species) or self.species

    def restricted_to(self, keys: Iterable[str]) -> GeneVocabulary:
        """Return what of the vocabulary is needed to find some genes; version and digest stay."""
        wanted = set(keys)
        return GeneVocabulary(
            kind=self.kind,
            species=self.species,
            version=self.version,
            ids=MappingProxyType({name: key for name, key in self.ids.items() if key in wanted}),
            ambiguous=tuple(name for name in self.ambiguous if name in wanted),
            sha256=self.sha256,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON object."""
        return {
            "kind": self.kind,
            "species": self.species,
            "version": self.version,
            "ids": dict(self.ids),
            "ambiguous": list(self.ambiguous),
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the vocabulary of a JSON object made by `to_json`."""
        return cls(
            kind=value["kind"],
            species=value["species"],
            version=value["version"],
            ids=MappingProxyType(dict(value["ids"])),
            ambiguous=tuple(value["ambiguous"]),
            sha256=value["sha256"],
        )


SOURCE_KEYS = GeneVocabulary(kind="source-keys", version="source-keys", ids=MappingProxyType({}))
"""Joins columns by the text of their keys as the sources have them, whatever gene they are."""


def first_columns(keys: NDArray[np.object_]) -> tuple[dict[str, int], int]:
    """Return the column that stands for each gene of a table.

    Parameters
    ----------
    keys : (n_vars,) ndarray of str
        From `GeneVocabulary.keys_of`.

    Returns
    -------
    columns : dict of str to int
        The first column of each key: where a gene has several, it stands for the gene.
    n_passed_over : int
        Columns that none of these is.

    Examples
    --------
    >>> first_columns(np.array(["ENSG1", "TBCE", "TBCE"], dtype=object))
    ({'ENSG1': 0, 'TBCE': 1}, 1)
    """
    columns: dict[str, int] = {}
    for column, key in enumerate(keys):
        columns.setdefault(key, column)
    return columns, len(keys) - len(columns)


def species_of_genome(genome: str) -> str | None:
    """Return the species of a reference genome.

    Examples
    --------
    >>> species_of_genome("hg38"), species_of_genome("GRCm39"), species_of_genome("custom")
    ('Homo sapiens', 'Mus musculus', None)
    """
    for pattern, species in _SPECIES_OF_GENOME:
        if pattern.match(genome):
            return species
    return None


def _is_foreign(genome: str | None, species: str | None) -> bool:
    of_genome = None if genome is None else species_of_genome(genome)
    return of_genome is not None and species is not None and of_genome != species


def _species_of_id(gene_id: str) -> str | None:
    return next((name for start, name in _SPECIES_OF_ID if gene_id.startswith(start)), None)


def _scientific(species: str | None) -> str | None:
    """Return the scientific name of a species, or the text where it is not among the terms."""
    term = None if species is None else species_term(species)
    return species if term is None else term.name


def _names(table: pd.DataFrame | GeneNames) -> GeneNames:
    return table if isinstance(table, GeneNames) else GeneNames.from_frame(table)


def _digest(species: str | None, ids: Mapping[str, str], ambiguous: tuple[str, ...]) -> str:
    content = json.dumps([species, sorted(ids.items()), ambiguous], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
