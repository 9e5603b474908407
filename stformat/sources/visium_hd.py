"""Visium HD as Space Ranger 3 and 4 write it: bins of several sizes, and segmented cells.

Every size of bins becomes a region of squares with a table of its own, as do cells. A size that
Space Ranger did not write is added up, exactly, from one that it did.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stformat.errors import InputError, PositionsError, Problem
from stformat.model import Mpp, MppMethod, Note, Outlines, SlideRecord, SourceFile, Spots, Table
from stformat.sources._bin_positions import BinPositions, read_bin_positions
from stformat.sources._bin_tables import Bins, coarser_bins, join_bins
from stformat.sources._bytes import in_order, source_file
from stformat.sources._cells import read_cells
from stformat.sources._counts_10x import Features
from stformat.sources._kinds import SourceKind, SourceRequest, descriptors, focal_plane
from stformat.sources._lattice import Lattice, fit_lattice
from stformat.sources._notes import counted
from stformat.sources._row_matrix import open_rows
from stformat.sources._scalefactors import ScaleFactors
from stformat.sources._visium_files import CountsChoice, select_counts
from stformat.sources._visium_hd_files import (
    BinFolder,
    VisiumHdFiles,
    evidence,
    find_hd_files,
    read_factors,
    region_name,
    slides_in,
)
from stformat.sources._visium_image import ChosenImage, check_image, choose_image
from stformat.sources._visium_tables import build_tables, species_of

__all__ = ["KIND"]

USUAL_UM = (8, 16)
"""Sizes of bins that are read where none are asked for and these are there."""

DEFAULT_UM = 8
"""Size whose table is the default one."""

CONTRADICTION = 0.05
"""Relative difference of two values of mpp that is reported."""

_MOST_UM = 999
_ROWS_CHECKED = 1 << 17


def read_visium_hd(request: SourceRequest) -> SlideRecord:
    """Read one Visium HD slide.

    Parameters
    ----------
    request : SourceRequest
        Options of its own: ``bins``, sizes of bins in microns, as numbers or as text with commas
        between them; ``focal_plane``, which one to read of an image that has several, counted from
        0. An ``mpp`` is that of the image that is stored.

    Returns
    -------
    SlideRecord
        For each size of bins the table ``expression_square_008um`` of genes, and one for each other
        type of feature (``antibody_capture_square_008um``), with a row for each barcode that has
        both counts and a place, in the order of the count matrix; ``expression_cells`` where there
        are segmented cells, and the outlines ``nuclei`` where there are those. By default sizes of
        8 and 16 um, else the finest there is. The default table is that of 8 um, else of the
        finest.

    Raises
    ------
    UnknownSourceError
        If the folder has neither bins nor cells.
    InputError
        If a file that is needed is missing, or is not what it must be.

    Notes
    -----
    Counts in HDF5 are read when they are written, those in text go to `scratch` beyond 64 MiB, so
    memory is that of the places: about 100 bytes for each bin of the tables, and as much while the
    places of a size are joined.
    """
    files = find_hd_files(request.path)
    factors, chosen = _image(request, files)
    regions = [
        region
        for folder, sizes in _by_folder(_sizes(request.options.get("bins"), files), files).items()
        for region in _read_folder(folder, sizes, chosen, request.scratch)
    ]
    mpp, mpp_notes = _resolution(request, factors, regions, chosen)
    notes = [note for region in regions for note in region.notes]
    tables: list[Table] = []
    for region in regions:
        spots = _spots(region, mpp, chosen.scale)
        suffix = f"_{region.name}"
        made, gene_notes = build_tables(region.features, spots, region.bins.counts, suffix=suffix)
        tables.extend(made)
        notes.extend(gene_notes)
    paths = [path for region in regions for path in region.paths]
    outlines: tuple[Outlines, ...] = ()
    if files.cells is not None:
        cells = read_cells(
            files.cells,
            scale=chosen.scale,
            is_needed=not files.bins,
            scratch=request.scratch,
        )
        outlines = cells.outlines
        tables.extend(cells.tables)
        paths.extend(cells.files)
        notes.extend(cells.notes)
    species = {"species": species_of(regions[0].features)} if regions else {}
    return SlideRecord(
        slide_id=request.slide_id or files.name,
        descriptors=descriptors(species | dict(request.options), technology="Visium HD"),
        tables=tuple(tables),
        default_table=_default_table(tables),
        image=chosen.image,
        outlines=outlines,
        mpp=mpp,
        sources=_sources([*paths, *_factor_paths(files)], chosen),
        notes=(*dict.fromkeys(notes), *mpp_notes, *chosen.notes, *_outside_notes(tables, chosen)),
    )


KIND = SourceKind(
    name="visium_hd",
    options=("bins", "focal_plane"),
    looks_like=evidence,
    read=read_visium_hd,
    slides_in=slides_in,
)
"""Space Ranger Visium HD as a kind of source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """Bins of one size, in full-resolution pixels of the source."""

    size_um: int
    bins: Bins
    features: Features
    lattice: Lattice | None
    paths: tuple[Path, ...]
    notes: tuple[Note, ...]

    @property
    def name(self) -> str:
        """Name of the shapes element."""
        return region_name(self.size_um)


