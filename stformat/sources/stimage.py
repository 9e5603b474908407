"""STimage-1K4M: coordinates with a radius, dense counts, an image of any name, a catalogue.

The data set (https://huggingface.co/datasets/jiawennnn/STimage-1K4M) brought 1,149 slides of
legacy ST, Visium and Visium HD into one layout. Its coordinates are in pixels of its own images,
with the radius that its tiles were cut with; places on the array are in the names of spots, if at
all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CountsError, ImageError, InputError, PositionsError, Problem
from stformat.model import Image, Note, SlideRecord, Spots, Table
from stformat.sources._array_scale import MAX_RESIDUAL, ArrayScale, measure_array, measure_pitch
from stformat.sources._barcode_labels import read_barcode_labels
from stformat.sources._bytes import in_order, source_file
from stformat.sources._image import open_image
from stformat.sources._kinds import (
    FoundSlide,
    SourceKind,
    SourceRequest,
    descriptors,
    focal_plane,
    labels_path,
    positive,
)
from stformat.sources._lattice import hexagonal_pitch
from stformat.sources._notes import named, outside_notes, unmatched_notes
from stformat.sources._spilled_counts import SpilledCounts, spill_counts_text
from stformat.sources._stimage_coords import (
    SpotNames,
    StimageCoords,
    read_coords,
    read_spot_names,
)
from stformat.sources._stimage_files import StimageSlide, evidence, find_slide, list_slides
from stformat.sources._stimage_meta import SlideMeta, read_meta
from stformat.sources._symbol_genes import genes_of_names, non_integer_notes

__all__ = ["KIND"]

VISIUM_PITCH_UM = 100.0
"""Distance of neighbouring spots along a row of a Visium array."""

VISIUM_DIAMETER_UM = 55.0
"""Diameter of a printed spot."""

_TECHNOLOGY = {"array": "ST", "barcode": "Visium", "bin": "Visium HD"}
_NO_PLACE = -1


def read_stimage(request: SourceRequest) -> SlideRecord:
    """Read one slide of STimage-1K4M.

    Parameters
    ----------
    request : SourceRequest
        The path is a tree, with the name of a slide as `slide_id` where it has several, or one of
        a slide's files. Options of its own: ``pitch_um``, the distance of neighbouring spots in
        microns; ``labels``, the path of a table with a column of spots; ``focal_plane``, which one
        to read of an image that has several, counted from 0.

    Returns
    -------
    SlideRecord
        One table with a row for each spot that has both counts and a place, in the order of the
        count matrix. Barcodes are what stands behind the name of the slide. Spots have the radius
        of the table of coordinates.

    Raises
    ------
    InputError
        If a file that is needed is missing, or is not what it must be.

    Notes
    -----
    Microns per pixel follow from the array: 100 um between neighbours on Visium's, the side of a
    bin on Visium HD's, 200 um on the 1k array of legacy ST; others need ``pitch_um``. Names of
    Visium's spots do not tell their places on the array, and nothing is put in their stead:
    ``array_row`` and ``array_col`` are -1.

    The count matrix is parsed once, in memory of a few MiB a thread. Its values wait in memory, or
    in a file without a name where they take more than 64 MiB.
    """
    files = find_slide(request.path, slide_id=request.slide_id)
    image, image_notes = _read_image(request, files)
    coords = read_coords(files.coords[0])
    names = read_spot_names(coords.names, slide_id=files.slide_id)
    meta = read_meta(files.meta, slide_id=files.slide_id)
    technology, technology_notes = _technology(request, files, meta, names)
    counts = spill_counts_text(files.counts[0], scratch=request.scratch)
    joined, join_notes = _join(counts, coords, names, files)
    places = coords.xy[joined.places]
    scale, scale_notes = _scale(request, coords.xy, names, image)
    barcodes = np.array([names.short[place] for place in joined.places], dtype=object)
    labels = labels_path(request.options, files.annotations, where=f"slide {files.slide_id}")
    annotations, label_notes = _annotations(labels, joined, coords, barcodes, files.slide_id)
    genes, gene_notes = genes_of_names(counts.column_names, where=files.counts[0].name)
    spots = _spots(coords, names, joined, scale=scale, barcodes=barcodes, annotations=annotations)
    name = "expression" if spots.region == "spots" else f"expression_{spots.region}"
    paths = (files.coords[0], files.counts[0], *meta.files, *([labels] if labels else []))
    sources = [source_file(path) for path in paths]
    if image and image.source:
        sources.append(image.source)
    given = meta.descriptors() | dict(request.options)
    return SlideRecord(
        slide_id=request.slide_id or files.slide_id,
        descriptors=descriptors(given, technology=technology),
        tables=(Table(name=name, spots=spots, genes=genes, counts=counts.rows(joined.is_kept)),),
        default_table=name,
        image=image,
        mpp=scale.mpp,
        sources=in_order(sources),
        notes=(
            *join_notes,
            *non_integer_notes(counts.n_non_integer),
            *gene_notes,
            *label_notes,
            *meta.notes,
            *meta.size_notes(n_spots=len(counts.row_names), n_genes=len(counts.column_names)),
            *technology_notes,
            *scale_notes,
            *image_notes,
            *outside_notes(places, barcodes, image),
        ),
    )


def _slides_in(folder: Path) -> tuple[FoundSlide, ...]:
    """List the slides of a tree, or of a folder that holds their files side by side."""
    if evidence(folder) is None:
        return ()
    return tuple(
        FoundSlide(
            kind="stimage",
            path=(*slide.coords, *slide.counts)[0],
            slide_id=slide.slide_id,
            files=(*slide.coords, *slide.counts, *slide.images),
        )
        for slide in list_slides(folder)
    )


KIND = SourceKind(
    name="stimage",
    options=("pitch_um", "labels", "focal_plane"),
    looks_like=evidence,
    read=read_stimage,
    slides_in=_slides_in,
)
"""STimage-1K4M as a kind of source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    """Rows that have both counts and a place, in the order of the count matrix."""

    is_kept: NDArray[np.bool_]
    """(n_rows,) rows of the count matrix that have a place."""

    places: NDArray[np.int64]
    """(n,) row of the coordinates for each of these."""


