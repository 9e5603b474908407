"""The slides of a folder, known by its catalogue and opened when they are asked for.

What compares, splits or computes is imported by the method that needs it: opening a folder of ten
thousand slides must not take longer for pandas and SciPy.
"""

from __future__ import annotations

import html
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stformat.collection.catalogue import CATALOGUE_NAME, Catalogue, parse_catalogue
from stformat.errors import (
    CatalogueError,
    CatalogueLookupError,
    CatalogueStaleWarning,
    NotAStoreError,
    Problem,
)
from stformat.store.location import Location, parse_location
from stformat.store.open_files import open_files
from stformat.store.reader import Slide, open_slide
from stformat.terms.tables import species_term, tissue_term

if TYPE_CHECKING:
    import pandas as pd

    from stformat.collection.duplicates import DuplicatePair
    from stformat.collection.gene_panel import GenePanel
    from stformat.collection.panel_rules import RuleName
    from stformat.collection.split import Split, SplitBy
    from stformat.collection.splitting import Missing

__all__ = ["Collection", "open_collection"]

_N_SHOWN = 5
_SHOWN_COLUMNS = ("slide_id", "technology", "species", "tissue", "study", "n_obs", "n_vars", "mpp")
_TERMS = {"species": species_term, "tissue": tissue_term}