def _sizes(given: object, files: VisiumHdFiles) -> list[int]:
    """Sizes of bins to store, finest first."""
    there = [folder.size_um for folder in files.bins]
    if given is None:
        return [size for size in USUAL_UM if size in there] or there[:1]
    items = given.split(",") if isinstance(given, str) else given
    values: list[Any] = list(items) if isinstance(items, Iterable) else [items]
    try:
        sizes = sorted(
            {int(value) if isinstance(value, str) else operator.index(value) for value in values}
        )
    except (TypeError, ValueError):
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > _MOST_UM:
        raise InputError(
            Problem(
                "option.bins",
                "bins",
                f"sizes of bins in whole microns are needed, from 1 to {_MOST_UM}",
                repr(given),
            )
        )
    return sizes


def _by_folder(sizes: Sequence[int], files: VisiumHdFiles) -> dict[BinFolder, list[int]]:
    """Which sizes each folder gives: its own, and those that its bins add up to."""
    chosen: dict[BinFolder, list[int]] = {}
    for size in sizes:
        # The coarsest that fits: fewest values to add up.
        fitting = [folder for folder in files.bins if size % folder.size_um == 0]
        if not fitting:
            raise InputError(
                Problem(
                    "option.bins",
                    "bins",
                    "a size must be that of bins of the source, or a multiple of it",
                    f"{size} um, where there are "
                    f"{', '.join(str(folder.size_um) for folder in files.bins) or 'no'} um",
                )
            )
        chosen.setdefault(fitting[-1], []).append(size)
    return chosen


def _read_folder(
    folder: BinFolder, sizes: Sequence[int], chosen: ChosenImage, scratch: Path | None
) -> Iterator[_Region]:
    choice = select_counts(folder.files, None)
    path = _positions_path(folder)
    positions = read_bin_positions(path)
    _check_image(chosen, folder.factors, positions)
    matrix = open_rows(choice.source, scratch=scratch)
    bins = join_bins(
        matrix, positions, region=region_name(folder.size_um), where=f"{choice.path.name}, {path}"
    )
    lattice = _lattice(positions)
    for size in sizes:
        factor = size // folder.size_um
        notes = (*_choice_notes(choice, folder), *bins.notes)
        if factor > 1:
            message = (
                f"{region_name(size)} was added up from {region_name(folder.size_um)}, which the "
                "source has."
            )
            notes = (*notes, Note(code="bins.pooled", message=message, count=factor**2))
        yield _Region(
            size_um=size,
            bins=bins
            if factor == 1
            else coarser_bins(bins, positions, factor=factor, size_um=size, scratch=scratch),
            features=matrix.features,
            lattice=lattice and replace(lattice, unit_px=lattice.unit_px * factor),
            paths=(*choice.files, path),
            notes=notes,
        )


def _positions_path(folder: BinFolder) -> Path:
    found = folder.files.positions
    if len(found) != 1:
        raise PositionsError(
            Problem(
                "positions.several" if found else "positions.missing",
                str(folder.files.folder),
                "one table of tissue positions is needed, spatial/tissue_positions.parquet",
                ", ".join(path.name for path in found) or "none",
            )
        )
    return found[0]


def _choice_notes(choice: CountsChoice, folder: BinFolder) -> tuple[Note, ...]:
    if choice.content not in {"raw", "probes"}:
        return ()
    message = (
        f"{region_name(folder.size_um)}: {choice.path.name} is not filtered: bins off the tissue "
        "are rows as well."
    )
    return (Note(code=f"counts.{choice.content}", message=message),)


