"""The slides of a folder, known by its catalogue and opened when they are asked for.

What compares, splits or computes is imported by the method that needs it: opening a folder of ten
thousand slides must not take longer for pandas and SciPy.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stformat.collection.catalogue import Catalogue
from stformat.collection.conditions import condition_of
from stformat.collection.parts import address_below, refuse_divided, rows_on, slide_parts
from stformat.collection.table_html import table_html
from stformat.errors import (
    CatalogueLookupError,
    CatalogueStaleWarning,
    Problem,
)
from stformat.store.location import Location
from stformat.store.reader import Slide, open_slide
from stformat.store.slide_part import SlidePart

if TYPE_CHECKING:
    import pandas as pd

    from stformat.collection.duplicates import DuplicatePair
    from stformat.collection.gene_panel import GenePanel
    from stformat.collection.panel_rules import RuleName
    from stformat.collection.split import Side, Split, SplitBy
    from stformat.collection.splitting import Missing

__all__ = ["Collection"]


class Collection:
    """Slides in the order of their identifiers; made by `stformat.open_collection`.

    Only the catalogue is in memory. A slide is opened when it is indexed or iterated to, and
    belongs to who asked: close it, or use it as a context manager. The collection may be shared
    between threads, and pickled.

    Examples
    --------
    >>> import stformat as stf
    >>> slides = stf.open_collection("stores")  # doctest: +SKIP
    >>> human = slides.where(species="human", technology=["Visium", "ST"])  # doctest: +SKIP
    >>> train = human.side(human.split(by="donor", seed=0), "train")  # doctest: +SKIP
    >>> panel = train.gene_panel("variable", n_top=256)  # doctest: +SKIP
    >>> loader = stf.TileLoader(train, genes=panel, normalize="log1p")  # doctest: +SKIP
    """

    def __init__(
        self,
        location: Location,
        catalogue: Catalogue,
        positions: NDArray[np.int64],
        sides: tuple[tuple[Split, Side], ...] = (),
    ) -> None:
        self._location = location
        self._catalogue = catalogue
        self._sides = sides
        self._positions = np.ascontiguousarray(positions, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        n = self._catalogue.table.num_rows
        of = "" if len(self) == n else f"{len(self)} of "
        sides = [f", {side} of split {split.digest[:12]}" for split, side in self._sides]
        n_divided = sum(rows is not None for rows in self.rows) if sides else 0
        some = f", {n_divided} divided: some of their rows" if n_divided else ""
        return f"<Collection {self._location}: {of}{n} slide{'s' * (n != 1)}{''.join(sides)}{some}>"

    def _repr_html_(self) -> str:
        return table_html(repr(self), self._table)

    def __iter__(self) -> Iterator[Slide]:
        for place in range(len(self)):
            yield self[place]

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self._places

    @overload
    def __getitem__(self, key: int | str) -> Slide: ...
    @overload
    def __getitem__(self, key: slice) -> Collection: ...
    def __getitem__(self, key: int | str | slice) -> Slide | Collection:
        if isinstance(key, slice):
            return self._at(self._positions[key])
        place = self._place_of(key) if isinstance(key, str) else operator.index(key)
        position = int(self._positions[place])
        if self._sides:
            refuse_divided(self._at(self._positions[[place]]).parts[0])
        return self._open(position)

    def iter_slide_rows(self) -> Iterator[tuple[Slide, NDArray[np.int64]]]:
        """Open one slide after the other, with its rows that belong to the collection.

        Yields
        ------
        slide : Slide
            It is closed when the next one is asked for.
        rows : (m,) ndarray of int64
            All of them, but where the collection is one side of a split that divides the slide.

        Raises
        ------
        StoreReplaced
            If a store is of another version than the catalogue knows.
        """
        for part in self.parts:
            with part.open() as slide:
                rows = np.arange(slide.n_obs) if part.rows is None else np.flatnonzero(part.rows)
                yield slide, rows

    @property
    def parts(self) -> tuple[SlidePart, ...]:
        """Each slide, closed, with its rows; what a `stformat.TileLoader` is made from."""
        return slide_parts(self._location, self._table, self._sides)

    @property
    def rows(self) -> tuple[NDArray[np.bool_] | None, ...]:
        """Mask of the rows of each slide that belong to the collection; None for all."""
        return rows_on(self._sides, self.slide_ids)

    @property
    def catalogue(self) -> pd.DataFrame:
        """One row a slide: every column of the catalogue but fingerprints; a new frame."""
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    @property
    def digest(self) -> str:
        """SHA-256 of the catalogue's file."""
        return self._catalogue.digest

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Identifiers of the slides, in their order."""
        return tuple(self._table.column("slide_id").to_pylist())

    def where(self, **conditions: object) -> Collection:
        """Choose slides by columns of the catalogue, without opening any.

        Parameters
        ----------
        **conditions
            For each column a value that slides must have, an array or another iterable of values
            of which they must have one, or a function that returns whether a value that is not
            missing will do. None, or NaN, stands for a missing value. Of columns that hold lists
            (``keywords``, ``section_names``) one entry must do, and no entry is a missing value. A
            species or tissue is found under every spelling that means the same.

        Returns
        -------
        Collection
            The slides for which all conditions hold, in the same order.

        Raises
        ------
        CatalogueLookupError
            If there is no such column; those that there are, are named. If what is wanted is no
            value of a column.

        Examples
        --------
        >>> slides.where(species="human", mpp=lambda mpp: mpp < 0.6)  # doctest: +SKIP
        <Collection /data/stores: 17 of 40 slides>
        """
        table = self._table
        keep = np.ones(len(self), dtype=np.bool_)
        for name, wanted in conditions.items():
            if name not in table.column_names:
                raise _unknown_column(name, table.column_names)
            will_do = condition_of(name, wanted)
            keep &= [will_do(value) for value in table.column(name).to_pylist()]
        return self._at(self._positions[keep])

    def select(self, slide_ids: Iterable[str]) -> Collection:
        """Choose slides by identifier.

        Parameters
        ----------
        slide_ids : iterable of str
            Identifiers. For those of one side of a split see `side`.

        Returns
        -------
        Collection
            The slides, in the order of `slide_ids`.

        Raises
        ------
        CatalogueLookupError
            If no slide has an identifier, or several have, or a text or a set is given for a list.
        """
        if isinstance(slide_ids, str | set | frozenset):
            is_text = isinstance(slide_ids, str)
            raise CatalogueLookupError(
                Problem(
                    "collection.slide",
                    f"{slide_ids}" if is_text else "slide_ids",
                    "slides are selected by a list of identifiers",
                    f"the text {slide_ids!r}" if is_text else "a set, which is in no order",
                    f"give [{slide_ids!r}]" if is_text else "give sorted(slide_ids)",
                )
            )
        places = [self._place_of(name) for name in slide_ids]
        return self._at(self._positions[np.array(places, dtype=np.int64)])

    def side(self, split: Split, side: Side) -> Collection:
        """Choose what is on one side of a split: slides, and rows of those that are divided.

        Parameters
        ----------
        split : Split
            Made of this collection or one with the same slides.
        side : {"train", "val", "test"}
            The side.

        Returns
        -------
        Collection
            The slides, ascending by identifier. It remembers which rows of each are on the side,
            through `where`, `select`, slices, `side` and pickling: `gene_panel` and
            `stformat.TileLoader` read only these, and a loader cuts no tile that could share pixels
            with one of another side. A slide that is divided is opened by `iter_slide_rows`.

        Raises
        ------
        CatalogueLookupError
            If a slide of the side is not in the collection.
        SplitError
            If there is no such side, or a slide that is divided was converted anew since.

        Examples
        --------
        >>> split = slides.split(by="block", seed=0)  # doctest: +SKIP
        >>> train = slides.side(split, "train")  # doctest: +SKIP
        >>> panel = train.gene_panel("variable", n_top=256)  # doctest: +SKIP
        >>> loader = stf.TileLoader(train, genes=panel)  # doctest: +SKIP
        """
        names = split.slides(side)
        missing = [name for name in names if name not in self]
        if missing:
            raise CatalogueLookupError(
                Problem(
                    "collection.side",
                    missing[0],
                    "every slide of a side must be in the collection",
                    f"{len(missing)} of {len(names)} that are not",
                    "take the side of the collection that was split, then choose among its slides",
                )
            )
        chosen = self.select(names)
        split.check_versions({part.slide_id: part.manifest_sha256 for part in chosen.parts})
        positions = self._positions[[self._place_of(name) for name in names]]
        return Collection(self._location, self._catalogue, positions, (*self._sides, (split, side)))

    def check_tiles(self, tile_px: int, *, mpp: float | None = None) -> None:
        """Refuse tiles that could share pixels with those of another side; a loader does by itself.

        Parameters
        ----------
        tile_px : int
            Edge of a tile in its own pixels.
        mpp : float, optional
            Microns per pixel of a tile; by default those of each slide.

        Raises
        ------
        SplitError
            If the collection is one side of a split into blocks, and tiles reach further than those
            that it was made for.
        """
        mpps = self._table.column("mpp").to_pylist()
        for part, slide_mpp in zip(self.parts, mpps, strict=True):
            part.check_tiles(tile_px, mpp, slide_mpp=slide_mpp)

    def duplicates(self) -> tuple[DuplicatePair, ...]:
        """Return pairs of slides that look like one slide under two names, and why.

        See Also
        --------
        stformat.collection.duplicates.find_duplicates : What is evidence.
        """
        from stformat.collection.duplicates import (  # noqa: PLC0415 - see the module
            find_duplicates,
        )

        return find_duplicates(self._catalogue, self._positions)

    def split(
        self,
        *,
        by: SplitBy,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        missing: Missing = "refuse",
        duplicates: Literal["together", "ignore"] = "together",
        tile_px: int = 224,
        mpp: float | None = None,
        block_tiles: int = 8,
    ) -> Split:
        """Split the slides into training, validation and test.

        Parameters
        ----------
        by : {"study", "donor", "section", "slide", "block"}
            What is kept together: slides of a study, of a donor of a study, sections of slides,
            slides, or square blocks of each slide.
        fractions : tuple of float, default: (0.8, 0.1, 0.1)
            Shares of training, validation and test, adding up to 1: of slides, or of sections
            where `by` is ``"section"``, or of rows in each slide where it is ``"block"``. Groups
            are not cut, so shares are met as far as their sizes allow.
        seed : int, default: 0
            Not negative. The same slides and arguments give the same split, on any platform and
            with any version of NumPy.
        missing : {"refuse", "own-group", "leave-out"}, default: "refuse"
            What becomes of slides whose study or donor is not known, or the study of a donor where
            other slides state one: an error, groups of their own, or on no side.
        duplicates : {"together", "ignore"}, default: "together"
            Whether slides that `duplicates` finds are kept together. Of blocks, slides that are
            one cannot be told to lie alike, so only the first of them is divided and the others
            are on no side.
        tile_px : int, default: 224
            Where `by` is ``"block"``: edge of the tiles that will be cut, in their own pixels.
        mpp : float, optional
            Where `by` is ``"block"``: microns per pixel of these tiles; by default the slide's.
        block_tiles : int, default: 8
            Where `by` is ``"block"``: edge of a block in tiles, each with a margin of a pixel
            on every side; at least 2.

        Returns
        -------
        Split
            To be saved beside the catalogue by ``split.save(...)``.

        Raises
        ------
        SplitError
            If an argument is out of its range, a key is missing and to be refused, or there are
            fewer groups than sides.
        StoreReplaced
            If a store that is read, for its sections or blocks, was converted anew since.

        Warns
        -----
        SplitSharesWarning
            If sides have shares far from those wanted, since groups are not cut, and rows near the
            border of a block may be on no side.

        Notes
        -----
        Whoever uses the split takes its sides by `side`, which knows the rows of slides that are
        divided. Of a collection that is one side of a split only the rows of that side are split.

        Of blocks, rows whose tile would reach into a block of another side are on no side: two
        tiles of different sides share no pixel. Of sections, tiles at the border of two sections
        may.
        """
        from stformat.collection.splitting import (  # noqa: PLC0415 - see the module
            SplitRule,
            SplitSlide,
            split_slides,
        )

        rule = SplitRule(
            by=by,
            fractions=fractions,
            seed=seed,
            missing=missing,
            duplicates=duplicates,
            tile_px=tile_px,
            mpp=mpp,
            block_tiles=block_tiles,
        ).checked()
        place = {path: index for index, path in enumerate(self._table.column("path").to_pylist())}
        pairs = self.duplicates() if duplicates == "together" else ()
        columns = ["slide_id", "manifest_sha256", "study", "donor", "section_names"]
        rows = self._table.select(columns).to_pylist()
        slides = [
            SplitSlide(
                slide_id=row["slide_id"],
                manifest_sha256=row["manifest_sha256"],
                opened=part.open,
                study=row["study"],
                donor=row["donor"],
                n_sections=len(row["section_names"]),
                rows=part.rows,
            )
            for row, part in zip(rows, self.parts, strict=True)
        ]
        joined = [(place[pair.paths[0]], place[pair.paths[1]]) for pair in pairs]
        return split_slides(slides, rule, joined, catalogue_sha256=self.digest)

    def gene_panel(self, rule: RuleName = "intersection", **options: Any) -> GenePanel:  # noqa: ANN401 - those of gene_panel
        """Choose genes that mean the same in all slides, of their default tables.

        Parameters
        ----------
        rule : {"intersection", "union", "variable", "given"}, default: "intersection"
            Which genes.
        **options
            See `stformat.collection.panel_rules.gene_panel`. Of one side of a split only its rows
            are read; `rows` must be of it.

        Returns
        -------
        GenePanel
            The genes.

        Raises
        ------
        GenePanelError
            If the slides do not make a panel.
        """
        from stformat.collection.panel_rules import (  # noqa: PLC0415 - see the module
            gene_panel,
        )

        if not self._sides:
            opened = [partial(self._open, position) for position in self._positions.tolist()]
            return gene_panel(opened, rule, **options)
        parts = self.parts
        if rule == "variable":
            given = dict(options.get("rows") or {})
            within = {part.slide_id: part.rows_within(given.get(part.slide_id)) for part in parts}
            kept = {name: rows for name, rows in within.items() if rows is not None}
            options |= {"rows": given | kept}
        return gene_panel([part.open for part in parts], rule, **options)

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Where the slides of each identifier are."""
        places: dict[str, list[int]] = {}
        for place, name in enumerate(self.slide_ids):
            places.setdefault(name, []).append(place)
        return places

    @cached_property
    def _table(self) -> pa.Table:
        # From a buffer: to make an array of anything else pyarrow imports pandas.
        buffers = [None, pa.py_buffer(self._positions)]
        return self._catalogue.table.take(
            pa.Array.from_buffers(pa.int64(), len(self._positions), buffers)
        )

    def _at(self, positions: NDArray[np.int64]) -> Collection:
        return Collection(self._location, self._catalogue, positions, self._sides)

    def _place_of(self, slide_id: str) -> int:
        places = self._places.get(slide_id, [])
        if len(places) != 1:
            paths = self._table.column("path").to_pylist()
            found = f"{len(places)} stores: {', '.join(paths[place] for place in places)}"
            raise CatalogueLookupError(
                Problem(
                    "collection.slide",
                    str(slide_id),
                    "an identifier must be that of one slide of the collection",
                    found if places else "none that has it",
                )
            )
        return places[0]

    def _open(self, position: int) -> Slide:
        row = self._catalogue.table.slice(position, 1).select(["path", "manifest_sha256"])
        (found,) = row.to_pylist()
        address = address_below(self._location, found["path"])
        slide = open_slide(address, storage_options=self._location.options or None)
        if slide.opened.store.commit.manifest_sha256 != found["manifest_sha256"]:
            warnings.warn(
                f"{found['path']}: the catalogue is of another version of this store; run stformat "
                "collect again",
                CatalogueStaleWarning,
                stacklevel=3,
            )
        return slide


def _unknown_column(name: str, columns: list[str]) -> CatalogueLookupError:
    expected = f"a column must be one of {', '.join(columns)}"
    return CatalogueLookupError(Problem("catalogue.column", name, expected, "no such column"))