class Collection:
    """Slides in the order of their identifiers; made by `open_collection`.

    Only the catalogue is in memory. A slide is opened when it is indexed or iterated to, and
    belongs to who asked: close it, or use it as a context manager. The collection may be shared
    between threads, and pickled.

    Examples
    --------
    >>> import stformat as stf
    >>> slides = stf.open_collection("stores")  # doctest: +SKIP
    >>> human = slides.where(species="human", technology=["Visium", "ST"])  # doctest: +SKIP
    >>> split = human.split(by="donor", seed=0)  # doctest: +SKIP
    >>> panel = human.select(split.train).gene_panel("variable", n_top=256)  # doctest: +SKIP
    """

    def __init__(
        self, location: Location, catalogue: Catalogue, positions: NDArray[np.int64]
    ) -> None:
        self._location = location
        self._catalogue = catalogue
        self._positions = np.ascontiguousarray(positions, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        n = self._catalogue.table.num_rows
        of = "" if len(self) == n else f"{len(self)} of "
        return f"<Collection {self._location}: {of}{n} slide{'s' * (n != 1)}>"

    def _repr_html_(self) -> str:
        rows = self._table.slice(0, 2 * _N_SHOWN).select([*_SHOWN_COLUMNS]).to_pylist()
        head = "".join(f"<th>{name}</th>" for name in _SHOWN_COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_shown(value))}</td>" for value in row.values())
            + "</tr>"
            for row in rows
        )  # fmt: skip
        more = f"<p>and {len(self) - len(rows)} more</p>" if len(self) > len(rows) else ""
        return (
            f"<p>{html.escape(repr(self))}</p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{more}"
        )

    def __iter__(self) -> Iterator[Slide]:
        for place in range(len(self)):
            yield self[place]

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self.slide_ids

    @overload
    def __getitem__(self, key: int | str) -> Slide: ...
    @overload
    def __getitem__(self, key: slice) -> Collection: ...
    def __getitem__(self, key: int | str | slice) -> Slide | Collection:
        if isinstance(key, slice):
            return self._at(self._positions[key])
        place = self._place_of(key) if isinstance(key, str) else int(key)
        return self._open(int(self._positions[place]))

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
            For each column a value that slides must have, a list, tuple or set of values of which
            they must have one, or a function that returns whether a value that is not missing
            will do. None stands for a missing value. Of columns that hold lists (``keywords``,
            ``section_names``) one entry must do. A species or tissue is found under every spelling
            that means the same.

        Returns
        -------
        Collection
            The slides for which all conditions hold, in the same order.

        Raises
        ------
        CatalogueLookupError
            If there is no such column; those that there are, are named.

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
            test = _test_of(name, wanted)
            keep &= [test(value) for value in table.column(name).to_pylist()]
        return self._at(self._positions[keep])

    def select(self, slide_ids: Iterable[str]) -> Collection:
        """Choose slides by identifier.

        Parameters
        ----------
        slide_ids : iterable of str
            Identifiers, such as `Split.train`.

        Returns
        -------
        Collection
            The slides, in the order of `slide_ids`.

        Raises
        ------
        CatalogueLookupError
            If no slide has an identifier, or several have.
        """
        places = [self._place_of(name) for name in slide_ids]
        return self._at(self._positions[np.array(places, dtype=np.int64)])

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
            What becomes of slides whose study or donor is not known: an error, a group each, or
            on no side.
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

        Notes
        -----
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
        rows = self._table.select(["slide_id", "study", "donor", "section_names"]).to_pylist()
        slides = [
            SplitSlide(
                slide_id=row["slide_id"],
                opened=partial(self.__getitem__, index),
                study=row["study"],
                donor=row["donor"],
                n_sections=len(row["section_names"]),
            )
            for index, row in enumerate(rows)
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
            See `stformat.collection.panel_rules.gene_panel`.

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

        opened = [partial(self.__getitem__, place) for place in range(len(self))]
        return gene_panel(opened, rule, **options)

    @cached_property
    def _table(self) -> pa.Table:
        # From a buffer: to make an array of anything else pyarrow imports pandas.
        buffers = [None, pa.py_buffer(self._positions)]
        return self._catalogue.table.take(
            pa.Array.from_buffers(pa.int64(), len(self._positions), buffers)
        )

    def _at(self, positions: NDArray[np.int64]) -> Collection:
        return Collection(self._location, self._catalogue, positions)

    def _place_of(self, slide_id: str) -> int:
        ids = self._table.column("slide_id").to_pylist()
        places = [place for place, each in enumerate(ids) if each == slide_id]
        if len(places) != 1:
            paths = self._table.column("path").to_pylist()
            found = f"{len(places)} stores: {', '.join(paths[place] for place in places)}"
            raise CatalogueLookupError(
                Problem(
                    "collection.slide",
                    slide_id,
                    "an identifier must be that of one slide of the collection",
                    found if places else "none that has it",
                )
            )
        return places[0]

    def _open(self, position: int) -> Slide:
        row = self._catalogue.table.slice(position, 1).select(["path", "manifest_sha256"])
        (found,) = row.to_pylist()
        address = _address_below(self._location, found["path"])
        slide = open_slide(address, storage_options=self._location.options or None)
        if slide.opened.store.commit.manifest_sha256 != found["manifest_sha256"]:
            warnings.warn(
                f"{found['path']}: the catalogue is of another version of this store; run stformat "
                "collect again",
                CatalogueStaleWarning,
                stacklevel=3,
            )
        return slide


def _test_of(name: str, wanted: object) -> Callable[[Any], bool]:
    """Return what tells whether the value of a column will do."""
    if callable(wanted):
        return lambda value: value is not None and bool(wanted(value))
    if isinstance(wanted, list | tuple | set | frozenset):
        tests = [_test_of(name, each) for each in wanted]
        return lambda value: any(test(value) for test in tests)
    term = _TERMS[name](wanted) if name in _TERMS and isinstance(wanted, str) else None

    def test(value: Any) -> bool:  # noqa: ANN401 - of a column of any type
        if isinstance(value, list):
            return wanted in value
        is_same = bool(value == wanted)
        return is_same or (term is not None and value is not None and _TERMS[name](value) == term)

    return test


def _unknown_column(name: str, columns: list[str]) -> CatalogueLookupError:
    return CatalogueLookupError(
        Problem(
            "catalogue.column",
            name,
            f"a column must be one of {', '.join(columns)}",
            "no such column",
        )
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _address_below(location: Location, path: str) -> str:
    if not location.is_url:
        return str(Path(location.address, path))
    parts = urlsplit(location.address)
    return urlunsplit(parts._replace(path=f"{parts.path}/{quote(path)}"))


def open_collection(
    path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Collection:
    """Open the slides of a folder that has a catalogue.

    Parameters
    ----------
    path : path or str
        Folder that ``stformat collect`` was run on, or the URL where such a folder is.
    storage_options : mapping, optional
        How a URL is to be opened; see `stformat.open_slide`.

    Returns
    -------
    Collection
        The slides; nothing but the catalogue has been read.

    Raises
    ------
    CatalogueError
        If there is no catalogue, or it is damaged or of another version.
    StoreReadError
        If the file system, or the server, does not let it be read.

    Examples
    --------
    >>> import tempfile
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=400, width=400, n_genes=20, pitch_px=60, seed=0),
    ...                          folder / "source")
    >>> _ = stf.convert_slide(source, folder / "S1.zarr", species="human")
    >>> _ = stf.collect_slides(folder)
    >>> slides = stf.open_collection(folder)
    >>> len(slides), slides.where(species="Homo sapiens").slide_ids, slides["S1"].n_vars
    (1, ('S1',), 20)
    """
    location = parse_location(path, storage_options)
    where = f"{location}/{CATALOGUE_NAME}"
    try:
        with closing(open_files(location)) as files:
            is_there = files.exists(CATALOGUE_NAME)
            data = files.read(CATALOGUE_NAME) if is_there else b""
    except NotAStoreError:
        is_there = False
    if not is_there:
        raise CatalogueError(
            Problem(
                "catalogue.missing",
                str(location),
                f"a collection is a folder with {CATALOGUE_NAME}",
                "none",
                "make it with stformat collect",
            )
        )
    catalogue = parse_catalogue(data, where)
    return Collection(location, catalogue, np.arange(catalogue.table.num_rows))
