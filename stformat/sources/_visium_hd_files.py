"""Which files of a folder make up one slide of Space Ranger Visium HD."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stformat.errors import PositionsError, Problem, UnknownSourceError
from stformat.sources._kinds import FoundSlide
from stformat.sources._scalefactors import ScaleFactors, read_scalefactors
from stformat.sources._visium_files import (
    VisiumFiles,
    folders_of,
    hd_sign,
    outputs_of,
    scan_folder,
    slide_name,
)

__all__ = [
    "BinFolder",
    "VisiumHdFiles",
    "evidence",
    "find_hd_files",
    "read_factors",
    "region_name",
    "slides_in",
]

BINNED = "binned_outputs"
SEGMENTED = "segmented_outputs"

_BINS = re.compile(r"square_(\d+)um")


@dataclass(frozen=True, slots=True, kw_only=True)
class BinFolder:
    """The outputs of one size of bins."""

    size_um: int
    """Side of a bin in microns."""

    files: VisiumFiles
    """Files of the folder."""

    factors: ScaleFactors
    """Its scale factors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumHdFiles:
    """The files of one slide."""

    name: str
    """Name of the folder, or of the one that has it as ``outs``."""

    folder: Path
    """Folder that was named, or its ``outs``."""

    bins: tuple[BinFolder, ...]
    """One a size, finest first."""

    cells: VisiumFiles | None
    """Segmented outputs, where they are there."""

    around: VisiumFiles | None
    """Files of the folder around the sizes, where a full-resolution image may lie."""


def evidence(path: Path) -> str | None:
    """Say why a path looks like outputs of Visium HD.

    Parameters
    ----------
    path : pathlib.Path
        Folder or file.

    Returns
    -------
    str or None
        What was recognised, or None.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    if path.is_file():
        return None
    sign = hd_sign(outputs_of(path))
    return None if sign is None else f"Visium HD, {sign}"


def slides_in(folder: Path) -> tuple[FoundSlide, ...]:
    """List the slide of a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Any folder.

    Returns
    -------
    tuple of FoundSlide
        One, or none.

    Raises
    ------
    InputError
        If a file cannot be read, or the folder is not what it must be.
    """
    if evidence(folder) is None:
        return ()
    files = find_hd_files(folder)
    parts = [one.files for one in files.bins] + ([files.cells] if files.cells else [])
    filtered = [choice for part in parts for choice in part.counts if choice.content == "filtered"]
    return (
        FoundSlide(
            kind="visium_hd",
            path=folder,
            slide_id=files.name,
            files=tuple(path for choice in filtered for path in choice.files),
        ),
    )


def region_name(size_um: int) -> str:
    """Name the region of bins of a size.

    Examples
    --------
    >>> region_name(8)
    'square_008um'
    """
    return f"square_{size_um:03d}um"


def find_hd_files(source: Path) -> VisiumHdFiles:
    """Find the files of one slide.

    Parameters
    ----------
    source : pathlib.Path
        ``outs``, the folder around it, ``binned_outputs``, the folder of one size of bins, or
        ``segmented_outputs``.

    Returns
    -------
    VisiumHdFiles
        Sizes are told by ``bin_size_um`` of the scale factors, else by the name of their folder.

    Raises
    ------
    UnknownSourceError
        If there are neither bins nor cells.
    PositionsError
        If scale factors are damaged, contradict the name of their folder, or name no whole number
        of microns; or if two folders have bins of one size.
    """
    folder = outputs_of(source) if source.is_dir() else source.parent
    if _is_cells(folder):
        return _files(folder, outs=folder.parent, bins=[], cells=folder)
    if _is_bins(folder):
        is_inside = folder.parent.name == BINNED
        outs = folder.parent.parent if is_inside else folder
        return _files(folder, outs=outs, bins=[folder], cells=None)
    if folder.name == BINNED:
        return _files(folder, outs=folder.parent, bins=_below(folder), cells=None)
    binned = folder / BINNED
    segmented = folder / SEGMENTED
    return _files(
        folder,
        outs=folder,
        bins=_below(binned if binned.is_dir() else folder),
        cells=segmented if segmented.is_dir() else None,
    )


def _is_cells(folder: Path) -> bool:
    return folder.name == SEGMENTED or any(
        path.name == "cell_segmentations.geojson" for path in folder.iterdir()
    )


def _is_bins(folder: Path) -> bool:
    """Whether a folder has bins of one size, by its name or its scale factors."""
    if _BINS.fullmatch(folder.name):
        return True
    return any(
        read_scalefactors(path).bin_size_um is not None for path in scan_folder(folder).scalefactors
    )


def _below(folder: Path) -> list[Path]:
    return [path for path in folders_of(folder) if path.name != "spatial" and _is_bins(path)]


def _files(folder: Path, *, outs: Path, bins: list[Path], cells: Path | None) -> VisiumHdFiles:
    if not bins and cells is None:
        raise UnknownSourceError(
            Problem(
                "source.visium-hd",
                str(folder),
                f"outputs of Visium HD have {BINNED}/square_008um or the like",
                "none of them",
                "name the folder outs, or one of these",
            )
        )
    found = sorted((_bin_folder(path) for path in bins), key=lambda one: one.size_um)
    for one, other in pairwise(found):
        if one.size_um == other.size_um:
            raise PositionsError(
                Problem(
                    "bins.several",
                    str(folder),
                    "each size of bins needs one folder",
                    f"{one.files.folder.name} and {other.files.folder.name} of {one.size_um} um",
                    "name one of them",
                )
            )
    return VisiumHdFiles(
        name=slide_name(outs),
        folder=folder,
        bins=tuple(found),
        cells=None if cells is None else scan_folder(cells),
        around=None if outs == folder and len(bins) == 1 and bins[0] == folder else _around(outs),
    )


def _around(outs: Path) -> VisiumFiles | None:
    return scan_folder(outs) if outs.is_dir() else None


def _bin_folder(folder: Path) -> BinFolder:
    files = scan_folder(folder)
    factors = read_factors(files)
    named = _BINS.fullmatch(folder.name)
    size = factors.bin_size_um if factors.bin_size_um is not None else named and int(named[1])
    if not size or size != int(size) or (named and int(named[1]) != size):
        raise PositionsError(
            Problem(
                "bins.size",
                str(folder),
                "bins need a side of whole microns, in bin_size_um of the scale factors, and the "
                "same in the name of their folder",
                f"{size or 'none'} in {folder.name}",
            )
        )
    return BinFolder(size_um=int(size), files=files, factors=factors)


def read_factors(files: VisiumFiles) -> ScaleFactors:
    """Read the scale factors of a folder.

    Parameters
    ----------
    files : VisiumFiles
        Files of the folder.

    Returns
    -------
    ScaleFactors
        Empty where there is no document.

    Raises
    ------
    PositionsError
        If one is damaged, or several differ.
    """
    found = [read_scalefactors(path) for path in files.scalefactors]
    if len(set(found)) > 1:
        raise PositionsError(
            Problem(
                "scalefactors.several",
                str(files.folder),
                "one document of scale factors is needed",
                f"{', '.join(path.name for path in files.scalefactors)}, which differ",
            )
        )
    return found[0] if found else ScaleFactors()
