"""The strict OME-NGFF view of an image: attributes of the group above its pyramid.

Specification: https://ngff.openmicroscopy.org/0.5/index.html
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "VERSION",
    "image_view_attributes",
    "level_datasets",
    "omero_channels",
    "validate_image_view",
]

VERSION = "0.5"

_BRIGHTFIELD = ("FF0000", "00FF00", "0000FF")
_FLUORESCENCE = ("0000FF", "00FF00", "FF0000", "FFFF00", "FF00FF", "00FFFF", "FFFFFF")


def image_view_attributes(
    *,
    element: str,
    n_levels: int,
    channel_names: tuple[str, ...],
    dtype: np.dtype[Any],
    mpp: float | None,
) -> dict[str, Any]:
    """Return the attributes that make a group an OME-NGFF 0.5 image.

    Parameters
    ----------
    element : str
        Name, in the same group, of the group that holds the levels ``s0``, ``s1``, ...
    n_levels : int
        Number of levels; each is the exact half of the one before.
    channel_names : tuple of str
        One name a channel.
    dtype : numpy.dtype
        Type of a sample; its range is the display window.
    mpp : float or None
        Microns per pixel of level 0; None gives pixels without a unit.

    Returns
    -------
    dict
        ``{"ome": {...}}``. Scale of level k is exactly ``2**k * mpp``, its translation
        ``(2**k - 1) / 2 * mpp``: the centre of its first pixel among those of level 0.

    Examples
    --------
    >>> view = image_view_attributes(element="he", n_levels=2, channel_names=("r", "g", "b"),
    ...                              dtype=np.dtype("uint8"), mpp=0.5)
    >>> view["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    [{'type': 'scale', 'scale': [1.0, 1.0, 1.0]}, \
{'type': 'translation', 'translation': [0.0, 0.25, 0.25]}]
    """
    unit = {} if mpp is None else {"unit": "micrometer"}
    step = 1.0 if mpp is None else mpp
    multiscale = {
        "name": element,
        "type": "mean",
        "metadata": {
            "description": "mean of the 2 x 2 pixels that exist, halves rounded up",
            "method": "stformat.kernels.downsample_2x2",
        },
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", **unit},
            {"name": "x", "type": "space", **unit},
        ],
        "datasets": level_datasets(prefix=f"{element}/", n_levels=n_levels, step=step),
    }
    channels = omero_channels(channel_names, dtype)
    return {
        "ome": {"version": VERSION, "multiscales": [multiscale], "omero": {"channels": channels}}
    }


def level_datasets(*, prefix: str, n_levels: int, step: float) -> list[dict[str, Any]]:
    """Return the ``datasets`` of a pyramid of exact halvings.

    Parameters
    ----------
    prefix : str
        Put before the names ``s0``, ``s1``, ... of the arrays.
    n_levels : int
        Number of levels.
    step : float
        Edge of a pixel of level 0.

    Examples
    --------
    >>> [dataset["path"] for dataset in level_datasets(prefix="he/", n_levels=2, step=1.0)]
    ['he/s0', 'he/s1']
    """
    return [
        {
            "path": f"{prefix}s{level}",
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, *(2 * [2**level * step])]},
                {"type": "translation", "translation": [0.0, *(2 * [(2**level - 1) / 2 * step])]},
            ],
        }
        for level in range(n_levels)
    ]


def omero_channels(channel_names: tuple[str, ...], dtype: np.dtype[Any]) -> list[dict[str, Any]]:
    """Return how to display each channel: label, colour and the full range of `dtype`.

    Examples
    --------
    >>> omero_channels(("DAPI",), np.dtype("uint16"))
    [{'label': 'DAPI', 'color': '0000FF', 'active': True, \
'window': {'min': 0, 'max': 65535, 'start': 0, 'end': 65535}}]
    """
    colours = _BRIGHTFIELD if channel_names == ("r", "g", "b") else _FLUORESCENCE
    top = int(np.iinfo(dtype).max)
    return [
        {
            "label": name,
            "color": colours[channel % len(colours)],
            "active": True,
            "window": {"min": 0, "max": top, "start": 0, "end": top},
        }
        for channel, name in enumerate(channel_names)
    ]


def validate_image_view(attributes: dict[str, Any]) -> None:
    """Hold attributes to the OME-NGFF 0.5 model of ome-zarr-models.

    Parameters
    ----------
    attributes : dict
        Attributes of a group, as from `image_view_attributes`.

    Raises
    ------
    ValueError
        If they are no valid OME-NGFF 0.5 image (pydantic's ValidationError, which is one).
    """
    from ome_zarr_models.v05.image import ImageAttrs  # noqa: PLC0415 - dear, and writers need it only

    ImageAttrs.model_validate(attributes["ome"])
