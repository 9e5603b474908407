"""Legacy Spatial Transcriptomics: a text count matrix, a spot file, an image, labels.

The first commercial arrays (1k: 33 x 35 spots 200 um apart) and their successors left no standard
file but three conventions: counts name their spots ``XxY``, a spot file places these on the image,
and folders follow the HER2ST study (``ST-cnts``, ``ST-spotfiles``, ``ST-imgs``, ``ST-pat/lbl``) or
hold one sample's files side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, InputError, PositionsError, Problem
from stformat.genes.keys import key_kind, split_ids_and_names, unique_keys
from stformat.model import (
    Genes,
    Image,
    Mpp,
    MppMethod,
    Note,
    SlideRecord,
    Spots,
    Table,
)
from stformat.sources._bytes import source_file
from stformat.sources._counts_text import TextCounts, read_counts_text
from stformat.sources._image import open_image
from stformat.sources._kinds import SourceKind, SourceRequest, descriptors, focal_plane, positive
from stformat.sources._lattice import Lattice, fit_lattice, lattice_step, nearest_distance
from stformat.sources._legacy_st_files import SampleFiles, evidence, find_sample
from stformat.sources._legacy_st_join import JoinedSpots, join_labels, join_spots
from stformat.sources._notes import counted, named, outside_notes
from stformat.sources._rows import counts_of
from stformat.sources._spot_table import SpotTable, read_labels, read_spots

__all__ = ["KIND"]

PITCH_1K_UM = 200.0
"""Distance of neighbouring spots on the 1k array."""

COLUMNS_1K, ROWS_1K = 33, 35
"""Size of the 1k array: x runs from 1 to 33, y from 1 to 35."""

MAX_RESIDUAL = 0.25
"""Beyond this share of the pitch, positions do not follow the array and give no scale."""

CONTRADICTION = 0.05
"""Relative difference of two values of mpp that is reported."""


def read_legacy_st(request: SourceRequest) -> SlideRecord:
    """Read one legacy ST sample.

    Parameters
    ----------
    request : SourceRequest
        Options of its own: ``pitch_um``, the distance of neighbouring spots in microns,
        ``labels``, the path of a label file, and ``focal_plane``, which one to read of an image
        that has several, counted from 0.

    Returns
    -------
    SlideRecord
        One table, ``expression``, with a row for each spot that has both counts and a place, in
        the order of the count matrix. Its spots are circles of a quarter of the pitch.

    Raises
    ------
    InputError
        If the folder does not hold one sample, or a file of it is not what it must be.

    Notes
    -----
    Microns per pixel follow from the pitch where that is known: given, or 200 um where the array
    is the 1k one, which shows in a full grid with all positions within 1..33 x 1..35.
    """
    pitch_um = request.options.get("pitch_um")
    files = find_sample(request.path, sample=request.slide_id)
    image, image_notes = _read_image(request, files)
    counts = read_counts_text(files.counts)
    table = read_spots(files.spots)
    joined, join_notes = join_spots(counts, table, files)
    scale, scale_notes = _scale(
        table,
        mpp=request.mpp,
        pitch_um=None if pitch_um is None else positive("pitch_um", pitch_um),
        tag_mpp=image.tag_mpp if image else None,
    )
    labels_path = _labels_path(request, files)
    annotations: dict[str, NDArray[np.object_]] = {}
    label_notes: tuple[Note, ...] = ()
    if labels_path is not None:
        annotations["label"], label_notes = join_labels(
            read_labels(labels_path), joined, name=labels_path.name
        )
    genes, gene_notes = _genes(joined.gene_names)
    sources = [source_file(path) for path in (files.counts, files.spots, labels_path) if path]
    if image and image.source:
        sources.append(image.source)
    return SlideRecord(
        slide_id=request.slide_id or files.name,
        descriptors=descriptors(request.options, technology="ST"),
        tables=(
            Table(
                name="expression",
                spots=_spots(joined, scale, annotations),
                genes=genes,
                counts=counts_of(joined.matrix),
            ),
        ),
        default_table="expression",
        image=image,
        mpp=scale.mpp,
        sources=tuple(sorted(sources, key=lambda source: (source.name, source.sha256))),
        notes=(
            *join_notes,
            *_counts_notes(counts),
            *gene_notes,
            *label_notes,
            *scale_notes,
            *image_notes,
            *outside_notes(joined.xy, joined.barcodes, image),
        ),
    )


KIND = SourceKind(
    name="legacy_st",
    options=("pitch_um", "labels", "focal_plane"),
    looks_like=evidence,
    read=read_legacy_st,
)
"""Legacy ST as a kind of source."""


def _read_image(
    request: SourceRequest, files: SampleFiles
) -> tuple[Image | None, tuple[Note, ...]]:
    path = request.image
    if path is None and len(files.images) > 1:
        raise ImageError(
            Problem(
                "image.several",
                f"sample {files.name}",
                "one image is needed",
                ", ".join(image.name for image in files.images),
                "name the histology image with image=",
            )
        )
    if path is None and not files.images:
        note = Note(code="image.none", message="The source has no image: the slide has no tiles.")
        return None, (note,)
    image = open_image(
        path or files.images[0],
        scratch=request.scratch,
        stain="if" if request.options.get("stain") == "if" else "he",
        focal_plane=focal_plane(request.options),
    )
    return image, image.notes


def _labels_path(request: SourceRequest, files: SampleFiles) -> Path | None:
    given = request.options.get("labels")
    if given is not None:
        if not isinstance(given, str | Path) or not Path(given).is_file():
            raise InputError(
                Problem("option.path", "labels", "the path of a label file is needed", repr(given))
            )
        return Path(given)
    if len(files.labels) > 1:
        raise PositionsError(
            Problem(
                "labels.several",
                f"sample {files.name}",
                "one label file is needed",
                ", ".join(path.name for path in files.labels),
                "name one with labels=",
            )
        )
    return files.labels[0] if files.labels else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Sizes of the array, in pixels and, where known, in microns."""

    mpp: Mpp
    pitch_px: float
    pitch_um: float | None


