"""One committed slide, opened: metadata at once, everything else when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stformat.errors import TableLookupError
from stformat.metadata.stformat_v0_1 import StformatAttributes
from stformat.store.annotations import Annotations
from stformat.store.counts import CountsReader
from stformat.store.location import Location, parse_location
from stformat.store.open_store import OpenStore
from stformat.store.pyramid import Level, channel_names, levels_of, thumbnail
from stformat.store.row_index import RowIndex, row_positions
from stformat.store.slide_repr import slide_html, slide_text
from stformat.store.tile_request import (
    parse_centers,
    parse_fill_value,
    target_mpp,
    tiles_at_mpp,
    tiles_of_spots,
)
from stformat.store.tiles import TileEngine, Tiles

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from geopandas import GeoDataFrame

__all__ = ["Level", "Slide", "open_slide"]


class Slide:
    """One slide, read lazily; made by `open_slide`.

    A slide is bound to one of its tables: rows, genes and counts are those of the table. It may be
    shared between threads, used after a fork, and pickled: it then opens the same version of the
    store where it is, or raises StoreReplaced. ``opened`` is for the library.

    Memory: decoded chunks are kept up to 128 MiB; ``obs`` and ``var`` once they were used; 8 bytes
    a row once counts were.

    Examples
    --------
    >>> import stformat as stf
    >>> with stf.open_slide("B4.zarr") as slide:  # doctest: +SKIP
    ...     tiles = slide.tiles(224, mpp=0.5)[:32]
    ...     values = slide.expression(slice(32), ["ERBB2"], normalize="log1p")
    """

    def __init__(self, opened: OpenStore, table: str | None) -> None:
        self.opened = opened
        self._table = opened.table(table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        digest = self.opened.store.commit.manifest_sha256
        return _reopen, (self.opened.location, self._table.attributes.name, digest)

    def __repr__(self) -> str:
        return slide_text(self.opened, self._table.attributes)

    def _repr_html_(self) -> str:
        return slide_html(self.opened, self._table.attributes)

    def close(self) -> None:
        """Let go of the store's files, for every slide that shares them."""
        self.opened.close()

    @property
    def metadata(self) -> StformatAttributes:
        """All that the root attribute ``stformat`` says of the slide."""
        return self.opened.store.attributes

    @property
    def slide_id(self) -> str:
        """Identifier of the slide."""
        return self.metadata.slide_id

    @property
    def mpp(self) -> float | None:
        """Microns per full-resolution pixel, or None where unknown."""
        return self.metadata.mpp.value

    @property
    def has_image(self) -> bool:
        """Whether the slide has an image, and so tiles."""
        return self.metadata.image is not None

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of the pyramid, full resolution first; empty without an image."""
        if not self.has_image:
            return ()
        return levels_of(self._engine, self.mpp)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name a channel of the image.

        Raises
        ------
        NoImageError
            If the slide has no image.
        """
        n_c = self._engine.n_c  # raises where there is no image
        image = self.metadata.image
        return () if image is None else channel_names(self.opened.store, image, n_c)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample of the image: uint8 or uint16.

        Raises
        ------
        NoImageError
            If the slide has no image.
        """
        return self._engine.dtype

    @property
    def image(self) -> xr.DataArray:
        """Level 0 as a lazy DataArray: dimensions ``('c', 'y', 'x')``, in px and um, without dask.

        Raises
        ------
        NoImageError
            If the slide has no image.
        """
        from stformat.store.lazy_image import lazy_level  # noqa: PLC0415 - imports xarray

        return lazy_level(self, 0)

    @property
    def annotations(self) -> Mapping[str, GeoDataFrame]:
        """Name to GeoDataFrame of every shapes element that is no table's region; read on access.

        Coordinates are full-resolution pixels.
        """
        return Annotations(self.opened.store)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(self.opened.tables)

    def table(self, name: str) -> Slide:
        """Return the slide bound to another of its tables; both share the open store.

        Parameters
        ----------
        name : str
            One of `tables`.

        Returns
        -------
        Slide
            The same slide; closing one closes both.

        Raises
        ------
        TableLookupError
            If there is no such table.
        """
        return Slide(self.opened, name)

    @property
    def n_obs(self) -> int:
        """Number of rows of the table: spots or bins."""
        return self._table.attributes.n_obs

    @property
    def n_vars(self) -> int:
        """Number of columns of the table: genes."""
        return self._table.attributes.n_vars

    @property
    def obs(self) -> pd.DataFrame:
        """Rows of the table, indexed by barcode; loaded on first use, to be left unchanged.

        Columns ``x`` and ``y`` are the centre in full-resolution pixels.
        """
        return self._table.obs

    @property
    def var(self) -> pd.DataFrame:
        """Genes of the table, indexed by key; loaded on first use, to be left unchanged."""
        return self._table.var

    @property
    def radius_px(self) -> NDArray[np.float64]:
        """(n_obs,) radius of each spot, or half the side of each bin, in full-resolution pixels."""
        return self._table.radii(np.arange(self.n_obs))

    def centers_px(self, rows: RowIndex) -> NDArray[np.float64]:
        """Read (m, 2) centres, columns ``(x, y)`` in full-resolution pixels, not loading `obs`."""
        return self._table.centers(row_positions(rows, self.n_obs))

    @property
    def counts(self) -> CountsReader:
        """Counts of the table: ``counts[rows]``, ``counts.genes(["ERBB2"])``."""
        return self._table.counts

    @property
    def median_total(self) -> float:
        """Median over all rows of the sum of a row over all genes."""
        return self._table.median_total

    def rows(self, selection: RowIndex | Sequence[str]) -> NDArray[np.int64]:
        """Return the positions of rows.

        Parameters
        ----------
        selection : (n_obs,) array of bool, sequence of str, or what NumPy takes as an index
            A mask, barcodes, positions or a slice.

        Returns
        -------
        (m,) ndarray of int64
            Rows in the order of `selection`.

        Raises
        ------
        BarcodeLookupError
            If no row has a barcode.
        IndexError
            If a position is out of bounds or a mask has another length.
        """
        return self._table.rows(selection)

    def gene_columns(self, genes: Iterable[str]) -> NDArray[np.int64]:
        """Return the columns of genes.

        Parameters
        ----------
        genes : iterable of str
            Keys, identifiers or names.

        Returns
        -------
        (k,) ndarray of int64
            Columns in the order of `genes`.

        Raises
        ------
        GeneLookupError
            If a name means several genes, or none.
        """
        return self._table.gene_index.resolve(genes)

    def thumbnail(self, max_px: int = 512) -> NDArray[np.unsignedinteger]:
        """Return the whole image, small.

        Parameters
        ----------
        max_px : int, default: 512
            Longest edge of the result, at least 1.

        Returns
        -------
        (c, y, x) ndarray of uint8 or uint16
            The first level whose longer edge is at most `max_px`; beyond the last level of the
            store the pyramid is continued by its own rule.

        Raises
        ------
        NoImageError
            If the slide has no image.
        ValueError
            If `max_px` is below 1.
        """
        if max_px < 1:
            raise ValueError(f"max_px must be at least 1, got {max_px}")
        return thumbnail(self._engine, max_px)

    def read_region(
        self, level: int, top: int, left: int, height: int, width: int
    ) -> NDArray[np.unsignedinteger]:
        """Read a rectangle of a level.

        Parameters
        ----------
        level : int
            Pyramid level, 0 is full resolution.
        top, left : int
            First row and column in pixels of the level; may be negative.
        height, width : int
            Size in pixels of the level, at least 1.

        Returns
        -------
        (c, height, width) ndarray of uint8 or uint16
            The pixels; those outside the level are background.

        Raises
        ------
        NoImageError
            If the slide has no image.
        ValueError
            If there is no such level, or the size is below 1.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        return self._engine.read_region(level, top, left, height, width)

    def tiles(
        self,
        tile_px: int = 224,
        *,
        mpp: float | None = None,
        size_um: float | None = None,
        field: Literal["spot"] | None = None,
        rows: RowIndex | None = None,
        centers_px: ArrayLike | None = None,
        fill_value: int | None = None,
    ) -> Tiles:
        """Place square tiles around spots; pixels are read when the result is indexed.

        Parameters
        ----------
        tile_px : int, default: 224
            Edge of a tile in its own pixels, at least 1.
        mpp : float, optional
            Microns per pixel of a tile; by default the slide's own, so that tiles are exact copies
            of full-resolution pixels.
        size_um : float, optional
            Edge of a tile in microns, instead of `mpp`.
        field : {"spot"}, optional
            The square of side ``2 * radius`` around each spot, instead of `mpp`.
        rows : int array, mask or slice, optional
            Rows of the table; by default all, in the order of the table.
        centers_px : (n, 2) array_like of float, optional
            Any centres in full-resolution pixels, columns ``(x, y)``, instead of `rows`.
        fill_value : int, optional
            Value of samples outside the image; by default the store's background.

        Returns
        -------
        Tiles
            A sequence of ``(c, tile_px, tile_px)`` tiles.

        Raises
        ------
        NoImageError
            If the slide has no image.
        ValueError
            If arguments exclude one another or are out of range, or microns are asked of a slide
            whose mpp is unknown.
        IndexError
            If a row is out of bounds.
        """
        engine = self._engine
        wanted = target_mpp(tile_px, mpp=mpp, size_um=size_um, field=field)
        fill = parse_fill_value(fill_value, engine.background, engine.dtype)
        if centers_px is None:
            positions = row_positions(slice(None) if rows is None else rows, self.n_obs)
            centers = self._table.centers(positions)
            if field == "spot":
                radii = self._table.radii(positions)
                return tiles_of_spots(
                    engine, centers, radii, tile_px=tile_px, mpp=self.mpp, fill_value=fill
                )
        elif rows is not None or field is not None:
            raise ValueError("centers_px must come without rows and without field, got both")
        else:
            centers = parse_centers(centers_px)
        return tiles_at_mpp(
            engine, centers, tile_px=tile_px, target_mpp=wanted, mpp=self.mpp, fill_value=fill
        )

    def expression(
        self,
        rows: RowIndex,
        genes: Iterable[str] | None = None,
        *,
        normalize: Literal["log1p"] | None = None,
        target_sum: float | None = 1e4,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Read expression densely.

        Parameters
        ----------
        rows : int array, mask or slice
            Rows of the table.
        genes : iterable of str, optional
            Keys, identifiers or names; by default every gene of the table.
        normalize : {"log1p"}, optional
            ``log(1 + count * target_sum / total)``, where the total of a row is over every gene of
            the table, whichever are asked for. By default counts are returned as they are.
        target_sum : float or None, default: 10000
            What rows are scaled to; None is `median_total`, which must be kept with the result.
        out : (n_rows, n_genes) ndarray of float32, optional
            C-contiguous array to write to: for many genes, new memory is most of what a call costs.

        Returns
        -------
        (n_rows, n_genes) ndarray of float32
            Rows and genes in the order they were asked for; `out` where it was given.

        Raises
        ------
        GeneLookupError
            If a name means several genes, or none.
        IndexError
            If a row is out of bounds.
        ValueError
            If `normalize` is no rule, `target_sum` not positive and finite, or `out` no such array.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        return self._table.expression(
            row_positions(rows, self.n_obs),
            None if genes is None else self.gene_columns(genes),
            normalize=normalize,
            target_sum=target_sum,
            out=out,
        )

    @property
    def _engine(self) -> TileEngine:
        return self.opened.engine


def open_slide(
    path: str | os.PathLike[str],
    *,
    table: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Slide:
    """Open a slide.

    Parameters
    ----------
    path : path or URL
        A committed store: a local directory, a zip file (``.zarr.zip``), or either at a URL
        (``https://``, ``s3://``, ``gs://``; extra ``remote``).
    table : str, optional
        Name of the table to bind; by default the store's default table.
    storage_options : mapping, optional
        What obstore's store for the URL is opened with, such as ``region``, ``skip_signature`` or
        ``client_options``. By default credentials come from the environment. Shown nowhere, but
        pickled with the slide, as the URL is: who gets the pickle can read the store.

    Returns
    -------
    Slide
        A context manager. Only metadata has been read.

    Raises
    ------
    NotAStoreError
        If there is no stformat store at `path`.
    UncommittedStoreError
        If the store has no valid commit record.
    UnsupportedStoreError
        If the store is of another version of the format, or is not to be read from where it is.
    CorruptStoreError
        If its metadata are damaged.
    StoreReadError
        If the file system, or the server, does not let it be read.
    TableLookupError
        If there is no such table.

    Warns
    -----
    StoreChangedWarning
        If another tool changed the store after it was committed.

    Examples
    --------
    >>> import stformat as stf
    >>> slide = stf.open_slide("B4.zarr")  # doctest: +SKIP
    >>> slide  # doctest: +SKIP
    <Slide B4: ST, 9272 x 9923 px, mpp 0.6889, 283 x 15289 in *expression>
    """
    opened = OpenStore(parse_location(path, storage_options))
    try:
        return Slide(opened, table)
    except TableLookupError:
        opened.close()
        raise


def _reopen(location: Location, table: str, digest: str) -> Slide:
    """Open a pickled slide: the same version of its store, or none."""
    return Slide(OpenStore.reopened(location, digest), table)
