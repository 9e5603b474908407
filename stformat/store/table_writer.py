"""One table of a store: an AnnData group under tables/, and what stformat derives from it.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html and
spec/stformat-0.1.md, "Tables".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from stformat.metadata import anndata_zarr, spatialdata_zarr
from stformat.model import Genes, Progress, ProgressEvent, Table, silent
from stformat.store import layout
from stformat.store.counts_writer import CountsSummary, write_counts
from stformat.store.nodes import refusals_of, uninterrupted, write_group
from stformat.store.shard import ZSTD_LEVEL
from stformat.store.vector_writer import write_vector

__all__ = ["obs_frame", "read_summary", "var_frame", "write_table"]

_ARRAY_OPTIONS: Mapping[str, Any] = {
    "compressors": (ZstdCodec(level=ZSTD_LEVEL, checksum=True),),
}

_ELEMENT_SHARD_BYTES = 1 << 26


def write_table(
    root: Path,
    table: Table,
    order: NDArray[np.int64],
    *,
    image_shape: tuple[int, int] | None,
    progress: Progress = silent,
) -> CountsSummary:
    """Write ``tables/<name>`` and ``stformat/<name>/{by_gene,spots}``.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the store.
    table : Table
        Spots, genes and counts, in the order of the source.
    order : (n_obs,) ndarray of int64
        Source row of each stored row, from `stformat.store.layout.spatial_order`.
    image_shape : tuple of int or None
        Height and width of the image in pixels, or None without one.
    progress : Progress
        Told of the steps of `write_counts`, then ``"table"``.

    Returns
    -------
    CountsSummary
        Sums of the matrix.

    Raises
    ------
    CountsError
        If the counts break their promises.
    StoreWriteError
        If the file system refuses.
    """
    group = root / "tables" / table.name
    summary = write_counts(
        group / "X", root / layout.by_gene_path(table.name), table.counts, order, progress=progress
    )
    progress(ProgressEvent(step="table"))
    _write_spots(root / layout.spots_path(table.name), table, order)
    write_group(root / "stformat" / table.name)
    region = table.spots.region
    write_group(
        group, anndata_zarr.anndata_attributes() | spatialdata_zarr.table_attributes(region)
    )
    obs = obs_frame(table, order, summary, image_shape=image_shape)
    elements = {
        "obs": obs,
        "var": var_frame(table.genes),
        "obsm": {"spatial": table.spots.xy[order]},
        "uns": {"spatialdata_attrs": spatialdata_zarr.table_association(region)},
        **{name: {} for name in anndata_zarr.EMPTY_MAPPINGS},
    }
    _write_elements(group, elements)
    return summary


def read_summary(root: Path, name: str) -> CountsSummary:
    """Return what `write_table` returned when it wrote a table.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the store.
    name : str
        Name of the table.

    Returns
    -------
    CountsSummary
        Sums of the matrix.
    """
    obs = root / "tables" / name / "obs"
    total_counts, n_genes = (
        np.asarray(zarr.open_array(str(obs / column), mode="r")[:])
        for column in ("total_counts", "n_genes")
    )
    return CountsSummary(nnz=int(n_genes.sum()), total_counts=total_counts, n_genes=n_genes)


def obs_frame(
    table: Table,
    order: NDArray[np.int64],
    summary: CountsSummary,
    *,
    image_shape: tuple[int, int] | None,
) -> pd.DataFrame:
    """Return obs: one row a spot in the order of the store, index ``barcode``.

    Parameters
    ----------
    table : Table
        Spots in the order of the source.
    order : (n_obs,) ndarray of int64
        Source row of each stored row.
    summary : CountsSummary
        Sums of the stored rows.
    image_shape : tuple of int or None
        Height and width of the image; without one ``in_image`` is False throughout.

    Returns
    -------
    pandas.DataFrame
        The columns of `stformat.store.record_checks.OBS_COLUMNS` (``section`` only where given),
        then the annotations.
        ``spot_id`` is the number of the stored row and the index of its shape; `x` and `y` are
        in full-resolution pixels.
    """
    spots = table.spots
    xy = spots.xy[order]
    height, width = image_shape or (0, 0)
    inside = (xy >= 0).all(axis=1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    columns: dict[str, Any] = {
        "region": _categorical(np.full(len(order), spots.region, dtype=object)),
        "spot_id": np.arange(len(order), dtype=np.int64),
        "x": xy[:, 0],
        "y": xy[:, 1],
        "array_row": spots.array_row[order],
        "array_col": spots.array_col[order],
        "in_tissue": spots.in_tissue[order],
        "in_image": inside,
        "total_counts": summary.total_counts,
        "n_genes": summary.n_genes,
        "source_index": order,
    }
    if spots.section is not None:
        columns["section"] = _categorical(spots.section[order])
    for name, labels in spots.annotations.items():
        columns[name] = _categorical(labels[order])
    # An explicit object dtype, here and below: pandas would infer its own string type.
    index = pd.Index(spots.barcodes[order], dtype=object, name="barcode")
    return pd.DataFrame(columns, index=index)


def var_frame(genes: Genes) -> pd.DataFrame:
    """Return var: one row a gene in the order of the source, indexed by its key.

    Parameters
    ----------
    genes : Genes
        Columns of the matrix.

    Returns
    -------
    pandas.DataFrame
        Columns gene_id, gene_name, feature_type and genome; a column with unknown values is of
        pandas' nullable string type.
    """
    index = pd.Index(genes.keys, dtype=object, name="key")
    columns = {
        "gene_id": genes.gene_id,
        "gene_name": genes.gene_name,
        "feature_type": genes.feature_type,
        "genome": genes.genome,
    }
    return pd.DataFrame(
        {name: _text(values, index) for name, values in columns.items()}, index=index
    )


def _text(values: NDArray[np.object_], index: pd.Index[Any]) -> pd.Series[Any]:
    has_nulls = any(value is None for value in values)
    return pd.Series(values, index=index, dtype=pd.StringDtype() if has_nulls else object)


def _categorical(labels: NDArray[np.object_]) -> pd.Categorical:
    """Categories in the order of their code points; None is no category."""
    codes, names = pd.factorize(labels, sort=True)
    return pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=object))


def _write_spots(directory: Path, table: Table, order: NDArray[np.int64]) -> None:
    """Centres and radii as plain arrays: what a tile engine needs, without a table reader."""
    spots = table.spots
    write_vector(directory / "x", spots.xy[order, 0])
    write_vector(directory / "y", spots.xy[order, 1])
    write_vector(directory / "radius", spots.radius_px[order].astype(np.float64, copy=False))
    write_group(directory)


def _write_elements(directory: Path, elements: Mapping[str, Any]) -> None:
    """Write AnnData elements; the user's settings must not reach the bytes."""
    settings = {
        # A chunk that holds only fill values is written too: a missing one is then always damage.
        "array.write_empty_chunks": True,
        "array.target_shard_size_bytes": _ELEMENT_SHARD_BYTES,
    }
    with (
        refusals_of(directory),
        zarr.config.set(settings),
        anndata.settings.override(auto_shard_zarr_v3=True, allow_write_nullable_strings=True),
    ):
        group = zarr.open_group(str(directory), mode="r+")
        for name, element in elements.items():
            uninterrupted(
                partial(anndata.io.write_elem, group, name, element, dataset_kwargs=_ARRAY_OPTIONS)
            )
