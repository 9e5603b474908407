"""A synthetic slide as a SpatialData object, with the variety that real ones have.

Needs the library spatialdata, which is imported when an object is made.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anndata
import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing.synthetic import SyntheticSlide

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = [
    "ExpectedSpatialData",
    "SpatialDataQuirks",
    "expected_spatialdata",
    "make_spatialdata",
    "write_spatialdata",
]

_ANGLE = np.deg2rad(30.0)
_ROTATED = np.array(
    [
        [2.0 * np.cos(_ANGLE), -2.0 * np.sin(_ANGLE), 5.0],
        [2.0 * np.sin(_ANGLE), 2.0 * np.cos(_ANGLE), -7.0],
        [0.0, 0.0, 1.0],
    ]
)
_SCALED = np.diag([0.5, 0.5, 1.0])
_SHIFTED = np.array([[4.0, 0.0, 10.0], [0.0, 4.0, 20.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialDataQuirks:
    """How an object departs from the plainest one."""

    shapes: Literal["circles", "squares", "polygons"] = "circles"
    """Outlines of capture areas; polygons are hexagons."""

    layout: Literal["csr", "csc", "dense"] = "csr"
    """How the matrix is held."""

    value_type: Literal["float32", "int64", "uint16"] = "float32"
    """Type of its values."""

    has_text_index: bool = False
    """Shapes are known by names, not by numbers."""

    image: Literal["none", "single", "multiscale"] = "single"
    """Whether there is an image, and its levels."""

    pixel_type: Literal["uint8", "uint16"] = "uint8"
    """Type of its samples."""

    chunk_px: tuple[int, int] = (256, 256)
    """Rows and columns of its chunks."""

    placement: Literal["identity", "scale", "affine", "sequence"] = "identity"
    """How shapes and image come to lie on each other: both as they are; the image, where
    there is one, made smaller; shapes turned and made larger; shapes made larger and then moved."""

    system: str = "global"
    """Coordinate system in which they do."""

    has_microns: bool = False
    """The image, or the shapes without one, have a system ``microns``."""

    has_array: bool = True
    """The table has ``array_row``, ``array_col`` and ``in_tissue``."""

    is_shuffled: bool = False
    """Rows of the table are in another order than the shapes."""

    n_rows_without_shape: int = 0
    """How many shapes are missing, the first ones."""

    n_shapes_without_row: int = 0
    """How many rows are missing, the last ones."""

    has_outlines: bool = False
    """There are polygons that no table annotates."""

    has_others: bool = False
    """There are points, and a table that annotates nothing."""

    container: Literal["0.1", "0.2"] = "0.2"
    """Version of the container: Zarr format 2 or 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedSpatialData:
    """What a reader must find in the container of `write_spatialdata`."""

    barcodes: tuple[str, ...]
    """(n_obs,) names of the rows."""

    xy: NDArray[np.float64]
    """(n_obs, 2) centres in pixels, columns ``(x, y)``; exact where nothing is transformed."""

    radius_px: float
    """Radius, or half a side, in pixels."""

    array_xy: NDArray[np.int64]
    """(n_obs, 2) places on the array, columns ``(array_col, array_row)``."""

    in_tissue: NDArray[np.bool_]
    """(n_obs,) column ``in_tissue``."""

    counts: sparse.csr_array
    """(n_obs, n_genes) int32."""

    image: NDArray[np.unsignedinteger] | None
    """(3, y, x) pixels."""

    mpp: float | None
    """Microns per pixel."""

    outlines: tuple[shapely.Polygon, ...]
    """Polygons that no table annotates, in pixels."""


def expected_spatialdata(
    slide: SyntheticSlide, quirks: SpatialDataQuirks | None = None
) -> ExpectedSpatialData:
    """Say what a reader must find in a slide's container.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    quirks : SpatialDataQuirks, optional
        Those of `make_spatialdata`.

    Returns
    -------
    ExpectedSpatialData
        Places, counts and pixels.
    """
    quirks = quirks or SpatialDataQuirks()
    rows = _table_rows(slide, quirks)
    rows = rows[rows >= quirks.n_rows_without_shape]
    radius = slide.pitch_px / 4
    # A hexagon is stored as the circle of its area.
    hexagon = np.sqrt(3 * np.sqrt(3) / 2 / np.pi)
    return ExpectedSpatialData(
        barcodes=tuple(f"spot-{row}" for row in rows.tolist()),
        xy=slide.xy[rows],
        radius_px=radius * (hexagon if quirks.shapes == "polygons" else 1.0),
        array_xy=slide.array_xy[rows] if quirks.has_array else np.full((len(rows), 2), -1),
        in_tissue=slide.in_tissue[rows] | (not quirks.has_array),
        counts=slide.counts[rows],
        image=None if quirks.image == "none" else _pixels(slide, quirks),
        mpp=slide.mpp if quirks.has_microns else None,
        outlines=_polygons(slide) if quirks.has_outlines else (),
    )


