"""``stformat export``: a slide in the layouts of other tools and data sets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stformat.cli._app import AsJson, Quiet, StoreOrUrl, app
from stformat.cli._exported import print_export
from stformat.cli._shown import shown_progress, told_interruption

__all__ = ["export"]


class LayoutName(StrEnum):
    """What a slide is written as."""

    STIMAGE = "stimage"
    HEST = "hest"
    H5AD = "h5ad"
    OME_TIFF = "ome-tiff"
    ZIP = "zip"


@app.command()
def export(  # noqa: PLR0917 - typer reads one parameter an option
    slide: StoreOrUrl,
    out: Annotated[Path, typer.Argument(help="Directory or file to make.")],
    to: Annotated[
        LayoutName,
        typer.Option(
            help="stimage, hest: a folder as STimage-1K4M or HEST-1k has them; h5ad: AnnData; "
            "ome-tiff: the image, with its pyramid; zip: the store itself in one file."
        ),
    ],
    table: Annotated[
        str | None, typer.Option(help="Table to take; by default the default one.")
    ] = None,
    patch_px: Annotated[
        int | None, typer.Option(min=1, help="Edge of hest's patches in pixels. [default: 224]")
    ] = None,
    patch_mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of hest's patches. [default: 0.5]")
    ] = None,
    overwrite: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--overwrite", help="Replace a file or an earlier export, atomically.")
    ] = False,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Write a slide for another tool: STimage-1K4M, HEST-1k, AnnData, OME-TIFF, or one zip file.

    OUT appears whole or not at all. A folder holds export.json, which says what is in it and what
    of the slide has no place in the layout.
    """
    from stformat.export.slide import export_slide  # noqa: PLC0415 - see stformat.cli

    given: dict[str, Any] = {"patch_px": patch_px, "patch_mpp": patch_mpp}
    options = {name: value for name, value in given.items() if value is not None}
    with shown_progress(quiet=quiet or as_json) as progress, told_interruption():
        path = export_slide(
            slide,
            out,
            to=to.value,
            table=table,
            overwrite=overwrite,
            progress=progress,
            **options,
        )
    print_export(path, quiet=quiet, as_json=as_json)
