"""Zarr hierarchies in local directories as nodes, of format 2 or 3, each by its own metadata.

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html. Consolidated metadata
are not read: other tools leave stale ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import BaseZarrError

from stformat.errors import CountsError, Problem
from stformat.sources._anndata import ArrayNode, GroupNode

__all__ = ["damage_told", "is_node", "open_array", "open_group", "refuse_size"]

MAX_BYTES = 1 << 26
"""Longest metadata document."""

MAX_RATIO = 1 << 16
"""Most bytes of values for one stored byte: zstd reaches a few ten thousands."""

FREE_BYTES = 1 << 26
"""Declared size that needs no stored byte to back it: chunks of fill values may be left out."""

_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    BaseZarrError,
)
_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")


def is_node(path: Path) -> bool:
    """Say whether a directory is a Zarr group or array."""
    return any((path / name).is_file() for name in _DOCUMENTS)


def open_group(path: Path, where: str) -> GroupNode:
    """Open a group.

    Parameters
    ----------
    path : pathlib.Path
        Its directory.
    where : str
        What to call it in messages.

    Returns
    -------
    GroupNode
        The group; members are what has metadata of its own.

    Raises
    ------
    CountsError
        If it is no group, or its metadata are damaged.
    """
    node = _open(path, where)
    if isinstance(node, ArrayNode):
        raise CountsError(Problem("anndata.structure", where, "a group is needed", "an array"))
    return node


def open_array(path: Path, where: str) -> zarr.Array[Any]:
    """Open an array with zarr.

    Raises
    ------
    CountsError
        If there is none, or its metadata are damaged.
    """
    return damage_told(where, lambda: zarr.open_array(str(path), mode="r"))


def _open(path: Path, where: str) -> ArrayNode | GroupNode:
    if (path / "zarr.json").is_file():
        document = _document(path / "zarr.json", where)
        is_array = document.get("node_type") == "array"
        attributes = document.get("attributes", {})
    else:
        is_array = (path / ".zarray").is_file()
        has_attributes = (path / ".zattrs").is_file()
        attributes = _document(path / ".zattrs", where) if has_attributes else {}
    if not isinstance(attributes, dict):
        raise CountsError(
            Problem("zarr.metadata", where, "attributes must be an object", repr(attributes)[:80])
        )
    if is_array:
        return _array(path, where, attributes)
    if not is_node(path):
        raise CountsError(Problem("zarr.metadata", where, "a Zarr group is needed", "none"))
    names = damage_told(
        where, lambda: tuple(sorted(entry.name for entry in path.iterdir() if is_node(entry)))
    )
    return GroupNode(
        where=where,
        attributes=attributes,
        names=names,
        child=lambda name: _open(path / name, f"{where}/{name}"),
    )


def _array(path: Path, where: str, attributes: dict[str, Any]) -> ArrayNode:
    array = open_array(path, where)
    refuse_size(path, where, array)
    is_text = array.dtype.kind in "OTUS"

    def read(start: int, stop: int) -> NDArray[Any]:
        return damage_told(where, lambda: _read(array, start, stop, is_text=is_text))

    return ArrayNode(
        where=where,
        attributes=attributes,
        shape=array.shape,
        dtype=np.dtype(object) if is_text else array.dtype,
        read=read,
    )


def _read(array: zarr.Array[Any], start: int, stop: int, *, is_text: bool) -> NDArray[Any]:
    values = np.asarray(array[start:stop] if array.shape else array[()])
    values = values if array.shape else values.reshape(1)
    return values.astype(object) if is_text else values


def refuse_size(path: Path, where: str, array: zarr.Array[Any]) -> None:
    """Refuse an array that declares more than its files can hold.

    Raises
    ------
    CountsError
        If it does.
    """
    declared = math.prod(array.shape) * max(1, array.dtype.itemsize)
    if declared <= FREE_BYTES:
        return
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if declared > MAX_RATIO * stored:
        raise CountsError(
            Problem(
                "zarr.size",
                where,
                "the files must hold what the array declares",
                f"{array.shape} values of {array.dtype} in {stored} bytes",
            )
        )


def _document(path: Path, where: str) -> dict[str, Any]:
    def read() -> Any:  # noqa: ANN401 - whatever the file holds
        with path.open("rb") as file:
            return json.loads(file.read(MAX_BYTES))

    document = damage_told(where, read)
    if not isinstance(document, dict):
        raise CountsError(
            Problem("zarr.metadata", where, f"{path.name} must be an object", "something else")
        )
    return document


def damage_told[T](where: str, read: Callable[[], T]) -> T:
    """Call a function of zarr; say what it raises in a typed error.

    Raises
    ------
    CountsError
        If it raises.
    """
    try:
        return read()
    except CountsError:
        raise
    except (*_DAMAGE, RecursionError) as error:
        raise CountsError(
            Problem(
                "zarr.damaged",
                where,
                "the store must be whole",
                (str(error) or type(error).__name__)[:200],
                "copy it again from its source",
            )
        ) from error
