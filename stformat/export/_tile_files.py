"""Tiles as files: one PNG each, or shards of a WebDataset.

WebDataset, https://github.com/webdataset/webdataset: files of a tar archive that share what stands
before the first dot of their names are one sample. Tar headers as POSIX.1-1988 has them (ustar).
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from stformat.errors import ExportError, Problem
from stformat.export._file_names import checked_file_name, file_stems
from stformat.export._npy import npy_file
from stformat.export._tile_set import TileSet
from stformat.kernels._pool import map_chunks
from stformat.model import Progress

__all__ = ["check_png", "expression_file", "write_png_tiles", "write_rows_csv", "write_tar_shards"]

_PNG_LEVEL = 4
_MODE = 0o644


def check_png(n_c: int, dtype: np.dtype[np.unsignedinteger]) -> None:
    """Refuse tiles that PNG cannot hold.

    Parameters
    ----------
    n_c : int
        Channels of a tile.
    dtype : dtype
        Type of a sample.

    Raises
    ------
    ExportError
        If there are more or fewer than 1 or 3 channels of 8 or 16 bits.
    """
    if n_c in {1, 3} and dtype in (np.uint8, np.uint16):
        return
    raise ExportError(
        Problem(
            "export.png",
            "tiles",
            "PNG holds 1 or 3 channels of uint8 or uint16",
            f"{n_c} channels of {dtype}",
            "write them as npy or zarr, which hold any number of channels",
        )
    )


def write_png_tiles(chosen: TileSet, directory: Path, progress: Progress) -> None:
    """Write ``tiles/<barcode>.png``, ``rows.csv`` that says which is whose, and expression.

    Parameters
    ----------
    chosen : TileSet
        The tiles.
    directory : pathlib.Path
        Where to write.
    progress : callable
        Told of tiles.

    Raises
    ------
    ExportError
        If PNG cannot hold the tiles.
    """
    check_png(chosen.tiles.shape[1], chosen.tiles.dtype)
    stems = file_stems(chosen.barcodes)
    folder = directory / "tiles"
    folder.mkdir()

    def write(named: tuple[str, NDArray[np.unsignedinteger]]) -> None:
        stem, tile = named
        (folder / f"{stem}.png").write_bytes(_png(tile))

    with (
        expression_file(chosen, directory) as add_expression,
        closing(chosen.iter_batches(chosen.batch_size, progress)) as batches,
    ):
        for here, batch in batches:
            map_chunks(write, zip(stems[here], batch, strict=True))
            add_expression(here)
    write_rows_csv(chosen, directory, files=[f"tiles/{stem}.png" for stem in stems])


def write_rows_csv(chosen: TileSet, directory: Path, *, files: list[str] | None = None) -> None:
    """Write ``rows.csv``: one line a tile, in their order.

    Columns are ``barcode``, ``x`` and ``y`` (centre in full-resolution pixels), ``row`` (of the
    table, from 0), ``coverage``, and ``file`` where tiles are files.
    """
    header = ["barcode", "x", "y", "row", "coverage", *([] if files is None else ["file"])]
    columns = [
        chosen.barcodes,
        *chosen.xy.T.tolist(),
        chosen.rows.tolist(),
        chosen.coverage.tolist(),
        *([] if files is None else [files]),
    ]
    with (directory / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))


@contextmanager
def expression_file(chosen: TileSet, directory: Path) -> Iterator[Callable[[slice], None]]:
    """Make ``expression.npy`` (n, n_genes) float32, where expression is wanted.

    Yields
    ------
    callable
        Takes the places of the tiles whose expression comes next.
    """
    choice = chosen.expression
    if choice is None:
        yield lambda _: None
        return
    shape = len(chosen), len(choice.genes)
    with npy_file(directory / "expression.npy", shape, np.dtype(np.float32)) as add:
        yield lambda here: add(chosen.read_expression(choice, here))


def write_tar_shards(
    chosen: TileSet, directory: Path, progress: Progress, *, shard_bytes: int
) -> None:
    """Write ``000000.tar``, ``000001.tar``, ...: samples of an image, a document and expression.

    Parameters
    ----------
    chosen : TileSet
        The tiles.
    directory : pathlib.Path
        Where to write.
    progress : callable
        Told of tiles.
    shard_bytes : int
        A shard ends before the sample that would make it larger; one sample may be larger.

    Raises
    ------
    ExportError
        If PNG cannot hold the tiles, or the slide's identifier can be in no file's name.

    Notes
    -----
    The key of a sample is ``<slide>_<barcode>``, as `file_stems` makes it. Headers have no times
    and no owners, members of a sample ascend by name: the same tiles give the same bytes.
    """
    check_png(chosen.tiles.shape[1], chosen.tiles.dtype)
    slide_id = checked_file_name(chosen.slide.slide_id, "the slide")
    keys = file_stems(f"{slide_id}_{barcode}" for barcode in chosen.barcodes)
    choice = chosen.expression
    with (
        closing(_Shards(directory, shard_bytes)) as shards,
        closing(chosen.iter_batches(chosen.batch_size, progress)) as batches,
    ):
        for here, batch in batches:
            images = map_chunks(_png, batch)
            expression = None if choice is None else chosen.read_expression(choice, here)
            for place, image in enumerate(images):
                number = here.start + place
                members = {"json": _document(chosen, number), "png": image}
                if expression is not None:
                    members["expression.npy"] = _npy(expression[place])
                shards.add(keys[number], members)


class _Shards:
    """Tar archives of about one size, one after another."""

    def __init__(self, directory: Path, shard_bytes: int) -> None:
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._n_shards = 0
        self._archive: tarfile.TarFile | None = None

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Append a sample, in a new shard where it would be too much for this one."""
        size = sum(map(_tar_size, members.values()))
        archive = self._archive
        if archive is None or (archive.offset and archive.offset + size > self._shard_bytes):
            archive = self._next()
        for ending, content in sorted(members.items()):
            header = tarfile.TarInfo(f"{key}.{ending}")
            header.size = len(content)
            header.mode = _MODE
            archive.addfile(header, io.BytesIO(content))

    def close(self) -> None:
        """End the last shard."""
        if self._archive is not None:
            self._archive.close()

    def _next(self) -> tarfile.TarFile:
        self.close()
        path = self._directory / f"{self._n_shards:06d}.tar"
        self._archive = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)
        self._n_shards += 1
        return self._archive


def _tar_size(content: bytes) -> int:
    return tarfile.BLOCKSIZE + -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _document(chosen: TileSet, number: int) -> bytes:
    x, y = chosen.xy[number].tolist()
    document = {
        "slide_id": chosen.slide.slide_id,
        "barcode": chosen.barcodes[number],
        "x": x,
        "y": y,
        "row": int(chosen.rows[number]),
        "coverage": float(chosen.coverage[number]),
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _png(tile: NDArray[np.unsignedinteger]) -> bytes:
    pixels = tile[0] if len(tile) == 1 else np.ascontiguousarray(tile.transpose(1, 2, 0))
    return bytes(imagecodecs.png_encode(pixels, level=_PNG_LEVEL))


def _npy(values: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)
    return file.getvalue()
