"""A slide's image pyramid as an xarray DataTree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import xarray as xr

from stformat.lazy.backend import StformatBackend
from stformat.store.reader import Slide

__all__ = ["open_datatree"]


def open_datatree(
    slide_or_path: Slide | str | os.PathLike[str], *, chunks: Mapping[str, Any] | None = None
) -> xr.DataTree:
    """Open a slide's image as an xarray DataTree, one child a pyramid level.

    Parameters
    ----------
    slide_or_path : Slide or path
        A slide, or the path of a store.
    chunks : mapping, optional
        Makes dask arrays; ``{}`` follows the image shards. By default there is no dask: an indexed
        part is read when its values are.

    Returns
    -------
    xarray.DataTree
        Children ``s0`` (full resolution), ``s1``, ... Each has ``image (c, y, x)``, uint8 or
        uint16, and coordinates that select: ``c`` (names of the channels); ``y`` and ``x``, centres
        of the level's pixels in full-resolution pixels, ``(i + 0.5) * 2**level``; and, where the
        mpp is known, ``y_um`` and ``x_um``, the same in microns.

        Attributes of the root: ``slide_id``, ``technology``, and ``mpp`` where known.

    Raises
    ------
    NoImageError
        If the slide has no image.
    StoreError
        If there is no store that can be read at the path.

    See Also
    --------
    stformat.open_dataset : Tiles around spots, and their expression.
    xarray.open_datatree : The same with ``engine="stformat"``, for a path.

    Notes
    -----
    Opening reads metadata only; indexing reads the image chunks that the wanted rows and columns
    touch, each once. In memory are then the result, the slide's cache of chunks and a chunk a
    thread, also for a strided read, ``image[:, ::16, ::16]``. Closing the tree closes a slide that
    was opened here from a path, never one given.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=1500, seed=0), folder / "source")
    >>> path = stf.convert_slide(source, folder / "slide.zarr")
    >>> with stf.open_datatree(path) as tree:
    ...     part = tree["s1"]["image"].sel(y=slice(100, 200), x=slice(300, 400))
    ...     list(tree.children), part.to_numpy().shape, float(part["x"][0])
    (['s0', 's1'], (3, 50, 50), 301.0)

    A millimetre of it:

    >>> with stf.open_datatree(path) as tree:
    ...     tree["s0"].image.sel(x_um=slice(500, 1500)).sizes["x"], round(tree.attrs["mpp"], 3)
    (550, 1.818)
    """
    return xr.open_datatree(
        # xarray hands what it is given to the engine; its annotation knows of files only.
        cast("Any", slide_or_path),
        engine=StformatBackend,
        chunks=None if chunks is None else dict(chunks),
    )
