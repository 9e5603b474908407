"""A synthetic slide as HEST-1k publishes them, with the quirks that real ones have."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anndata
import geopandas
import h5py
import numpy as np
import pandas as pd
import shapely
import tifffile
from anndata.io import write_elem
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing.synthetic import PITCH_UM, SyntheticSlide

__all__ = ["ExpectedHest", "HestQuirks", "expected_hest", "write_hest"]

EMBEDDED_MPP = 0.2645833333333333
"""96 dots an inch: what many image files claim who do not know."""

SPOT_UM = 100.0

_TILE_PX = 256
_CLASSES = ("Neoplastic", "Connective", "Dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class HestQuirks:
    """How a slide's files depart from the plainest ones; the default is how HEST-1k's are."""

    layout: Literal["csr", "csc", "dense"] = "csr"
    """How the matrix is stored."""

    value_type: Literal["float32", "float64", "int32", "int64", "uint16"] = "float32"
    """Type of its values."""

    index_type: Literal["int32", "int64"] = "int32"
    """Type of its indices."""

    has_zeros: bool = False
    """A sparse matrix stores a zero."""

    has_decoys: bool = False
    """``raw``, a layer and embeddings are there, with other values."""

    is_compressed: bool = True
    """HDF5 data sets are compressed."""

    has_nullable_names: bool = False
    """Names of rows are pandas' nullable texts."""

    gene_columns: Literal["none", "visium"] = "none"
    """Whether var has identifiers and types of features, as of Visium."""

    n_antibodies: int = 0
    """How many genes, the last ones, are antibodies; ``gene_columns`` must say so."""

    n_repeated_names: int = 0
    """How many genes, before the antibodies, carry the symbols of the first ones."""

    pixels: Literal["exact", "rounded", "swapped", "none"] = "exact"
    """Columns ``pxl_col_in_fullres``, ``pxl_row_in_fullres``."""

    in_tissue: Literal["bool", "int", "none"] = "bool"
    """Column ``in_tissue``."""

    has_array: bool = True
    """Columns ``array_row``, ``array_col``."""

    has_label: bool = False
    """A categorical column of obs labels spots, some are missing."""

    diameter: Literal["scalefactors", "description", "both"] = "both"
    """Where the diameter of spots is."""

    metadata: Literal["json", "catalogue", "none"] = "json"
    """A document a slide, or a table of all."""

    has_bom: bool = False
    """Descriptions begin with a byte order mark."""

    has_embedded: bool = False
    """The description gives the scale that the original image claims, a wrong one."""

    has_image: bool = True
    """The slide has an image."""

    tissue: Literal["none", "geojson", "holes", "pickle"] = "geojson"
    """Contours of the tissue: as GeoPandas writes them, as HEST-1k 1.0 did, or as a pickle."""

    cells: Literal["none", "parquet", "geojson"] = "none"
    """Outlines of cells."""

    n_other_slides: int = 0
    """Other slides in the folder."""

    technology: Literal["Spatial Transcriptomics", "Visium HD"] = "Spatial Transcriptomics"
    """What the description says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedHest:
    """What a reader must find in the files of `write_hest`."""

    barcodes: tuple[str, ...]
    """(n_obs,) names of the spots."""

    xy: NDArray[np.float64]
    """(n_obs, 2) centres in pixels, columns ``(x, y)``."""

    array_xy: NDArray[np.int64]
    """(n_obs, 2) places on the array, columns ``(array_col, array_row)``."""

    in_tissue: NDArray[np.bool_]
    """(n_obs,) column ``in_tissue``."""

    labels: tuple[str | None, ...] | None
    """(n_obs,) labels, where there are any."""

    gene_names: tuple[str, ...]
    """(n_genes,) names of what is no antibody, repeated ones included."""

    counts: sparse.csr_array
    """(n_obs, n_genes) int32."""

    antibodies: sparse.csr_array
    """(n_obs, n_antibodies) int32."""

    mpp: float | None
    """Microns per pixel."""

    radius_px: float
    """Radius of spots in pixels."""

    tissue: tuple[shapely.Polygon, ...]
    """Contours of the tissue."""

    cells: tuple[tuple[shapely.Polygon, str], ...]
    """Outlines of cells and their classes."""


def expected_hest(slide: SyntheticSlide, quirks: HestQuirks | None = None) -> ExpectedHest:
    """Say what a reader must find in a slide's files.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    quirks : HestQuirks, optional
        Those of `write_hest`.

    Returns
    -------
    ExpectedHest
        Places, counts and outlines.
    """
    quirks = quirks or HestQuirks()
    rows = np.flatnonzero(slide.in_tissue)
    n_genes = len(slide.gene_names) - quirks.n_antibodies
    counts = slide.counts[rows]
    labels = tuple(_labels(slide, rows)) if quirks.has_label else None
    return ExpectedHest(
        barcodes=tuple(_barcodes(slide, rows)),
        xy=slide.xy[rows],
        array_xy=slide.array_xy[rows] if quirks.has_array else np.full((len(rows), 2), -1),
        in_tissue=np.ones(len(rows), dtype=np.bool_),
        labels=labels,
        gene_names=_gene_names(slide, quirks)[:n_genes],
        counts=counts[:, :n_genes],
        antibodies=counts[:, n_genes:],
        mpp=slide.mpp if quirks.metadata != "none" else None,
        radius_px=SPOT_UM / slide.mpp / 2,
        tissue=_tissue(slide) if quirks.tissue in {"geojson", "holes"} else (),
        cells=_cells(slide) if quirks.cells != "none" else (),
    )


def write_hest(slide: SyntheticSlide, folder: Path, *, quirks: HestQuirks | None = None) -> Path:
    """Write a slide as HEST-1k lays it out; its rows are the spots on tissue.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide, with one spot on tissue at least.
    folder : pathlib.Path
        Directory to write into; made where it is missing.
    quirks : HestQuirks, optional
        How the files depart from the plainest.

    Returns
    -------
    pathlib.Path
        `folder`.

    Raises
    ------
    ValueError
        If no spot is on tissue, or `quirks` contradict one another.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide
    >>> slide = make_slide(height=400, width=400, n_genes=20, pitch_px=60.0, seed=0)
    >>> folder = write_hest(slide, Path(tempfile.mkdtemp()))
    >>> sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    ['metadata/S1.json', 'st/S1.h5ad', 'tissue_seg/S1_contours.geojson', 'wsis/S1.tif']
    """
    quirks = quirks or HestQuirks()
    if not slide.in_tissue.any():
        raise ValueError("no spot of this slide is on tissue")
    if quirks.n_antibodies and quirks.gene_columns == "none":
        raise ValueError("types of features are in the columns of var")
    if quirks.diameter == "description" and quirks.metadata == "none":
        raise ValueError("the diameter must be somewhere")
    name = slide.slide_id
    _write_anndata(slide, _made(folder / "st" / f"{name}.h5ad"), quirks)
    for number in range(quirks.n_other_slides):
        _write_anndata(slide, folder / "st" / f"{name}{number}.h5ad", quirks)
    _write_metadata(slide, folder, quirks)
    if quirks.has_image:
        _write_image(slide, _made(folder / "wsis" / f"{name}.tif"))
    _write_tissue(slide, folder / "tissue_seg", quirks)
    _write_cells(slide, folder / "cellvit_seg", quirks)
    return folder


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _barcodes(slide: SyntheticSlide, rows: NDArray[np.int64]) -> list[str]:
    return [f"{x:03d}x{y:03d}" for x, y in slide.array_xy[rows].tolist()]


def _labels(slide: SyntheticSlide, rows: NDArray[np.int64]) -> list[str | None]:
    return [None if number % 3 == 0 else label for number, label in enumerate(slide.labels[rows])]


def _gene_names(slide: SyntheticSlide, quirks: HestQuirks) -> tuple[str, ...]:
    n_genes = len(slide.gene_names) - quirks.n_antibodies
    kept = n_genes - quirks.n_repeated_names
    return (
        *slide.gene_names[:kept],
        *slide.gene_names[: quirks.n_repeated_names],
        *(f"{name}.1" for name in slide.gene_names[n_genes:]),
    )


def _write_anndata(slide: SyntheticSlide, path: Path, quirks: HestQuirks) -> None:
    rows = np.flatnonzero(slide.in_tissue)
    options: dict[str, Any] = {"compression": "gzip"} if quirks.is_compressed else {}
    elements = {
        "X": _matrix(slide.counts[rows], quirks),
        "obs": _obs(slide, rows, quirks),
        "var": _var(slide, quirks),
        "obsm": {"spatial": slide.xy[rows]},
        "uns": _uns(slide, quirks),
        "layers": {},
    }
    if quirks.has_decoys:
        decoy = sparse.csr_matrix(slide.counts[rows] * 7)
        elements["layers"] = {"counts": decoy, "log1p": decoy.astype(np.float32)}
        elements["raw"] = {"X": decoy, "var": _var(slide, quirks)}
        elements["obsm"] = {"X_pca": np.ones((len(rows), 2)), **elements["obsm"]}
    with (
        h5py.File(path, "w", libver="earliest") as file,
        anndata.settings.override(allow_write_nullable_strings=True),
    ):
        file.attrs["encoding-type"] = "anndata"
        file.attrs["encoding-version"] = "0.1.0"
        for key, element in elements.items():
            is_matrix = key == "X"
            write_elem(file, key, element, dataset_kwargs=options if is_matrix else {})


def _matrix(counts: sparse.csr_array, quirks: HestQuirks) -> Any:  # noqa: ANN401 - one of three
    if quirks.layout == "dense":
        return counts.toarray().astype(quirks.value_type)
    rows, columns = counts.nonzero()
    values = counts.data
    if quirks.has_zeros:
        row, column = np.argwhere(counts.toarray() == 0)[0]
        rows, columns, values = (
            np.append(array, one) for array, one in ((rows, row), (columns, column), (values, 0))
        )
    made = sparse.csr_matrix if quirks.layout == "csr" else sparse.csc_matrix
    matrix = made((values.astype(quirks.value_type), (rows, columns)), shape=counts.shape)
    matrix.indices = matrix.indices.astype(quirks.index_type)
    matrix.indptr = matrix.indptr.astype(quirks.index_type)
    return matrix


def _obs(slide: SyntheticSlide, rows: NDArray[np.int64], quirks: HestQuirks) -> pd.DataFrame:
    x, y = slide.xy[rows].T
    columns: dict[str, Any] = {}
    if quirks.has_array:
        columns |= {
            "array_row": slide.array_xy[rows, 1],
            "array_col": slide.array_xy[rows, 0],
        }
    if quirks.pixels != "none":
        pixels = (y, x) if quirks.pixels == "swapped" else (x, y)
        if quirks.pixels == "rounded":
            pixels = (np.rint(x), np.rint(y))
        columns |= {"pxl_col_in_fullres": pixels[0], "pxl_row_in_fullres": pixels[1]}
    if quirks.in_tissue != "none":
        columns["in_tissue"] = np.ones(len(rows), dtype=quirks.in_tissue)
    if quirks.has_label:
        columns["annotation"] = pd.Categorical(_labels(slide, rows))
    columns["n_counts"] = slide.counts[rows].sum(axis=1).astype(np.float64)
    dtype = pd.StringDtype() if quirks.has_nullable_names else object
    return pd.DataFrame(columns, index=pd.Index(_barcodes(slide, rows), dtype=dtype))


def _var(slide: SyntheticSlide, quirks: HestQuirks) -> pd.DataFrame:
    names = _gene_names(slide, quirks)
    n_genes = len(names) - quirks.n_antibodies
    columns: dict[str, Any] = {"n_cells_by_counts": np.ones(len(names), dtype=np.int64)}
    if quirks.gene_columns == "visium":
        ids = [f"ENSG{row:011d}" if row < n_genes else f"AB{row}" for row in range(len(names))]
        types = ["Gene Expression"] * n_genes + ["Antibody Capture"] * quirks.n_antibodies
        columns |= {
            "gene_ids": np.array(ids, dtype=object),
            "feature_types": pd.Categorical(types),
            "genome": pd.Categorical(["GRCh38"] * len(names)),
        }
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def _uns(slide: SyntheticSlide, quirks: HestQuirks) -> dict[str, Any]:
    factors = {"tissue_downscaled_fullres_scalef": 0.1}
    if quirks.diameter != "description":
        factors["spot_diameter_fullres"] = SPOT_UM / slide.mpp
    thumbnail = np.ascontiguousarray(slide.image[:, ::16, ::16].transpose(1, 2, 0))
    library = {"images": {"downscaled_fullres": thumbnail}, "scalefactors": factors}
    return {"spatial": {"ST": library}}


def _write_metadata(slide: SyntheticSlide, folder: Path, quirks: HestQuirks) -> None:
    document: dict[str, Any] = {
        "dataset_title": "A slide that never was",
        "id": slide.slide_id,
        "image_filename": f"{slide.slide_id}.tif",
        "organ": "Breast",
        "disease_state": "Cancer",
        "species": "Homo sapiens",
        "patient": "P1",
        "st_technology": quirks.technology,
        "license": "CC0",
        "study_link": "https://pubmed.ncbi.nlm.nih.gov/1/",
        "inter_spot_dist": PITCH_UM["square"],
        "spot_diameter": None if quirks.diameter == "scalefactors" else SPOT_UM,
        "pixel_size_um_embedded": EMBEDDED_MPP if quirks.has_embedded else None,
        "pixel_size_um_estimated": slide.mpp,
        "fullres_px_width": slide.width,
        "fullres_px_height": slide.height,
        "tissue": "Breast",
        "disease_comment": None,
    }
    encoding = "utf-8-sig" if quirks.has_bom else "utf-8"
    if quirks.metadata == "json":
        path = _made(folder / "metadata" / f"{slide.slide_id}.json")
        path.write_text(json.dumps(document, indent=1), encoding=encoding)
    elif quirks.metadata == "catalogue":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(document))
        writer.writeheader()
        writer.writerows([document | {"id": "OTHER1", "species": "none"}, document])
        (folder / "HEST_v1_1_0.csv").write_text(text.getvalue(), encoding=encoding)


def _write_image(slide: SyntheticSlide, path: Path) -> None:
    """Lossless, unlike HEST-1k's own, so that pixels can be compared."""
    pixels = np.ascontiguousarray(slide.image.transpose(1, 2, 0))
    options: dict[str, Any] = {
        "photometric": "rgb",
        "compression": "zlib",
        "metadata": None,
        "tile": (_TILE_PX, _TILE_PX),
    }
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, software=False, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, software=False, **options)


