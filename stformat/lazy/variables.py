"""Which variables, coordinates and attributes a slide shows to xarray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from xarray.core import indexing

from stformat.lazy.arrays import (
    CentersArray,
    ExpressionArray,
    FrameColumn,
    RepeatedText,
    RowChunks,
    TilesArray,
)
from stformat.store.lazy_array import OuterArray, Positions
from stformat.store.lazy_image import MICRONS, PIXELS, lazy_level
from stformat.store.reader import Slide

__all__ = ["level_datasets", "spots_dataset"]

NO_ROWS = np.empty(0, np.int64)
TEXT = np.dtype(object)
AXES: dict[str, Literal[0, 1]] = {"x": 0, "y": 1}
UNITS = {"_px": PIXELS, "_um": MICRONS}


def spots_dataset(
    slide: Slide,
    *,
    tile_px: int,
    mpp: float | None,
    genes: Sequence[str] | None,
    normalize: Literal["log1p"] | None,
    target_sum: float | None,
) -> xr.Dataset:
    """Return the Dataset of a slide's bound table; see `stformat.lazy.dataset.open_dataset`."""
    _check_normalization(normalize, target_sum)
    if normalize is not None and target_sum is None:
        # Once, and recorded: not by every process that computes a part.
        target_sum = slide.median_total
    columns = None if genes is None else slide.gene_columns(genes)
    n_genes = slide.n_vars if columns is None else len(columns)
    arrays: dict[str, tuple[tuple[str, ...], OuterArray]] = {}
    if slide.has_image:
        dims = ("obs", "c", "tile_y", "tile_x")
        arrays["tiles"] = (dims, _tiles(slide, tile_px=tile_px, mpp=mpp))
    arrays["expression"] = (
        ("obs", "var"),
        ExpressionArray(
            slide=slide,
            columns=columns,
            normalize=normalize,
            target_sum=target_sum,
            shape=(slide.n_obs, n_genes),
            dtype=np.dtype(np.float32),
        ),
    )
    # One chunking for all that has rows: xarray refuses to name the chunks of a Dataset otherwise.
    row_bytes = [math.prod(array.shape[1:]) * array.dtype.itemsize for _, array in arrays.values()]
    chunks = {"preferred_chunks": RowChunks(slide, max(1, *row_bytes))}
    coords = {
        name: _lazy(("obs",), array, chunks, UNITS.get(name[-3:]))
        for name, array in _obs_arrays(slide).items()
    }
    coords |= {name: _lazy(("var",), array) for name, array in _var_arrays(slide, columns).items()}
    if genes is not None:
        coords["gene"] = xr.Variable("var", np.array(genes, dtype=np.str_))
    if slide.has_image:
        coords["c"] = xr.Variable("c", np.array(slide.channel_names))
    return xr.Dataset(
        {name: _lazy(dims, array, chunks) for name, (dims, array) in arrays.items()},
        coords=coords,
        attrs=_slide_attributes(slide)
        | _settings(slide, mpp=mpp, normalize=normalize, target_sum=target_sum),
    )


def level_datasets(slide: Slide) -> dict[str, xr.Dataset]:
    """Return one Dataset a pyramid level by path; see `stformat.lazy.datatree.open_datatree`."""
    n_levels = slide.opened.engine.n_levels  # raises NoImageError where there is none
    levels = {f"/s{level}": lazy_level(slide, level).to_dataset() for level in range(n_levels)}
    return {"/": xr.Dataset(attrs=_slide_attributes(slide)), **levels}


def _lazy(
    dims: tuple[str, ...],
    array: OuterArray,
    encoding: Mapping[str, Any] | None = None,
    attrs: Mapping[str, str] | None = None,
) -> xr.Variable:
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs, encoding)


def _tiles(slide: Slide, *, tile_px: int, mpp: float | None) -> TilesArray:
    # The tiles of no rows check size and resolution and know channels and type; they read nothing.
    none = slide.tiles(tile_px, mpp=mpp, rows=NO_ROWS)
    shape = (slide.n_obs, *none.shape[1:])
    return TilesArray(slide=slide, tile_px=tile_px, mpp=mpp, shape=shape, dtype=none.dtype)


def _obs_arrays(slide: Slide) -> dict[str, OuterArray]:
    """Make the coordinates along obs."""
    shape = (slide.n_obs,)
    scales = {"px": 1.0} if slide.mpp is None else {"px": 1.0, "um": slide.mpp}
    centers = {
        f"{name}_{unit}": CentersArray(
            slide=slide, axis=axis, scale=scale, shape=shape, dtype=np.dtype(np.float64)
        )
        for unit, scale in scales.items()
        for name, axis in AXES.items()
    }
    return {
        "slide": RepeatedText(text=slide.slide_id, shape=shape),
        "barcode": FrameColumn(slide=slide, frame="obs", column=None, shape=shape, dtype=TEXT),
        **centers,
        "in_tissue": FrameColumn(
            slide=slide, frame="obs", column="in_tissue", shape=shape, dtype=np.dtype(np.bool_)
        ),
    }


def _var_arrays(slide: Slide, rows: Positions | None) -> dict[str, FrameColumn]:
    """Make the coordinates along var."""
    shape = (slide.n_vars if rows is None else len(rows),)
    columns = {"gene_key": None, "gene_id": "gene_id", "gene_name": "gene_name"}
    return {
        name: FrameColumn(
            slide=slide, frame="var", column=column, shape=shape, dtype=TEXT, rows=rows
        )
        for name, column in columns.items()
    }


def _slide_attributes(slide: Slide) -> dict[str, str | float]:
    known = {} if slide.mpp is None else {"mpp": slide.mpp}
    return {"slide_id": slide.slide_id, "technology": slide.metadata.technology, **known}


def _settings(
    slide: Slide,
    *,
    mpp: float | None,
    normalize: Literal["log1p"] | None,
    target_sum: float | None,
) -> dict[str, str | float]:
    """Describe how tiles and expression were asked for; what does not apply is left out."""
    settings: dict[str, str | float] = {}
    tile_mpp = slide.mpp if mpp is None else mpp
    if slide.has_image and tile_mpp is not None:
        settings["tile_mpp"] = tile_mpp
    if normalize is not None and target_sum is not None:
        settings |= {"normalize": normalize, "target_sum": target_sum}
    return settings


def _check_normalization(normalize: str | None, target_sum: float | None) -> None:
    if normalize not in {None, "log1p"}:
        raise ValueError(f"normalize must be None or 'log1p', got {normalize!r}")
    if target_sum is not None and not (math.isfinite(target_sum) and target_sum > 0):
        raise ValueError(f"target_sum must be positive and finite, or None, got {target_sum}")
