"""Visium as Space Ranger 1 to 4 writes it: counts, tissue positions, scale factors, an image.

Recognised are the outputs themselves (``outs`` or the folder around it) and folders that hold the
same files under other names, as GEO and studies publish them. Space Ranger does not copy the
full-resolution image into its outputs: without one the reduced image takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.model import Note, SlideRecord, SourceFile, Spots, Table
from stformat.sources._barcode_labels import read_barcode_labels
from stformat.sources._bytes import in_order, source_file
from stformat.sources._counts_10x import FeatureCounts
from stformat.sources._counts_h5 import read_counts_h5
from stformat.sources._counts_mtx import read_counts_mtx
from stformat.sources._kinds import (
    SourceKind,
    SourceRequest,
    descriptors,
    focal_plane,
    labels_path,
    positive,
)
from stformat.sources._notes import outside_notes
from stformat.sources._positions import TissuePositions, read_positions
from stformat.sources._rows import counts_of
from stformat.sources._scalefactors import ScaleFactors, read_scalefactors
from stformat.sources._visium_files import (
    CountsChoice,
    VisiumFiles,
    evidence,
    find_files,
    select_counts,
    slides_in,
)
from stformat.sources._visium_grid import VisiumScale, fit_grid, measure
from stformat.sources._visium_image import ChosenImage, check_image, choose_image
from stformat.sources._visium_join import join_barcodes, sections
from stformat.sources._visium_tables import build_tables, species_of

__all__ = ["KIND"]


def read_visium(request: SourceRequest) -> SlideRecord:
    """Read one Visium slide.

    Parameters
    ----------
    request : SourceRequest
        Options of its own: ``counts``, the path of a count matrix; ``labels``, the path of a table
        with a column of barcodes; ``pitch_um``, the distance of neighbouring spots in microns
        where the array is not Visium's; ``focal_plane``, which one to read of an image that has
        several, counted from 0. An ``mpp`` is that of the image that is stored.

    Returns
    -------
    SlideRecord
        The table ``expression`` of genes, and one for each other type of feature
        (``antibody_capture``), with a row for each barcode that has both counts and a place, in
        the order of the count matrix.

    Raises
    ------
    UnknownSourceError
        If the folder is one of Visium HD.
    InputError
        If a file that is needed is missing, or is not what it must be.

    Notes
    -----
    Spots have the radius of the printed ones, 27.5 um, and not that of
    ``spot_diameter_fullres``, which stands for 60, 65 or 70 um by version.
    """
    parts = _read_parts(request)
    counts, chosen = parts.counts, parts.chosen
    section = sections(parts.positions)
    scale, scale_notes = _scale(request, parts, section)
    joined, join_notes = join_barcodes(
        counts.barcodes,
        parts.positions,
        where=f"{parts.choice.path.name}, {parts.files.positions[0].name}",
    )
    slide_id = request.slide_id or parts.files.name
    barcodes = np.array(counts.barcodes, dtype=object)[joined.count_rows]
    labels = labels_path(request.options, (), where=slide_id)
    annotations: dict[str, NDArray[np.object_]] = {}
    label_notes: tuple[Note, ...] = ()
    if labels is not None:
        annotations, label_notes = read_barcode_labels(labels, barcodes.tolist(), slide_id=slide_id)
    places = joined.position_rows
    spots = Spots(
        region="spots",
        shape="circle",
        barcodes=barcodes,
        xy=parts.positions.xy[places] * chosen.scale,
        radius_px=np.full(len(barcodes), scale.radius_px),
        array_row=parts.positions.array_row[places],
        array_col=parts.positions.array_col[places],
        in_tissue=parts.positions.in_tissue[places],
        section=None if section is None else section[places],
        pitch_px=scale.pitch_px,
        pitch_um=scale.pitch_um,
        diameter_um=scale.diameter_um,
        annotations=annotations,
    )
    tables, gene_notes = _tables(counts, joined.count_rows, spots)
    species = {"species": species_of(counts.features)}
    return SlideRecord(
        slide_id=slide_id,
        descriptors=descriptors(species | dict(request.options), technology="Visium"),
        tables=tables,
        default_table=tables[0].name,
        image=chosen.image,
        mpp=scale.mpp,
        sources=_sources(parts, labels),
        notes=(
            *_choice_notes(parts.choice),
            *counts.notes,
            *join_notes,
            *gene_notes,
            *label_notes,
            *scale_notes,
            *chosen.notes,
            *outside_notes(spots.xy, barcodes, chosen.image),
        ),
    )


KIND = SourceKind(
    name="visium",
    options=("counts", "labels", "pitch_um", "focal_plane"),
    looks_like=evidence,
    read=read_visium,
    slides_in=slides_in,
)
"""Space Ranger Visium as a kind of source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What the files of a slide hold."""

    files: VisiumFiles
    choice: CountsChoice
    counts: FeatureCounts
    positions: TissuePositions
    factors: ScaleFactors
    chosen: ChosenImage


def _read_parts(request: SourceRequest) -> _Parts:
    files = find_files(request.path, sample=request.slide_id)
    choice = select_counts(files, request.options.get("counts"))
    counts = _read_counts(choice)
    positions = _read_positions(files)
    factors = _read_factors(files)
    chosen = choose_image(
        files,
        factors,
        given=request.image,
        stain="if" if request.options.get("stain") == "if" else "he",
        focal_plane=focal_plane(request.options),
        scratch=request.scratch,
    )
    check_image(chosen, factors, xy=positions.xy, in_tissue=positions.in_tissue)
    return _Parts(
        files=files,
        choice=choice,
        counts=counts,
        positions=positions,
        factors=factors,
        chosen=chosen,
    )


def _read_counts(choice: CountsChoice) -> FeatureCounts:
    source = choice.source
    return read_counts_h5(source) if isinstance(source, Path) else read_counts_mtx(source)


def _tables(
    counts: FeatureCounts, rows: NDArray[np.int64], spots: Spots
) -> tuple[tuple[Table, ...], tuple[Note, ...]]:
    matrix = counts.matrix
    if len(rows) < matrix.shape[0]:
        matrix = matrix[rows]
    return build_tables(
        counts.features,
        spots,
        lambda columns: counts_of(matrix if columns is None else matrix[:, columns]),
    )


def _choice_notes(choice: CountsChoice) -> tuple[Note, ...]:
    message = {
        "raw": f"{choice.path.name} is not filtered: spots off the tissue are rows as well.",
        "probes": f"{choice.path.name} counts probes, several a gene, and is not filtered.",
    }.get(choice.content)
    return () if message is None else (Note(code=f"counts.{choice.content}", message=message),)


def _read_positions(files: VisiumFiles) -> TissuePositions:
    if not files.positions:
        raise PositionsError(
            Problem(
                "positions.missing",
                str(files.folder),
                "tissue positions are needed, such as spatial/tissue_positions.csv",
                "none",
                "name the folder of one slide, with its matrix and its folder spatial",
            )
        )
    first, *others = [read_positions(path) for path in files.positions]
    for other in others:
        is_same = set(first.identifiers) == set(other.identifiers) and all(
            np.array_equal(getattr(first, name), getattr(other, name))
            for name in ("in_tissue", "array_row", "array_col", "xy")
        )
        if not is_same:
            raise _several("positions.several", "table of tissue positions", files.positions)
    return first


def _read_factors(files: VisiumFiles) -> ScaleFactors:
    factors = [read_scalefactors(path) for path in files.scalefactors]
    if len(set(factors)) > 1:
        raise _several("scalefactors.several", "document of scale factors", files.scalefactors)
    return factors[0] if factors else ScaleFactors()


def _several(code: str, what: str, paths: tuple[Path, ...]) -> PositionsError:
    return PositionsError(
        Problem(
            code,
            str(paths[0].parent),
            f"one {what} is needed",
            f"{', '.join(path.name for path in paths)}, which differ",
            "keep one, or name the slide with slide_id=",
        )
    )


def _scale(
    request: SourceRequest, parts: _Parts, section: NDArray[np.object_] | None
) -> tuple[VisiumScale, tuple[Note, ...]]:
    pitch_um = request.options.get("pitch_um")
    positions, chosen = parts.positions, parts.chosen
    array_xy = np.stack([positions.array_col, positions.array_row], axis=1)
    # Tags of a reduced image say nothing of the slide.
    tag_mpp = chosen.image.tag_mpp if chosen.image and not chosen.is_reduced else None
    return measure(
        fit_grid(array_xy, positions.xy, section),
        parts.factors,
        image_scale=chosen.scale,
        mpp=request.mpp,
        pitch_um=None if pitch_um is None else positive("pitch_um", pitch_um),
        tag_mpp=tag_mpp,
    )


def _sources(parts: _Parts, labels: Path | None) -> tuple[SourceFile, ...]:
    files = parts.files
    paths = (*parts.choice.files, files.positions[0], *files.scalefactors[:1], labels)
    sources = [source_file(path) for path in paths if path]
    if parts.chosen.image and parts.chosen.image.source:
        sources.append(parts.chosen.image.source)
    return in_order(sources)
