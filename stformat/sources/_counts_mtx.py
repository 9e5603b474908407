"""Matrix Market folders of Cell Ranger and Space Ranger, of version 2 and of version 3 on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stformat.errors import CountsError, InputError, Problem
from stformat.sources._counts_10x import (
    GENES,
    FeatureCounts,
    Features,
    check_rows,
    clean_counts,
)
from stformat.sources._sniff import GZIP_ERRORS, open_text, split_fields
from stformat.sources._text import read_text

__all__ = [
    "Entries",
    "MtxEntries",
    "MtxFiles",
    "check_lists",
    "find_mtx",
    "opened_mtx",
    "read_counts_mtx",
    "read_features_mtx",
    "refuse_pointer",
]

ENTRIES_PER_BLOCK = 1 << 19
"""Lines parsed at a time."""

MAX_TEXT_BYTES = 1 << 28
"""Largest list of barcodes or features that is read: 256 MiB of text."""

_ROLES = {
    "matrix": re.compile(r"(.*[-_.])?matrix\.mtx(\.gz)?", re.IGNORECASE),
    "barcodes": re.compile(r"(.*[-_.])?barcodes\.tsv(\.gz)?", re.IGNORECASE),
    "features": re.compile(r"(.*[-_.])?(features|genes)\.tsv(\.gz)?", re.IGNORECASE),
}
_POINTER = b"version https://git-lfs"
_GENOME_FOLDER = "gene_bc_matrices"
_HEADER_BYTES = 1 << 16
_BYTES_PER_ENTRY = 5  # "1 1 1" on the last line
_MAX_RATIO = 1100  # deflate reaches 1032
_LARGEST = np.iinfo(np.int32).max
_LINE = "every line must have a row, a column and a number"

type _Values = NDArray[np.int32 | np.int64 | np.float64]
type Entries = tuple[NDArray[np.int32], NDArray[np.int32], _Values]
"""Features and barcodes from 0, and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MtxFiles:
    """The three files of one matrix."""

    matrix: Path
    """Entries: feature, barcode, value."""

    barcodes: Path | None
    """Names of the columns; None where none was found."""

    features: Path | None
    """Names of the rows; None where none was found."""


def find_mtx(folder: Path) -> tuple[MtxFiles, ...]:
    """Find the matrices of a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Directory with ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``,
        gzip-compressed or not, behind any prefix.

    Returns
    -------
    tuple of MtxFiles
        One for each matrix; its partners have its prefix.

    Raises
    ------
    InputError
        If the folder cannot be read.
    """
    try:
        # Copies made on macOS carry a hidden ``._matrix.mtx.gz`` beside each file.
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(
            Problem("source.unreadable", str(folder), "the folder must be readable", str(error))
        ) from error
    found: dict[str, dict[str, Path]] = {role: {} for role in _ROLES}
    for path in paths:
        for role, pattern in _ROLES.items():
            match = pattern.fullmatch(path.name)
            if match and path.is_file():
                found[role].setdefault(match[1] or "", path)
    return tuple(
        MtxFiles(
            matrix=path,
            barcodes=found["barcodes"].get(prefix),
            features=found["features"].get(prefix),
        )
        for prefix, path in found["matrix"].items()
    )


def read_counts_mtx(files: MtxFiles) -> FeatureCounts:
    """Read a Matrix Market folder.

    Parameters
    ----------
    files : MtxFiles
        From `find_mtx`.

    Returns
    -------
    FeatureCounts
        Features have the genome that the folder is named for, where it lies in
        ``filtered_gene_bc_matrices`` or ``raw_gene_bc_matrices``; these files know of no other.

    Raises
    ------
    CountsError
        If a file is missing, damaged, no such file or a pointer of git-LFS, the lists do not fit
        the matrix, or the matrix is not what its header says.

    Notes
    -----
    Memory: 24 bytes for each entry, 36 where the file does not list them barcode after barcode as
    Space Ranger does, and a block of text.
    """
    where = files.matrix.name
    barcodes = tuple(fields[0] for fields in _lines(files.barcodes, "barcodes.tsv", where))
    check_rows(files.barcodes.name if files.barcodes else where, barcodes)
    features = read_features_mtx(files)
    with opened_mtx(files.matrix) as entries:
        shape = (entries.n_features, entries.n_barcodes)
        triplets = _joined(entries)
    check_lists(where, shape, n_features=len(features.ids), n_barcodes=len(barcodes))
    matrix, notes = clean_counts(where, *_to_rows(triplets, shape[1]), shape=shape[::-1])
    return FeatureCounts(barcodes=barcodes, features=features, matrix=matrix, notes=notes)


