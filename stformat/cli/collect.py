"""``stformat collect``: the catalogue of a folder of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stformat.cli._app import FOUND_PROBLEMS, AsJson, Quiet, app
from stformat.cli._shown import print_json, shown_progress

__all__ = ["collect"]


@app.command()
def collect(
    directory: Annotated[Path, typer.Argument(help="Folder of stores, or of folders of stores.")],
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Write or refresh the catalogue of a folder of stores, and name slides that are one.

    Exit code 1 where a store cannot be read or an identifier means several slides.
    """
    from stformat.collection.collecting import collect_slides  # noqa: PLC0415 - see stformat.cli
    from stformat.collection.opening import open_collection  # noqa: PLC0415 - see stformat.cli

    with shown_progress(quiet=quiet or as_json) as progress:
        report = collect_slides(directory, progress=progress)
    pairs = open_collection(directory).duplicates()
    for problem in report.problems:
        typer.echo(f"stformat: {problem}", err=True)
    if as_json:
        print_json({**report.to_json(), "duplicates": [pair.to_json() for pair in pairs]})
    elif not quiet:
        typer.echo(
            f"{report.path}: {report.n_slides} slides, {len(report.read)} read, "
            f"{len(report.kept)} as before, {len(report.removed)} removed"
        )
        for path in report.others:
            typer.echo(f"{path}: no store of stformat")
        for pair in pairs:
            typer.echo(f"duplicate: {pair}")
    if report.problems:
        raise typer.Exit(FOUND_PROBLEMS)
