"""``stformat demo`` and ``warmup``: what one runs first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stformat.cli._app import Quiet, app
from stformat.cli._shown import shown_progress

if TYPE_CHECKING:
    from stformat import kernels

__all__ = ["demo", "warmup"]


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Argument(help="Directory to make; everything the demo writes is in it.")
    ] = Path("stformat-demo"),
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Make a small slide, convert it, read it back and draw it: the first five minutes."""
    from stformat.demo import run_demo  # noqa: PLC0415 - see stformat.cli

    with shown_progress(quiet=quiet) as progress:
        lines = run_demo(directory, progress=progress)
    if not quiet:
        typer.echo("\n".join(lines))


@app.command()
def warmup(
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Compile what is fast ahead of time, so that no first call has to wait for it."""
    from stformat import kernels  # noqa: PLC0415 - see stformat.cli

    def told(kernel: kernels.WarmKernel) -> None:
        typer.echo(f"{kernel.name:<24} {kernel.seconds:6.2f} s  {', '.join(kernel.dtypes)}")

    warm = kernels.warmup(report=None if quiet else told)
    if not quiet:
        typer.echo(f"{'all':<24} {sum(kernel.seconds for kernel in warm):6.2f} s")
