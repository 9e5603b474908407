"""A slide as a SpatialData object whose image, and counts on request, stay in the store."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from stformat.lazy.annotated_matrix import annotated_matrix
from stformat.store.annotations import read_shapes
from stformat.store.lazy_image import lazy_level
from stformat.store.reader import Slide

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["to_spatialdata"]

CHUNK_PX = 1024
"""Edge of a dask chunk of the image: SpatialData writes chunks as large as dask's."""

_CONTAINER = "spatialdata_attrs"


def to_spatialdata(
    slide: Slide, *, tables: Sequence[str] | None = None, backed: bool = False
) -> SpatialData:
    """Show a slide as a SpatialData object whose pixels are read where they are used.

    Needs the extra ``spatialdata``.

    Parameters
    ----------
    slide : Slide
        The slide, whichever table it is bound to. It must stay open while the result is used.
    tables : sequence of str, optional
        Names of the tables to take, each with its region; by default all.
    backed : bool, default: False
        Leave the counts in the store too: ``X`` is then a dask array of sparse blocks, see
        `stformat.counts_as_dask`. Queries, joins and writing take it; spatialdata-plot 0.4 colours
        by a gene only where counts are in memory: ``sdata[name] = sdata[name].to_memory()``.

    Returns
    -------
    spatialdata.SpatialData
        What ``spatialdata.read_zarr`` makes of the store, under the same names:

        - the image, as dask arrays: a DataTree of its levels, or a DataArray where there is one;
        - the regions of the tables and the annotations, as GeoDataFrames;
        - the tables, ``X`` a ``csr_matrix`` of raw counts.

        All are placed in ``global``, full-resolution pixels, and where the mpp is known in
        ``microns``. Rows annotate their shapes by ``region`` and ``spot_id``.

    Raises
    ------
    TableLookupError
        If there is no table of a name.
    ImportError
        If the library spatialdata is not installed.
    CorruptStoreError
        If shapes, ``obs`` or ``var`` are damaged.

    See Also
    --------
    stformat.from_spatialdata : The way back; outlines of cells come back as circles beside them.
    stformat.to_anndata : One table, for scanpy and squidpy.

    Notes
    -----
    In memory are the shapes, ``obs`` and ``var`` of the tables taken, as SpatialData asks, and,
    unless `backed`, the counts: 8 bytes a stored value.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> with stf.open_slide(stf.convert_slide(source, folder / "slide.zarr")) as slide:
    ...     sdata = stf.to_spatialdata(slide)
    ...     sorted(sdata.coordinate_systems), sdata["expression"].shape, len(sdata["spots"])
    (['global', 'microns'], (26, 2000), 26)
    """
    spatialdata = _spatialdata()
    names = slide.tables if tables is None else tuple(tables)
    bound = {name: slide.table(name) for name in names}
    store = slide.opened.store
    regions = {table.region for table in slide.metadata.tables if table.name in bound}
    shapes = {name: read_shapes(store, name) for name in sorted(regions)} | dict(slide.annotations)
    for element in shapes.values():
        _place(element, "xy", slide.mpp)
    attributes = store.node("")["attributes"]
    return spatialdata.SpatialData(
        images=_images(slide),
        shapes=shapes,
        tables={name: annotated_matrix(table, backed=backed) for name, table in bound.items()},
        # What another tool does to them must not reach the open store.
        attrs=deepcopy({key: value for key, value in attributes.items() if key != _CONTAINER}),
    )


def _images(slide: Slide) -> dict[str, xr.DataArray | xr.DataTree]:
    if slide.metadata.image is None:
        return {}
    levels = [_level(slide, level.level) for level in slide.levels]
    image: xr.DataArray | xr.DataTree = levels[0]
    if len(levels) > 1:
        scales = {f"scale{number}": level.to_dataset() for number, level in enumerate(levels)}
        image = xr.DataTree.from_dict(scales)
    _place(image, "cyx", slide.mpp)
    return {slide.metadata.image.element: image}


def _level(slide: Slide, level: int) -> xr.DataArray:
    """Return a level in dask chunks, placed as SpatialData places levels: by their sizes alone."""
    top = slide.levels[0]
    pixels = lazy_level(slide, level).chunk({"c": -1, "y": CHUNK_PX, "x": CHUNK_PX})
    coords: dict[str, Any] = {"c": list(slide.channel_names)}
    for dim, size in (("y", top.height), ("x", top.width)):
        n = pixels.sizes[dim]
        coords[dim] = np.linspace(0, size, n + 1)[:-1] + size / n / 2
    return xr.DataArray(pixels.data, coords, pixels.dims, name="image")


def _place(element: Any, axes: str, mpp: float | None) -> None:  # noqa: ANN401 - image or shapes
    """Place an element in ``global`` and, where the mpp is known, in ``microns``."""
    from spatialdata import transformations  # noqa: PLC0415 - an extra, and dear

    systems = {"global": transformations.Identity()}
    if mpp is not None:
        scale = [1.0 if axis == "c" else mpp for axis in axes]
        systems["microns"] = transformations.Scale(scale, axes=tuple(axes))
    transformations.set_transformation(element, systems, set_all=True)


def _spatialdata() -> ModuleType:
    try:
        return import_module("spatialdata")
    except ModuleNotFoundError as error:
        if error.name != "spatialdata":
            raise
        raise ImportError(
            "to_spatialdata needs the library spatialdata, which is not installed: install "
            "stformat with its extra, `stformat[spatialdata]`",
            name="spatialdata",
        ) from error
