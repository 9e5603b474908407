"""Tiles of a slide in the formats that training programs read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from stformat.errors import ExportError, Problem
from stformat.export._source import opened_slide, table_of
from stformat.export._tile_arrays import write_npy_tiles, write_zarr_tiles
from stformat.export._tile_files import write_png_tiles, write_tar_shards
from stformat.export._tile_set import TileSet, TileSize, choose_tiles
from stformat.export._whole import appearing
from stformat.export.description import write_description
from stformat.model import Progress, silent
from stformat.store.reader import Slide
from stformat.store.row_index import RowIndex

__all__ = ["TILE_FORMATS", "export_tiles"]

SHARD_BYTES = 1 << 28
"""Size of a WebDataset shard where none is given: 256 MiB."""

_MIN_SHARD_BYTES = 1 << 16

type TileFormat = Literal["png", "npy", "zarr", "webdataset"]

_WRITERS: Mapping[str, Callable[[TileSet, Path, Progress], None]] = MappingProxyType(
    {"png": write_png_tiles, "npy": write_npy_tiles, "zarr": write_zarr_tiles}
)

TILE_FORMATS = (*_WRITERS, "webdataset")
"""Names of the formats."""


def export_tiles(
    slide: Slide | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: TileFormat = "png",  # noqa: A002 - the field's word, as in Image.save
    tile_px: int = 224,
    mpp: float | None = None,
    size_um: float | None = None,
    field: Literal["spot"] | None = None,
    rows: RowIndex | Sequence[str] | None = None,
    in_tissue_only: bool = False,
    min_coverage: float = 0.0,
    table: str | None = None,
    genes: Iterable[str] | Literal["all"] | None = None,
    normalize: Literal["log1p"] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the tiles around spots into one directory, which appears whole or not at all.

    Parameters
    ----------
    slide : Slide or path
        An open slide, or the path of a store.
    target : path
        Directory to make.
    format : {"png", "npy", "zarr", "webdataset"}, default: "png"
        ``"png"``: ``tiles/<barcode>.png``. ``"npy"``: ``tiles.npy`` (n, c, y, x), for
        ``numpy.load(..., mmap_mode="r")``. ``"zarr"``: a group that ``xarray.open_zarr`` opens,
        with the names of `stformat.open_dataset`. ``"webdataset"``: ``000000.tar`` and so on, of
        samples ``<slide>_<barcode>`` with ``.png``, ``.json`` (slide_id, barcode, x, y, row,
        coverage) and ``.expression.npy``.
    tile_px : int, default: 224
        Edge of a tile in its own pixels.
    mpp : float, optional
        Microns per pixel of a tile; by default tiles are full-resolution pixels as they are.
    size_um : float, optional
        Edge of a tile in microns, instead of `mpp`.
    field : {"spot"}, optional
        The square around each spot, instead of `mpp`.
    rows : mask, barcodes, positions or slice, optional
        Rows of the table, each once, in this order; by default all.
    in_tissue_only : bool, default: False
        Leave out rows that are not on tissue.
    min_coverage : float, default: 0
        Leave out tiles of which a smaller share lies inside the image.
    table : str, optional
        Table to take the rows of; by default the one that the slide is bound to.
    genes : iterable of str or "all", optional
        Keys, identifiers or names of genes whose expression goes with the tiles, dense, float32:
        ``expression.npy`` (n, n_genes), beside each sample in ``"webdataset"``, an array in
        ``"zarr"``.
    normalize : {"log1p"}, optional
        ``log(1 + count * 10000 / total)``; by default counts are written as they are.
    shard_bytes : int, default: 2**28
        Size of a WebDataset shard in bytes, at least 65536.
    overwrite : bool, default: False
        Replace a directory that an earlier export made.
    progress : callable, optional
        Called with a `stformat.model.ProgressEvent` at each step.

    Returns
    -------
    pathlib.Path
        `target`. It holds ``export.json`` too, which says what was written and how many rows were
        left out, and, but for ``"zarr"`` and ``"webdataset"``, ``rows.csv`` with barcode, x, y,
        row, coverage and file of each tile.

    Raises
    ------
    ExportError
        If the size is not possible, as microns are on a slide of unknown mpp; a row is chosen
        twice; no tile is left; the format cannot hold the tiles, as PNG cannot hold five channels;
        or what is at `target` is not what an export made.
    NoImageError
        If the slide has no image.
    BarcodeLookupError, GeneLookupError, TableLookupError
        If there is no such row, gene or table.
    StoreExistsError
        If `target` exists and `overwrite` is False.
    StoreWriteError
        If the file system refuses.
    CorruptStoreError
        If a chunk is missing or damaged.

    Notes
    -----
    Memory: batches of 64 MiB, of which three or four are there at a time, the cache of the slide
    (128 MiB), the table's ``obs``, and about 300 bytes a row. The same arguments give the same
    bytes. In names of files, what is no ASCII letter, digit, ``_`` or ``-`` is ``_``, and where two
    barcodes would have one name all but the first get a number; ``rows.csv`` and the samples'
    documents have the barcodes themselves.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> store = stf.convert_slide(source, folder / "slide.zarr")
    >>> out = export_tiles(store, folder / "tiles", format="npy", tile_px=64, min_coverage=1.0)
    >>> np.load(out / "tiles.npy", mmap_mode="r").shape[1:]
    (3, 64, 64)
    """
    write = _writer(format, shard_bytes)
    progress = silent if progress is None else progress
    path = Path(target)
    with ExitStack() as stack:
        opened = stack.enter_context(opened_slide(slide, table))
        size = TileSize(tile_px=tile_px, mpp=mpp, size_um=size_um, field=field)
        chosen = choose_tiles(
            opened,
            size,
            rows=rows,
            in_tissue_only=in_tissue_only,
            min_coverage=min_coverage,
            genes=genes,
            normalize=normalize,
        )
        directory = stack.enter_context(
            appearing(path, "directory", overwrite=overwrite, progress=progress)
        )
        write(chosen, directory, progress)
        write_description(directory, {"format": format, **_describe(chosen, size, min_coverage)})
    return path


def _writer(name: str, shard_bytes: int) -> Callable[[TileSet, Path, Progress], None]:
    if shard_bytes < _MIN_SHARD_BYTES:
        raise ExportError(
            Problem(
                "export.shard",
                "shard_bytes",
                f"a shard must have at least {_MIN_SHARD_BYTES} bytes",
                str(shard_bytes),
            )
        )
    if name == "webdataset":
        return partial(write_tar_shards, shard_bytes=shard_bytes)
    if name not in _WRITERS:
        raise ExportError(
            Problem("export.format", "format", f"one of {', '.join(TILE_FORMATS)}", repr(name))
        )
    return _WRITERS[name]


def _describe(chosen: TileSet, size: TileSize, min_coverage: float) -> dict[str, Any]:
    slide = chosen.slide
    asked = {"mpp": size.mpp, "size_um": size.size_um, "field": size.field}
    expression: dict[str, Any] = {}
    if chosen.expression is not None:
        expression = {
            "genes": list(chosen.expression.genes),
            "normalize": chosen.expression.normalize,
        }
    return {
        "slide_id": slide.slide_id,
        "technology": slide.metadata.technology,
        "table": table_of(slide).name,
        "n_tiles": len(chosen),
        "n_below_coverage": chosen.n_below_coverage,
        "min_coverage": min_coverage,
        "channels": list(slide.channel_names),
        "dtype": str(chosen.tiles.dtype),
        "tile_px": size.tile_px,
        **{name: value for name, value in asked.items() if value is not None},
        "slide_mpp": slide.mpp,
        **expression,
    }
