"""The genes of many slides at once: a number for each gene, columns of each slide by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stformat.collection.count_blocks import SlideOpener
from stformat.collection.gene_panel import (
    GenePanel,
    PanelSlide,
    RuleValue,
    measured_digest,
    species_of,
)
from stformat.genes.keys import parse_ensembl
from stformat.genes.vocabulary import GeneVocabulary, first_columns

__all__ = ["SlideGenes"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _OneSlide:
    """The genes of one slide."""

    opened: SlideOpener
    slide_id: str
    table: str
    manifest_sha256: str
    codes: NDArray[np.int64]
    """(k,) number of each gene."""
    columns: NDArray[np.int64]
    """(k,) its column."""
    n_passed_over: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideGenes:
    """Genes that slides measure, each once, in the order in which they were met.

    Memory: some 100 bytes a gene, and 16 bytes a gene and slide.
    """

    vocabulary: GeneVocabulary
    """What told which columns are the same gene."""

    slides: list[_OneSlide] = field(default_factory=list)
    """The slides."""

    keys: list[str] = field(default_factory=list)
    """Key of each gene; its place is its number."""

    _code_of: dict[str, int] = field(default_factory=dict)
    _code_of_name: dict[str, int | None] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, openers: Iterable[SlideOpener], vocabulary: GeneVocabulary) -> SlideGenes:
        """Read the genes of slides, one after the other."""
        genes = cls(vocabulary=vocabulary)
        for opened in openers:
            genes._add(opened)
        return genes

    def shared(self) -> NDArray[np.int64]:
        """Return the numbers of the genes that every slide measures, as the first has them."""
        n_slides = np.zeros(len(self.keys), dtype=np.int64)
        for slide in self.slides:
            n_slides[slide.codes] += 1
        first = self.slides[0].codes
        return np.asarray(first[n_slides[first] == len(self.slides)])

    def find(self, gene: str) -> int | None:
        """Return the number of a gene by identifier, symbol or a key of a source.

        None where nothing is called so, or more than one gene.
        """
        key = self.vocabulary.ids.get(gene, parse_ensembl(gene) or gene)
        code = self._code_of.get(key)
        return self._code_of_name.get(gene) if code is None else code

    def columns_of(self, slide: _OneSlide, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the columns of genes in a slide, -1 where it does not measure one."""
        column_of = np.full(len(self.keys), -1, dtype=np.int64)
        column_of[slide.codes] = slide.columns
        return column_of[codes]

    def panel(
        self, codes: NDArray[np.int64], *, species: str | None, rule: Mapping[str, RuleValue]
    ) -> GenePanel:
        """Make the panel of some genes."""
        keys = tuple(self.keys[code] for code in codes.tolist())
        slides = []
        for slide in self.slides:
            measured = self.columns_of(slide, codes) >= 0
            slides.append(
                PanelSlide(
                    slide_id=slide.slide_id,
                    table=slide.table,
                    manifest_sha256=slide.manifest_sha256,
                    n_measured=int(measured.sum()),
                    measured_sha256=measured_digest(measured),
                    n_passed_over=slide.n_passed_over,
                )
            )
        return GenePanel(
            keys=keys,
            names=tuple(self._names.get(code) for code in codes.tolist()),
            species=species,
            rule=MappingProxyType(dict(rule)),
            vocabulary=self.vocabulary.restricted_to(keys),
            slides=tuple(slides),
        )

    def _add(self, opened: SlideOpener) -> None:
        with opened() as slide:
            var = slide.var
            columns, n_passed_over = first_columns(
                self.vocabulary.keys_of(var, species=species_of(slide))
            )
            codes = np.array([self._code(key) for key in columns], dtype=np.int64)
            one = _OneSlide(
                opened=opened,
                slide_id=slide.slide_id,
                table=slide.counts.table,
                manifest_sha256=slide.opened.store.commit.manifest_sha256,
                codes=codes,
                columns=np.fromiter(columns.values(), dtype=np.int64, count=len(columns)),
                n_passed_over=n_passed_over,
            )
        self.slides.append(one)
        names = var["gene_name"].to_numpy(dtype=object)[one.columns]
        own = var.index.to_numpy()[one.columns]
        for code, name, key in zip(codes.tolist(), names, own, strict=True):
            if not pd.isna(name):
                self._names.setdefault(code, name)
                self._call(name, code)
            self._call(key, code)

    def _call(self, name: str, code: int) -> None:
        if self._code_of_name.setdefault(name, code) != code:
            self._code_of_name[name] = None

    def _code(self, key: str) -> int:
        code = self._code_of.setdefault(key, len(self.keys))
        if code == len(self.keys):
            self.keys.append(key)
        return code