def make_spatialdata(slide: SyntheticSlide, quirks: SpatialDataQuirks | None = None) -> SpatialData:
    """Make a SpatialData object of a slide.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    quirks : SpatialDataQuirks, optional
        How the object departs from the plainest.

    Returns
    -------
    spatialdata.SpatialData
        The image ``slide_image`` of dask arrays, the shapes ``areas`` and the table ``counts``.

    Raises
    ------
    ValueError
        If `quirks` leave no row with a shape.
    """
    quirks = quirks or SpatialDataQuirks()
    if not (_table_rows(slide, quirks) >= quirks.n_rows_without_shape).any():
        raise ValueError("these quirks leave no row with a shape")
    with warnings.catch_warnings():
        # What libraries say of one another is not of the slide.
        warnings.simplefilter("ignore")
        return _make(slide, quirks)


def _make(slide: SyntheticSlide, quirks: SpatialDataQuirks) -> SpatialData:
    from spatialdata import SpatialData  # noqa: PLC0415 - an extra, and dear
    from spatialdata.models import PointsModel, ShapesModel, TableModel  # noqa: PLC0415 - likewise

    own, transformation = _placement(quirks)
    into = {quirks.system: transformation}
    frame = _areas(slide, quirks, own)
    if quirks.has_microns and quirks.image == "none":
        into["microns"] = _affine(np.diag([slide.mpp, slide.mpp, 1.0]) @ np.linalg.inv(own))
    elements: dict[str, Any] = {"areas": ShapesModel.parse(frame, transformations=into)}
    if quirks.image != "none":
        elements["slide_image"] = _image(slide, quirks)
    if quirks.has_outlines:
        polygons = [shapely.transform(one, lambda xy: _moved(xy, own)) for one in _polygons(slide)]
        outlined = geopandas.GeoDataFrame({"kind": ["a", "b"]}, geometry=polygons)
        elements["drawn"] = ShapesModel.parse(
            outlined, transformations={quirks.system: transformation}
        )
    elements["counts"] = TableModel.parse(
        _table(slide, quirks), region="areas", region_key="which", instance_key="number"
    )
    if quirks.has_others:
        elements["molecules"] = PointsModel.parse(
            np.array([[1.0, 2.0], [3.0, 4.0]]), transformations={quirks.system: transformation}
        )
        elements["plain"] = anndata.AnnData(np.ones((2, 2)))
    return SpatialData.init_from_elements(elements)


def write_spatialdata(
    slide: SyntheticSlide, path: Path, *, quirks: SpatialDataQuirks | None = None
) -> Path:
    """Write a slide as a SpatialData container.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    path : pathlib.Path
        Directory to make.
    quirks : SpatialDataQuirks, optional
        How the container departs from the plainest.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    ValueError
        If `quirks` leave no row with a shape.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide
    >>> slide = make_slide(height=400, width=400, n_genes=20, pitch_px=60.0, seed=0)
    >>> path = write_spatialdata(slide, Path(tempfile.mkdtemp()) / "slide.zarr")
    >>> sorted(child.name for child in path.iterdir())
    ['images', 'shapes', 'tables', 'zarr.json']
    """
    from spatialdata._io.format import SpatialDataContainerFormats  # noqa: PLC0415 - as above

    quirks = quirks or SpatialDataQuirks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formats = SpatialDataContainerFormats[quirks.container]
        make_spatialdata(slide, quirks).write(path, sdata_formats=formats)
    return path


def _table_rows(slide: SyntheticSlide, quirks: SpatialDataQuirks) -> NDArray[np.int64]:
    rows = np.arange(len(slide.xy) - quirks.n_shapes_without_row)
    if quirks.is_shuffled:
        rows = np.random.default_rng(len(rows)).permutation(rows)
    return rows


def _placement(quirks: SpatialDataQuirks) -> tuple[NDArray[np.float64], Any]:
    """Map pixels to the shapes' own coordinates; and the shapes' transformation."""
    from spatialdata.transformations import Identity, Scale, Sequence, Translation  # noqa: PLC0415

    if quirks.placement == "scale" and quirks.image != "none":
        return _SCALED, Identity()
    if quirks.placement == "affine":
        return np.linalg.inv(_ROTATED), _affine(_ROTATED)
    if quirks.placement == "sequence":
        steps = [Scale([4.0, 4.0], axes=("x", "y")), Translation([10.0, 20.0], axes=("x", "y"))]
        return np.linalg.inv(_SHIFTED), Sequence(steps)
    return np.eye(3), Identity()


