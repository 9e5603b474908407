"""Elements of the AnnData encoding, whatever they are stored in: dataframes and their columns.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CountsError, Problem
from stformat.sources._packed_text import MAX_WIDTH, pack_texts

__all__ = [
    "ArrayNode",
    "Frame",
    "GroupNode",
    "array_of",
    "group_of",
    "read_frame",
    "read_rows",
    "read_scalar",
]

MAX_ROWS = np.iinfo(np.int32).max
"""A matrix has at most so many rows and columns."""

_BLOCK = 1 << 16
_MISSING = {"nan", "na", "none", "null", "<na>", ""}
_NULLABLE = {
    "nullable-integer",
    "nullable-boolean",
    "nullable-string-array",
    "nullable-floating",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayNode:
    """An array that is read in runs of rows."""

    where: str
    """File and path in it, for messages."""

    attributes: Mapping[str, Any]
    """Attributes."""

    shape: tuple[int, ...]
    """Shape."""

    dtype: np.dtype[Any]
    """Type of numbers and truth values; object for text."""

    read: Callable[[int, int], NDArray[Any]]
    """``read(start, stop)`` returns some rows, text as an object array of str; an array without
    axes gives its value as the only one of an array. Raises CountsError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNode:
    """A group of named arrays and groups."""

    where: str
    """File and path in it, for messages."""

    attributes: Mapping[str, Any]
    """Attributes."""

    names: tuple[str, ...]
    """Names of its members."""

    child: Callable[[str], ArrayNode | GroupNode]
    """Return a member. Raises CountsError, also where the member lies in another file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A dataframe whose columns are read when they are asked for."""

    where: str
    """File and path in it, for messages."""

    index: NDArray[np.object_] | NDArray[np.bytes_]
    """(n,) str, or UTF-8 of fixed width."""

    names: tuple[str, ...]
    """Names of the columns."""

    read: Callable[[str], NDArray[Any]]
    """Read a column: numbers, truth values, or an object array of str and None. Numbers some of
    which are missing are float64 with NaN. Raises CountsError."""

    def __len__(self) -> int:
        return len(self.index)

    def text(self, *names: str) -> NDArray[np.object_] | None:
        """Read the first of some columns that is there, as str or None; no column gives None."""
        name = next((name for name in names if name in self.names), None)
        if name is None:
            return None
        values = np.empty(len(self), dtype=object)
        values[:] = [_present(value) for value in self.read(name).tolist()]
        return values

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """Read a column as float64; None where there is none.

        Raises
        ------
        CountsError
            If it holds anything else.
        """
        if name not in self.names:
            return None
        values = self.read(name)
        try:
            return values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise CountsError(
                Problem("anndata.column", f"{self.where}/{name}", "numbers are needed", str(error))
            ) from error


def _present(value: object) -> str | None:
    """Text, without what stands for nothing."""
    return None if value is None or str(value).casefold() in _MISSING else str(value)


def array_of(group: GroupNode, name: str, *, n_axes: int) -> ArrayNode:
    """Return a member that must be an array of a number of axes.

    Raises
    ------
    CountsError
        If it is missing, or something else.
    """
    node = _member(group, name)
    if isinstance(node, GroupNode) or len(node.shape) != n_axes:
        found = "a group" if isinstance(node, GroupNode) else f"one of the shape {node.shape}"
        raise _structure(f"{group.where}/{name}", f"an array of {n_axes} axes is needed", found)
    return node


def group_of(group: GroupNode, name: str) -> GroupNode:
    """Return a member that must be a group.

    Raises
    ------
    CountsError
        If it is missing, or an array.
    """
    node = _member(group, name)
    if isinstance(node, ArrayNode):
        raise _structure(f"{group.where}/{name}", "a group is needed", "an array")
    return node


def read_scalar(group: GroupNode, name: str) -> Any:  # noqa: ANN401 - a number or a text
    """Read an array without axes.

    Raises
    ------
    CountsError
        If it is missing, or something else.
    """
    return array_of(group, name, n_axes=0).read(0, 1).tolist()[0]


def read_frame(group: GroupNode) -> Frame:
    """Read the index of a dataframe; its columns are read later.

    Parameters
    ----------
    group : GroupNode
        ``obs`` or ``var``.

    Returns
    -------
    Frame
        The dataframe. Columns that `group` names but lacks are an error when they are read.

    Raises
    ------
    CountsError
        If it is no dataframe of version 0.2.0, which anndata has written since 0.8.
    """
    _check_encoding(group)
    names = np.concatenate([np.zeros(0, dtype=object), *_index_blocks(group)])
    return _frame(group, names)


