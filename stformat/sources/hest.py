"""HEST-1k: a folder of slides, each an AnnData file, an image, a description and outlines.

The layout is that of https://huggingface.co/datasets/MahmoodLab/hest: ``st/<id>.h5ad``,
``wsis/<id>.tif``, ``metadata/<id>.json``, ``tissue_seg/<id>_contours.geojson``,
``cellvit_seg/<id>_cellvit_seg.{parquet,geojson}``, ``xenium_seg``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, Problem
from stformat.model import Image, Note, Outlines, SlideRecord, SourceFile, Spots
from stformat.sources._anndata import group_of, read_frame
from stformat.sources._anndata_h5 import open_h5ad
from stformat.sources._anndata_matrix import Matrix, open_matrix, summarize
from stformat.sources._anndata_tables import AnnDataParts, build_tables, read_labels
from stformat.sources._bytes import in_order, source_file
from stformat.sources._geoparquet import open_geoparquet, outlines_of
from stformat.sources._hest_files import HestFiles, evidence, find_slide, slides_in
from stformat.sources._hest_metadata import HestMetadata, read_metadata
from stformat.sources._hest_places import (
    PLACE_COLUMNS,
    HestPlaces,
    HestScale,
    measure,
    read_places,
)
from stformat.sources._image import open_image
from stformat.sources._kinds import SourceKind, SourceRequest, descriptors, focal_plane, positive
from stformat.sources._notes import counted, named, outside_notes
from stformat.sources._outlines_geojson import read_geojson
from stformat.sources._scalefactors import ScaleFactors
from stformat.sources._visium_image import ChosenImage, check_image
from stformat.sources._visium_tables import table_name

__all__ = ["KIND"]


def read_hest(request: SourceRequest) -> SlideRecord:
    """Read one slide of HEST-1k.

    Parameters
    ----------
    request : SourceRequest
        Options of its own: ``pitch_um``, the distance of neighbouring spots in microns, and
        ``focal_plane``, which one to read of an image that has several, counted from 0.

    Returns
    -------
    SlideRecord
        The table ``expression`` of the counts in ``X``, and one for each other type of feature;
        rows are those of the AnnData file, in its order. Bins of Visium HD, which HEST-1k pools,
        are squares of the region ``square_128um``; all else is circles. Tissue and cells are
        outlines.

    Raises
    ------
    InputError
        If there is not one slide, a file is not what it must be, or files contradict one another.

    Notes
    -----
    Coordinates are those of ``obsm["spatial"]``. Microns per pixel are given, else HEST-1k's own
    (``pixel_size_um_estimated``, method ``"file"``), else from the array, else from the image's
    tags. Memory: a block of the matrix, see `stformat.sources._anndata_matrix.counts_of_matrix`.
    """
    files = find_slide(request.path, slide_id=request.slide_id)
    metadata = (
        HestMetadata() if files.metadata is None else read_metadata(files.metadata, files.name)
    )
    about = descriptors(
        dict(metadata.descriptors) | dict(request.options), technology="Spatial Transcriptomics"
    )
    image = _open_image(request, files, metadata)
    with open_h5ad(files.counts) as root:
        places = read_places(root)
        _check_image(image, places)
        scale, scale_notes = measure(
            places,
            metadata,
            mpp=request.mpp,
            pitch_um=_pitch_um(request),
            tag_mpp=None if image is None else image.tag_mpp,
        )
        labels, label_notes = read_labels(places.obs, known=PLACE_COLUMNS)
        spots = _spots(places, scale, about.technology, labels)
        matrix = open_matrix(root, "X")
        parts = AnnDataParts(
            where=files.counts.name,
            obs=places.obs,
            var=read_frame(group_of(root, "var")),
            opened=lambda: _opened_matrix(files.counts),
            shape=matrix.shape,
            summary=summarize(matrix),
        )
        tables, table_notes = build_tables(
            parts, spots, name=lambda kind: _table_name(kind, spots.region)
        )
    outlines, outline_notes = _read_outlines(files)
    return SlideRecord(
        slide_id=request.slide_id or files.name,
        descriptors=about,
        tables=tables,
        default_table=tables[0].name,
        image=image,
        mpp=scale.mpp,
        sources=_sources(files, image),
        outlines=outlines,
        notes=(
            *places.notes,
            *label_notes,
            *table_notes,
            *scale_notes,
            *outline_notes,
            *_image_notes(image),
            *outside_notes(places.xy, places.obs.index, image),
        ),
    )


KIND = SourceKind(
    name="hest",
    options=("pitch_um", "focal_plane"),
    looks_like=evidence,
    read=read_hest,
    slides_in=slides_in,
)
"""HEST-1k as a kind of source."""


@contextmanager
def _opened_matrix(path: Path) -> Iterator[Matrix]:
    with open_h5ad(path) as root:
        yield open_matrix(root, "X")


def _open_image(request: SourceRequest, files: HestFiles, metadata: HestMetadata) -> Image | None:
    path = request.image or files.image
    if path is None:
        return None
    image = open_image(
        path,
        scratch=request.scratch,
        stain="if" if request.options.get("stain") == "if" else "he",
        focal_plane=focal_plane(request.options),
    )
    _, height, width = image.shape
    said = metadata.width_px or width, metadata.height_px or height
    if said != (width, height):
        raise ImageError(
            Problem(
                "image.contradicts-metadata",
                path.name,
                f"the description says that the image has {said[0]:g} x {said[1]:g} px",
                f"{width} x {height} px",
                "name the image of this slide at full resolution with image=",
            )
        )
    return image


def _check_image(image: Image | None, places: HestPlaces) -> None:
    chosen = ChosenImage(image=image, scale=1.0, is_reduced=False, notes=())
    check_image(chosen, ScaleFactors(), xy=places.xy, in_tissue=places.in_tissue)


def _pitch_um(request: SourceRequest) -> float | None:
    given = request.options.get("pitch_um")
    return None if given is None else positive("pitch_um", given)


def _image_notes(image: Image | None) -> tuple[Note, ...]:
    if image is not None:
        return image.notes
    return (Note(code="image.none", message="The source has no image: the slide has no tiles."),)


def _spots(
    places: HestPlaces,
    scale: HestScale,
    technology: object,
    labels: Mapping[str, NDArray[np.object_]],
) -> Spots:
    side_um = scale.diameter_um if technology == "Visium HD" else None
    region = "spots" if side_um is None else f"square_{round(side_um):03d}um"
    return Spots(
        region=region,
        shape="circle" if side_um is None else "square",
        barcodes=places.obs.index,
        xy=places.xy,
        radius_px=np.full(len(places.xy), scale.diameter_px / 2),
        array_row=places.array_row,
        array_col=places.array_col,
        in_tissue=places.in_tissue,
        pitch_px=scale.pitch_px,
        pitch_um=scale.pitch_um,
        diameter_um=scale.diameter_um,
        annotations=labels,
    )


def _table_name(kind: str, region: str) -> str:
    name = table_name(kind)
    return name if region == "spots" else f"{name}_{region}"


def _read_outlines(files: HestFiles) -> tuple[tuple[Outlines, ...], tuple[Note, ...]]:
    found: list[Outlines] = []
    notes: list[Note] = []
    for name, path in files.outlines:
        read = (
            outlines_of(open_geoparquet(path), name)
            if path.suffix == ".parquet"
            else read_geojson(path, name)
        )
        notes.extend(read[1])
        if read[0] is not None:
            found.append(read[0])
    if files.left_out:
        names = named([path.name for path in files.left_out])
        n_files = counted(len(files.left_out), "file of outlines was", "files of outlines were")
        message = f"{n_files} not read, a pickle or an archive: {names}."
        notes.append(Note(code="outlines.not-read", message=message, count=len(files.left_out)))
    return tuple(found), tuple(notes)


def _sources(files: HestFiles, image: Image | None) -> tuple[SourceFile, ...]:
    paths = [files.counts, files.metadata, *(path for _, path in files.outlines)]
    sources = [source_file(path) for path in paths if path is not None]
    if image is not None and image.source is not None:
        sources.append(image.source)
    return in_order(sources)
