"""What the genes of many slides are called, each way of calling one kept once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat.collection.count_blocks import SlideOpener
from stformat.collection.gene_panel import names_in, species_of
from stformat.genes.names import GeneNames

__all__ = ["GeneLists", "ListedSlide"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ListedSlide:
    """One slide, and what its columns are called."""

    opened: SlideOpener
    """Opens it, bound to the table."""

    slide_id: str
    """Its identifier."""

    species: str | None
    """Its species, where it says."""

    table: str
    """The table."""

    manifest_sha256: str
    """Version of its store."""

    listed: NDArray[np.int32]
    """(n_vars,) place of each column in `GeneLists.names`; slides of equal columns have one array
    in common."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneLists:
    """Slides with what their columns are called.

    Memory: some 400 bytes for each way of calling a gene, and 4 bytes a column of each list of
    columns; slides that were made with one reference have the same list.
    """

    slides: tuple[ListedSlide, ...]
    """The slides."""

    names: GeneNames
    """Each way of calling a gene once, in the order in which they were met."""

    @classmethod
    def read(cls, openers: Iterable[SlideOpener]) -> GeneLists:
        """Read them, each slide opened once."""
        slides: list[ListedSlide] = []
        lists: dict[bytes, NDArray[np.int32]] = {}
        place_of: dict[tuple[str, str | None, str | None, str | None], int] = {}
        for opened in openers:
            with opened() as slide:
                found = names_in(slide)
                digest = found.digest
                if digest not in lists:
                    rows = zip(
                        found.keys, found.gene_id, found.gene_name, found.genome, strict=True
                    )
                    places = (place_of.setdefault(row, len(place_of)) for row in rows)
                    lists[digest] = np.fromiter(places, dtype=np.int32, count=len(found))
                one = ListedSlide(
                    opened=opened,
                    slide_id=slide.slide_id,
                    species=species_of(slide),
                    table=slide.counts.table,
                    manifest_sha256=slide.opened.store.commit.manifest_sha256,
                    listed=lists[digest],
                )
            slides.append(one)
        names = GeneNames(
            keys=[row[0] for row in place_of],
            gene_id=[row[1] for row in place_of],
            gene_name=[row[2] for row in place_of],
            genome=[row[3] for row in place_of],
        )
        return cls(slides=tuple(slides), names=names)