def read_features_mtx(files: MtxFiles) -> Features:
    """Read the list of features of a Matrix Market folder.

    Parameters
    ----------
    files : MtxFiles
        From `find_mtx`.

    Returns
    -------
    Features
        See `read_counts_mtx`.

    Raises
    ------
    CountsError
        If it is missing or damaged.
    """
    rows = _lines(files.features, "features.tsv or genes.tsv", files.matrix.name)
    folder = files.matrix.parent
    genome = folder.name if folder.parent.name.endswith(_GENOME_FOLDER) else None
    ids = tuple(fields[0] for fields in rows)
    return Features(
        ids=ids,
        names=tuple(fields[1] if len(fields) > 1 else fields[0] for fields in rows),
        gene_ids=ids,
        types=tuple(fields[2] if len(fields) > 2 and fields[2] else GENES for fields in rows),
        genomes=(genome,) * len(rows),
    )


def check_lists(where: str, shape: tuple[int, int], *, n_features: int, n_barcodes: int) -> None:
    """Refuse lists that do not fit a matrix.

    Parameters
    ----------
    where : str
        Name of the matrix, for messages.
    shape : tuple of int
        Features and barcodes that the matrix has.
    n_features, n_barcodes : int
        Lengths of the lists.

    Raises
    ------
    CountsError
        If they differ.
    """
    if shape == (n_features, n_barcodes):
        return
    is_turned = shape == (n_barcodes, n_features)
    raise CountsError(
        Problem(
            "counts.shape",
            where,
            f"a row for each of {n_features} features and a column for each of {n_barcodes} "
            "barcodes are needed",
            f"{shape[0]} rows and {shape[1]} columns"
            + (": the matrix is transposed" if is_turned else ""),
            "check that the three files are of one matrix",
        )
    )


def refuse_pointer(name: str, head: bytes) -> None:
    """Raise CountsError where the first bytes of a file are those of a pointer of git-LFS."""
    if head.startswith(_POINTER):
        _fail(
            "counts.lfs-pointer",
            name,
            "the file itself is needed",
            "a pointer of git-LFS to it",
            "fetch it with git lfs pull",
        )


def _fail(code: str, where: str, expected: str, found: str, remedy: str = "") -> NoReturn:
    raise CountsError(Problem(code, where, expected, found, remedy))


def _lines(path: Path | None, role: str, matrix: str) -> list[list[str]]:
    """Fields of each line of a list."""
    if path is None:
        _fail("counts.missing", matrix, f"{role} is needed beside the matrix", "none")
    text = read_text(path, topic="counts", error=CountsError, max_bytes=MAX_TEXT_BYTES)
    return [split_fields(line, "\t") for line in text.splitlines() if line.strip()]


