"""One table of a store: an AnnData group under tables/, and what stformat derives from it.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html and
spec/stformat-0.1.md, "Tables".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from stformat.metadata import anndata_zarr, spatialdata_zarr
from stformat.model import Genes, Progress, ProgressEvent, Table, silent
from stformat.spill import Spill
from stformat.store import layout
from stformat.store.counts_writer import CountsSummary, write_counts
from stformat.store.nodes import refusals_of, uninterrupted, write_group
from stformat.store.shard import ZSTD_LEVEL
from stformat.store.vector_writer import write_vector

__all__ = ["obs_columns", "read_summary", "var_frame", "write_table"]

_ARRAY_OPTIONS: Mapping[str, Any] = {
    "compressors": (ZstdCodec(level=ZSTD_LEVEL, checksum=True),),
}

_ELEMENT_SHARD_BYTES = 1 << 26
_TEXT_SHARD = 1 << 18

type Column = NDArray[Any] | pd.Categorical
"""Values of one column of obs."""


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
    by_gene = root / layout.by_gene_path(table.name)
    with Spill(root) as spill:
        summary = write_counts(group / "X", by_gene, table.counts, order, spill, progress=progress)
    progress(ProgressEvent(step="table"))
    _write_spots(root / layout.spots_path(table.name), table, order)
    write_group(root / "stformat" / table.name)
    region = table.spots.region
    write_group(
        group, anndata_zarr.anndata_attributes() | spatialdata_zarr.table_attributes(region)
    )
    columns = obs_columns(table, order, summary, image_shape=image_shape)
    _write_obs(group / "obs", table.spots.barcodes, order, columns)
    elements = {
        "var": var_frame(table.genes),
        "obsm": {"spatial": table.spots.xy[order]},
        "uns": {"spatialdata_attrs": spatialdata_zarr.table_association(region)},
        **{name: {} for name in anndata_zarr.EMPTY_MAPPINGS},
    }
    with _element_group(group) as target:
        for name, element in elements.items():
            _write_element(target, name, element)
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


def obs_columns(
    table: Table,
    order: NDArray[np.int64],
    summary: CountsSummary,
    *,
    image_shape: tuple[int, int] | None,
) -> Iterator[tuple[str, Column]]:
    """Yield the columns of obs one after another: one row a spot in the order of the store.

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

    Yields
    ------
    tuple of str and (n_obs,) array
        Name and values: those of `stformat.store.record_checks.OBS_COLUMNS` but the index
        (``section`` only where given), then the annotations.
        ``spot_id`` is the number of the stored row and the index of its shape; `x` and `y` are
        in full-resolution pixels.
    """
    spots = table.spots
    n_obs = len(order)
    yield (
        "region",
        pd.Categorical.from_codes(
            np.zeros(n_obs, dtype=np.int8), categories=pd.Index([spots.region], dtype=object)
        ),
    )
    yield "spot_id", np.arange(n_obs, dtype=np.int64)
    height, width = image_shape or (0, 0)
    inside = np.ones(n_obs, dtype=np.bool_)
    for name, axis, size in (("x", 0, width), ("y", 1, height)):
        values = spots.xy[order, axis]
        inside &= (values >= 0) & (values < size)
        yield name, values
        del values
    yield "array_row", spots.array_row[order].astype(np.int64, copy=False)
    yield "array_col", spots.array_col[order].astype(np.int64, copy=False)
    yield "in_tissue", spots.in_tissue[order]
    yield "in_image", inside
    yield "total_counts", summary.total_counts
    yield "n_genes", summary.n_genes
    yield "source_index", order
    if spots.section is not None:
        yield "section", _categorical(spots.section[order])
    for name, labels in spots.annotations.items():
        yield name, _categorical(labels[order])


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


def _write_obs(
    directory: Path,
    barcodes: NDArray[np.object_] | NDArray[np.bytes_],
    order: NDArray[np.int64],
    columns: Iterator[tuple[str, Column]],
) -> None:
    """Write obs as AnnData encodes a dataframe, holding one column at a time."""
    write_group(directory)
    names = []
    with _element_group(directory) as group:
        _write_barcodes(group, barcodes, order)
        for name, values in columns:
            if isinstance(values, np.ndarray):
                # As AnnData writes numbers, in a fifth of the time.
                attributes = anndata_zarr.number_attributes()
                write_vector(directory / name, values, attributes=attributes)
            else:
                _write_element(group, name, values)
            names.append(name)
    write_group(directory, anndata_zarr.dataframe_attributes("barcode", names))


def _write_barcodes(
    group: zarr.Group, barcodes: NDArray[np.object_] | NDArray[np.bytes_], order: NDArray[np.int64]
) -> None:
    """Write the index of obs, making text of a shard of it at a time."""
    n_obs = len(order)
    chunks, shards = layout.vector_chunks(n_obs, shard=_TEXT_SHARD)
    array = uninterrupted(
        partial(
            group.create_array,
            "barcode",
            shape=(n_obs,),
            dtype="string",
            chunks=chunks,
            shards=shards,
            compressors=_ARRAY_OPTIONS["compressors"],
            fill_value="",
            attributes=anndata_zarr.text_attributes(),
        )
    )
    for start in range(0, n_obs, shards[0]):
        block = barcodes[order[start : start + shards[0]]]
        texts = _decoded(block)
        uninterrupted(partial(array.set_basic_selection, slice(start, start + len(texts)), texts))


def _decoded(barcodes: NDArray[np.object_] | NDArray[np.bytes_]) -> NDArray[Any]:
    is_packed = barcodes.dtype.kind == "S"
    return np.char.decode(cast("Any", barcodes), "utf-8") if is_packed else barcodes


@contextmanager
def _element_group(directory: Path) -> Iterator[zarr.Group]:
    """Open a group for AnnData elements; the user's settings must not reach the bytes."""
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
        yield zarr.open_group(str(directory), mode="r+")


def _write_element(group: zarr.Group, name: str, element: object) -> None:
    uninterrupted(
        partial(anndata.io.write_elem, group, name, element, dataset_kwargs=_ARRAY_OPTIONS)
    )
