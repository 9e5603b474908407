"""What the commands that export print when they are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from stformat.cli._shown import print_json

__all__ = ["print_export"]

_SHOWN = ("format", "slide_id", "table", "n_tiles", "n_below_coverage", "n_rows")


def print_export(path: Path, *, quiet: bool, as_json: bool) -> None:
    """Say what was made: in a line, or all of it for programs."""
    from stformat.export.description import read_description  # noqa: PLC0415 - see stformat.cli

    content: dict[str, Any] = read_description(path) or {"size": path.stat().st_size}
    if as_json:
        print_json({"target": str(path), **content})
    elif not quiet:
        said = ", ".join(f"{name} {content[name]}" for name in _SHOWN if name in content)
        typer.echo(f"{path}: {said or f'{content["size"]} bytes'}")
