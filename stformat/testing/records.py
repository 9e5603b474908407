"""Small slide records with every feature that a store can hold, from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import sparse

from stformat.digests import Digest
from stformat.model import (
    Counts,
    Descriptors,
    Genes,
    Image,
    Mpp,
    Note,
    SlideRecord,
    SourceFile,
    Spots,
    Table,
)

__all__ = ["make_counts", "make_image", "make_record"]


def make_image(pixels: NDArray[np.unsignedinteger], *, band_height: int | None = None) -> Image:
    """Wrap an array as the image of a slide.

    Parameters
    ----------
    pixels : (c, y, x) ndarray of uint8 or uint16
        Level 0.
    band_height : int, optional
        Height of the bands whatever a consumer asks for; by default what it asks for.

    Returns
    -------
    Image
        Three channels are brightfield ``("r", "g", "b")``, any other number fluorescence.

    Examples
    --------
    >>> image = make_image(np.zeros((3, 5, 4), np.uint8))
    >>> [band.shape for band in image.iter_bands(2)]
    [(3, 2, 4), (3, 2, 4), (3, 1, 4)]
    """

    def iter_bands(height: int) -> Iterator[NDArray[np.unsignedinteger]]:
        step = height if band_height is None else band_height
        for top in range(0, pixels.shape[1], step):
            yield np.ascontiguousarray(pixels[:, top : top + step])

    n_c, n_y, n_x = pixels.shape
    is_brightfield = n_c == 3
    return Image(
        shape=(n_c, n_y, n_x),
        dtype=pixels.dtype,
        channel_names=("r", "g", "b") if is_brightfield else tuple(f"ch{c}" for c in range(n_c)),
        background=np.iinfo(pixels.dtype).max if is_brightfield else 0,
        iter_bands=iter_bands,
        codec="tiff/none",
        source=SourceFile(name="image.tif", size=pixels.nbytes, digest=Digest.known("0" * 64)),
    )


def make_counts(matrix: sparse.csr_array, *, block_rows: int = 7) -> Counts:
    """Wrap a matrix as the counts of a table, in blocks of a few rows.

    Examples
    --------
    >>> counts = make_counts(sparse.csr_array(np.eye(3, dtype=np.int32)), block_rows=2)
    >>> [block.shape for block in counts.iter_blocks()]
    [(2, 3), (1, 3)]
    """

    def iter_blocks() -> Iterator[sparse.csr_array]:
        for start in range(0, matrix.shape[0], block_rows):
            yield matrix[start : start + block_rows]

    return Counts(shape=matrix.shape, dtype=matrix.dtype, iter_blocks=iter_blocks)


def make_record(
    *,
    n_obs: int = 40,
    n_vars: int = 30,
    image_px: tuple[int, int] | None = (700, 900),
    n_channels: int = 3,
    pixel_dtype: type[np.unsignedinteger] = np.uint8,
    count_dtype: type[np.int32 | np.float32] = np.int32,
    shape: Literal["circle", "square", "polygon"] = "circle",
    mpp: float | None = 0.5,
    seed: int = 0,
) -> SlideRecord:
    """Make a record of one slide with one table.

    Some centres lie outside the image, one row and one gene are empty, some gene identifiers and
    labels are unknown, rows are in no spatial order, and there are two sections.

    Parameters
    ----------
    n_obs, n_vars : int
        Rows and columns of the count matrix, each at least 2.
    image_px : tuple of int or None
        Height and width of the image; None for a slide without one.
    n_channels : int
        Channels of the image.
    pixel_dtype : type
        ``np.uint8`` or ``np.uint16``.
    count_dtype : type
        ``np.int32`` for counts, ``np.float32`` for values that are no integers.
    shape : {"circle", "square", "polygon"}
        Outline of a capture area; polygons are triangles.
    mpp : float or None
        Microns per pixel, or None for unknown.
    seed : int
        The same seed gives the same record.

    Returns
    -------
    SlideRecord
        The record.

    Examples
    --------
    >>> record = make_record(n_obs=5, image_px=None)
    >>> record.tables[0].counts.shape, record.image
    ((5, 30), None)
    """
    rng = np.random.default_rng(seed)
    table = Table(
        name="expression",
        spots=_spots(rng, n_obs, image_px or (700, 900), shape),
        genes=_genes(n_vars),
        counts=make_counts(_matrix(rng, n_obs, n_vars, count_dtype)),
    )
    image = None
    sources = [SourceFile(name="counts.tsv", size=1, digest=Digest.known("1" * 64))]
    if image_px is not None:
        pixels = rng.integers(0, np.iinfo(pixel_dtype).max, (n_channels, *image_px), pixel_dtype)
        image = make_image(pixels)
        sources.append(
            SourceFile(name="image.tif", size=pixels.nbytes, digest=Digest.known("0" * 64))
        )
    return SlideRecord(
        slide_id=f"synthetic-{seed}",
        descriptors=Descriptors(technology="ST", species="none", licence="CC0-1.0"),
        tables=(table,),
        default_table="expression",
        image=image,
        mpp=Mpp() if mpp is None else Mpp(value=mpp, method="given"),
        sources=tuple(sources),
        notes=(Note(code="synthetic", message="made from a seed"),),
    )


def _spots(
    rng: np.random.Generator,
    n_obs: int,
    image_px: tuple[int, int],
    shape: Literal["circle", "square", "polygon"],
) -> Spots:
    height, width = image_px
    xy = rng.uniform((-20.0, -20.0), (width + 20.0, height + 20.0), (n_obs, 2))
    labels = np.array(["tumour", "stroma", None], dtype=object)
    return Spots(
        region={"circle": "spots", "square": "square_008um", "polygon": "cells"}[shape],
        shape=shape,
        barcodes=_objects([f"{i}x{i % 7}" for i in range(n_obs)]),
        xy=xy,
        radius_px=np.full(n_obs, 12.5),
        array_row=np.arange(n_obs, dtype=np.int64),
        array_col=np.arange(n_obs, dtype=np.int64) % 7,
        in_tissue=rng.random(n_obs) < 0.8,
        section=_objects(["left" if x < width / 2 else "right" for x in xy[:, 0]]),
        pitch_px=50.0,
        pitch_um=200.0,
        diameter_um=100.0,
        annotations={"label": labels[rng.integers(0, 3, n_obs)]},
        outlines=_triangles(xy) if shape == "polygon" else None,
    )


def _triangles(xy: NDArray[np.float64]) -> NDArray[np.object_]:
    corners = np.array([[0.0, -10.0], [9.0, 5.0], [-9.0, 5.0]])
    polygons: NDArray[np.object_] = shapely.to_wkb(shapely.polygons(xy[:, None] + corners))
    return polygons


def _genes(n_vars: int) -> Genes:
    return Genes(
        keys=_objects([f"G{i}" for i in range(n_vars)]),
        key_kind="gene_name",
        gene_id=_objects([None if i % 3 == 0 else f"ENSG{i:011d}" for i in range(n_vars)]),
        gene_name=_objects([f"G{i}" for i in range(n_vars)]),
        feature_type=_objects(["Gene Expression"] * n_vars),
        genome=_objects([None] * n_vars),
    )


def _matrix(
    rng: np.random.Generator,
    n_obs: int,
    n_vars: int,
    dtype: type[np.int32 | np.float32],
) -> sparse.csr_array:
    dense = rng.poisson(1.0, (n_obs, n_vars)) * rng.integers(1, 200, (n_obs, n_vars))
    dense[n_obs // 2] = 0
    dense[:, n_vars // 2] = 0
    scale = 1 if dtype is np.int32 else 0.25
    return sparse.csr_array((dense * scale).astype(dtype))


def _objects(values: list[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
