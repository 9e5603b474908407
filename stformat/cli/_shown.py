"""What commands print: summaries, problems, progress, warnings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer

from stformat.cli._app import FOUND_PROBLEMS
from stformat.errors import ImageCodecWarning, Problem

if TYPE_CHECKING:
    from stformat.convert.report import CorpusProgress
    from stformat.model import Progress

__all__ = [
    "print_json",
    "print_problems",
    "print_summary",
    "shown_corpus_progress",
    "shown_progress",
    "told_interruption",
    "told_warnings",
]


@contextmanager
def told_warnings() -> Iterator[None]:
    """Say what the library warns of in one line; warnings of other libraries stay as they are."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(  # noqa: PLR0917 - as Python calls it
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, ImageCodecWarning):
                typer.echo(f"stformat: warning: {message}", err=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = tell
        warnings.simplefilter("always", ImageCodecWarning)
        yield


@contextmanager
def told_interruption() -> Iterator[None]:
    """Say what an interrupted conversion left; the interruption goes on to end the process."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        left = getattr(error, "__notes__", ["nothing was left behind"])
        typer.echo("; ".join(["stformat: interrupted", *left]), err=True)
        raise


def print_problems(
    store: str, problems: list[Problem], *, none: str, quiet: bool, as_json: bool
) -> None:
    """Print one line a problem, or what `none` stands for; exit with a code that tells."""
    name = _name_of(store)
    if as_json:
        print_json({"store": name, "problems": [item.to_json() for item in problems]})
    elif problems:
        for problem in problems:
            typer.echo(str(problem))
    elif not quiet:
        typer.echo(f"{name}: {none}")
    if problems:
        raise typer.Exit(FOUND_PROBLEMS)


def _name_of(store: str) -> str:
    """Return a path as it was given, and a URL without what is secret in it."""
    from stformat.store.location import parse_location  # noqa: PLC0415 - see stformat.cli

    location = parse_location(store)
    return str(location) if location.is_url else store


def print_summary(store: str, *, as_json: bool) -> None:
    from stformat.store.reader import open_slide  # noqa: PLC0415 - see stformat.cli

    name = _name_of(store)
    with open_slide(store) as slide:
        attributes = slide.metadata
        if as_json:
            levels = slide.levels
            print_json(
                {
                    "store": name,
                    "levels": [[level.height, level.width] for level in levels],
                    "image_codec": levels[0].codec if levels else None,
                    **attributes.model_dump(mode="json"),
                }
            )
            return
        lines = [f"{name}  {attributes.slide_id}  {attributes.technology}"]
        if attributes.image is None:
            lines.append("image    none")
        else:
            top = slide.levels[0]
            size = f"{top.width} x {top.height} px, {len(slide.levels)} levels"
            lines.append(f"image    {size}, {top.codec}")
        mpp = attributes.mpp
        scale = "unknown" if mpp.value is None else f"{mpp.value:.4g} um/px ({mpp.method})"
        lines.append(f"mpp      {scale}")
        lines.extend(
            f"table    {table.name}: {table.n_obs} x {table.n_vars}, {table.nnz} counts stored, "
            f"total {table.total:.0f}"
            for table in attributes.tables
        )
        lines.extend(f"note     {note.message}" for note in attributes.notes)
    typer.echo("\n".join(lines))


def print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress | None]:
    """Show steps as bars on a terminal, as one line a step elsewhere, not at all when quiet."""
    if quiet:
        yield None
        return
    from stformat.view.progress import shown_progress  # noqa: PLC0415 - see stformat.cli

    with shown_progress() as progress:
        yield progress


@contextmanager
def shown_corpus_progress(*, quiet: bool) -> Iterator[CorpusProgress | None]:
    """Show slides as bars on a terminal, as one line a slide elsewhere, not at all when quiet."""
    if quiet:
        yield None
        return
    from stformat.view.corpus_progress import (  # noqa: PLC0415 - see stformat.cli
        shown_corpus_progress,
    )

    with shown_corpus_progress() as progress:
        yield progress
