"""Tiles as one array: a NumPy file to be mapped into memory, or a sharded Zarr array."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from stformat.export._npy import npy_file
from stformat.export._tile_files import expression_file, write_rows_csv
from stformat.export._tile_set import BATCH_BYTES, TileSet
from stformat.model import Progress
from stformat.store.nodes import consolidate, uninterrupted

__all__ = ["write_npy_tiles", "write_zarr_tiles"]

_CHUNK_BYTES = 1 << 18
"""Bytes of a chunk: a tile or a few, so that a random tile costs little more than itself."""

_VECTOR_CHUNK = 1 << 15
_CODECS = (ZstdCodec(level=1, checksum=True),)


def write_npy_tiles(chosen: TileSet, directory: Path, progress: Progress) -> None:
    """Write ``tiles.npy`` (n, c, y, x), ``rows.csv``, and ``expression.npy`` where it is wanted.

    Parameters
    ----------
    chosen : TileSet
        The tiles.
    directory : pathlib.Path
        Where to write.
    progress : callable
        Told of tiles.
    """
    with (
        expression_file(chosen, directory) as add_expression,
        npy_file(directory / "tiles.npy", chosen.tiles.shape, chosen.tiles.dtype) as add_tiles,
        closing(chosen.iter_batches(chosen.batch_size, progress)) as batches,
    ):
        for here, batch in batches:
            add_tiles(batch)
            add_expression(here)
    write_rows_csv(chosen, directory)


def write_zarr_tiles(chosen: TileSet, directory: Path, progress: Progress) -> None:
    """Write a Zarr v3 group that xarray opens, under the names of `stformat.open_dataset`.

    Arrays are ``tiles (obs, c, tile_y, tile_x)``, sharded; ``expression (obs, var)`` and
    ``gene_key (var)`` where they are wanted; ``barcode``, ``x_px``, ``y_px``, ``row`` and
    ``coverage`` along ``obs``, and ``c``, the names of the channels.

    Parameters
    ----------
    chosen : TileSet
        The tiles.
    directory : pathlib.Path
        The group to be.
    progress : callable
        Told of tiles.

    Notes
    -----
    A shard is encoded at once: `BATCH_BYTES` of tiles and as much again.
    """
    n, *tile_shape = chosen.tiles.shape
    in_chunk = min(n, max(1, _CHUNK_BYTES // chosen.row_bytes))
    most_chunks = max(1, BATCH_BYTES // (in_chunk * chosen.row_bytes))
    in_shard = in_chunk * min(most_chunks, -(-n // in_chunk))
    # The user's settings must not reach the bytes.
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = _held(lambda: zarr.open_group(directory, mode="w", zarr_format=3))
        tiles = _array(
            group, "tiles", (n, *tile_shape), chosen.tiles.dtype,
            dims=("obs", "c", "tile_y", "tile_x"),
            chunks=(in_chunk, *tile_shape), shards=(in_shard, *tile_shape),
        )  # fmt: skip
        _write_columns(group, chosen)
        expression = _expression_array(group, chosen, in_chunk, in_shard)
        with closing(chosen.iter_batches(in_shard, progress)) as batches:
            for here, batch in batches:
                _set(tiles, here, batch)
                if expression is not None and chosen.expression is not None:
                    _set(expression, here, chosen.read_expression(chosen.expression, here))
        _held(lambda: group.attrs.update(_attributes(chosen)))
        consolidate(directory)


def _expression_array(
    group: zarr.Group, chosen: TileSet, in_chunk: int, in_shard: int
) -> zarr.Array[Any] | None:
    if chosen.expression is None:
        return None
    genes = np.array(chosen.expression.genes, dtype=object)
    _write_vector(group, "gene_key", genes, dim="var")
    n_genes = len(genes)
    return _array(
        group, "expression", (len(chosen), n_genes), np.dtype(np.float32), dims=("obs", "var"),
        chunks=(in_chunk, n_genes), shards=(in_shard, n_genes),
    )  # fmt: skip


def _write_columns(group: zarr.Group, chosen: TileSet) -> None:
    x, y = chosen.xy.T
    columns = {"x_px": x, "y_px": y, "row": chosen.rows, "coverage": chosen.coverage}
    _write_vector(group, "barcode", np.array(chosen.barcodes, dtype=object), dim="obs")
    for name, values in columns.items():
        _write_vector(group, name, values, dim="obs")
    _write_vector(group, "c", np.array(chosen.slide.channel_names, dtype=object), dim="c")


def _write_vector(group: zarr.Group, name: str, values: NDArray[Any], *, dim: str) -> None:
    dtype = "string" if values.dtype == object else values.dtype
    chunks = (min(_VECTOR_CHUNK, len(values)),)
    array = _array(group, name, values.shape, dtype, dims=(dim,), chunks=chunks)
    _set(array, slice(None), values)


def _array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,  # noqa: ANN401 - what zarr takes for one
    *,
    dims: tuple[str, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    return _held(
        lambda: group.create_array(
            name, shape=shape, dtype=dtype, chunks=chunks, shards=shards, compressors=_CODECS,
            dimension_names=dims,
        )
    )  # fmt: skip


def _set(array: zarr.Array[Any], here: slice, values: NDArray[Any]) -> None:
    _held(lambda: array.__setitem__(here, values))


def _held[T](write: Callable[[], T]) -> T:
    return uninterrupted(write)


def _attributes(chosen: TileSet) -> dict[str, Any]:
    slide = chosen.slide
    known = {} if slide.mpp is None else {"mpp": slide.mpp}
    coordinates = "barcode x_px y_px row coverage"
    return {
        "slide_id": slide.slide_id,
        "technology": slide.metadata.technology,
        **known,
        # How xarray tells coordinates that have no dimension of their own from variables.
        "coordinates": coordinates + (" gene_key" if chosen.expression else ""),
    }