def _affine(matrix: NDArray[np.float64]) -> Any:  # noqa: ANN401 - of an extra
    from spatialdata.transformations import Affine  # noqa: PLC0415 - as above

    return Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))


def _moved(xy: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return xy @ affine[:2, :2].T + affine[:2, 2]


def _areas(
    slide: SyntheticSlide, quirks: SpatialDataQuirks, own: NDArray[np.float64]
) -> geopandas.GeoDataFrame:
    kept = slice(quirks.n_rows_without_shape, None)
    xy = slide.xy[kept]
    radius = slide.pitch_px / 4
    scale = float(np.sqrt(abs(np.linalg.det(own[:2, :2]))))
    index = pd.Index(_instances(np.arange(len(slide.xy))[kept], quirks))
    if quirks.shapes == "circles":
        moved = xy if np.array_equal(own, np.eye(3)) else _moved(xy, own)
        columns = {"radius": np.full(len(xy), radius * scale)}
        return geopandas.GeoDataFrame(columns, geometry=shapely.points(moved), index=index)
    if quirks.shapes == "squares":
        low, high = xy - radius, xy + radius
        polygons = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
    else:
        turns = np.arange(6) * np.pi / 3
        corners = xy[:, None] + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        polygons = shapely.polygons(corners)
    polygons = shapely.transform(polygons, lambda points: _moved(points, own))
    return geopandas.GeoDataFrame(geometry=polygons, index=index)


def _instances(rows: NDArray[np.int64], quirks: SpatialDataQuirks) -> NDArray[Any]:
    numbers = 1000 + 3 * rows
    if quirks.has_text_index:
        return np.array([f"area {number}" for number in numbers.tolist()], dtype=object)
    return numbers


def _table(slide: SyntheticSlide, quirks: SpatialDataQuirks) -> anndata.AnnData:
    rows = _table_rows(slide, quirks)
    columns: dict[str, Any] = {
        "which": pd.Categorical(["areas"] * len(rows)),
        "number": _instances(rows, quirks),
    }
    if quirks.has_array:
        columns |= {
            "array_row": slide.array_xy[rows, 1],
            "array_col": slide.array_xy[rows, 0],
            "in_tissue": slide.in_tissue[rows],
            "label": pd.Categorical(slide.labels[rows]),
        }
    counts = slide.counts[rows].astype(quirks.value_type)
    matrix: Any = sparse.csr_matrix(counts)
    if quirks.layout == "csc":
        matrix = sparse.csc_matrix(counts)
    elif quirks.layout == "dense":
        matrix = counts.toarray()
    names = pd.Index([f"spot-{row}" for row in rows.tolist()], dtype=object)
    genes = pd.DataFrame(index=pd.Index(slide.gene_names, dtype=object))
    return anndata.AnnData(matrix, obs=pd.DataFrame(columns, index=names), var=genes)


def _pixels(slide: SyntheticSlide, quirks: SpatialDataQuirks) -> NDArray[np.unsignedinteger]:
    return slide.image if quirks.pixel_type == "uint8" else slide.image.astype(np.uint16) * 257


def _image(slide: SyntheticSlide, quirks: SpatialDataQuirks) -> Any:  # noqa: ANN401 - of an extra
    import dask.array  # noqa: PLC0415 - dear
    from spatialdata.models import Image2DModel  # noqa: PLC0415 - as above
    from spatialdata.transformations import Identity, Scale  # noqa: PLC0415 - as above

    is_scaled = quirks.placement == "scale"
    into: dict[str, Any] = {
        quirks.system: Scale([0.5, 0.5], axes=("x", "y")) if is_scaled else Identity()
    }
    if quirks.has_microns:
        into["microns"] = Scale([slide.mpp, slide.mpp], axes=("x", "y"))
    return Image2DModel.parse(
        dask.array.from_array(  # type: ignore[no-untyped-call]  # dask has no types
            _pixels(slide, quirks), chunks=(3, *quirks.chunk_px)
        ),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] if quirks.image == "multiscale" else None,
        transformations=into,
        chunks=(3, *quirks.chunk_px),
    )


def _polygons(slide: SyntheticSlide) -> tuple[shapely.Polygon, ...]:
    width, height = slide.width, slide.height
    return (
        shapely.box(0.0, 0.0, width / 2, height / 4),
        shapely.Polygon([(0.0, 0.0), (width / 2, height / 2), (0.0, height / 2)]),
    )
