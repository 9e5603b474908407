"""One slide as HEST-1k lays slides out.

https://huggingface.co/datasets/MahmoodLab/hest: ``st/<id>.h5ad``, ``wsis/<id>.tif``,
``metadata/<id>.json``, ``patches/<id>.h5``, and outlines of tissue and cells.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stformat.export._file_names import checked_file_name
from stformat.export._h5ad import spatial_image, spot_diameter_px, write_anndata
from stformat.export._pyramid_tiff import check_interleaved, write_generic_tiff
from stformat.export._source import table_of
from stformat.export._tile_set import TileSet, TileSize, choose_tiles
from stformat.model import Progress
from stformat.store.reader import Slide

__all__ = ["OUTLINES", "write_hest"]

PATCH_PX = 224
PATCH_MPP = 0.5
"""Edge and microns per pixel of HEST-1k's patches."""

_ANY = float(np.finfo(np.float64).tiny)
"""Least coverage of a patch that touches the image at all."""

_DOWNSCALED_PX = 1000
_LIBRARY = "ST"
_TECHNOLOGIES = MappingProxyType({"ST": "Spatial Transcriptomics"})
OUTLINES = MappingProxyType(
    {
        "tissue": "tissue_seg/{}_contours.geojson",
        "cells": "cellvit_seg/{}_cellvit_seg.parquet",
        "xenium_cells": "xenium_seg/{}_xenium_cell_seg.parquet",
        "xenium_nuclei": "xenium_seg/{}_xenium_nucleus_seg.parquet",
    }
)
"""Names of outlines and of their files."""

_PATCH_STORAGE: MappingProxyType[str, Any] = MappingProxyType(
    {"compression": "gzip", "compression_opts": 1, "shuffle": True}
)


def write_hest(
    slide: Slide,
    directory: Path,
    progress: Progress,
    *,
    patch_px: int = PATCH_PX,
    patch_mpp: float | None = None,
) -> None:
    """Write a slide's table, image, patches, description and outlines.

    Parameters
    ----------
    slide : Slide
        Bound to the table.
    directory : pathlib.Path
        Where to write.
    progress : callable
        Told of ``"counts"``, ``"table"``, ``"image"`` and ``"tiles"``.
    patch_px : int, default: 224
        Edge of a patch in its own pixels.
    patch_mpp : float, optional
        Microns per pixel of a patch; by default 0.5, or where the slide's mpp is unknown its own
        pixels.

    Raises
    ------
    ExportError
        If the image has other than 1 or 3 channels, patches are not possible, or the slide's
        identifier cannot be a file's name.

    Notes
    -----
    ``st`` has the store's ``obs`` and ``var``, pixels of the centres once more as
    ``pxl_col_in_fullres`` and ``pxl_row_in_fullres``, and raw counts. ``patches`` has ``img``
    (n, y, x, c) of the image's own type, ``coords`` (n, 2), the left and top edge in
    full-resolution pixels, and ``barcode`` (n, 1), for each row whose patch touches the image.
    Outlines of tissue and cells are loaded as a whole, one after another.
    """
    name = checked_file_name(slide.slide_id, "the slide")
    if slide.has_image:
        check_interleaved(slide, "HEST-1k")
    patches = _choose_patches(slide, patch_px, patch_mpp) if slide.has_image else None
    _write_table(slide, _made(directory / f"st/{name}.h5ad"), progress)
    _write_metadata(slide, _made(directory / f"metadata/{name}.json"))
    for element, place in OUTLINES.items():
        if element in slide.annotations:
            _write_outlines(slide, element, _made(directory / place.format(name)))
    if patches is not None:
        write_generic_tiff(slide, _made(directory / f"wsis/{name}.tif"), progress)
        _write_patches(patches, _made(directory / f"patches/{name}.h5"), progress)


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


