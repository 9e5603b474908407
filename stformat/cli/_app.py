"""The application that commands register with, and the options that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["BAD_INPUT", "FOUND_PROBLEMS", "AsJson", "Quiet", "Store", "StoreOrUrl", "app"]

FOUND_PROBLEMS = 1
BAD_INPUT = 3

app = typer.Typer(
    name="stformat",
    help="One chunked Zarr store a slide of spatial transcriptomics: convert, inspect, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Store = Annotated[Path, typer.Argument(help="A store: a directory made by stformat convert.")]
StoreOrUrl = Annotated[
    str,
    typer.Argument(
        help="A store: a directory made by stformat convert, a zip file of one, or a URL of either."
    ),
]
