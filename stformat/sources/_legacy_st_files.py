"""Which files of a folder make up one legacy ST sample."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stformat.errors import InputError, PositionsError, Problem
from stformat.sources._kinds import FoundSlide
from stformat.sources._sniff import classify_table, is_image, read_head

__all__ = ["KIND_NAME", "SampleFiles", "evidence", "find_sample", "samples_in"]

KIND_NAME = "legacy_st"
"""Name of the kind of source."""

COUNTS_FOLDER = "ST-cnts"
SPOTS_FOLDER = "ST-spotfiles"
IMAGES_FOLDER = "ST-imgs"
LABELS_FOLDER = "ST-pat/lbl"

IMAGE_DEPTH = 3
"""Folders below ``ST-imgs`` that are searched: ``ST-imgs/<block>/<sample>/<image>``."""

_TEXT_SUFFIXES = {".gz", ".tsv", ".csv", ".txt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFiles:
    """The files of one sample."""

    name: str
    """Name of the sample: the count matrix's file name without its suffixes."""

    counts: Path
    """Count matrix."""

    spots: Path
    """Spot file."""

    images: tuple[Path, ...]
    """Every image that may belong to the sample."""

    labels: tuple[Path, ...]
    """Every label file that may belong to the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """Every file of a folder that legacy ST samples are made of, by what it is."""

    path: Path
    counts: tuple[Path, ...]
    spots: tuple[Path, ...]
    labels: tuple[Path, ...]
    images: tuple[Path, ...]


def evidence(path: Path) -> str | None:
    """Say why a path looks like legacy ST.

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
        return "counts with names of spots" if _is_table(path, "counts") else None
    folder = _scan(path)
    seen = [
        f"{what} {files[0].name}"
        for what, files in (("counts", folder.counts), ("spot file", folder.spots))
        if files
    ]
    return ", ".join(seen) or None


def find_sample(source: Path, *, sample: str | None) -> SampleFiles:
    """Find the files of one sample.

    Parameters
    ----------
    source : pathlib.Path
        A folder, or the count matrix itself.
    sample : str or None
        Name of the sample, needed where a folder holds several.

    Returns
    -------
    SampleFiles
        A spot, label or image file belongs to the sample whose name stands in its own name or in
        that of its folder; where the folder holds one sample and one such file, to that.

    Raises
    ------
    InputError
        If there is no count matrix, or several and `sample` names none of them.
    PositionsError
        If there is no spot file for the sample, or several.
    """
    if source.is_file():
        if not _is_table(source, "counts"):
            raise InputError(
                Problem(
                    "counts.not-a-matrix",
                    source.name,
                    "a count matrix has names of spots, such as 10x13, along one axis",
                    "none in the first line and the first column",
                )
            )
        folder = _scan(_root_of(source))
        counts = source
    else:
        folder = _scan(source)
        counts = _choose_counts(folder, sample)
    names = {sample_name(path) for path in (*folder.counts, counts)}
    is_only = len(folder.counts) <= 1
    name = sample_name(counts)
    spots = _belonging(folder.spots, folder.path, name, names, is_only=is_only)
    if len(spots) != 1:
        raise PositionsError(
            Problem(
                "positions.spot-file",
                f"sample {name} in {folder.path}",
                "one file with the columns x, y, pixel_x, pixel_y is needed",
                _listed(spots or folder.spots, folder.path) or "none",
                "keep one that has the name of the sample in its own" if folder.spots else "",
            )
        )
    return SampleFiles(
        name=name,
        counts=counts,
        spots=spots[0],
        images=_belonging(folder.images, folder.path, name, names, is_only=is_only),
        labels=_belonging(folder.labels, folder.path, name, names, is_only=is_only),
    )


