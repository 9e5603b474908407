"""One table of a slide as an AnnData object, as scanpy and squidpy expect it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from stformat.lazy.sparse_blocks import sparse_blocks
from stformat.metadata.spatialdata_zarr import table_association
from stformat.store.layout import level_shapes
from stformat.store.reader import Slide
from stformat.store.row_index import RowIndex

__all__ = ["annotated_matrix", "to_anndata"]

HIRES_PX = 2000
"""Longest edge of the image in ``uns``, as Space Ranger's own."""


def to_anndata(
    slide: Slide,
    *,
    rows: RowIndex | Sequence[str] | None = None,
    genes: Iterable[str] | None = None,
    backed: bool = False,
) -> AnnData:
    """Read the slide's bound table as AnnData, placed on a small image.

    Parameters
    ----------
    slide : Slide
        The slide; ``slide.table(name)`` binds another of its tables.
    rows : int array, mask, slice or barcodes, optional
        Rows of the table, in this order; by default all.
    genes : iterable of str, optional
        Keys, identifiers or names of the genes, in this order; by default all.
    backed : bool, default: False
        Leave the counts in the store: ``X`` is then a dask array of sparse blocks, which scanpy's
        preprocessing takes; ``to_memory()`` loads it. The slide must stay open meanwhile.

    Returns
    -------
    anndata.AnnData
        - ``X``: raw counts, ``csr_matrix`` of int32 (float32 where the source has values that are
          no counts);
        - ``obs`` by barcode and ``var`` by key: copies of ``slide.obs`` and ``slide.var``;
        - ``obsm["spatial"]``: ``(n_obs, 2)`` float64, centres ``(x, y)`` in full-resolution pixels;
        - ``uns["spatial"][slide_id]``, as scanpy and squidpy look for it, where the slide has an
          image: ``images["hires"]``, the whole of it as ``(y, x, c)`` uint8 of at most 2000 pixels
          (uint16 divided by 257); ``scalefactors``: ``tissue_hires_scalef`` (its pixels to a
          full-resolution one) and ``spot_diameter_fullres`` (median of the diameters, or sides of
          bins, in full-resolution pixels); ``metadata``: ``technology`` and, where known, ``mpp``.
          Without an image their plots take points: ``squidpy.pl.spatial_scatter(shape=None)``;
        - ``uns["spatialdata_attrs"]``: what makes it a table of a SpatialData object.

    Raises
    ------
    GeneLookupError
        If a name means several genes, or none.
    BarcodeLookupError
        If no row has a barcode.
    IndexError
        If a row is out of bounds.
    CorruptStoreError
        If a chunk is missing or damaged.

    See Also
    --------
    stformat.to_spatialdata : The whole slide, with the image at full resolution.
    stformat.counts_as_dask : The counts alone.

    Notes
    -----
    Loads ``obs`` and ``var``, 24 bytes a row for places, the small image (12 MB in three channels)
    and, unless `backed`, the counts: 8 bytes a stored value of the chosen rows or, with `genes` and
    where it is less, of these genes in all rows; for a moment twice that. Fluorescence keeps its
    channels: choose one by squidpy's ``img_channel``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> with stf.open_slide(stf.convert_slide(source, folder / "slide.zarr")) as slide:
    ...     table = stf.to_anndata(slide, genes=["ERBB2", "CD3E"])
    >>> table.shape, table.uns["spatial"]["S1"]["images"]["hires"].shape
    ((26, 2), (600, 700, 3))
    """
    chosen = None if rows is None else slide.rows(rows)
    columns = None if genes is None else slide.gene_columns(genes)
    table = annotated_matrix(slide, chosen, columns, backed=backed)
    if slide.has_image:
        spots = table.obs["spot_id"].to_numpy()
        table.uns["spatial"] = {slide.slide_id: _placed_image(slide, spots)}
    return table


def annotated_matrix(
    slide: Slide,
    rows: NDArray[np.int64] | None = None,
    columns: NDArray[np.int64] | None = None,
    *,
    backed: bool,
) -> AnnData:
    """Read a table as it stands in the store, without an image; see `to_anndata`."""
    obs, var = slide.obs, slide.var
    places: dict[str, Any] = {"spatial": slide.centers_px(slice(None) if rows is None else rows)}
    read = _lazy_counts if backed else _read_counts
    return AnnData(
        X=read(slide, rows, columns),
        obs=obs.copy() if rows is None else obs.iloc[rows],
        var=var.copy() if columns is None else var.iloc[columns],
        obsm=places,
        uns={"spatialdata_attrs": table_association(obs["region"].cat.categories[0])},
    )


def _lazy_counts(
    slide: Slide, rows: NDArray[np.int64] | None, columns: NDArray[np.int64] | None
) -> Any:  # noqa: ANN401 - a dask array
    # The type that AnnData itself reads: not every tool knows SciPy's sparse arrays.
    counts = sparse_blocks(slide, None, sparse.csr_matrix)
    counts = counts if rows is None else counts[rows]
    return counts if columns is None else counts[:, columns]


def _read_counts(
    slide: Slide, rows: NDArray[np.int64] | None, columns: NDArray[np.int64] | None
) -> sparse.csr_matrix:
    """Read counts from whichever copy of the matrix holds less that is not wanted."""
    counts = slide.counts
    if columns is None:
        return sparse.csr_matrix(counts[slice(None) if rows is None else rows])
    positions = np.arange(slide.n_obs) if rows is None else rows
    if counts.n_stored_in_columns(columns) < counts.n_stored_in_rows(positions):
        return sparse.csr_matrix(counts.columns(columns).tocsr()[positions])
    return sparse.csr_matrix(counts[positions][:, columns])


def _placed_image(slide: Slide, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Describe the image and the spots as the outputs of Space Ranger do."""
    diameters = 2 * slide.radius_px[rows]
    top = slide.levels[0]
    n_halvings = len(level_shapes(top.height, top.width, smallest_px=HIRES_PX)) - 1
    image = np.ascontiguousarray(slide.thumbnail(HIRES_PX).transpose(1, 2, 0))
    metadata: dict[str, str | float] = {"technology": slide.metadata.technology}
    if slide.mpp is not None:
        metadata["mpp"] = slide.mpp
    return {
        "images": {"hires": image if image.dtype == np.uint8 else (image // 257).astype(np.uint8)},
        "scalefactors": {
            "tissue_hires_scalef": 0.5**n_halvings,
            "spot_diameter_fullres": float(np.median(diameters)) if len(diameters) else 0.0,
        },
        "metadata": metadata,
    }