def _read_image(
    request: SourceRequest, files: StimageSlide
) -> tuple[Image | None, tuple[Note, ...]]:
    if request.image is None and len(files.images) > 1:
        raise ImageError(
            Problem(
                "image.several",
                f"slide {files.slide_id}",
                "one image is needed",
                ", ".join(image.name for image in files.images),
                "name the histology image with image=",
            )
        )
    if request.image is None and not files.images:
        note = Note(code="image.none", message="The source has no image: the slide has no tiles.")
        return None, (note,)
    image = open_image(
        request.image or files.images[0],
        scratch=request.scratch,
        stain="if" if request.options.get("stain") == "if" else "he",
        focal_plane=focal_plane(request.options),
    )
    return image, image.notes


def _technology(
    request: SourceRequest, files: StimageSlide, meta: SlideMeta, names: SpotNames
) -> tuple[str, tuple[Note, ...]]:
    """Take the technology of the folder, of the catalogue, or of the names of spots."""
    said = {
        "the folder": files.technology,
        "the catalogue": meta.technology,
        "the names of spots": _TECHNOLOGY.get(names.kind),
    }
    known = {where: technology for where, technology in said.items() if technology}
    if not known and "technology" not in request.options:
        raise InputError(
            Problem(
                "technology.unknown",
                f"slide {files.slide_id}",
                "a folder, a catalogue or the names of spots must tell the technology",
                f"spots such as {named(names.short)}",
                "pass technology=",
            )
        )
    technology = str(request.options.get("technology") or next(iter(known.values())))
    if len(set(known.values())) < 2:
        return technology, ()
    message = f"{technology} is taken: " + ", ".join(
        f"{where} says {name}" if place == 0 else f"{where} {name}"
        for place, (where, name) in enumerate(known.items())
    )
    return technology, (Note(code="technology.contradiction", message=f"{message}."),)