def samples_in(folder: Path) -> tuple[FoundSlide, ...]:
    """List the samples of a folder: one a count matrix.

    Parameters
    ----------
    folder : pathlib.Path
        A folder of samples, or any other.

    Returns
    -------
    tuple of FoundSlide
        In the order of the names of the count matrices.

    Raises
    ------
    InputError
        If the folder, or a file of it, cannot be read.
    """
    scanned = _scan(folder)
    names = {sample_name(path) for path in scanned.counts}
    is_only = len(scanned.counts) == 1
    others = (*scanned.spots, *scanned.labels, *scanned.images)
    return tuple(
        FoundSlide(
            kind=KIND_NAME,
            path=folder,
            slide_id=sample_name(counts),
            sample=None if is_only else sample_name(counts),
            files=(
                counts,
                *_belonging(others, folder, sample_name(counts), names, is_only=is_only),
            ),
        )
        for counts in scanned.counts
    )


def sample_name(counts: Path) -> str:
    """Return the file name of a count matrix without its suffixes.

    Examples
    --------
    >>> sample_name(Path("ST-cnts/A1.tsv.gz"))
    'A1'
    """
    path = Path(counts.name)
    while path.suffix.lower() in _TEXT_SUFFIXES:
        path = path.with_suffix("")
    return path.name


def _is_table(path: Path, wanted: str) -> bool:
    head = read_head(path)
    return head is not None and classify_table(head) == wanted


def _root_of(counts: Path) -> Path:
    """Return the folder of a sample's other files."""
    beside = counts.parent
    above = beside.parent
    return above if (above / SPOTS_FOLDER).is_dir() else beside


def _scan(folder: Path) -> _Folder:
    is_divided = any((folder / name).is_dir() for name in (COUNTS_FOLDER, SPOTS_FOLDER))
    text_folders = (COUNTS_FOLDER, SPOTS_FOLDER, LABELS_FOLDER) if is_divided else (".",)
    tables: dict[str, list[Path]] = {"counts": [], "spots": [], "labels": []}
    for path in (path for name in text_folders for path in _files(folder / name)):
        head = read_head(path)
        found = classify_table(head) if head else None
        if found:
            tables[found].append(path)
    image_folder = folder / IMAGES_FOLDER if is_divided else folder
    images = [path for path in _files(image_folder, IMAGE_DEPTH * is_divided) if is_image(path)]
    return _Folder(
        path=folder,
        images=tuple(images),
        **{what: tuple(paths) for what, paths in tables.items()},
    )


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Files of a folder in the order of their names; those in sub-folders down to a depth."""
    if not folder.is_dir():
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            Problem("source.unreadable", str(folder), "the folder must be readable", str(error))
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            yield entry
        elif depth and entry.is_dir():
            yield from _files(entry, depth - 1)


def _choose_counts(folder: _Folder, sample: str | None) -> Path:
    if not folder.counts:
        raise InputError(
            Problem(
                "counts.missing",
                str(folder.path),
                "a count matrix with names of spots along one axis is needed",
                f"the spot file {folder.spots[0].name}" if folder.spots else "no such file",
            )
        )
    if len(folder.counts) == 1:
        return folder.counts[0]
    chosen = [path for path in folder.counts if sample_name(path) == sample]
    if len(chosen) == 1:
        return chosen[0]
    samples = sorted({sample_name(path) for path in folder.counts})
    raise InputError(
        Problem(
            "source.samples",
            str(folder.path),
            "one sample is converted at a time"
            if sample is None
            else f"one count matrix must be of the sample {sample!r}",
            f"{_listed(chosen or folder.counts, folder.path)} (samples {', '.join(samples)})",
            "give the name of a sample as slide_id, or its count matrix as source",
        )
    )


def _belonging(
    files: Sequence[Path], root: Path, name: str, names: Iterable[str], *, is_only: bool
) -> tuple[Path, ...]:
    """Files named for a sample; where none is and there is one sample, all that are there."""
    named = tuple(path for path in files if _owner(path.relative_to(root), names) == name)
    return named or (tuple(files) if is_only else ())


def _owner(path: Path, names: Iterable[str]) -> str | None:
    """Return the longest sample name that stands as a word in a path: ``A1`` is not in ``A10``."""
    words = path.as_posix()
    found = [name for name in names if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", words)]
    return max(found, key=len, default=None)


def _listed(paths: Iterable[Path], root: Path) -> str:
    return ", ".join(path.relative_to(root).as_posix() for path in paths)
