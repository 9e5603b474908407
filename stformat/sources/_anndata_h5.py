"""AnnData files (``.h5ad``) as nodes: nothing outside the file is read, nor more than it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stformat.errors import CountsError, Problem
from stformat.sources._anndata import ArrayNode, GroupNode
from stformat.sources._h5 import check_storage, refuse_link

__all__ = ["is_h5ad", "open_h5ad"]

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)


def is_h5ad(path: Path) -> bool:
    """Say whether a file is an AnnData object in HDF5.

    Parameters
    ----------
    path : pathlib.Path
        Any file.

    Returns
    -------
    bool
        True for HDF5 whose root says that it is AnnData, or has ``obs``, ``var`` and ``X``.
    """
    try:
        if not h5py.is_hdf5(path):
            return False
        with h5py.File(path, "r", locking=False) as file:
            return file.attrs.get("encoding-type") == "anndata" or {"obs", "var", "X"} <= set(file)
    except _DAMAGE:
        # A damaged file is reported when it is read, not when kinds of files are told apart.
        return False


@contextmanager
def open_h5ad(path: Path) -> Iterator[GroupNode]:
    """Open an AnnData file.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Yields
    ------
    GroupNode
        Its root; nodes of it are read while the context is open.

    Raises
    ------
    CountsError
        If the file is no whole HDF5.
    """
    try:
        # A lock would fail on file systems that have none; nothing is written.
        file = h5py.File(path, "r", locking=False)
    except _DAMAGE as error:
        raise _damaged(path.name, error) from error
    with file:
        yield _group(path.name, file)


def _group(where: str, group: h5py.Group) -> GroupNode:
    def names() -> tuple[str, ...]:
        return tuple(group)

    def child(name: str) -> ArrayNode | GroupNode:
        place = f"{where}/{name}"
        refuse_link(place, _told(place, lambda: group.get(name, getlink=True)))
        member = _told(place, lambda: group[name])
        return _told(
            place,
            lambda: (
                _group(place, member) if isinstance(member, h5py.Group) else _array(place, member)
            ),
        )

    return GroupNode(
        where=where,
        attributes=_told(where, lambda: _attributes(group)),
        names=_told(where, names),
        child=child,
    )


def _array(where: str, data_set: h5py.Dataset) -> ArrayNode:
    if not isinstance(data_set, h5py.Dataset):
        raise CountsError(
            Problem("anndata.structure", where, "a data set is needed", type(data_set).__name__)
        )
    if data_set.shape is None:
        raise CountsError(Problem("anndata.structure", where, "values are needed", "none"))
    check_storage(where, data_set)
    is_text = h5py.check_string_dtype(data_set.dtype) is not None

    def read(start: int, stop: int) -> NDArray[Any]:
        return _told(where, lambda: _read(data_set, start, stop, is_text=is_text))

    return ArrayNode(
        where=where,
        attributes=_attributes(data_set),
        shape=data_set.shape,
        dtype=np.dtype(object) if is_text else data_set.dtype,
        read=read,
    )


def _read(data_set: h5py.Dataset, start: int, stop: int, *, is_text: bool) -> NDArray[Any]:
    selection = slice(start, stop) if data_set.shape else ()
    # Text that is no UTF-8 is an error: a name must not become another one.
    values = data_set.asstr()[selection] if is_text else data_set[selection]
    if not data_set.shape:
        values = np.array([values], dtype=object if is_text else data_set.dtype)
    # Enumerations of h5py are how HDF5 stores truth values.
    return np.asarray(values)


def _attributes(node: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    attributes = dict(node.attrs)
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in attributes.items()
    }


def _told[T](where: str, read: Callable[[], T]) -> T:
    """Call a function of h5py; say what it raises in a typed error."""
    try:
        return read()
    except CountsError:
        raise
    except _DAMAGE as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> CountsError:
    return CountsError(
        Problem(
            "counts.damaged",
            where,
            "the file must be whole HDF5",
            str(error) or type(error).__name__,
            "copy the file again from its source",
        )
    )
