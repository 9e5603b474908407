"""``stformat tiles``: tiles around spots, written for training programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from stformat.cli._app import AsJson, Quiet, StoreOrUrl, app
from stformat.cli._exported import print_export
from stformat.cli._shown import shown_progress, told_interruption

__all__ = ["tiles"]


class TileFormatName(StrEnum):
    """What tiles are written as."""

    PNG = "png"
    NPY = "npy"
    ZARR = "zarr"
    WEBDATASET = "webdataset"


class FieldName(StrEnum):
    """What a tile shows, where that is no resolution."""

    SPOT = "spot"


class NormalizeName(StrEnum):
    """How expression is normalised."""

    LOG1P = "log1p"


@app.command()
def tiles(  # noqa: PLR0917 - typer reads one parameter an option
    slide: StoreOrUrl,
    out: Annotated[Path, typer.Argument(help="Directory to make.")],
    format: Annotated[  # noqa: A002 - the name of the option
        TileFormatName,
        typer.Option(
            help="png: a file each; npy, zarr: one array (n, c, y, x); webdataset: tar shards."
        ),
    ] = TileFormatName.PNG,
    tile_px: Annotated[int, typer.Option(min=1, help="Edge of a tile in its own pixels.")] = 224,
    mpp: Annotated[
        float | None,
        typer.Option(help="Microns per pixel of a tile; without it full-resolution pixels."),
    ] = None,
    size_um: Annotated[
        float | None, typer.Option(help="Edge of a tile in microns, instead of --mpp.")
    ] = None,
    field: Annotated[
        FieldName | None, typer.Option(help="The square around each spot, instead of --mpp.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(help="Barcodes with commas between them, or a file with one a line."),
    ] = None,
    in_tissue_only: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--in-tissue-only", help="Leave out spots that are not on tissue.")
    ] = False,
    min_coverage: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Least share of a tile that lies inside the image."),
    ] = 0.0,
    table: Annotated[
        str | None, typer.Option(help="Table whose spots to take; by default the default one.")
    ] = None,
    genes: Annotated[
        str | None,
        typer.Option(help="Genes, with commas between them, whose expression goes along; or all."),
    ] = None,
    normalize: Annotated[
        NormalizeName | None, typer.Option(help="Normalise expression; else counts as they are.")
    ] = None,
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a webdataset shard in MiB.")] = 256,
    overwrite: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--overwrite", help="Replace an earlier export, atomically.")
    ] = False,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Write the tiles around spots as PNG files, one NumPy or Zarr array, or WebDataset shards.

    OUT appears whole or not at all, with export.json, which says what is in it.
    """
    if sum(given is not None for given in (mpp, size_um, field)) > 1:
        raise typer.BadParameter("only one of --mpp, --size-um and --field can be given")
    from stformat.export.row_names import read_row_names  # noqa: PLC0415 - see stformat.cli
    from stformat.export.tiles import export_tiles  # noqa: PLC0415 - likewise

    spot: Literal["spot"] | None = None if field is None else "spot"
    with shown_progress(quiet=quiet or as_json) as progress, told_interruption():
        path = export_tiles(
            slide,
            out,
            format=format.value,
            tile_px=tile_px,
            mpp=mpp,
            size_um=size_um,
            field=spot,
            rows=None if rows is None else read_row_names(rows),
            in_tissue_only=in_tissue_only,
            min_coverage=min_coverage,
            table=table,
            genes=_parse_genes(genes),
            normalize=None if normalize is None else "log1p",
            shard_bytes=shard_mb << 20,
            overwrite=overwrite,
            progress=progress,
        )
    print_export(path, quiet=quiet, as_json=as_json)


def _parse_genes(text: str | None) -> list[str] | Literal["all"] | None:
    if text is None:
        return None
    return "all" if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
