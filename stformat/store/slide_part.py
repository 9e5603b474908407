"""A slide that is opened when it is needed, and which of its rows are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stformat.coords import tile_reach_px
from stformat.errors import Problem, SplitError, StoreReplaced
from stformat.store.location import Location
from stformat.store.reader import Slide, open_slide
from stformat.store.row_index import RowIndex, row_positions

__all__ = ["HasParts", "SlidePart"]

_ROUNDING = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlidePart:
    """One version of a slide, closed, and its rows on one side of a split.

    Holds no file. It may be pickled, with what a URL is opened with.
    """

    location: Location
    """Where the store is."""

    slide_id: str
    """Identifier of the slide."""

    manifest_sha256: str
    """Version of the store."""

    rows: NDArray[np.bool_] | None = None
    """(n_obs,) rows of the default table that are meant; None for all."""

    reach_px: float | None = None
    """How far from its centre a tile may reach, in full-resolution pixels, to share no pixel with
    one of another side; None where that is not known, or nothing of the slide is on one."""

    def __repr__(self) -> str:
        rows = "all rows" if self.rows is None else f"{self.rows.sum()} of {len(self.rows)} rows"
        return f"<SlidePart {self.slide_id}: {rows} of {self.location}>"

    def open(self) -> Slide:
        """Open the slide, bound to its default table.

        Returns
        -------
        Slide
            The whole of it.

        Raises
        ------
        StoreReplaced
            If the store is of another version.
        StoreError
            If it cannot be opened.
        """
        slide = open_slide(
            self.location.address, storage_options=dict(self.location.options) or None
        )
        if slide.opened.store.commit.manifest_sha256 != self.manifest_sha256:
            slide.close()
            raise StoreReplaced(
                Problem(
                    "store.replaced",
                    str(self.location),
                    "the slide must be of the version that the catalogue knows",
                    "another version",
                    "run stformat collect again, and split anew if the slide is divided",
                )
            )
        return slide

    def rows_within(self, selection: RowIndex | None) -> RowIndex | None:
        """Return the rows that a selection chooses of those that are meant.

        Parameters
        ----------
        selection : int, slice, array of int or mask, optional
            Rows of the table; by default all that are meant.

        Returns
        -------
        RowIndex or None
            What it chooses; None for every row of the table.

        Raises
        ------
        SplitError
            If it chooses a row that is not on this side.
        IndexError
            If it does not fit the table.
        """
        if selection is None or self.rows is None:
            return self.rows if selection is None else selection
        positions = row_positions(selection, len(self.rows))
        n_other = int((~self.rows[positions]).sum())
        if n_other:
            raise SplitError(
                Problem(
                    "split.rows",
                    self.slide_id,
                    "rows of a slide that is divided must be on the side that is used",
                    f"{n_other} of {len(positions)} that are not",
                    "leave rows away to use all of the side",
                )
            )
        return positions

    def check_tiles(self, tile_px: int, mpp: float | None, *, slide_mpp: float | None) -> None:
        """Refuse tiles that could share pixels with those of another side.

        Parameters
        ----------
        tile_px : int
            Edge of a tile in its own pixels.
        mpp : float or None
            Microns per pixel of a tile; None for the slide's own.
        slide_mpp : float or None
            Microns per full-resolution pixel; tiles of given microns are not looked at without.

        Raises
        ------
        SplitError
            If tiles reach further than those that the slide was divided for.
        """
        if self.reach_px is None or (mpp is not None and slide_mpp is None):
            return
        scale = 1.0 if mpp is None or slide_mpp is None else mpp / slide_mpp
        reach_px = tile_reach_px(tile_px, scale)
        if reach_px > self.reach_px * _ROUNDING:
            tile = f"tile_px={tile_px}" + ("" if mpp is None else f", mpp={mpp}")
            raise SplitError(
                Problem(
                    "split.tiles",
                    self.slide_id,
                    f"tiles of a slide that is divided must reach at most {self.reach_px:.2f} px "
                    "from their centre, as those that it was divided for",
                    f"{reach_px:.2f} px with {tile}",
                    f"split anew with {tile}, or cut smaller tiles",
                )
            )


@runtime_checkable
class HasParts(Protocol):
    """Many slides that know which of their rows are meant, such as one side of a split."""

    def __len__(self) -> int:
        """Return how many slides there are."""
        ...

    @property
    def parts(self) -> tuple[SlidePart, ...]:
        """The slides, in their order."""
        ...