def _lattice(positions: BinPositions) -> Lattice | None:
    step = -(-len(positions.names) // _ROWS_CHECKED)
    places = np.stack([positions.array_col[::step], positions.array_row[::step]], axis=1)
    return fit_lattice(places.astype(np.float64), positions.xy[::step], step=1.0)


def _spots(region: _Region, mpp: Mpp, scale: float) -> Spots:
    pitch_px = region.lattice.pitch_px * scale if region.lattice else None
    side_px = region.size_um / mpp.value if mpp.value is not None else pitch_px
    if side_px is None:
        raise PositionsError(
            Problem(
                "positions.spot-size",
                region.name,
                "microns_per_pixel is needed, or bins that are no single line",
                "neither",
                "give microns per pixel with --mpp",
            )
        )
    bins = region.bins
    return Spots(
        region=region.name,
        shape="square",
        barcodes=bins.names,
        xy=bins.xy if scale == 1 else bins.xy * scale,
        # One number for all rows: it takes no memory.
        radius_px=np.broadcast_to(np.float64(side_px / 2), len(bins.names)),
        array_row=bins.array_row,
        array_col=bins.array_col,
        in_tissue=bins.in_tissue,
        pitch_px=pitch_px,
        pitch_um=float(region.size_um) if pitch_px is not None else None,
        diameter_um=float(region.size_um),
    )


def _image(request: SourceRequest, files: VisiumHdFiles) -> tuple[ScaleFactors, ChosenImage]:
    """Choose the image, and the scale factors that stand beside it."""
    folders = [
        *((folder.files, folder.factors) for folder in files.bins),
        *((part, read_factors(part)) for part in (files.cells, files.around) if part),
    ]
    small, factors = next(
        (one for one in folders if one[0].hires or one[0].lowres), (folders[0][0], folders[0][1])
    )
    # The same image may be found through the folder around the bins and through theirs.
    full = {path.resolve(): path for part, _ in folders for path in part.full}
    chosen = choose_image(
        replace(small, full=tuple(full.values())),
        factors,
        given=request.image,
        stain="if" if request.options.get("stain") == "if" else "he",
        focal_plane=focal_plane(request.options),
        scratch=request.scratch,
    )
    known = next((one for _, one in folders if one.microns_per_px is not None), factors)
    return known, chosen


def _check_image(chosen: ChosenImage, factors: ScaleFactors, positions: BinPositions) -> None:
    step = -(-len(positions.names) // _ROWS_CHECKED)
    check_image(chosen, factors, xy=positions.xy[::step], in_tissue=positions.in_tissue[::step])


def _resolution(
    request: SourceRequest, factors: ScaleFactors, regions: list[_Region], chosen: ChosenImage
) -> tuple[Mpp, tuple[Note, ...]]:
    """Microns per pixel of the stored image, and what contradicts them."""
    lattices = [(region.size_um, region.lattice) for region in regions if region.lattice]
    residual = lattices[0][1].residual if lattices else None
    candidates: dict[MppMethod, float | None] = {
        "given": request.mpp,
        "file": factors.microns_per_px and factors.microns_per_px / chosen.scale,
        "lattice": lattices[0][0] / (lattices[0][1].pitch_px * chosen.scale) if lattices else None,
        "image-tags": chosen.image.tag_mpp if chosen.image and not chosen.is_reduced else None,
    }
    usable = {method: value for method, value in candidates.items() if value is not None}
    if not usable:
        message = "Microns per pixel are unknown: pass --mpp."
        return Mpp(residual=residual), (Note(code="mpp.unknown", message=message),)
    method, value = next(iter(usable.items()))
    notes = tuple(
        Note(
            code="mpp.contradiction",
            message=(
                f"Microns per pixel: {value:.5g} ({method}) is taken, {other:.5g} "
                f"({other_method}) differs by {abs(other / value - 1):.0%}."
            ),
        )
        for other_method, other in usable.items()
        if abs(other / value - 1) > CONTRADICTION
    )
    return Mpp(value=value, method=method, residual=residual), notes


def _default_table(tables: Sequence[Table]) -> str:
    wanted = region_name(DEFAULT_UM)
    return next((table.name for table in tables if table.spots.region == wanted), tables[0].name)


def _outside_notes(tables: Sequence[Table], chosen: ChosenImage) -> tuple[Note, ...]:
    """Say how many bins and cells have their centre outside the image."""
    if chosen.image is None:
        return ()
    _, height, width = chosen.image.shape
    notes = []
    for spots in {table.spots.region: table.spots for table in tables}.values():
        x, y = spots.xy.T
        is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        n_outside = spots.n_obs - int(np.count_nonzero(is_inside))
        if n_outside:
            rows = counted(n_outside, "row has its centre", "rows have their centres")
            message = f"{spots.region}: {rows} outside the image of {width} x {height} px."
            notes.append(Note(code="spots.outside-image", message=message, count=n_outside))
    return tuple(notes)


def _factor_paths(files: VisiumHdFiles) -> list[Path]:
    return [path for folder in files.bins for path in folder.files.scalefactors[:1]]


def _sources(paths: Sequence[Path], chosen: ChosenImage) -> tuple[SourceFile, ...]:
    sources = [source_file(path) for path in dict.fromkeys(paths)]
    if chosen.image and chosen.image.source:
        sources.append(chosen.image.source)
    return in_order(sources)
