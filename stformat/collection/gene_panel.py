"""A list of genes that means the same in every slide."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from stformat.collection.documents import (
    Document,
    content_digest,
    read_document,
    write_document,
)
from stformat.errors import GenePanelError, Problem
from stformat.genes.by_name import columns_by_name
from stformat.genes.names import GeneNames
from stformat.genes.vocabulary import GeneVocabulary, first_columns
from stformat.store.reader import Slide

__all__ = ["GenePanel", "PanelSlide", "measured_digest", "names_in", "species_of"]

type RuleValue = str | int | float | bool | None

_N_TABLES_KEPT = 64
_N_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSlide:
    """What a panel was made from."""

    slide_id: str
    """Identifier of the slide."""

    table: str
    """The table that was bound."""

    manifest_sha256: str
    """Version of its store."""

    n_measured: int
    """How many genes of the panel the table has."""

    measured_sha256: str
    """Which ones: digest of the mask, see `measured_digest`."""

    n_passed_over: int
    """Columns that another column of the same gene stands for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenePanel:
    """Genes in a fixed order, found in any slide by key; made by `gene_panel`.

    Examples
    --------
    >>> from stformat.genes.vocabulary import SOURCE_KEYS
    >>> panel = GenePanel(keys=("ERBB2", "CD4"), names=("ERBB2", "CD4"), species="Homo sapiens",
    ...                   rule={"name": "given"}, vocabulary=SOURCE_KEYS, slides=())
    >>> panel
    <GenePanel: 2 genes, rule given, 0 slides, digest 4c0b06ccd1ec>
    """

    keys: tuple[str, ...]
    """Key of each gene, unique: see `stformat.genes.vocabulary.GeneVocabulary`."""

    names: tuple[str | None, ...]
    """Symbol of each gene, as the first slide that has one spells it."""

    species: str | None
    """Scientific name of the species, where the slides say."""

    rule: Mapping[str, RuleValue]
    """How the genes were chosen: ``name`` and the arguments of the rule."""

    vocabulary: GeneVocabulary
    """What finds these genes in a table."""

    slides: tuple[PanelSlide, ...]
    """The slides that the panel was made from."""

    _found: dict[tuple[bytes, str | None], NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False
    )
    """Columns in tables that were looked in: slides of one reference have the same."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping that cannot be changed cannot be pickled.
        values = {member.name: getattr(self, member.name) for member in fields(self) if member.init}
        return _unpickled, (values | {"rule": dict(self.rule)},)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        slides = f"{len(self.slides)} slide{'s' * (len(self.slides) != 1)}"
        rule = self.rule["name"]
        return f"<GenePanel: {len(self)} genes, rule {rule}, {slides}, digest {self.digest[:12]}>"

    @property
    def digest(self) -> str:
        """SHA-256 of all that the panel says, hexadecimal."""
        return content_digest(self._content())

    def columns_in(self, slide: Slide) -> NDArray[np.int64]:
        """Return where the genes are in a slide.

        Parameters
        ----------
        slide : Slide
            Bound to the table to look in. Where it does not say its species, it is taken for one
            of the panel's.

        Returns
        -------
        (n_genes,) ndarray of int64
            Column of each gene in the table, or -1 where the table has none: such a gene was not
            measured, which is not a count of 0.

        Raises
        ------
        GenePanelError
            If the slide is of another species, or measures none of the genes; `measured_in` says
            so without an error.

        Notes
        -----
        A gene is found by its key, as `vocabulary` gives it to columns. A panel of slides that
        have symbols alone finds a gene of a slide with identifiers by its symbol, where one gene
        of the table bears it and that is no other gene of the panel: of a symbol that several
        bear, or that is ambiguous in `vocabulary`, none is taken. Under ``"source-keys"`` nothing
        is found by name.
        """
        columns = self._columns_in(slide)
        if len(self) and (columns < 0).all():
            raise GenePanelError(self._not_measured(slide))
        return columns

    def measured_in(self, slide: Slide) -> NDArray[np.bool_]:
        """Return the mask of genes that a slide measures: (n_genes,) bool."""
        return np.asarray(self._columns_in(slide) >= 0)

    def _columns_in(self, slide: Slide) -> NDArray[np.int64]:
        species = species_of(slide)
        if None not in {species, self.species} and species != self.species:
            return np.full(len(self), -1, dtype=np.int64)
        names = names_in(slide)
        table = names.digest, species
        columns = self._found.get(table)
        if columns is None:
            columns = self._columns_of(names, species or self.species)
            if len(self._found) >= _N_TABLES_KEPT:
                self._found.clear()
            self._found[table] = columns
        return columns.copy()

    def _columns_of(self, names: GeneNames, species: str | None) -> NDArray[np.int64]:
        keys = self.vocabulary.keys_of(names, species=species)
        first, _ = first_columns(keys)
        columns = np.array([first.get(key, -1) for key in self.keys], dtype=np.int64)
        if self.vocabulary.kind == "source-keys":
            return columns
        unsure = set(self.vocabulary.ambiguous)
        place_of = {key: place for place, key in enumerate(self.keys) if key not in unsure}
        symbols = self.vocabulary.symbols_of(names, species=species)
        named = [
            (place_of[symbol], first[key])
            for symbol, key in zip(symbols, keys.tolist(), strict=True)
            if symbol in place_of
        ]
        places, of_names = np.array(named, dtype=np.int64).reshape(-1, 2).T
        return columns_by_name(columns, places, of_names)

    def _not_measured(self, slide: Slide) -> Problem:
        species = species_of(slide)
        if None not in {species, self.species} and species != self.species:
            found = f"one of {species}, and genes of {self.species}"
            remedy = "leave it out"
        else:
            own = ", ".join(names_in(slide).keys[:_N_SHOWN])
            found = f"genes such as {own}, and none of {', '.join(self.keys[:_N_SHOWN])}"
            remedy = (
                "leave it out, or make the panel with a vocabulary of both kinds of names"
                if self.vocabulary.kind == "genes"
                else "leave it out, or make the panel without vocabulary='source-keys'"
            )
        expected = "a slide must measure a gene of the panel to be read by it"
        return Problem("gene-panel.not-measured", slide.slide_id, expected, found, remedy)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the panel as JSON, atomically.

        Parameters
        ----------
        path : path
            File to write, or a directory, where the file is named after the panel's digest.

        Returns
        -------
        pathlib.Path
            The file. The same panel gives the same bytes.

        Raises
        ------
        StoreWriteError
            If the file system refuses.
        ValueError
            If it would be larger than `load` reads.
        """
        return write_document(self._content(), path, stem="gene-panel")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a panel that `save` wrote.

        Raises
        ------
        GenePanelError
            If the file cannot be read, is no panel, or is not what was written.
        """
        found = read_document(path, _PanelDocument, what="gene panel", error=GenePanelError)
        return cls(
            keys=tuple(found.keys),
            names=tuple(found.names),
            species=found.species,
            rule=MappingProxyType(found.rule),
            vocabulary=GeneVocabulary.from_json(found.vocabulary.model_dump()),
            slides=tuple(PanelSlide(**slide.model_dump()) for slide in found.slides),
        )

    def _content(self) -> dict[str, Any]:
        return {
            "stformat_gene_panel": "0.1",
            "keys": list(self.keys),
            "names": list(self.names),
            "species": self.species,
            "rule": dict(self.rule),
            "vocabulary": self.vocabulary.to_json(),
            "slides": [asdict(slide) for slide in self.slides],
        }


def _unpickled(values: dict[str, Any]) -> GenePanel:
    return GenePanel(**values | {"rule": MappingProxyType(values["rule"])})


def measured_digest(measured: NDArray[np.bool_]) -> str:
    """Return the digest of a mask of genes: SHA-256 of its bits, the first the highest of a byte.

    Examples
    --------
    >>> measured_digest(np.array([True, False]))[:12]
    '76be8b528d00'
    """
    return hashlib.sha256(np.packbits(measured).tobytes()).hexdigest()


def names_in(slide: Slide) -> GeneNames:
    """Read what the columns of the table that a slide is bound to are called."""
    return slide.opened.table(slide.counts.table).read_gene_names()


def species_of(slide: Slide) -> str | None:
    """Return the scientific name of a slide's species, or the text of its source."""
    known = slide.metadata
    return known.species if known.species_term is None else known.species_term.name


class _SlideDocument(Document):
    slide_id: str
    table: str
    manifest_sha256: str
    n_measured: int
    measured_sha256: str
    n_passed_over: int


class _VocabularyDocument(Document):
    kind: Literal["genes", "source-keys"]
    species: str | None
    version: str
    ids: dict[str, str]
    ambiguous: list[str]
    sha256: str


class _PanelDocument(Document):
    stformat_gene_panel: Literal["0.1"]
    keys: list[str]
    names: list[str | None]
    species: str | None
    rule: dict[str, RuleValue]
    vocabulary: _VocabularyDocument
    slides: list[_SlideDocument]