def _write_table(slide: Slide, path: Path, progress: Progress) -> None:
    image, scale = spatial_image(slide, _DOWNSCALED_PX)
    factors = {"spot_diameter_fullres": spot_diameter_px(slide)}
    library: dict[str, Any] = {"scalefactors": factors, "images": {}}
    if image is not None and scale is not None:
        factors["tissue_downscaled_fullres_scalef"] = scale
        library["images"] = {"downscaled_fullres": image}
    uns = {"spatial": {_LIBRARY: library}}
    columns = {"pxl_col_in_fullres": "x", "pxl_row_in_fullres": "y"}
    more = {name: slide.obs[source].to_numpy() for name, source in columns.items()}
    write_anndata(slide, path, uns=uns, progress=progress, more_obs=more)


def _write_metadata(slide: Slide, path: Path) -> None:
    known = slide.metadata
    table = table_of(slide)
    top = slide.levels[0] if slide.has_image else None
    state = {True: "Cancer", False: "Healthy", None: None}[known.involves_cancer]
    document = {
        "id": known.slide_id,
        "dataset_title": known.title or known.study,
        "image_filename": None if top is None else f"{known.slide_id}.tif",
        "organ": known.tissue,
        "tissue": known.tissue,
        "species": known.species,
        "disease_state": state,
        "disease_comment": known.disease,
        "patient": known.donor,
        "st_technology": _TECHNOLOGIES.get(known.technology, known.technology),
        "license": known.licence,
        "study_link": _study_link(slide),
        "inter_spot_dist": table.pitch_um,
        "spot_diameter": table.diameter_um,
        "pixel_size_um_embedded": None,
        "pixel_size_um_estimated": slide.mpp,
        "fullres_px_width": None if top is None else top.width,
        "fullres_px_height": None if top is None else top.height,
        "spots_under_tissue": int(slide.obs["in_tissue"].sum()),
        "nb_genes": slide.n_vars,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def _study_link(slide: Slide) -> str | None:
    pmid = slide.metadata.pmid
    return slide.metadata.citation if pmid is None else f"https://pubmed.ncbi.nlm.nih.gov/{pmid}/"


def _write_outlines(slide: Slide, element: str, path: Path) -> None:
    frame = slide.annotations[element]
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text(frame.to_json(), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patches:
    """Patches, and how large they are on the slide."""

    chosen: TileSet
    edge_px: float

    @property
    def corners(self) -> NDArray[np.int64]:
        """(n, 2) left and top edge in full-resolution pixels."""
        return np.floor(self.chosen.xy - self.edge_px / 2 + 0.5).astype(np.int64)


def _choose_patches(slide: Slide, patch_px: int, patch_mpp: float | None) -> _Patches:
    mpp = PATCH_MPP if patch_mpp is None and slide.mpp is not None else patch_mpp
    chosen = choose_tiles(
        slide,
        TileSize(tile_px=patch_px, mpp=mpp),
        rows=None,
        in_tissue_only=False,
        min_coverage=_ANY,
        genes=None,
        normalize=None,
    )
    ratio = 1.0 if mpp is None or slide.mpp is None else mpp / slide.mpp
    return _Patches(chosen=chosen, edge_px=patch_px * ratio)


def _write_patches(patches: _Patches, path: Path, progress: Progress) -> None:
    chosen = patches.chosen
    n, n_c, height, width = chosen.tiles.shape
    with h5py.File(path, "w", libver="earliest") as file:
        images = file.create_dataset(
            "img",
            (n, height, width, n_c),
            chosen.tiles.dtype,
            chunks=(1, height, width, n_c),
            **_PATCH_STORAGE,
        )
        images.attrs["patch_size"] = height
        images.attrs["patch_size_src"] = patches.edge_px
        file["coords"] = patches.corners
        barcodes = np.array(chosen.barcodes, dtype=object)[:, None]
        file.create_dataset("barcode", data=barcodes, dtype=h5py.string_dtype())
        with closing(chosen.iter_batches(chosen.batch_size, progress)) as batches:
            for here, batch in batches:
                images[here] = batch.transpose(0, 2, 3, 1)
