"""A SpatialData object in memory, written as a store."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stformat.convert.slide import parse_image_codec
from stformat.errors import ImageError, InputError, Problem
from stformat.model import Progress, silent
from stformat.sources import check_options
from stformat.sources._kinds import SourceRequest, positive
from stformat.sources._spatialdata_container import open_container
from stformat.sources._spatialdata_image import Raster
from stformat.sources._spatialdata_systems import Systems
from stformat.sources.spatialdata_zarr import read_container
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["from_spatialdata"]

_KIND = "spatialdata"


def from_spatialdata(
    sdata: SpatialData,
    target: str | os.PathLike[str],
    *,
    mpp: float | None = None,
    slide_id: str | None = None,
    overwrite: bool = False,
    image_codec: str = "zstd",
    progress: Progress | None = None,
    **options: object,
) -> Path:
    """Write a SpatialData object in memory as a store.

    Needs the extra ``spatialdata``. A container on disk is converted without it, by
    `convert_slide`.

    Parameters
    ----------
    sdata : spatialdata.SpatialData
        An object with a table that annotates circles, squares or other polygons, and an image of
        uint8 or uint16 or none. It is not changed.
    target : path
        Directory to make, by convention ``<slide>.zarr``.
    mpp : float, optional
        Microns per pixel of the image; by default what its system ``microns`` says.
    slide_id : str, optional
        Identifier of the slide; by default the name of `target` without its suffix.
    overwrite : bool, default: False
        Replace an existing store at `target`, in one atomic exchange.
    image_codec : {"zstd", "blosc", "jpeg"}, default: "zstd"
        How pixels are stored; see `convert_slide`.
    progress : callable, optional
        Called with a `stformat.model.ProgressEvent` at each step.
    **options
        ``table``, ``region``: names of the only table and of the only shapes to take.
        ``image_element``: the image, where several lie on them. ``coordinate_system``: through
        which elements are placed, by default ``"global"``. Descriptors as for `convert_slide`.

    Returns
    -------
    pathlib.Path
        `target`.

    Raises
    ------
    InputError
        If the object is ambiguous, or holds what a slide cannot.
    StoreExistsError, StoreLockedError, StoreWriteError
        As for `convert_slide`.
    ImportError
        If the library spatialdata is not installed.

    Notes
    -----
    Images that dask holds are computed one row of chunks at a time. Shapes and tables are written
    beside `target` first, into a directory that is removed again, and read back piece by piece.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide, make_spatialdata
    >>> sdata = make_spatialdata(make_slide(height=400, width=400, pitch_px=60.0, seed=0))
    >>> from_spatialdata(sdata, Path(tempfile.mkdtemp()) / "slide.zarr", species="human").name
    'slide.zarr'
    """
    target = Path(target)
    check_options(_KIND, options)
    given = {name: value for name, value in options.items() if value is not None}
    codec = parse_image_codec(image_codec)
    report = silent if progress is None else progress
    with replace_store(
        target, overwrite=overwrite, unfinished="discard", progress=report
    ) as directory:
        request = SourceRequest(
            path=target,
            image=None,
            mpp=None if mpp is None else positive("mpp", mpp),
            slide_id=slide_id,
            scratch=directory.parent,
            options=given,
        )
        with tempfile.TemporaryDirectory(prefix=".stformat-", dir=directory.parent) as scratch:
            # Named as the target: from it comes the slide's identifier.
            container = Path(scratch) / target.name
            _write_without_images(sdata, container)
            record = read_container(
                replace(open_container(container), images=_rasters(sdata.images)),
                request,
                is_on_disk=False,
            )
            write_slide(record, directory, codec=codec, progress=report)
    return target


def _write_without_images(sdata: SpatialData, path: Path) -> None:
    from spatialdata import SpatialData  # noqa: PLC0415 - an extra, and dear

    part = SpatialData(shapes=dict(sdata.shapes), tables=dict(sdata.tables), attrs=sdata.attrs)
    with warnings.catch_warnings():
        # What libraries say of one another when they write is nothing for a user.
        warnings.simplefilter("ignore")
        try:
            part.write(path)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                Problem(
                    "spatialdata.object",
                    "sdata",
                    "shapes and tables must be ones that SpatialData writes",
                    str(error)[:200],
                )
            ) from error


def _rasters(images: Mapping[str, Any]) -> dict[str, Raster | InputError]:
    rasters: dict[str, Raster | InputError] = {}
    for name, image in images.items():
        try:
            rasters[name] = _raster(name, image)
        except InputError as error:
            rasters[name] = error
    return rasters


def _raster(name: str, image: Any) -> Raster:  # noqa: ANN401 - a DataArray, or a DataTree of them
    where = f"images/{name}"
    level = image
    if not hasattr(image, "dims") or hasattr(image, "children"):
        first = next(iter(image.children.values()), None)
        arrays = [] if first is None else list(first.data_vars.values())
        if len(arrays) != 1:
            raise ImageError(
                Problem("image.ngff", where, "levels of one array each are needed", "others")
            )
        level = arrays[0]
    axes = tuple(str(axis) for axis in level.dims)
    if set(axes) not in ({"c", "y", "x"}, {"y", "x"}):
        raise ImageError(Problem("image.ngff", where, "axes must be c, y and x", str(axes)))
    row = axes.index("y")
    heights = getattr(level.data, "chunks", None)
    edges = np.cumsum([0, *(heights[row] if heights else (level.shape[row],))])
    labels = level.coords["c"].to_numpy().tolist() if "c" in level.coords else []

    def read(top: int, bottom: int) -> NDArray[Any]:
        rows = level.isel(y=slice(top, bottom)).data
        return np.asarray(rows.compute() if hasattr(rows, "compute") else rows)

    return Raster(
        name=name,
        axes=axes,
        shape=tuple(level.shape),
        dtype=np.dtype(level.dtype),
        channels=tuple(str(label) for label in labels),
        chunk_rows=tuple(int(edge) for edge in edges),
        codec="memory",
        systems=_systems(image, where),
        read=read,
    )


def _systems(image: Any, where: str) -> Systems:  # noqa: ANN401 - as `_raster` takes it
    from spatialdata.transformations import get_transformation  # noqa: PLC0415 - as above

    systems: dict[str, NDArray[np.float64] | Problem] = {}
    for name, transformation in get_transformation(image, get_all=True).items():
        try:
            axes = ("x", "y")
            systems[name] = transformation.to_affine_matrix(input_axes=axes, output_axes=axes)
        except (ValueError, NotImplementedError) as error:
            systems[name] = Problem(
                "spatialdata.transformation",
                f"{where}, to {name!r}",
                "a transformation must be an affine map of x and y",
                str(error)[:200],
            )
    return systems