class MtxEntries:
    """The entries of an open matrix, in blocks; made by `opened_mtx`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._file = file
        self._name = path.name
        try:
            sizes, value_type = _read_header(path, file)
        except GZIP_ERRORS as error:
            raise _cut_off(path.name, error) from error
        self.n_features, self.n_barcodes, self.n_entries = sizes
        self.value_type: type[np.int64 | np.float64] = value_type
        """As the header says; blocks of integers are int32 where these hold them."""

    def blocks(self) -> Iterator[Entries]:
        """Yield all entries once, in the order of the file.

        Raises
        ------
        CountsError
            If the file is damaged, or is not what its header says.
        """
        n_found = 0
        shape = (self.n_features, self.n_barcodes)
        try:
            for frame in pd.read_csv(
                self._file,
                sep=r"\s+",
                header=None,
                dtype={0: np.int64, 1: np.int64, 2: self.value_type},
                chunksize=ENTRIES_PER_BLOCK,
                na_filter=False,
            ):
                n_found += len(frame)
                if n_found > self.n_entries:
                    break
                yield _block(self._name, frame, shape)
        except pd.errors.EmptyDataError:
            pass
        except CountsError:
            raise
        except GZIP_ERRORS as error:
            raise _cut_off(self._name, error) from error
        except (ValueError, OverflowError) as error:
            _fail("counts.structure", self._name, _LINE, str(error).strip())
        if n_found != self.n_entries:
            is_short = n_found < self.n_entries
            _fail(
                "counts.truncated" if is_short else "counts.structure",
                self._name,
                f"{self.n_entries} entries are needed, as the header says",
                f"{n_found}" if is_short else "more",
                "copy the file again from its source",
            )


@contextmanager
def opened_mtx(path: Path) -> Iterator[MtxEntries]:
    """Open a matrix, and read its header.

    Parameters
    ----------
    path : pathlib.Path
        ``matrix.mtx``, gzip-compressed or not.

    Yields
    ------
    MtxEntries
        Its entries.

    Raises
    ------
    CountsError
        If it is damaged or no such matrix.
    """
    with open_text(path) as file:
        yield MtxEntries(path, file)


def _cut_off(name: str, error: Exception) -> CountsError:
    return CountsError(
        Problem(
            "counts.truncated",
            name,
            "the compressed file must be whole",
            f"damaged or cut-off gzip data ({error})",
            "copy the file again from its source",
        )
    )


def _read_header(
    path: Path, file: BinaryIO
) -> tuple[tuple[int, int, int], type[np.int64 | np.float64]]:
    """Numbers of rows, columns and entries, and the type of values, that a matrix declares."""
    banner = file.readline(_HEADER_BYTES)
    refuse_pointer(path.name, banner)
    words = banner.decode("ascii", "replace").lower().split()
    if words[:3] != ["%%matrixmarket", "matrix", "coordinate"] or len(words) != 5:
        _fail(
            "counts.not-a-matrix",
            path.name,
            "the first line must be '%%MatrixMarket matrix coordinate <field> <symmetry>'",
            repr(banner[:80].decode("ascii", "replace").strip()),
        )
    line = file.readline(_HEADER_BYTES)
    while line.startswith(b"%") or (line and not line.strip()):
        line = file.readline(_HEADER_BYTES)
    sizes = line.split()
    if len(sizes) != 3 or not all(size.isdigit() and len(size) < 19 for size in sizes):
        _fail(
            "counts.structure",
            path.name,
            "a line with numbers of rows, columns and entries is needed",
            repr(line[:80].decode("ascii", "replace").strip()),
        )
    n_rows, n_columns, n_entries = (int(size) for size in sizes)
    most = path.stat().st_size * _MAX_RATIO // _BYTES_PER_ENTRY
    if max(n_rows, n_columns) > _LARGEST or n_entries > most:
        _fail(
            "counts.size",
            path.name,
            "the file must hold what it declares",
            f"{n_rows} x {n_columns} with {n_entries} entries in {path.stat().st_size} bytes",
        )
    # An empty matrix has no values that its field and its symmetry could say anything of.
    if n_entries and (words[3] not in {"integer", "real"} or words[4] != "general"):
        _fail(
            "counts.not-a-matrix",
            path.name,
            "a general matrix of integers or real numbers is needed",
            " ".join(words[3:]),
        )
    return (n_rows, n_columns, n_entries), np.float64 if words[3] == "real" else np.int64


def _joined(entries: MtxEntries) -> Entries:
    """All entries at once."""
    blocks = list(entries.blocks())
    if not blocks:
        none = np.zeros(0, dtype=np.int32)
        return none, none, np.zeros(0, dtype=entries.value_type)
    rows, columns, values = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return rows, columns, values


def _block(name: str, frame: pd.DataFrame, shape: tuple[int, int]) -> Entries:
    if frame.shape[1] != 3:
        _fail("counts.structure", name, _LINE, f"{frame.shape[1]} fields")
    places = []
    for column, most in enumerate(shape):
        place = frame[column].to_numpy()
        if place.min() < 1 or place.max() > most:
            _fail(
                "counts.structure",
                name,
                f"{('rows', 'columns')[column]} must be from 1 to {most}, as the header says",
                f"{place.min()} to {place.max()}",
            )
        places.append((place - 1).astype(np.int32))
    values: _Values = frame[2].to_numpy()
    if values.dtype.kind == "i" and values.min() >= -_LARGEST and values.max() <= _LARGEST:
        values = values.astype(np.int32)
    return places[0], places[1], values


def _to_rows(
    triplets: Entries, n_barcodes: int
) -> tuple[_Values, NDArray[np.int32], NDArray[np.int64]]:
    """Values, features and where rows begin; equal places stay as they are, to be refused."""
    feature, barcode, value = triplets
    if (barcode[1:] < barcode[:-1]).any():
        order = np.argsort(barcode, kind="stable")
        feature, value = feature[order], value[order]
    n_of_row = np.bincount(barcode, minlength=n_barcodes)
    return value, feature, np.concatenate([[0], np.cumsum(n_of_row)])