def _tissue(slide: SyntheticSlide) -> tuple[shapely.Polygon, ...]:
    """Make a large piece with a hole in it, and a small one."""
    width, height = slide.width, slide.height
    hole = shapely.box(width * 0.3, height * 0.3, width * 0.4, height * 0.5)
    large = shapely.box(width * 0.125, height * 0.25, width * 0.75, height * 0.75)
    small = shapely.box(width * 0.8125, 0.0, width * 0.875, height * 0.125)
    return shapely.Polygon(large.exterior, [hole.exterior]), small


def _write_tissue(slide: SyntheticSlide, folder: Path, quirks: HestQuirks) -> None:
    polygons = _tissue(slide)
    stem = f"{slide.slide_id}_contours"
    if quirks.tissue == "geojson":
        frame = geopandas.GeoDataFrame({"tissue_id": [0, 1]}, geometry=list(polygons))
        document = json.loads(frame.to_json())
        _made(folder / f"{stem}.geojson").write_text(json.dumps(document))
    elif quirks.tissue == "holes":
        features = [
            _feature(
                [shapely.Polygon(hole) for hole in polygon.interiors]
                + [shapely.Polygon(polygon.exterior)],
                str(number),
                {"hole": list(range(len(polygon.interiors)))},
            )
            for number, polygon in enumerate(polygons)
        ]
        _made(folder / f"{stem}.geojson").write_text(json.dumps(features, indent=4))
    elif quirks.tissue == "pickle":
        _made(folder / f"{slide.slide_id}_mask.pkl").write_bytes(b"\x80\x04N.")


