"""The genes of many slides at once: a number for each gene, columns of each slide by number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from stformat.collection.gene_lists import GeneLists, ListedSlide
from stformat.collection.gene_panel import GenePanel, PanelSlide, RuleValue, measured_digest
from stformat.genes.by_name import columns_by_name
from stformat.genes.keys import parse_ensembl
from stformat.genes.vocabulary import GeneVocabulary

__all__ = ["SlideGenes"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Columns:
    """Where genes are in tables of equal columns."""

    codes: NDArray[np.int32]
    """(k,) number of each gene, in the order of the table."""
    columns: NDArray[np.int32]
    """(k,) its first column."""
    n_passed_over: int


class SlideGenes:
    """Genes that slides measure, each once, in the order in which they were met.

    Memory: beside `lists` some 100 bytes a gene, and 8 bytes a gene of each list of columns.

    Parameters
    ----------
    lists : GeneLists
        The slides, and what their columns are called.
    vocabulary : GeneVocabulary
        What tells which columns are the same gene.
    species : str, optional
        Species of the slides; of those that do not say it, too.
    """

    def __init__(
        self, lists: GeneLists, vocabulary: GeneVocabulary, *, species: str | None
    ) -> None:
        self.slides = lists.slides
        """The slides."""
        self.vocabulary = vocabulary
        """What told which columns are the same gene."""
        self._names = lists.names
        self._symbols = vocabulary.symbols_of(lists.names, species=species)
        self._code_of: dict[str, int] = {}
        codes = [
            self._code_of.setdefault(key, len(self._code_of))
            for key in vocabulary.keys_of(lists.names, species=species).tolist()
        ]
        self._codes = np.array(codes, dtype=np.int32)
        self.keys = list(self._code_of)
        """Key of each gene; its place is its number."""
        self._lists: dict[int, _Columns] = {}
        for slide in lists.slides:
            if id(slide.listed) not in self._lists:
                self._lists[id(slide.listed)] = _first_columns(self._codes[slide.listed])

    def shared(self) -> NDArray[np.int64]:
        """Return the numbers of the genes that every slide measures, as the first has them."""
        n_slides = np.zeros(len(self.keys), dtype=np.int64)
        for slide in self.slides:
            n_slides[self._of(slide).codes] += 1
        first = self._of(self.slides[0]).codes
        return np.asarray(first[n_slides[first] == len(self.slides)], dtype=np.int64)

    def find(self, gene: str) -> int | None:
        """Return the number of a gene by identifier, symbol or a key of a source.

        None where nothing is called so, or the name `is_ambiguous`.
        """
        if self.is_ambiguous(gene):
            return None
        code = self._code_of.get(self._key_of(gene))
        return next(iter(self._called.get(gene, ())), None) if code is None else code

    def is_ambiguous(self, gene: str) -> bool:
        """Say whether several genes are called so, by the vocabulary or by the slides."""
        if gene in self.vocabulary.ambiguous:
            return True
        key = self._key_of(gene)
        code = self._code_of.get(key)
        if code is not None and (key != gene or self.vocabulary.kind == "source-keys"):
            return False
        # A symbol that is a key, of slides without identifiers, may be one gene's of others.
        return len(self._called.get(gene, set()) - {code}) > 1

    def columns_of(self, slide: ListedSlide, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the columns of genes in a slide, -1 where it does not measure one."""
        column_of = np.full(len(self.keys), -1, dtype=np.int64)
        found = self._of(slide)
        column_of[found.codes] = found.columns
        return column_of[codes]

    def panel(
        self, codes: NDArray[np.int64], *, species: str | None, rule: Mapping[str, RuleValue]
    ) -> GenePanel:
        """Make the panel of some genes."""
        keys = tuple(self.keys[code] for code in codes.tolist())
        name_of: dict[int, str] = {}
        for code, name in zip(self._codes.tolist(), self._names.gene_name, strict=True):
            if name is not None:
                name_of.setdefault(code, name)
        measured = self._measured(codes, keys)
        slides = tuple(
            PanelSlide(
                slide_id=slide.slide_id,
                table=slide.table,
                manifest_sha256=slide.manifest_sha256,
                n_measured=measured[id(slide.listed)][0],
                measured_sha256=measured[id(slide.listed)][1],
                n_passed_over=self._of(slide).n_passed_over,
            )
            for slide in self.slides
        )
        return GenePanel(
            keys=keys,
            names=tuple(name_of.get(code) for code in codes.tolist()),
            species=species,
            rule=MappingProxyType(dict(rule)),
            vocabulary=self.vocabulary.restricted_to(keys),
            slides=slides,
        )

    def _measured(
        self, codes: NDArray[np.int64], keys: tuple[str, ...]
    ) -> dict[int, tuple[int, str]]:
        """Return how many genes each list of columns has, and the digest of which.

        By key or by name, as `GenePanel.columns_in` finds them.
        """
        place_of = {} if self.vocabulary.kind == "source-keys" else {
            key: place for place, key in enumerate(keys) if key not in self.vocabulary.ambiguous
        }  # fmt: skip
        places = (-1 if name is None else place_of.get(name, -1) for name in self._symbols)
        place_of_listed = np.fromiter(places, dtype=np.int32, count=len(self._symbols))
        found: dict[int, tuple[int, str]] = {}
        for slide in self.slides:
            if id(slide.listed) in found:
                continue
            columns = self.columns_of(slide, codes)
            named = slide.listed[place_of_listed[slide.listed] >= 0]
            first = self.columns_of(slide, self._codes[named].astype(np.int64))
            is_measured = columns_by_name(columns, place_of_listed[named], first) >= 0
            found[id(slide.listed)] = int(is_measured.sum()), measured_digest(is_measured)
        return found

    def _of(self, slide: ListedSlide) -> _Columns:
        return self._lists[id(slide.listed)]

    def _key_of(self, gene: str) -> str:
        return self.vocabulary.ids.get(gene, parse_ensembl(gene) or gene)

    @cached_property
    def _called(self) -> dict[str, set[int]]:
        """Numbers of the genes of each symbol and each key of a source."""
        called: dict[str, set[int]] = {}
        codes = self._codes.tolist()
        for names in (self._names.keys, self._names.gene_name):
            for name, code in zip(names, codes, strict=True):
                if name is not None:
                    called.setdefault(name, set()).add(code)
        return called


def _first_columns(codes: NDArray[np.int32]) -> _Columns:
    first = np.sort(np.unique(codes, return_index=True)[1]).astype(np.int32)
    return _Columns(codes=codes[first], columns=first, n_passed_over=len(codes) - len(first))
