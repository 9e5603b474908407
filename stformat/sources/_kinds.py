"""What a kind of source is, and what is asked of it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stformat.errors import InputError, PositionsError, Problem
from stformat.model import Descriptors, SlideRecord

__all__ = [
    "DESCRIPTOR_OPTIONS",
    "FoundSlide",
    "SourceKind",
    "SourceRequest",
    "descriptors",
    "focal_plane",
    "labels_path",
    "positive",
]

DESCRIPTOR_OPTIONS = tuple(field.name for field in fields(Descriptors))
"""Options that every kind of source takes: what is known of a slide beyond its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """One slide to be read."""

    path: Path
    """Folder or file; it exists."""

    image: Path | None
    """Image given by the user."""

    mpp: float | None
    """Microns per pixel given by the user, positive and finite."""

    slide_id: str | None
    """Identifier given by the user."""

    scratch: Path | None
    """Directory for temporary files; None is the system's own."""

    options: Mapping[str, object]
    """Options that the kind knows; none is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSlide:
    """One slide of a tree, as the kind of source that it is of lists it."""

    kind: str
    """Name of the kind."""

    path: Path
    """What `stformat.sources.read_slide` takes as its source."""

    slide_id: str
    """Identifier that the slide will have."""

    sample: str | None = None
    """What has to be given as `slide_id` to read it; None where `path` holds one slide only."""

    files: tuple[Path, ...] = ()
    """Files that it is read from, as far as their names tell: the measure of its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """A layout of files that slides come in."""

    name: str
    """Name, as ``--kind`` takes it."""

    options: tuple[str, ...]
    """Options of its own, beside `DESCRIPTOR_OPTIONS`."""

    looks_like: Callable[[Path], str | None]
    """Evidence that a path is of this kind, in words, or None."""

    read: Callable[[SourceRequest], SlideRecord]
    """Read a slide; raises InputError."""

    slides_in: Callable[[Path], tuple[FoundSlide, ...]] | None = None
    """Slides that lie in a folder itself, not in one below it, in the order of their names; raises
    InputError. None: a folder that `looks_like` the kind is one slide, named as the folder."""


def positive(name: str, value: object) -> float:
    """Narrow an argument to a positive, finite number.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What was given.

    Returns
    -------
    float
        The number.

    Raises
    ------
    InputError
        If `value` is something else.

    Examples
    --------
    >>> positive("pitch_um", "200")
    200.0
    """
    try:
        number = float(value)  # type: ignore[arg-type]  # what float() refuses is the error
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(Problem("option.number", name, "a positive number is needed", repr(value)))
    return number


def focal_plane(options: Mapping[str, object]) -> int | None:
    """Read the focal plane to take of an image that has several.

    Parameters
    ----------
    options : mapping
        Options by name.

    Returns
    -------
    int or None
        The option ``focal_plane``, counted from 0; None where it is not given.

    Raises
    ------
    InputError
        If it is no whole number.

    Examples
    --------
    >>> focal_plane({"focal_plane": 2})
    2
    """
    value = options.get("focal_plane")
    if value is None:
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # what it refuses is the error
    except TypeError:
        raise InputError(
            Problem("option.number", "focal_plane", "a whole number is needed", repr(value))
        ) from None


def labels_path(options: Mapping[str, object], found: Sequence[Path], *, where: str) -> Path | None:
    """Choose the file of labels.

    Parameters
    ----------
    options : mapping
        Options by name; ``labels`` is the path that the user gave.
    found : sequence of pathlib.Path
        Files beside the slide that may be its labels.
    where : str
        The slide, for messages.

    Returns
    -------
    pathlib.Path or None
        The one given, else the one found, if any.

    Raises
    ------
    InputError
        If what was given is no file.
    PositionsError
        If none was given and several were found.

    Examples
    --------
    >>> labels_path({}, [Path("B4_labels.tsv")], where="sample B4").name
    'B4_labels.tsv'
    """
    given = options.get("labels")
    if given is not None:
        if not isinstance(given, str | Path) or not Path(given).is_file():
            raise InputError(
                Problem("option.path", "labels", "the path of a label file is needed", repr(given))
            )
        return Path(given)
    if len(found) > 1:
        raise PositionsError(
            Problem(
                "labels.several",
                where,
                "one label file is needed",
                ", ".join(path.name for path in found),
                "name one with labels=",
            )
        )
    return found[0] if found else None


def descriptors(options: Mapping[str, object], *, technology: str) -> Descriptors:
    """Build the descriptors of a slide from options.

    Parameters
    ----------
    options : mapping
        Options by name; those that describe no slide are passed over.
    technology : str
        Technology where the options name none.

    Returns
    -------
    Descriptors
        What the options say.

    Raises
    ------
    InputError
        If a value is not of its type: a text that is not empty; ``"he"`` or ``"if"`` for ``stain``;
        True or False for ``involves_cancer``; digits for ``pmid``; texts for ``keywords``.

    Examples
    --------
    >>> descriptors({"species": "human", "keywords": ["breast"]}, technology="ST").keywords
    ('breast',)
    """
    given: dict[str, Any] = {"technology": technology}
    for name in DESCRIPTOR_OPTIONS:
        value = options.get(name)
        if value is None:
            continue
        is_right, needed = _DESCRIPTOR_TYPES.get(name, (_is_text, "a text is needed"))
        if not is_right(value):
            raise InputError(Problem(f"option.{name}", name, needed, repr(value)))
        given[name] = value
    given["keywords"] = tuple(given.get("keywords", ()))
    return Descriptors(**given)


def _is_text(value: Any) -> bool:  # noqa: ANN401 - whatever a user gives
    return isinstance(value, str) and value != ""


def _is_pmid(value: Any) -> bool:  # noqa: ANN401 - likewise
    return isinstance(value, str) and value.isascii() and value.isdigit()


def _is_texts(value: Any) -> bool:  # noqa: ANN401 - likewise
    # One text is a sequence of texts too, of its characters.
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_is_text, value))


_DESCRIPTOR_TYPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "stain": (lambda value: value in ("he", "if"), "'he' or 'if' is needed"),
    "involves_cancer": (lambda value: isinstance(value, bool), "True or False is needed"),
    "pmid": (_is_pmid, "a text of digits is needed"),
    "keywords": (_is_texts, "a sequence of texts is needed"),
}
"""What is asked of the descriptors that are not any text."""