def _scale(
    table: SpotTable, *, mpp: float | None, pitch_um: float | None, tag_mpp: float | None
) -> tuple[_Scale, tuple[Note, ...]]:
    """Fit the array to the pixels, and find microns per pixel: given > lattice > image tags."""
    step = lattice_step(table.array_xy)
    lattice = _fit(table, step)
    notes = []
    if lattice is not None and lattice.residual > MAX_RESIDUAL:
        notes.append(
            Note(
                code="positions.off-array",
                message=(
                    f"Pixel positions do not follow array positions (residual "
                    f"{lattice.residual:.2f} of the pitch): no scale is taken from them."
                ),
                count=len(table.array_xy),
            )
        )
        lattice = None
    if pitch_um is None and _is_1k(table.array_xy, step):
        pitch_um = PITCH_1K_UM
    from_lattice = pitch_um / lattice.pitch_px if pitch_um and lattice else None
    candidates: tuple[tuple[MppMethod, float | None], ...] = (
        ("given", mpp),
        ("lattice", from_lattice),
        ("image-tags", tag_mpp),
    )
    unknown: tuple[MppMethod, None] = ("unknown", None)
    method, value = next((known for known in candidates if known[1] is not None), unknown)
    notes.extend(
        Note(
            code="mpp.contradiction",
            message=(
                f"Microns per pixel: {value:.4f} ({method}) is taken, {other:.4f} "
                f"({other_method}) differs by {abs(other / value - 1):.0%}."
            ),
        )
        for other_method, other in candidates
        if value is not None and other is not None and abs(other / value - 1) > CONTRADICTION
    )
    if value is None:
        message = "Microns per pixel are unknown: pass --pitch-um, the distance of spots, or --mpp."
        notes.append(Note(code="mpp.unknown", message=message))
    pitch_px = _pitch_px(table, lattice, mpp=value, pitch_um=pitch_um)
    residual = lattice.residual if lattice else None
    return (
        _Scale(
            mpp=Mpp(value=value, method=method, residual=residual),
            pitch_px=pitch_px,
            pitch_um=pitch_um,
        ),
        tuple(notes),
    )


def _fit(table: SpotTable, step: float) -> Lattice | None:
    """Fit measured array positions where the file has them, nominal ones otherwise."""
    for array_xy in (table.new_xy, table.array_xy):
        if array_xy is not None:
            lattice = fit_lattice(array_xy, table.pixel_xy, step=step)
            if lattice is not None:
                return lattice
    return None


def _is_1k(array_xy: NDArray[np.float64], step: float) -> bool:
    places = np.rint(array_xy)
    is_within = (places >= 1).all() and (places <= (COLUMNS_1K, ROWS_1K)).all()
    return step == 1.0 and len(np.unique(places, axis=0)) > 1 and bool(is_within)


def _pitch_px(
    table: SpotTable, lattice: Lattice | None, *, mpp: float | None, pitch_um: float | None
) -> float:
    """Pitch as fitted, as known from microns, or as the usual distance of neighbours."""
    if lattice is not None:
        return lattice.pitch_px
    pitch_px = pitch_um / mpp if pitch_um and mpp else nearest_distance(table.pixel_xy)
    if pitch_px is None:
        raise PositionsError(
            Problem(
                "positions.pitch",
                "spot file",
                "the distance of neighbouring spots must be known to size them",
                f"{len(table.array_xy)} spot(s) from which it does not follow",
                "pass both pitch_um and mpp",
            )
        )
    return pitch_px


def _spots(
    joined: JoinedSpots, scale: _Scale, annotations: dict[str, NDArray[np.object_]]
) -> Spots:
    places = np.rint(joined.array_xy).astype(np.int64)
    return Spots(
        region="spots",
        shape="circle",
        barcodes=joined.barcodes,
        xy=joined.xy,
        # On these arrays a spot is half as wide as the pitch.
        radius_px=np.full(len(joined.xy), scale.pitch_px / 4),
        array_row=places[:, 1],
        array_col=places[:, 0],
        in_tissue=joined.selected,
        pitch_px=scale.pitch_px,
        pitch_um=scale.pitch_um,
        diameter_um=scale.pitch_um / 2 if scale.pitch_um else None,
        annotations=annotations,
    )


def _genes(names: tuple[str, ...]) -> tuple[Genes, tuple[Note, ...]]:
    keys, n_renamed = unique_keys(names)
    gene_id, gene_name = split_ids_and_names(names)
    genes = Genes(
        keys=keys,
        key_kind=key_kind(gene_id),
        gene_id=gene_id,
        gene_name=gene_name,
        feature_type=np.full(len(keys), "Gene Expression", dtype=object),
        genome=np.full(len(keys), None, dtype=object),
    )
    if not n_renamed:
        return genes, ()
    repeated = [name for name, key in zip(names, keys, strict=True) if name != key]
    genes_repeat = counted(n_renamed, "gene repeats a name", "genes repeat a name")
    message = f"{genes_repeat} and got a suffix: {named(repeated)}."
    return genes, (Note(code="genes.repeated-names", message=message, count=n_renamed),)


def _counts_notes(counts: TextCounts) -> tuple[Note, ...]:
    if not counts.n_non_integer:
        return ()
    values = counted(counts.n_non_integer, "value is no integer", "values are no integers")
    message = f"{values}: stored as float32, not as counts."
    return (Note(code="counts.non-integer", message=message, count=counts.n_non_integer),)
