"""``stformat convert``: sources into stores."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stformat.cli._app import FOUND_PROBLEMS, AsJson, Quiet, app
from stformat.cli._shown import (
    print_json,
    print_summary,
    shown_corpus_progress,
    shown_progress,
    told_interruption,
    told_warnings,
)

__all__ = ["convert"]


class ImageCodecName(StrEnum):
    """How pixels are stored."""

    ZSTD = "zstd"
    BLOSC = "blosc"
    JPEG = "jpeg"


class Stain(StrEnum):
    """How the tissue is stained."""

    HE = "he"
    IF = "if"


@app.command()
def convert(  # noqa: PLR0917 - typer reads one parameter an option
    source: Annotated[
        Path,
        typer.Argument(help="Folder of one slide, or its count matrix; or a tree of slides."),
    ],
    target: Annotated[
        Path,
        typer.Argument(help="Directory to make, such as slide.zarr; or a folder of stores."),
    ],
    kind: Annotated[str, typer.Option(help="Kind of source; auto recognises it.")] = "auto",
    image: Annotated[Path | None, typer.Option(help="Full-resolution image.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the image.")] = None,
    pitch_um: Annotated[
        float | None, typer.Option(help="Microns between neighbouring spots of the array.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Pathologist's label file.")] = None,
    counts: Annotated[
        Path | None, typer.Option(help="Count matrix to take, where a folder has several.")
    ] = None,
    bins: Annotated[
        str | None, typer.Option(help="Sizes of Visium HD bins in microns, such as 2,8,16.")
    ] = None,
    slide_id: Annotated[
        str | None, typer.Option(help="Identifier; selects one of several samples.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Only table to take of a SpatialData container.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Only shapes to take of a SpatialData container.")
    ] = None,
    image_element: Annotated[
        str | None, typer.Option(help="Image to take of a SpatialData container with several.")
    ] = None,
    coordinate_system: Annotated[
        str | None, typer.Option(help="Coordinate system that places SpatialData elements.")
    ] = None,
    stain: Annotated[Stain, typer.Option(help="Brightfield H&E or fluorescence.")] = Stain.HE,
    focal_plane: Annotated[
        int | None,
        typer.Option(help="Focal plane to read of an image with several, counted from 0."),
    ] = None,
    species: Annotated[str | None, typer.Option(help="Species, kept in the store.")] = None,
    tissue: Annotated[str | None, typer.Option(help="Tissue, kept in the store.")] = None,
    image_codec: Annotated[
        ImageCodecName,
        typer.Option(help="zstd, or blosc: lossless, larger, faster; jpeg: lossy, a tenth."),
    ] = ImageCodecName.ZSTD,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Convert every slide of a tree, so many at a time."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Convert every slide of a tree on the dask cluster at an address."),
    ] = None,
    overwrite: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--overwrite", help="Replace an existing store, atomically.")
    ] = False,
    resume: Annotated[  # noqa: FBT002 - a flag of the command line
        bool,
        typer.Option(
            "--resume",
            help="Keep what an interrupted conversion finished, and continue it; of a tree, pass "
            "over slides whose stores are of the same source and options.",
        ),
    ] = False,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Convert one slide, or with --workers or --scheduler every slide of a tree, into stores.

    A store appears whole or not at all. Of a tree each slide goes to TARGET/<slide id>.zarr; the
    exit code is 1 where some could not be converted, which keeps none of the others from it.
    """
    given: dict[str, Any] = {"pitch_um": pitch_um, "labels": labels, "counts": counts}
    given |= {"bins": bins, "focal_plane": focal_plane, "species": species, "tissue": tissue}
    given |= {"image": image, "mpp": mpp, "slide_id": slide_id, "table": table, "region": region}
    given |= {"image_element": image_element, "coordinate_system": coordinate_system}
    options = {name: value for name, value in given.items() if value is not None}
    if stain is not Stain.HE:
        options["stain"] = stain.value
    options |= {"kind": kind, "image_codec": image_codec.value}
    options |= {"overwrite": overwrite, "resume": resume}
    if workers is None and scheduler is None:
        _convert_slide(source, target, options, quiet=quiet, as_json=as_json)
    else:
        options |= {"workers": workers, "scheduler": scheduler}
        _convert_slides(source, target, options, quiet=quiet, as_json=as_json)


def _convert_slide(
    source: Path, target: Path, options: dict[str, Any], *, quiet: bool, as_json: bool
) -> None:
    from stformat.convert import convert_slide  # noqa: PLC0415 - see stformat.cli

    with (
        told_warnings(),
        shown_progress(quiet=quiet or as_json) as progress,
        told_interruption(),
    ):
        path = convert_slide(source, target, progress=progress, **options)
    if not quiet:
        print_summary(str(path), as_json=as_json)


def _convert_slides(
    tree: Path, out: Path, options: dict[str, Any], *, quiet: bool, as_json: bool
) -> None:
    from stformat.convert import convert_slides  # noqa: PLC0415 - see stformat.cli

    with (
        told_warnings(),
        shown_corpus_progress(quiet=quiet or as_json) as progress,
        told_interruption(),
    ):
        report = convert_slides(tree, out, progress=progress, **options)
    for outcome in report.failed:
        name = outcome.slide_id or outcome.source
        text = " | ".join(str(problem) for problem in outcome.problems)
        typer.echo(f"stformat: {name}: {text}", err=True)
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        typer.echo(
            f"{out}: {len(report.converted)} converted, {len(report.skipped)} skipped, "
            f"{len(report.failed)} failed"
        )
    if report.failed:
        raise typer.Exit(FOUND_PROBLEMS)