def _join(
    counts: SpilledCounts, coords: StimageCoords, names: SpotNames, files: StimageSlide
) -> tuple[_Joined, tuple[Note, ...]]:
    """Give each row of counts its place, by its whole name, or by what is behind the slide's."""
    where = f"{files.counts[0].name}, {files.coords[0].name}"
    rows = counts.row_names
    if len(set(rows)) < len(rows):
        repeated = [name for name, n in Counter(rows).items() if n > 1]
        raise CountsError(
            Problem(
                "counts.repeated-spots",
                files.counts[0].name,
                "a spot must occur once",
                f"{named(repeated)} repeated",
            )
        )
    places = _places(rows, coords.names)
    if not (places >= 0).any():
        short = read_spot_names(rows, slide_id=files.slide_id).short
        places = _places(short, names.short)
    is_kept = places >= 0
    if not is_kept.any():
        raise PositionsError(
            Problem(
                "positions.no-join",
                where,
                "names of spots in the counts must be those of the coordinates",
                f"{named(rows[:3])} in the counts, {named(coords.names[:3])} in the coordinates",
                "check that both are of the same slide",
            )
        )
    is_alone = np.ones(len(coords.names), dtype=np.bool_)
    is_alone[places[is_kept]] = False
    notes = unmatched_notes(
        [rows[row] for row in np.flatnonzero(~is_kept)],
        [coords.names[row] for row in np.flatnonzero(is_alone)],
    )
    return _Joined(is_kept=is_kept, places=places[is_kept]), notes


def _places(rows: tuple[str, ...], names: tuple[str, ...]) -> NDArray[np.int64]:
    place_of = {name: place for place, name in enumerate(names)}
    return np.array([place_of.get(name, -1) for name in rows], dtype=np.int64)


def _scale(
    request: SourceRequest, xy: NDArray[np.float64], names: SpotNames, image: Image | None
) -> tuple[ArrayScale, tuple[Note, ...]]:
    given = request.options.get("pitch_um")
    pitch_um = None if given is None else positive("pitch_um", given)
    tag_mpp = image.tag_mpp if image else None
    if names.array_xy is not None:
        is_measured = bool((names.array_xy != np.rint(names.array_xy)).any())
        return measure_array(
            np.rint(names.array_xy),
            xy,
            new_xy=names.array_xy if is_measured else None,
            mpp=request.mpp,
            pitch_um=pitch_um or names.bin_um,
            tag_mpp=tag_mpp,
        )
    if names.kind != "barcode":
        return measure_pitch(None, None, mpp=request.mpp, pitch_um=pitch_um, tag_mpp=tag_mpp)
    pitch_px, residual = hexagonal_pitch(xy) or (None, None)
    notes: tuple[Note, ...] = ()
    if pitch_px is None or residual is None or residual > MAX_RESIDUAL:
        pitch_px = residual = None
        message = "Spots do not lie on a hexagonal array: no scale is taken from them."
        notes = (Note(code="positions.off-array", message=message, count=len(xy)),)
    scale, scale_notes = measure_pitch(
        pitch_px,
        residual,
        mpp=request.mpp,
        pitch_um=pitch_um or VISIUM_PITCH_UM,
        tag_mpp=tag_mpp,
    )
    return scale, (*notes, *scale_notes)


def _annotations(
    path: Path | None,
    joined: _Joined,
    coords: StimageCoords,
    barcodes: NDArray[np.object_],
    slide_id: str,
) -> tuple[dict[str, NDArray[np.object_]], tuple[Note, ...]]:
    if path is None:
        return {}, ()
    whole = [coords.names[place] for place in joined.places]
    return read_barcode_labels(path, whole, slide_id=slide_id, aliases=barcodes.tolist())


def _spots(
    coords: StimageCoords,
    names: SpotNames,
    joined: _Joined,
    *,
    scale: ArrayScale,
    barcodes: NDArray[np.object_],
    annotations: dict[str, NDArray[np.object_]],
) -> Spots:
    n = len(barcodes)
    array = (
        np.full((n, 2), _NO_PLACE, dtype=np.int64)
        if names.array_xy is None
        else np.rint(names.array_xy[joined.places]).astype(np.int64)
    )
    shape: Literal["circle", "square"] = "square" if names.kind == "bin" else "circle"
    diameter_um = {
        "barcode": VISIUM_DIAMETER_UM,
        "bin": scale.pitch_um,
        # On the arrays of legacy ST a spot is half as wide as the pitch.
        "array": scale.pitch_um / 2 if scale.pitch_um else None,
    }.get(names.kind)
    return Spots(
        region="spots" if names.bin_um is None else f"square_{names.bin_um:03.0f}um",
        shape=shape,
        barcodes=barcodes,
        xy=coords.xy[joined.places],
        radius_px=coords.radius[joined.places],
        array_row=array[:, 1].copy(),
        array_col=array[:, 0].copy(),
        in_tissue=np.ones(n, dtype=np.bool_),
        pitch_px=scale.pitch_px,
        pitch_um=scale.pitch_um,
        diameter_um=diameter_um,
        annotations=MappingProxyType(annotations),
    )
