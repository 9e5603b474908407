"""Which files of the STimage-1K4M layout make up one slide.

A tree has a folder for each technology with ``coord/<slide>_coord.csv``,
``gene_exp/<slide>_count.csv`` and ``image/<slide>.png``, and beside these ``annotation`` and
``meta``; the data set's own example has one slide's three files side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stformat.errors import CountsError, InputError, PositionsError, Problem
from stformat.sources._sniff import read_head

__all__ = ["COORDINATE_COLUMNS", "StimageSlide", "evidence", "find_slide", "list_slides"]

TECHNOLOGIES = {"ST": "ST", "Visium": "Visium", "VisiumHD": "Visium HD"}
"""Folders of a tree, and what they stand for."""

COORDINATE_COLUMNS = ("yaxis", "xaxis", "r")

COORD_FOLDER, COUNTS_FOLDER, IMAGE_FOLDER = "coord", "gene_exp", "image"
META_FOLDER, ANNOTATION_FOLDER = "meta", "annotation"

_COORD_ENDS = ("_coord.csv", "_coord.csv.gz")
_COUNTS_ENDS = ("_count.csv", "_count.csv.gz")
_ANNOTATION_ENDS = ("_anno.csv", "_anno.csv.gz", ".csv", ".csv.gz")
_IMAGE_ENDS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_TABLE_ENDS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_SHOWN_SLIDES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StimageSlide:
    """The files of one slide."""

    slide_id: str
    """Name of the slide, which begins the names of its files."""

    technology: str | None
    """``"ST"``, ``"Visium"`` or ``"Visium HD"``, as the folder says; None without one."""

    coords: tuple[Path, ...]
    """Every table of coordinates."""

    counts: tuple[Path, ...]
    """Every count matrix."""

    images: tuple[Path, ...]
    """Every image."""

    annotations: tuple[Path, ...]
    """Every table of labels."""

    meta: tuple[Path, ...]
    """Every catalogue of the tree, which has rows of other slides as well."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the files of one technology lie."""

    technology: str | None
    coord: Path
    counts: Path
    image: Path
    annotation: Path
    meta: Path


def evidence(path: Path) -> str | None:
    """Say why a path looks like a slide or a tree of STimage-1K4M.

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
        name = _slide_name(path)
        layout = _layout_of_file(path)
        coords = () if name is None else _named(layout.coord, name, _COORD_ENDS)
        return f"coordinates {coords[0].name}" if any(map(_is_coords, coords)) else None
    for layout in _layouts(path):
        first = next((file for file in _files(layout.coord) if _stem(file, _COORD_ENDS)), None)
        if first is not None and (layout.coord != path or _is_coords(first)):
            return f"coordinates {first.relative_to(path).as_posix()}"
    return None


def list_slides(tree: Path) -> tuple[StimageSlide, ...]:
    """List the slides of a tree.

    Parameters
    ----------
    tree : pathlib.Path
        Folder with the folders ``ST``, ``Visium``, ``VisiumHD``, one of these, or a folder with
        the files of slides side by side.

    Returns
    -------
    tuple of StimageSlide
        Slides that have coordinates or counts, in the order of their names. Nothing is read but
        the folders.

    Raises
    ------
    InputError
        If a folder cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide, write_stimage
    >>> slide = make_slide(height=400, width=400, n_genes=20, pitch_px=60.0, seed=0)
    >>> tree = write_stimage(slide, Path(tempfile.mkdtemp()))
    >>> [(slide.slide_id, slide.technology) for slide in list_slides(tree)]
    [('S1', 'ST')]
    """
    slides = []
    for layout in _layouts(tree):
        coords, counts = _by_stem(layout.coord, _COORD_ENDS), _by_stem(layout.counts, _COUNTS_ENDS)
        images, annotations = (
            _by_stem(layout.image, _IMAGE_ENDS),
            _by_stem(layout.annotation, _ANNOTATION_ENDS),
        )
        meta = tuple(file for file in _files(layout.meta) if file.name.endswith(_TABLE_ENDS))
        slides += [
            StimageSlide(
                slide_id=name,
                technology=layout.technology,
                coords=coords.get(name, ()),
                counts=counts.get(name, ()),
                images=images.get(name, ()),
                annotations=annotations.get(name, ()),
                meta=meta,
            )
            for name in {**coords, **counts}
        ]
    return tuple(sorted(slides, key=lambda slide: (slide.slide_id, slide.technology or "")))


def find_slide(source: Path, *, slide_id: str | None) -> StimageSlide:
    """Find the files of one slide.

    Parameters
    ----------
    source : pathlib.Path
        A tree, a technology's folder of one, a folder with one slide's files, or a slide's table
        of coordinates, count matrix or image.
    slide_id : str or None
        Name of the slide, needed where a tree has several.

    Returns
    -------
    StimageSlide
        With one table of coordinates, one count matrix and at most one image and table of labels.

    Raises
    ------
    InputError
        If no slide or several fit, or a file is missing or there twice.
    """
    if source.is_file():
        layout = _layout_of_file(source)
        name = _slide_name(source)
        root = layout.coord.parent if layout.coord != layout.counts else layout.coord
        slides = [slide for slide in list_slides(root) if slide.slide_id == name]
    else:
        root = source
        slides = [s for s in list_slides(root) if slide_id in {None, s.slide_id}]
    if len(slides) != 1:
        raise _not_one(source, slide_id, slides or list(list_slides(root)))
    (slide,) = slides
    _check_one("coord", slide.coords, slide, PositionsError, "positions.coordinates")
    _check_one("count", slide.counts, slide, CountsError, "counts.missing")
    return slide


def _check_one(
    what: str,
    files: tuple[Path, ...],
    slide: StimageSlide,
    error: type[CountsError | PositionsError],
    code: str,
) -> None:
    if len(files) == 1:
        return
    raise error(
        Problem(
            code,
            f"slide {slide.slide_id}",
            f"one file {slide.slide_id}_{what}.csv is needed",
            ", ".join(file.name for file in files) or "none",
        )
    )


def _not_one(source: Path, slide_id: str | None, slides: list[StimageSlide]) -> InputError:
    names = [slide.slide_id for slide in slides]
    more = len(names) - _SHOWN_SLIDES
    return InputError(
        Problem(
            "source.slides",
            str(source),
            "one slide is converted at a time"
            if slide_id is None
            else f"one slide must have the name {slide_id!r}",
            ", ".join(names[:_SHOWN_SLIDES]) + (f" and {more} more" if more > 0 else "")
            or "no coordinates and no counts",
            "give the name of a slide as slide_id, or one of its files as source",
        )
    )


def _layouts(folder: Path) -> Iterator[_Layout]:
    """Yield each technology's folders of a tree, or the folder itself where files lie in it."""
    found = [folder / name for name in TECHNOLOGIES if (folder / name).is_dir()]
    if found:
        yield from map(_technology_layout, found)
    elif any((folder / name).is_dir() for name in (COORD_FOLDER, COUNTS_FOLDER)):
        yield _technology_layout(folder)
    elif folder.is_dir():
        yield _flat_layout(folder)


