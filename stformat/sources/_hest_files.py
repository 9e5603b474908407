"""Which files of a folder in the layout of HEST-1k make up one slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stformat.errors import InputError, Problem
from stformat.sources._anndata_h5 import is_h5ad
from stformat.sources._kinds import FoundSlide
from stformat.sources._notes import named

__all__ = ["HestFiles", "evidence", "find_slide", "slides_in"]

COUNTS, IMAGES, METADATA = "st", "wsis", "metadata"
TISSUE, CELLS, XENIUM = "tissue_seg", "cellvit_seg", "xenium_seg"
_FOLDERS = (COUNTS, IMAGES, METADATA, TISSUE, CELLS, XENIUM)


@dataclass(frozen=True, slots=True, kw_only=True)
class HestFiles:
    """Files of one slide; None where one is not there."""

    name: str
    """Identifier, as files are named by it: ``"TENX95"``."""

    counts: Path
    """``st/<id>.h5ad``."""

    image: Path | None
    """``wsis/<id>.tif``."""

    metadata: Path | None
    """``metadata/<id>.json``, or the catalogue ``HEST_v*.csv`` of all slides."""

    outlines: tuple[tuple[str, Path], ...]
    """Names of outlines and their files: ``tissue``, ``cells``, ``xenium_cells``,
    ``xenium_nuclei``."""

    left_out: tuple[Path, ...]
    """Outlines in files that are never read, where no other file has them."""


def evidence(path: Path) -> str | None:
    """Say why a path looks like HEST-1k.

    Parameters
    ----------
    path : pathlib.Path
        Folder or file.

    Returns
    -------
    str or None
        What was recognised, or None.
    """
    if path.is_file() and is_h5ad(path):
        return f"AnnData {path.name}"
    root = _root(path)
    if root is None:
        return None
    slides = _slides(root)
    return f"AnnData {COUNTS}/{slides[0]}.h5ad" if slides else None


def find_slide(path: Path, *, slide_id: str | None) -> HestFiles:
    """Find the files of one slide.

    Parameters
    ----------
    path : pathlib.Path
        The folder around ``st``, ``wsis`` and ``metadata``, or a file of a slide in one of them,
        or an AnnData file that lies elsewhere.
    slide_id : str or None
        Identifier, needed where a folder holds several slides. A file of the layout names its own.

    Returns
    -------
    HestFiles
        The files.

    Raises
    ------
    InputError
        If there is no such slide, or several could be meant, or the file is a pickle.
    """
    if path.suffix.lower() in {".pkl", ".pickle"}:
        raise InputError(
            Problem(
                "hest.pickle",
                path.name,
                "outlines are read from .geojson and .parquet",
                "a pickle, which may run any program when it is read",
                "take the folder tissue_seg of HEST-1k 1.1, which has contours as .geojson",
            )
        )
    root = _root(path)
    if root is None:
        if path.is_file():
            return HestFiles(
                name=slide_id or path.stem,
                counts=path,
                image=None,
                metadata=None,
                outlines=(),
                left_out=(),
            )
        raise _no_slide(path, "a folder without st/*.h5ad")
    slides = _slides(root)
    if path.is_file():
        owners = [name for name in slides if path.name.removeprefix(name)[:1] in {".", "_"}]
        owners = [name for name in owners if path.name.startswith(name)]
        slide_id = max(owners, key=len, default=None) or slide_id
    if slide_id is None and len(slides) == 1:
        slide_id = slides[0]
    if slide_id not in slides:
        found = named(slides) or "none"
        if slide_id is None:
            raise _no_slide(root, f"{len(slides)} slides: {found}", "name one with slide_id=")
        raise _no_slide(root, f"the slides {found}", f"{slide_id!r} is none of them")
    return _files(root, slide_id)


def slides_in(folder: Path) -> tuple[FoundSlide, ...]:
    """List the slides of a folder: one an AnnData file of its ``st``.

    Parameters
    ----------
    folder : pathlib.Path
        The folder around ``st``, ``wsis`` and ``metadata``, or any other.

    Returns
    -------
    tuple of FoundSlide
        In the order of their identifiers.
    """
    root = _root(folder)
    if root is None:
        return ()
    listed = []
    for name in _slides(root):
        files = _files(root, name)
        images = () if files.image is None else (files.image,)
        listed.append(
            FoundSlide(
                kind="hest",
                path=root,
                slide_id=name,
                sample=name,
                files=(files.counts, *images, *(path for _, path in files.outlines)),
            )
        )
    return tuple(listed)


def _root(path: Path) -> Path | None:
    """Find the folder of the layout that a path is, or is in."""
    if path.is_dir():
        candidates = [path, path.parent] if path.name == COUNTS else [path]
    else:
        candidates = [path.parent.parent] if path.parent.name in _FOLDERS else []
    return next((folder for folder in candidates if _slides(folder)), None)


def _slides(root: Path) -> list[str]:
    folder = root / COUNTS
    return sorted(file.stem for file in folder.glob("*.h5ad")) if folder.is_dir() else []


def _files(root: Path, name: str) -> HestFiles:
    outlines, left_out = [], []
    for element, folder, stems in (
        ("tissue", TISSUE, (f"{name}_contours", f"{name}_mask", f"{name}_vis")),
        ("cells", CELLS, (f"{name}_cellvit_seg",)),
        ("xenium_cells", XENIUM, (f"{name}_xenium_cell_seg",)),
        ("xenium_nuclei", XENIUM, (f"{name}_xenium_nucleus_seg",)),
    ):
        readable = [
            path
            for suffix in (".parquet", ".geojson")
            if (path := root / folder / f"{stems[0]}{suffix}").is_file()
        ]
        if readable:
            outlines.append((element, readable[0]))
            continue
        left_out += [
            path
            for stem in stems
            for suffix in (".pkl", ".zip", ".geojson.zip")
            if (path := root / folder / f"{stem}{suffix}").is_file()
        ]
    images = [root / IMAGES / f"{name}{suffix}" for suffix in (".tif", ".tiff", ".svs")]
    catalogues = sorted(root.glob("HEST_v*.csv"))
    metadata = [root / METADATA / f"{name}.json", *catalogues[-1:]]
    return HestFiles(
        name=name,
        counts=root / COUNTS / f"{name}.h5ad",
        image=next((path for path in images if path.is_file()), None),
        metadata=next((path for path in metadata if path.is_file()), None),
        outlines=tuple(outlines),
        left_out=tuple(left_out),
    )


def _no_slide(path: Path, found: str, remedy: str = "") -> InputError:
    return InputError(Problem("hest.no-slide", str(path), "one slide is needed", found, remedy))