def _cells(slide: SyntheticSlide) -> tuple[tuple[shapely.Polygon, str], ...]:
    """Put a square around each spot, in an order by class."""
    side = slide.pitch_px / 8
    cells = [
        (shapely.box(x - side, y - side, x + side, y + side), _CLASSES[number % len(_CLASSES)])
        for number, (x, y) in enumerate(slide.xy.tolist())
    ]
    return tuple(sorted(cells, key=lambda cell: _CLASSES.index(cell[1])))


def _write_cells(slide: SyntheticSlide, folder: Path, quirks: HestQuirks) -> None:
    cells = _cells(slide)
    stem = folder / f"{slide.slide_id}_cellvit_seg"
    if quirks.cells == "parquet":
        classes = pd.Series([name for _, name in cells], dtype=object)
        frame = geopandas.GeoDataFrame({"class": classes}, geometry=[cell for cell, _ in cells])
        frame.to_parquet(_made(stem.with_suffix(".parquet")))
    elif quirks.cells == "geojson":
        features = [
            _feature([cell for cell, other in cells if other == name], name, {})
            for name in _CLASSES
        ]
        _made(stem.with_suffix(".geojson")).write_text(json.dumps(features))


def _feature(
    polygons: list[shapely.Polygon], name: str, properties: dict[str, Any]
) -> dict[str, Any]:
    """All polygons of a class as one feature, as CellViT and QuPath write them."""
    return {
        "type": "Feature",
        "id": f"id-{name}",
        "geometry": {
            "type": "MultiPolygon",
            "coordinates": [[list(polygon.exterior.coords)] for polygon in polygons],
        },
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": [255, 0, 0]},
            **properties,
        },
    }
