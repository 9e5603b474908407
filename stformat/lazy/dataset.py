"""A slide's tiles and expression as one xarray Dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import xarray as xr

from stformat.lazy.backend import StformatBackend
from stformat.store.reader import Slide

__all__ = ["open_dataset"]


def open_dataset(
    slide_or_path: Slide | str | os.PathLike[str],
    *,
    tile_px: int = 224,
    mpp: float | None = None,
    genes: Sequence[str] | None = None,
    normalize: Literal["log1p"] | None = None,
    target_sum: float | None = 1e4,
    table: str | None = None,
    chunks: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a slide as an xarray Dataset; tiles and expression are read where it is indexed.

    Parameters
    ----------
    slide_or_path : Slide or path
        A slide, or the path of a store.
    tile_px : int, default: 224
        Edge of a tile in output pixels.
    mpp : float, optional
        Microns per output pixel; by default tiles are full-resolution pixels as they are.
    genes : sequence of str, optional
        Keys or unambiguous names of the genes along ``var``, in this order; by default all.
    normalize : {"log1p"}, optional
        ``log(1 + count * target_sum / total)`` where total is over all genes of the spot; by
        default raw counts.
    target_sum : float or None, default: 1e4
        Counts a spot is scaled to before the logarithm; None is the median of the totals. Only
        with `normalize`.
    table : str, optional
        Name of the table; by default the one that the slide is bound to, or the store's default.
    chunks : mapping, optional
        Makes dask arrays. ``{}`` cuts ``obs`` where the image shard changes, and so that no chunk
        of tiles or of expression exceeds 64 MiB; an entry takes the place of that for its
        dimension. By default there is no dask: an indexed part is read when its values are.

    Returns
    -------
    xarray.Dataset
        Dimensions ``obs`` (spots, in the row order of the store) and ``var`` (genes); with an
        image also ``c``, ``tile_y`` and ``tile_x``.

        - ``tiles (obs, c, tile_y, tile_x)``, uint8 or uint16: the tile around each spot. Absent
          where the slide has no image.
        - ``expression (obs, var)``, float32, dense where it is read.
        - along ``obs``: ``slide`` (its identifier), ``barcode``, ``x_px`` and ``y_px`` (centres in
          full-resolution pixels), ``x_um`` and ``y_um`` (where the slide's mpp is known),
          ``in_tissue``;
        - along ``var``: ``gene_key`` (the table's own unique key), ``gene_id`` (Ensembl, or None)
          and ``gene_name`` (or None); and ``gene``, as each was asked for by `genes`, where it was;
        - along ``c``: ``c``, the names of the channels.

        Attributes: ``slide_id``, ``technology``; ``mpp`` and ``tile_mpp`` (microns per pixel of
        the slide and of the tiles) where known; ``normalize`` and ``target_sum`` (the median
        itself, where it was asked for) where normalised.

    Raises
    ------
    GeneLookupError
        If a gene is not found, or a name is that of several.
    TableLookupError
        If there is no such table.
    ValueError
        If `tile_px`, `mpp`, `normalize` or `target_sum` is not possible.
    StoreError
        If there is no store that can be read at the path.

    See Also
    --------
    stformat.open_datatree : The image itself, level by level.
    xarray.open_dataset : The same with ``engine="stformat"``, for a path.

    Notes
    -----
    Opening reads metadata only; and the table of genes where `genes` is given, the totals of the
    spots where `target_sum` is the median. The coordinates along ``obs`` and ``var`` are lazy and
    carry no index. The first text or ``in_tissue`` asked for loads the table's ``obs`` or ``var``;
    positions are read row by row, and all of them to find dask chunks along ``obs``. Where an index
    is wanted, build it: ``dataset.set_xindex("barcode")``.

    Slides whose genes differ are joined along ``obs`` once each shows the same panel, in the order
    of `genes`; ``mpp`` gives their tiles one resolution. ``gene`` is then common to all, while keys
    and identifiers may be spelt differently in each slide, and are best left out.

    Closing the Dataset, or leaving its ``with`` block, closes a slide that was opened here from a
    path, never one that was given.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> path = stf.convert_slide(source, folder / "slide.zarr")
    >>> with stf.open_dataset(path, tile_px=64, normalize="log1p") as dataset:
    ...     first = dataset.isel(obs=slice(0, 8), c=0)
    ...     first["tiles"].dims, first["tiles"].to_numpy().shape
    (('obs', 'tile_y', 'tile_x'), (8, 64, 64))

    Several slides, here one twice:

    >>> import xarray as xr
    >>> with xr.open_mfdataset(
    ...     [path, path],
    ...     engine="stformat",
    ...     genes=["ERBB2", "CD3E"],
    ...     mpp=1.0,
    ...     drop_variables=["gene_key", "gene_id", "gene_name"],
    ...     combine="nested",
    ...     concat_dim="obs",
    ...     combine_attrs="drop_conflicts",
    ... ) as slides:
    ...     erbb2 = slides["expression"].set_xindex("gene").sel(gene="ERBB2")
    ...     str(slides["slide"].to_numpy()[0]), erbb2.shape
    ('S1', (52,))
    """
    options: dict[str, Any] = {
        "tile_px": tile_px,
        "mpp": mpp,
        "genes": genes,
        "normalize": normalize,
        "target_sum": target_sum,
        "table": table,
    }
    dataset = xr.open_dataset(
        # xarray hands what it is given to the engine; its annotation knows of files only.
        cast("Any", slide_or_path),
        engine=StformatBackend,
        cache=chunks is None,
        **options,
    )
    if chunks is None:
        return dataset
    preferred = dataset["expression"].encoding["preferred_chunks"]
    chunked = dataset.chunk({**({} if "obs" in chunks else preferred), **chunks})
    chunked.set_close(dataset.close)
    return chunked
