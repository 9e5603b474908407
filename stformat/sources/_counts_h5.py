"""HDF5 count matrices of Cell Ranger and Space Ranger, of every generation.

Since version 3 a file has one group ``matrix`` with the columns in ``matrix/features``; before, it
had one group a genome with ``genes`` and ``gene_names`` in it. Either stores barcodes as columns of
a CSC matrix, which are the rows of a CSR one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.model import Note
from stformat.sources._counts_10x import (
    GENES,
    FeatureCounts,
    Features,
    check_rows,
    clean_counts,
)
from stformat.sources._h5 import check_storage, refuse_link

__all__ = [
    "DAMAGE",
    "MAX_STRING",
    "data_set_of",
    "is_counts_h5",
    "matrix_groups",
    "matrix_shape",
    "numbers_of",
    "opened_h5",
    "read_counts_h5",
    "read_features",
]

MAX_STRING = 4096
"""Longest name in characters."""

_MOST = np.iinfo(np.int32).max
_STRINGS_PER_BLOCK = 1024
_PARTS = ("barcodes", "data", "indices", "indptr")
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, MemoryError)
"""What h5py raises on a damaged file."""


def is_counts_h5(path: Path) -> bool:
    """Say whether a file is an HDF5 count matrix.

    Parameters
    ----------
    path : pathlib.Path
        Any file.

    Returns
    -------
    bool
        True for HDF5 with a group that holds barcodes and the parts of a sparse matrix.
    """
    try:
        if not h5py.is_hdf5(path):
            return False
        with opened_h5(path) as file:
            return bool(matrix_groups(file))
    except (CountsError, *DAMAGE):
        # A damaged file is reported when it is read, not when kinds of files are told apart.
        return False


def read_counts_h5(path: Path) -> FeatureCounts:
    """Read an HDF5 count matrix.

    Parameters
    ----------
    path : pathlib.Path
        ``filtered_feature_bc_matrix.h5``, ``raw_feature_bc_matrix.h5``,
        ``raw_probe_bc_matrix.h5``, ``filtered_gene_bc_matrices_h5.h5`` or the like.

    Returns
    -------
    FeatureCounts
        Legacy groups, one a genome, stand side by side; their barcodes are united.

    Raises
    ------
    CountsError
        If the file is damaged or no such matrix, its parts do not fit one another, it declares
        more than its bytes can hold, or any part lies outside the file (an external link, external
        storage or a virtual data set).

    Notes
    -----
    Memory: the matrix as the file types it and once more as CSR with 4-byte values and indices.
    """
    try:
        with opened_h5(path) as file:
            groups = matrix_groups(file) or _no_groups(path.name, file)
            parts = [_read_group(path.name, file, name) for name in groups]
    except CountsError:
        raise
    except DAMAGE as error:
        raise CountsError(
            Problem(
                "counts.damaged",
                path.name,
                "the file must be whole HDF5",
                str(error) or type(error).__name__,
                "copy the file again from its source",
            )
        ) from error
    return parts[0] if len(parts) == 1 else _side_by_side(path.name, groups, parts)


@contextmanager
def opened_h5(path: Path, *, cache_bytes: int = 1 << 20) -> Iterator[h5py.File]:
    """Open a file for reading, with a cache of decoded chunks for each data set."""
    # A lock would fail on file systems that have none; nothing is written.
    with h5py.File(path, "r", locking=False, rdcc_nbytes=cache_bytes) as file:
        yield file


def matrix_groups(file: h5py.File) -> list[str]:
    """Return the names of the groups that hold a matrix, ascending."""
    found = []
    for name in sorted(file):
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            continue
        group = file[name]
        if isinstance(group, h5py.Group) and all(part in group for part in _PARTS):
            found.append(name)
    return found


def _no_groups(name: str, file: h5py.File) -> NoReturn:
    raise CountsError(
        Problem(
            "counts.not-a-matrix",
            name,
            "a group with barcodes, data, indices and indptr is needed",
            f"the groups {', '.join(file) or 'none'}",
        )
    )


def _read_group(name: str, file: h5py.File, group_name: str) -> FeatureCounts:
    group = file[group_name]
    where = f"{name}, {group_name}"
    n_features, n_barcodes = matrix_shape(where, group)
    barcodes = _strings(where, group, "barcodes", n_barcodes)
    check_rows(where, barcodes)
    features = (
        read_features(where, group, n_features)
        if "features" in group
        else _legacy_features(where, group, n_features, genome=group_name)
    )
    indptr = numbers_of(where, group, "indptr", kinds="iu", size=n_barcodes + 1)
    indices = numbers_of(where, group, "indices", kinds="iu")
    data = numbers_of(where, group, "data", kinds="iuf", size=len(indices))
    matrix, notes = clean_counts(where, data, indices, indptr, shape=(n_barcodes, n_features))
    return FeatureCounts(barcodes=barcodes, features=features, matrix=matrix, notes=notes)


def matrix_shape(where: str, group: h5py.Group) -> tuple[int, int]:
    """Return the numbers of features and barcodes: as declared, else as many as have names."""
    if "shape" in group:
        n_features, n_barcodes = numbers_of(where, group, "shape", kinds="iu", size=2).tolist()
    else:
        table = group["features"] if isinstance(group.get("features"), h5py.Group) else group
        names = [part for part in ("id", "name", "genes") if part in table]
        if not names:
            raise CountsError(
                Problem("counts.structure", where, "features need id or name", ", ".join(table))
            )
        n_features = data_set_of(where, table, names[0], None).shape[0]
        n_barcodes = data_set_of(where, group, "barcodes", None).shape[0]
    if min(n_features, n_barcodes) < 0 or max(n_features, n_barcodes) > _MOST:
        raise CountsError(
            Problem(
                "counts.structure",
                where,
                f"a matrix has at most {_MOST} rows and columns",
                f"{n_features} x {n_barcodes}",
            )
        )
    return n_features, n_barcodes


def read_features(where: str, group: h5py.Group, n_features: int) -> Features:
    """Read ``features`` of a matrix of version 3 on."""
    _hard(where, group, "features")
    table = group["features"]
    if not isinstance(table, h5py.Group):
        raise CountsError(
            Problem("counts.structure", where, "features must be a group", "a data set")
        )
    where = f"{where}/features"
    columns = {
        column: _strings(where, table, column, n_features)
        for column in ("id", "name", "feature_type", "genome", "gene_id", "gene_name")
        if column in table
    }
    names = columns.get("gene_name") or columns.get("name") or columns.get("id")
    ids = columns.get("id") or names
    if names is None or ids is None:
        raise CountsError(
            Problem("counts.structure", where, "features need id or name", ", ".join(table))
        )
    return Features(
        ids=ids,
        names=names,
        gene_ids=columns.get("gene_id") or ids,
        types=columns.get("feature_type") or (GENES,) * n_features,
        genomes=tuple(genome or None for genome in columns.get("genome") or ("",) * n_features),
    )


def _legacy_features(where: str, group: h5py.Group, n_features: int, *, genome: str) -> Features:
    if "genes" not in group:
        raise CountsError(
            Problem(
                "counts.structure",
                where,
                "a matrix needs features, or genes and gene_names",
                ", ".join(group),
            )
        )
    ids = _strings(where, group, "genes", n_features)
    names = _strings(where, group, "gene_names", n_features) if "gene_names" in group else ids
    return Features(
        ids=ids,
        names=names,
        gene_ids=ids,
        types=(GENES,) * n_features,
        genomes=(None if genome == "matrix" else genome,) * n_features,
    )


def _hard(where: str, group: h5py.Group, part: str) -> None:
    """Refuse a part that is missing, or that only points somewhere."""
    link = group.get(part, getlink=True)
    if link is None:
        raise CountsError(
            Problem("counts.structure", where, f"the data set {part} is needed", "none")
        )
    refuse_link(f"{where}/{part}", link)


def data_set_of(where: str, group: h5py.Group, part: str, size: int | None) -> h5py.Dataset:
    """Return a one-dimensional data set whose values are in the file and fit into its bytes."""
    _hard(where, group, part)
    data_set = group[part]
    where = f"{where}/{part}"
    if not isinstance(data_set, h5py.Dataset) or data_set.ndim != 1:
        raise CountsError(
            Problem("counts.structure", where, "a data set of one dimension is needed", "another")
        )
    if size is not None and data_set.shape[0] != size:
        raise CountsError(
            Problem("counts.structure", where, f"{size} values are needed", f"{data_set.shape[0]}")
        )
    check_storage(where, data_set)
    return data_set


def numbers_of(
    where: str, group: h5py.Group, part: str, *, kinds: str, size: int | None = None
) -> NDArray[Any]:
    """Read a data set of numbers of these kinds."""
    data_set = data_set_of(where, group, part, size)
    if data_set.dtype.kind not in kinds:
        raise CountsError(
            Problem(
                "counts.structure",
                f"{where}/{part}",
                "numbers are needed" if "f" in kinds else "integers are needed",
                str(data_set.dtype),
            )
        )
    numbers: NDArray[Any] = data_set[:]
    return numbers


def _strings(where: str, group: h5py.Group, part: str, size: int) -> tuple[str, ...]:
    data_set = data_set_of(where, group, part, size)
    where = f"{where}/{part}"
    if h5py.check_string_dtype(data_set.dtype) is None:
        raise CountsError(
            Problem("counts.structure", where, "texts are needed", str(data_set.dtype))
        )
    texts: list[str] = []
    for start in range(0, size, _STRINGS_PER_BLOCK):
        for value in data_set[start : start + _STRINGS_PER_BLOCK].tolist():
            try:
                text = value.decode("utf-8").rstrip("\0 ")
            except UnicodeDecodeError as error:
                raise CountsError(
                    Problem("counts.encoding", where, "names must be UTF-8 text", str(error))
                ) from error
            if len(text) > MAX_STRING:
                raise CountsError(
                    Problem(
                        "counts.structure",
                        where,
                        f"a name has at most {MAX_STRING} characters",
                        str(len(text)),
                    )
                )
            texts.append(text)
    return tuple(texts)


def _side_by_side(name: str, groups: list[str], parts: list[FeatureCounts]) -> FeatureCounts:
    """One matrix of several genomes: rows of all, in the order of first appearance."""
    barcodes = tuple(dict.fromkeys(barcode for part in parts for barcode in part.barcodes))
    row_of = {barcode: row for row, barcode in enumerate(barcodes)}
    blocks = []
    for part in parts:
        rows = np.array([row_of[barcode] for barcode in part.barcodes], dtype=np.int64)
        place = sparse.csr_array(
            (np.ones(len(rows), dtype=part.matrix.dtype), (rows, np.arange(len(rows)))),
            shape=(len(barcodes), len(rows)),
        )
        blocks.append(place @ part.matrix)
    # A product leaves columns in no order; int32 beside float32 would become float64.
    dtype = np.result_type(np.float32 if any(b.dtype.kind == "f" for b in blocks) else np.int32)
    matrix = sparse.csr_array(sparse.hstack(blocks, format="csr", dtype=dtype))
    matrix.sort_indices()
    features = [part.features for part in parts]
    note = Note(
        code="counts.several-genomes",
        message=f"{name} has one matrix a genome ({', '.join(groups)}): they stand side by side.",
        count=len(parts),
    )
    return FeatureCounts(
        barcodes=barcodes,
        features=Features(
            ids=tuple(text for part in features for text in part.ids),
            names=tuple(text for part in features for text in part.names),
            gene_ids=tuple(text for part in features for text in part.gene_ids),
            types=tuple(text for part in features for text in part.types),
            genomes=tuple(genome for part in features for genome in part.genomes),
        ),
        matrix=matrix,
        notes=(*(note for part in parts for note in part.notes), note),
    )