def _technology_layout(folder: Path) -> _Layout:
    return _Layout(
        technology=TECHNOLOGIES.get(folder.name),
        coord=folder / COORD_FOLDER,
        counts=folder / COUNTS_FOLDER,
        image=folder / IMAGE_FOLDER,
        annotation=folder.parent / ANNOTATION_FOLDER,
        meta=folder.parent / META_FOLDER,
    )


def _flat_layout(folder: Path) -> _Layout:
    return _Layout(
        technology=None,
        coord=folder,
        counts=folder,
        image=folder,
        annotation=folder / ANNOTATION_FOLDER,
        meta=folder / META_FOLDER,
    )


def _layout_of_file(path: Path) -> _Layout:
    # Not resolved: a file may be a link to one that lies elsewhere under another name.
    folder = path.absolute().parent
    is_in_tree = folder.name in {COORD_FOLDER, COUNTS_FOLDER, IMAGE_FOLDER}
    return _technology_layout(folder.parent) if is_in_tree else _flat_layout(folder)


def _slide_name(path: Path) -> str | None:
    """Name of the slide that a file belongs to by its own name."""
    return _stem(path, (*_COORD_ENDS, *_COUNTS_ENDS)) or _stem(path, _IMAGE_ENDS)


def _stem(path: Path, ends: tuple[str, ...]) -> str | None:
    # Slides have dots in their names: only the end is a suffix.
    return next((path.name.removesuffix(end) for end in ends if path.name.endswith(end)), None)


def _by_stem(folder: Path, ends: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for file in _files(folder):
        name = _stem(file, ends)
        if name:
            found[name] = (*found.get(name, ()), file)
    return found


def _named(folder: Path, name: str, ends: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(path for end in ends if (path := folder / f"{name}{end}").is_file())


def _files(folder: Path) -> list[Path]:
    """Files of a folder in the order of their names; none of one that is not there."""
    if not folder.is_dir():
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            Problem("source.unreadable", str(folder), "the folder must be readable", str(error))
        ) from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.is_file()]


def _is_coords(path: Path) -> bool:
    head = read_head(path)
    return head is not None and set(COORDINATE_COLUMNS[:2]) <= {
        name.casefold() for name in head.header
    }
