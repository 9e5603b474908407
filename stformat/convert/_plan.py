"""Which slides a corpus has, and where each of them goes; everything checked before any begins."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stformat.convert._task import SlideTask
from stformat.convert.report import SlideOutcome
from stformat.errors import InputError, Problem, UnknownSourceError, refusals_of
from stformat.sources import FoundSlide, check_options, list_slides

__all__ = ["CorpusPlan", "plan_corpus"]

OF_ONE_SLIDE = ("image", "mpp", "slide_id", "counts", "labels")
"""Options that cannot hold for every slide of a corpus."""

_MOST_NAME_BYTES = (
    200  # of the 255 that a file name may have: a store is written as .<name>.partial
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusPlan:
    """What is to be done."""

    tasks: tuple[SlideTask, ...]
    """The slides, the largest first: the last to end is then a small one."""

    refused: tuple[SlideOutcome, ...]
    """Folders that could not be listed."""


def plan_corpus(
    tree: Path,
    out: Path,
    *,
    kind: str,
    overwrite: bool,
    resume: bool,
    image_codec: str,
    options: Mapping[str, object],
) -> CorpusPlan:
    """Find the slides of a tree, check what holds for all of them, and make the folder of stores.

    Parameters
    ----------
    tree, out : pathlib.Path
        Folder of slides, and of stores.
    kind, overwrite, resume, image_codec, options
        As for `stformat.convert_slides`.

    Returns
    -------
    CorpusPlan
        At least one slide.

    Raises
    ------
    UnknownSourceError
        If there is no slide.
    InputError
        If slides clash, or an option does not fit them, or no folder could be listed.
    StoreWriteError
        If `out` cannot be made.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _refuse_options_of_one(given)
    tree, out = tree.absolute(), out.absolute()
    listing = list_slides(tree, kind=kind, excluded=[out])
    slides = listing.slides
    if not slides:
        raise _nothing(tree, kind, [error for _, error in listing.refused])
    _check_names(slides)
    for name in sorted({slide.kind for slide in slides}):
        check_options(name, given)
    with refusals_of(out):
        out.mkdir(exist_ok=True)
    tasks = [
        SlideTask(
            slide_id=slide.slide_id,
            kind=slide.kind,
            source=slide.path,
            sample=slide.sample,
            target=out / f"{slide.slide_id}.zarr",
            is_there=os.path.lexists(out / f"{slide.slide_id}.zarr"),
            overwrite=overwrite,
            resume=resume,
            image_codec=image_codec,
            options=given,
            n_bytes=sum(map(_size, slide.files)),
        )
        for slide in slides
    ]
    return CorpusPlan(
        tasks=tuple(sorted(tasks, key=lambda task: (-task.n_bytes, task.slide_id))),
        refused=tuple(
            SlideOutcome(
                slide_id=None,
                kind=None,
                source=folder,
                target=None,
                result="failed",
                error=type(error).__name__,
                problems=error.problems,
            )
            for folder, error in listing.refused
        ),
    )


def _refuse_options_of_one(given: Mapping[str, object]) -> None:
    problems = [
        Problem(
            "option.of-one-slide",
            name,
            "an option must hold for every slide of a corpus",
            repr(given[name]),
            "convert that slide by itself",
        )
        for name in OF_ONE_SLIDE
        if name in given
    ]
    if problems:
        raise InputError(*problems)


def _nothing(tree: Path, kind: str, errors: Sequence[InputError]) -> InputError:
    if errors:
        return InputError(*(problem for error in errors for problem in error.problems))
    return UnknownSourceError(
        Problem(
            "source.no-slides",
            str(tree),
            "a tree must have a slide of a known kind" if kind == "auto" else f"a slide of {kind}",
            "none",
            "name the folder above the folders of slides",
        )
    )


def _check_names(slides: Sequence[FoundSlide]) -> None:
    """Check that every identifier can name a store, and that no two name the same."""
    problems = [
        Problem(
            "corpus.slide-id",
            str(slide.path),
            "an identifier names a store: it must be a file name of at most "
            f"{_MOST_NAME_BYTES} bytes that begins with no dot",
            repr(slide.slide_id),
            "convert that slide by itself",
        )
        for slide in slides
        if not _is_file_name(slide.slide_id)
    ]
    # Some file systems tell no small letters from large ones.
    by_name: defaultdict[str, list[FoundSlide]] = defaultdict(list)
    for slide in slides:
        by_name[slide.slide_id.casefold()].append(slide)
    problems.extend(
        Problem(
            "corpus.same-id",
            clash[0].slide_id,
            "identifiers must be unique, ignoring case",
            ", ".join(str(slide.path) for slide in clash),
            "rename the folders, or convert the slides into different folders",
        )
        for clash in by_name.values()
        if len(clash) > 1
    )
    if problems:
        raise InputError(*problems)


def _is_file_name(name: str) -> bool:
    return (
        name != ""
        and not name.startswith(".")
        and not any(character in "/\\" or ord(character) < ord(" ") for character in name)
        and len(os.fsencode(name)) <= _MOST_NAME_BYTES
    )


def _size(path: Path) -> int:
    """Return the size of a file, or of the files of a folder: for progress only."""
    try:
        if not path.is_dir():
            return path.stat().st_size
    except OSError:
        return 0  # it is reported when the slide is read
    return sum(_size(Path(parent, name)) for parent, _, names in os.walk(path) for name in names)
