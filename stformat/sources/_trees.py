"""The slides of a tree of folders, whatever kinds of source they are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stformat.errors import InputError, Problem, UnknownSourceError
from stformat.sources._kinds import FoundSlide, SourceKind

__all__ = ["Listing", "walk_tree"]

_ZARR_NODES = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What was found in a tree."""

    slides: tuple[FoundSlide, ...]
    """Every slide, in the order of the walk."""

    refused: tuple[tuple[Path, InputError], ...]
    """Folders that could not be listed, and why; nothing below them was looked at."""


def walk_tree(tree: Path, kinds: Sequence[SourceKind], *, excluded: Iterable[Path] = ()) -> Listing:
    """Find every slide of a tree.

    Parameters
    ----------
    tree : pathlib.Path
        Existing folder.
    kinds : sequence of SourceKind
        Kinds that are asked of every folder.
    excluded : iterable of pathlib.Path
        Folders that are not looked into.

    Returns
    -------
    Listing
        The same for the same tree. The walk goes by name and enters neither hidden folders, nor
        folders that hold a slide, nor a Zarr hierarchy. It follows links, and comes to each folder
        once, by whichever path is first.
    """
    seen = {_identity(folder) for folder in excluded if folder.is_dir()}
    slides: list[FoundSlide] = []
    refused: list[tuple[Path, InputError]] = []
    pending = [tree]
    while pending:
        folder = pending.pop()
        try:
            identity = _identity(folder)
            if identity in seen:
                continue
            seen.add(identity)
            found = _slides_in(folder, kinds)
            below = [] if found else _folders_of(folder)
        except InputError as error:
            refused.append((folder, error))
            continue
        except OSError as error:
            refused.append((folder, _unreadable(folder, error)))
            continue
        slides.extend(found)
        pending.extend(reversed(below))
    return Listing(slides=tuple(slides), refused=tuple(refused))


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from every other, whatever links lead to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _slides_in(folder: Path, kinds: Sequence[SourceKind]) -> tuple[FoundSlide, ...]:
    claims = {kind: found for kind in kinds if (found := _listed(kind, folder))}
    if len(claims) > 1:
        raise UnknownSourceError(
            Problem(
                "source.ambiguous",
                str(folder),
                "the content of a folder must fit one kind of source",
                ", ".join(kind.name for kind in claims),
                "choose one with --kind",
            )
        )
    return next(iter(claims.values()), ())


def _listed(kind: SourceKind, folder: Path) -> tuple[FoundSlide, ...]:
    if kind.slides_in is not None:
        return kind.slides_in(folder)
    if kind.looks_like(folder) is None:
        return ()
    name = folder.resolve().name.removesuffix(".zarr")
    return (FoundSlide(kind=kind.name, path=folder, slide_id=name, files=(folder,)),)


def _folders_of(folder: Path) -> list[Path]:
    if any((folder / name).is_file() for name in _ZARR_NODES):
        return []
    entries = sorted(folder.iterdir())
    return [path for path in entries if not path.name.startswith(".") and path.is_dir()]


def _unreadable(folder: Path, error: OSError) -> InputError:
    return InputError(
        Problem("source.unreadable", str(folder), "the folder must be readable", str(error))
    )