def read_rows(group: GroupNode) -> Frame:
    """Read the index of a dataframe of millions of rows; its columns are read later.

    Parameters
    ----------
    group : GroupNode
        ``obs``.

    Returns
    -------
    Frame
        As `read_frame`, with an index of bytes.

    Raises
    ------
    CountsError
        As there; or if a name has more than 256 bytes, or a zero byte.
    """
    _check_encoding(group)
    packed = [np.zeros(0, dtype="S1")]
    for block in _index_blocks(group):
        names = pack_texts(block.tolist())
        is_cut = any("\0" in name for name in block)
        if is_cut or names.dtype.itemsize > MAX_WIDTH:
            found = "a zero byte in one" if is_cut else f"one of {names.dtype.itemsize} bytes"
            raise _structure(
                f"{group.where}/{group.attributes['_index']}",
                f"names of rows must be texts of at most {MAX_WIDTH} bytes",
                found,
            )
        packed.append(names)
    return _frame(group, np.concatenate(packed))


def _check_encoding(group: GroupNode) -> None:
    encoding = group.attributes.get("encoding-type"), group.attributes.get("encoding-version")
    if encoding != ("dataframe", "0.2.0"):
        raise CountsError(
            Problem(
                "anndata.encoding",
                group.where,
                "a dataframe of encoding version 0.2.0 is needed",
                f"{encoding[0]!r} {encoding[1]!r}",
                "write the file again with anndata 0.8 or later",
            )
        )


def _index_blocks(group: GroupNode) -> Iterator[NDArray[np.object_]]:
    """Yield the index as str, in blocks."""
    name = group.attributes.get("_index")
    if not isinstance(name, str):
        raise _structure(group.where, "the attribute _index must name the index", repr(name))
    node = _member(group, name)
    if isinstance(node, ArrayNode):
        _check_column(node)
        read, n_rows = node.read, node.shape[0]
    else:
        values = _read_column(group, name, None)
        read, n_rows = (lambda start, stop: values[start:stop]), len(values)
    for start in range(0, n_rows, _BLOCK):
        values = read(start, min(n_rows, start + _BLOCK))
        block = np.empty(len(values), dtype=object)
        block[:] = ["" if name is None else str(name) for name in values.tolist()]
        yield block


def _frame(group: GroupNode, names: NDArray[np.object_] | NDArray[np.bytes_]) -> Frame:
    n_rows = len(names)
    columns = group.attributes.get("column-order", ())
    known = tuple(str(name) for name in np.asarray(columns, dtype=object).ravel().tolist())
    return Frame(
        where=group.where,
        index=names,
        names=known,
        read=lambda name: _read_column(group, name, n_rows),
    )


def _read_column(group: GroupNode, name: str, n_rows: int | None) -> NDArray[Any]:
    node = _member(group, name)
    where = f"{group.where}/{name}"
    encoding = node.attributes.get("encoding-type")
    if isinstance(node, ArrayNode):
        values = _read_all(node)
    elif encoding == "categorical":
        values = _read_categorical(node)
    elif encoding in _NULLABLE:
        values = _read_nullable(node)
    else:
        raise CountsError(
            Problem(
                "anndata.encoding",
                where,
                "a column must be an array, a categorical or a nullable array",
                repr(encoding),
            )
        )
    if n_rows is not None and len(values) != n_rows:
        raise _structure(where, f"a column needs {n_rows} values", str(len(values)))
    return values


def _read_all(node: ArrayNode) -> NDArray[Any]:
    _check_column(node)
    return node.read(0, node.shape[0])


def _check_column(node: ArrayNode) -> None:
    if len(node.shape) != 1 or node.shape[0] > MAX_ROWS or node.dtype.kind not in "biufO":
        found = f"{node.dtype} of shape {node.shape}"
        raise _structure(node.where, "an array of one axis of numbers or texts is needed", found)


def _read_categorical(group: GroupNode) -> NDArray[np.object_]:
    codes = _read_all(array_of(group, "codes", n_axes=1))
    categories = _read_column(group, "categories", None)
    if codes.dtype.kind not in "iu" or (
        len(codes) and (codes.min() < -1 or codes.max() >= len(categories))
    ):
        found = f"{codes.dtype} up to {codes.max() if len(codes) else 0}"
        raise _structure(
            f"{group.where}/codes", f"codes must be integers from -1 below {len(categories)}", found
        )
    # The last one answers to the code -1.
    names = np.empty(len(categories) + 1, dtype=object)
    names[:-1] = categories.tolist()
    values: NDArray[np.object_] = names[codes]
    return values


def _read_nullable(group: GroupNode) -> NDArray[Any]:
    values = _read_all(array_of(group, "values", n_axes=1))
    mask = _read_all(array_of(group, "mask", n_axes=1))
    if mask.shape != values.shape:
        raise _structure(group.where, "values and mask must be of one length", "two lengths")
    is_missing = mask.astype(np.bool_)
    if not is_missing.any():
        return values
    values = values.astype(object if values.dtype == object else np.float64)
    values[is_missing] = None if values.dtype == object else np.nan
    return values


def _member(group: GroupNode, name: str) -> ArrayNode | GroupNode:
    if name not in group.names:
        raise _structure(group.where, f"{name} is needed", ", ".join(group.names[:8]) or "nothing")
    return group.child(name)


def _structure(where: str, expected: str, found: str) -> CountsError:
    return CountsError(Problem("anndata.structure", where, expected, found))
