"""AnnData files, written in blocks of rows.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from numpy.typing import NDArray

from stformat.errors import CorruptStoreError, Problem
from stformat.export._row_blocks import row_blocks
from stformat.export._source import table_of
from stformat.metadata.anndata_zarr import (
    EMPTY_MAPPINGS,
    anndata_attributes,
    sparse_attributes,
)
from stformat.model import Progress, ProgressEvent
from stformat.store.reader import Slide

__all__ = ["spatial_image", "spot_diameter_px", "write_anndata", "write_h5ad"]

_CHUNK = 1 << 16
_COMPRESSION: Mapping[str, Any] = MappingProxyType({"compression": "gzip", "compression_opts": 1})
_MAX_INT32 = np.iinfo(np.int32).max
_HIRES_PX = 2000


def write_h5ad(slide: Slide, path: Path, progress: Progress) -> None:
    """Write a table as AnnData, with places and a small image as scanpy and squidpy name them.

    Parameters
    ----------
    slide : Slide
        Bound to the table.
    path : pathlib.Path
        The file.
    progress : callable
        Told of ``"counts"`` and ``"table"``.

    Notes
    -----
    ``X`` is CSR of raw counts; ``obs`` and ``var`` are the store's; ``obsm["spatial"]`` has the
    centres in full-resolution pixels, columns ``(x, y)``. ``uns["spatial"][<slide id>]`` has
    ``scalefactors`` and, of an 8-bit RGB image, ``images["hires"]``, at most 2000 pixels wide or
    high. Memory: a block of 4 million counts, ``obs`` and ``var``.
    """
    images, scale = spatial_image(slide, _HIRES_PX)
    library = {
        "images": {} if images is None else {"hires": images},
        "scalefactors": {
            "spot_diameter_fullres": spot_diameter_px(slide),
            **({} if scale is None else {"tissue_hires_scalef": scale}),
        },
    }
    # A slash in a key of HDF5 begins a group of its own.
    uns = {"spatial": {slide.slide_id.replace("/", "_"): library}, "stformat": _known(slide)}
    write_anndata(slide, path, uns=uns, progress=progress)


def spatial_image(slide: Slide, max_px: int) -> tuple[NDArray[np.uint8] | None, float | None]:
    """Return an 8-bit RGB image made small, (y, x, c), and its pixels to one of full resolution."""
    if not slide.has_image or slide.dtype != np.uint8 or len(slide.channel_names) != 3:
        return None, None
    small = slide.thumbnail(max_px)
    scale = small.shape[2] / slide.levels[0].width
    return np.ascontiguousarray(small.transpose(1, 2, 0)).astype(np.uint8, copy=False), scale


def spot_diameter_px(slide: Slide) -> float:
    """Return the diameter of a spot, or the side of a bin; of those that differ the median."""
    return 2.0 * float(np.median(slide.radius_px)) if slide.n_obs else 0.0


def write_anndata(
    slide: Slide,
    path: Path,
    *,
    uns: Mapping[str, Any],
    progress: Progress,
    more_obs: Mapping[str, NDArray[Any]] = MappingProxyType({}),
) -> None:
    """Write a table with what stands in ``uns``; all else as `write_h5ad`.

    Parameters
    ----------
    slide : Slide
        Bound to the table.
    path : pathlib.Path
        The file.
    uns : mapping
        What stands in ``uns``.
    progress : callable
        Told of ``"counts"`` and ``"table"``.
    more_obs : mapping, optional
        Name to (n_obs,) values of columns of ``obs`` beyond the store's.

    Raises
    ------
    CorruptStoreError
        If rows do not hold as many counts as the store says.
    """
    elements = {
        "obs": _plain(slide.obs).assign(**more_obs),
        "var": _plain(slide.var),
        "obsm": {"spatial": slide.centers_px(slice(None))},
        "uns": dict(uns),
        **{name: {} for name in EMPTY_MAPPINGS},
    }
    with h5py.File(path, "w", libver="earliest") as file:
        file.attrs.update(anndata_attributes())
        _write_matrix(slide, file, progress)
        progress(ProgressEvent(step="table"))
        for name, element in elements.items():
            write_elem(file, name, element, dataset_kwargs=_COMPRESSION)


def _write_matrix(slide: Slide, file: h5py.File, progress: Progress) -> None:
    n_obs, nnz = slide.n_obs, table_of(slide).nnz
    group = file.create_group("X")
    group.attrs.update(sparse_attributes("csr_matrix", (n_obs, slide.n_vars)))
    chunks = (min(_CHUNK, max(1, nnz)),)
    data, indices = (
        group.create_dataset(name, (nnz,), dtype, chunks=chunks, shuffle=True, **_COMPRESSION)
        for name, dtype in (("data", slide.counts.dtype), ("indices", np.dtype(np.int32)))
    )
    indptr = np.zeros(n_obs + 1, dtype=np.int64)
    progress(ProgressEvent(step="counts", total=n_obs, unit="rows"))
    for start, stop in row_blocks(slide):
        block = slide.counts[start:stop]
        begin = int(indptr[start])
        end = begin + block.nnz
        if end > nnz:
            break
        data[begin:end] = block.data
        indices[begin:end] = block.indices
        indptr[start + 1 : stop + 1] = begin + block.indptr[1:]
        progress(ProgressEvent(step="counts", done=stop, total=n_obs, unit="rows"))
    if indptr[-1] != nnz:
        raise CorruptStoreError(
            Problem("table.nnz", table_of(slide).name, f"{nnz} counts stored", f"{indptr[-1]}")
        )
    # SciPy wants indptr and indices of one type, as long as numbers fit.
    group["indptr"] = indptr if nnz > _MAX_INT32 else indptr.astype(np.int32)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose texts every version of AnnData reads: objects, or categories."""
    index = pd.Index(frame.index, dtype=object)
    plain = pd.DataFrame(index=index)
    for name, column in frame.items():
        plain[name] = _plain_column(column).set_axis(index)
    return plain


def _plain_column(column: pd.Series[Any]) -> pd.Series[Any]:
    if not isinstance(column.dtype, pd.StringDtype):
        return column
    # Missing texts have a code of their own in categories, and in arrays of texts none.
    plain = column.astype(object)
    return plain.astype("category") if column.isna().any() else plain


def _known(slide: Slide) -> dict[str, Any]:
    """Describe the slide, of texts and numbers; what is not known is left out."""
    names = ("slide_id", "technology", "stain", "species", "tissue", "disease", "donor", "study")
    known = {name: getattr(slide.metadata, name) for name in names} | {"mpp": slide.mpp}
    return {name: value for name, value in known.items() if value is not None}
