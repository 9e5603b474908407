"""Count matrices as Space Ranger has written them over its versions."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["FeatureRows", "StringStyle", "write_h5", "write_mtx"]

type StringStyle = Literal["fixed", "padded", "variable"]

_PAD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRows:
    """Features of a matrix, in the order of its rows."""

    ids: Sequence[str]
    """Identifiers."""

    names: Sequence[str]
    """Symbols."""

    types: Sequence[str]
    """Types of features."""

    genomes: Sequence[str]
    """Reference genomes, or empty texts."""


def write_h5(
    path: Path,
    barcodes: Sequence[str],
    features: FeatureRows,
    counts: sparse.csr_array,
    *,
    is_legacy: bool,
    strings: StringStyle,
    value_type: str,
    index_type: str,
) -> None:
    """Write an HDF5 matrix: one group ``matrix``, or one a genome where it `is_legacy`."""
    with h5py.File(path, "w", libver="earliest", track_order=False) as file:
        if not is_legacy:
            group = file.create_group("matrix")
            _write_strings(group, "barcodes", barcodes, strings)
            _write_parts(group, counts, value_type, index_type)
            table = group.create_group("features")
            for name, values in (
                ("id", features.ids),
                ("name", features.names),
                ("feature_type", features.types),
                ("genome", features.genomes),
            ):
                _write_strings(table, name, values, strings)
            _write_strings(table, "_all_tag_keys", ["genome"], strings)
            return
        genomes = np.array(features.genomes, dtype=object)
        for genome in sorted(set(genomes)):
            columns = np.flatnonzero(genomes == genome).tolist()
            group = file.create_group(genome)
            _write_strings(group, "barcodes", barcodes, strings)
            _write_parts(group, counts[:, columns], value_type, index_type)
            _write_strings(group, "genes", [features.ids[c] for c in columns], strings)
            _write_strings(group, "gene_names", [features.names[c] for c in columns], strings)


def _write_parts(
    group: h5py.Group, counts: sparse.csr_array, value_type: str, index_type: str
) -> None:
    # A matrix of features x barcodes by columns is one of barcodes x features by rows.
    arrays: dict[str, NDArray[Any]] = {
        "data": counts.data.astype(value_type),
        "indices": counts.indices.astype(index_type),
        "indptr": counts.indptr.astype(index_type),
        "shape": np.array(counts.shape[::-1], dtype=np.int32),
    }
    for name, values in arrays.items():
        group.create_dataset(name, data=values, chunks=(max(1, len(values)),), compression="gzip")


def _write_strings(
    group: h5py.Group, name: str, values: Sequence[str], strings: StringStyle
) -> None:
    encoded = [value.encode() for value in values]
    dtype: Any = (
        h5py.string_dtype()
        if strings == "variable"
        else f"S{_PAD if strings == 'padded' else max([1, *map(len, encoded)])}"
    )
    group.create_dataset(name, data=np.array(encoded, dtype=dtype))


def write_mtx(
    folder: Path,
    prefix: str,
    barcodes: Sequence[str],
    features: FeatureRows,
    counts: sparse.csr_array,
    *,
    version: Literal[2, 3],
    is_compressed: bool,
) -> None:
    """Write a Matrix Market folder: ``genes.tsv`` of version 2 or ``features.tsv`` of version 3."""
    entries = counts.tocoo()
    header = (
        "%%MatrixMarket matrix coordinate integer general\n%\n"
        f"{counts.shape[1]} {counts.shape[0]} {counts.nnz}\n"
    )
    lines = "".join(
        f"{column + 1} {row + 1} {value}\n"
        for row, column, value in zip(entries.row, entries.col, entries.data, strict=True)
    )
    columns: list[Sequence[str]] = [features.ids, features.names]
    if version == 3:
        columns.append(features.types)
    table = "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))
    texts = {
        "matrix.mtx": header + lines,
        "barcodes.tsv": "".join(f"{barcode}\n" for barcode in barcodes),
        "features.tsv" if version == 3 else "genes.tsv": table,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        data = text.encode()
        if is_compressed:
            (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / f"{prefix}{name}").write_bytes(data)
