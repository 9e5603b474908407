"""Attributes that make a Zarr hierarchy a SpatialData container and its groups elements.

Specification: https://spatialdata.scverse.org/en/stable/design_doc.html, as written by
spatialdata 0.8: container 0.2, raster 0.3, shapes 0.3, tables 0.2.
"""

from __future__ import annotations

from typing import Any

from stformat.metadata import ngff

__all__ = [
    "INSTANCE_KEY",
    "REGION_KEY",
    "image_attributes",
    "root_attributes",
    "shapes_attributes",
    "table_association",
    "table_attributes",
]

REGION_KEY = "region"
"""Column of obs that names the shapes element of a row."""

INSTANCE_KEY = "spot_id"
"""Column of obs that holds the index of a row's shape in that element."""

_SOFTWARE_VERSION = "0.8.0"


def root_attributes() -> dict[str, Any]:
    """Return the attributes of the root that name the container version."""
    return {
        "spatialdata_attrs": {
            "version": "0.2",
            "spatialdata_software_version": _SOFTWARE_VERSION,
        }
    }


def image_attributes(
    *, element: str, n_levels: int, channel_names: tuple[str, ...], mpp: float | None
) -> dict[str, Any]:
    """Return the attributes of an image element.

    Parameters
    ----------
    element : str
        Name of the element under ``images/``.
    n_levels : int
        Number of pyramid levels ``s0``, ``s1``, ...
    channel_names : tuple of str
        One name a channel.
    mpp : float or None
        Microns per pixel of level 0; None leaves the coordinate system ``microns`` out.

    Returns
    -------
    dict
        ``ome`` in SpatialData's own dialect of OME-NGFF, which no strict reader accepts (see
        `stformat.metadata.ngff` for the view that it does), and ``spatialdata_attrs``.
    """
    multiscale = {
        "name": f"/images/{element}",
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space"},
            {"name": "x", "type": "space"},
        ],
        "datasets": ngff.level_datasets(prefix="", n_levels=n_levels, step=1.0),
        "coordinateTransformations": _transformations("cyx", mpp),
    }
    return {
        "ome": {
            "version": "0.5-dev-spatialdata",
            "multiscales": [multiscale],
            "omero": {"channels": [{"label": name} for name in channel_names]},
        },
        "spatialdata_attrs": {"version": "0.3"},
    }


def shapes_attributes(mpp: float | None) -> dict[str, Any]:
    """Return the attributes of a shapes element in full-resolution pixels.

    Parameters
    ----------
    mpp : float or None
        Microns per full-resolution pixel; None leaves the coordinate system ``microns`` out.

    Examples
    --------
    >>> [t["type"] for t in shapes_attributes(0.5)["coordinateTransformations"]]
    ['identity', 'scale']
    """
    return {
        "encoding-type": "ngff:shapes",
        "axes": ["x", "y"],
        "coordinateTransformations": _transformations("xy", mpp),
        "spatialdata_attrs": {"version": "0.3"},
    }


def table_association(region: str) -> dict[str, str]:
    """Return ``uns["spatialdata_attrs"]``: which shapes the rows of a table lie in."""
    return {"region": region, "region_key": REGION_KEY, "instance_key": INSTANCE_KEY}


def table_attributes(region: str) -> dict[str, str]:
    """Return what SpatialData adds to the attributes of an AnnData group.

    Examples
    --------
    >>> table_attributes("spots")["spatialdata-encoding-type"]
    'ngff:regions_table'
    """
    return {
        "spatialdata-encoding-type": "ngff:regions_table",
        **table_association(region),
        "version": "0.2",
    }


def _transformations(axes: str, mpp: float | None) -> list[dict[str, Any]]:
    """Full-resolution pixels to ``global`` (the same) and, where known, to ``microns``."""
    source = _coordinate_system(axes, axes)
    transformations: list[dict[str, Any]] = [
        {"type": "identity", "input": source, "output": _coordinate_system("global", axes)}
    ]
    if mpp is not None:
        transformations.append(
            {
                "type": "scale",
                "scale": [1.0 if axis == "c" else float(mpp) for axis in axes],
                "input": source,
                "output": _coordinate_system("microns", axes),
            }
        )
    return transformations


def _coordinate_system(name: str, axes: str) -> dict[str, Any]:
    return {
        "name": name,
        "axes": [
            {"name": axis, "type": "channel"}
            if axis == "c"
            else {"name": axis, "type": "space", "unit": "unit"}
            for axis in axes
        ],
    }
