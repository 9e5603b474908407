"""Legacy Spatial Transcriptomics: a text count matrix, a spot file, an image, labels.

The first commercial arrays (1k: 33 x 35 spots 200 um apart) and their successors left no standard
file but three conventions: counts name their spots ``XxY``, a spot file places these on the image,
and folders follow the HER2ST study (``ST-cnts``, ``ST-spotfiles``, ``ST-imgs``, ``ST-pat/lbl``) or
hold one sample's files side by side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, PositionsError, Problem
from stformat.model import (
    Image,
    Note,
    SlideRecord,
    Spots,
    Table,
)
from stformat.sources._array_scale import ArrayScale, measure_array
from stformat.sources._bytes import in_order, source_file
from stformat.sources._counts_text import read_counts_text
from stformat.sources._image import open_image
from stformat.sources._kinds import (
    SourceKind,
    SourceRequest,
    descriptors,
    focal_plane,
    labels_path,
    positive,
)
from stformat.sources._lattice import nearest_distance
from stformat.sources._legacy_st_files import (
    KIND_NAME,
    SampleFiles,
    evidence,
    find_sample,
    samples_in,
)
from stformat.sources._legacy_st_join import JoinedSpots, join_labels, join_spots
from stformat.sources._notes import outside_notes
from stformat.sources._rows import counts_of
from stformat.sources._spot_table import read_labels, read_spots
from stformat.sources._symbol_genes import genes_of_names, non_integer_notes

__all__ = ["KIND"]


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
    scale, scale_notes = measure_array(
        table.array_xy,
        table.pixel_xy,
        new_xy=table.new_xy,
        mpp=request.mpp,
        pitch_um=None if pitch_um is None else positive("pitch_um", pitch_um),
        tag_mpp=image.tag_mpp if image else None,
    )
    labels = labels_path(request.options, files.labels, where=f"sample {files.name}")
    annotations: dict[str, NDArray[np.object_]] = {}
    label_notes: tuple[Note, ...] = ()
    if labels is not None:
        annotations["label"], label_notes = join_labels(
            read_labels(labels), joined, name=labels.name
        )
    genes, gene_notes = genes_of_names(joined.gene_names, where=files.counts.name)
    sources = [source_file(path) for path in (files.counts, files.spots, labels) if path]
    if image and image.source:
        sources.append(image.source)
    return SlideRecord(
        slide_id=request.slide_id or files.name,
        descriptors=descriptors(request.options, technology="ST"),
        tables=(
            Table(
                name="expression",
                spots=_spots(joined, scale, _pitch_px(scale, table.pixel_xy), annotations),
                genes=genes,
                counts=counts_of(joined.matrix),
            ),
        ),
        default_table="expression",
        image=image,
        mpp=scale.mpp,
        sources=in_order(sources),
        notes=(
            *join_notes,
            *non_integer_notes(counts.n_non_integer),
            *gene_notes,
            *label_notes,
            *scale_notes,
            *image_notes,
            *outside_notes(joined.xy, joined.barcodes, image),
        ),
    )


KIND = SourceKind(
    name=KIND_NAME,
    options=("pitch_um", "labels", "focal_plane"),
    looks_like=evidence,
    read=read_legacy_st,
    slides_in=samples_in,
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


def _pitch_px(scale: ArrayScale, pixel_xy: NDArray[np.float64]) -> float:
    """Pitch as fitted, as known from microns, or as the usual distance of neighbours."""
    pitch_px = scale.pitch_px or nearest_distance(pixel_xy)
    if pitch_px is None:
        raise PositionsError(
            Problem(
                "positions.pitch",
                "spot file",
                "the distance of neighbouring spots must be known to size them",
                f"{len(pixel_xy)} spot(s) from which it does not follow",
                "pass both pitch_um and mpp",
            )
        )
    return pitch_px


def _spots(
    joined: JoinedSpots,
    scale: ArrayScale,
    pitch_px: float,
    annotations: dict[str, NDArray[np.object_]],
) -> Spots:
    places = np.rint(joined.array_xy).astype(np.int64)
    return Spots(
        region="spots",
        shape="circle",
        barcodes=joined.barcodes,
        xy=joined.xy,
        # On these arrays a spot is half as wide as the pitch.
        radius_px=np.full(len(joined.xy), pitch_px / 4),
        array_row=places[:, 1],
        array_col=places[:, 0],
        in_tissue=joined.selected,
        pitch_px=pitch_px,
        pitch_um=scale.pitch_um,
        diameter_um=scale.pitch_um / 2 if scale.pitch_um else None,
        annotations=annotations,
    )
