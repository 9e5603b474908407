"""Capture areas as a SpatialData shapes element: GeoParquet beside its attributes.

Specification: https://geoparquet.org/releases/v1.1.0/ and spatialdata's shapes 0.3.
"""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from stformat.metadata import spatialdata_zarr
from stformat.model import Spots
from stformat.store.nodes import refusals_of, write_group

__all__ = ["shapes_frame", "write_shapes"]


def write_shapes(
    directory: Path, spots: Spots, order: NDArray[np.int64], *, mpp: float | None
) -> None:
    """Write the outlines of capture areas in full-resolution pixels.

    Parameters
    ----------
    directory : pathlib.Path
        Folder of the element, ``shapes/<region>``.
    spots : Spots
        Capture areas in the order of the source.
    order : (n_obs,) ndarray of int64
        Source row of each stored row.
    mpp : float or None
        Microns per full-resolution pixel, where known.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    frame = shapes_frame(spots, order)
    write_group(directory, spatialdata_zarr.shapes_attributes(mpp))
    path = directory / "shapes.parquet"
    with refusals_of(path):
        frame.to_parquet(
            path, geometry_encoding="WKB", compression="zstd", write_page_checksum=True
        )


def shapes_frame(spots: Spots, order: NDArray[np.int64]) -> geopandas.GeoDataFrame:
    """Return the outlines as a GeoDataFrame, index ``spot_id``.

    Parameters
    ----------
    spots : Spots
        Capture areas in the order of the source.
    order : (n_obs,) ndarray of int64
        Source row of each stored row.

    Returns
    -------
    geopandas.GeoDataFrame
        Circles are points with a column ``radius``, squares are polygons; both in
        full-resolution pixels.
    """
    xy = spots.xy[order]
    radius = spots.radius_px[order]
    # An explicit int64 index: a RangeIndex would stand in the file's metadata only.
    index = pd.Index(np.arange(len(order), dtype=np.int64), name=spatialdata_zarr.INSTANCE_KEY)
    if spots.shape == "circle":
        return geopandas.GeoDataFrame({"radius": radius}, geometry=shapely.points(xy), index=index)
    left, top = (xy - radius[:, None]).T
    right, bottom = (xy + radius[:, None]).T
    return geopandas.GeoDataFrame(geometry=shapely.box(left, top, right, bottom), index=index)
