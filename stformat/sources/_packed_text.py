"""Names of millions of rows as bytes of fixed width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import InputError, Problem

__all__ = ["MAX_WIDTH", "pack_texts", "packed_blocks", "texts_of", "unpack"]

MAX_WIDTH = 256
"""Longest name in bytes."""


def pack_texts(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return texts as UTF-8 of the width of the longest.

    Examples
    --------
    >>> pack_texts(["AAAC-1", "b"]).dtype
    dtype('S6')
    """
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def unpack(names: NDArray[np.bytes_]) -> list[str]:
    """Return names as texts.

    Examples
    --------
    >>> unpack(np.array([b"AAAC-1"]))
    ['AAAC-1']
    """
    return [name.decode() for name in names.tolist()]


def texts_of(names: NDArray[np.object_] | NDArray[np.bytes_]) -> list[str]:
    """Return names as texts, whichever way they are held.

    Examples
    --------
    >>> texts_of(np.array([b"AAAC-1"])), texts_of(np.array(["AAAC-1"], dtype=object))
    (['AAAC-1'], ['AAAC-1'])
    """
    is_packed = names.dtype.kind == "S"
    return [name.decode() for name in names.tolist()] if is_packed else names.tolist()


def packed_blocks(
    where: str, blocks: Iterable[NDArray[Any]], *, topic: str, error: type[InputError]
) -> NDArray[np.bytes_]:
    """Join blocks of names to one array of their greatest width.

    Parameters
    ----------
    where : str
        Where they come from, for messages.
    blocks : iterable of (n,) ndarray
        Bytes of any width, or objects that are bytes; zeros and spaces at their ends are padding.
    topic : str
        First word of the codes of problems.
    error : type of InputError
        What is raised.

    Returns
    -------
    (n,) ndarray of bytes
        The names.

    Raises
    ------
    InputError
        If one is no UTF-8, has a zero byte inside, or more than `MAX_WIDTH` bytes.
    """
    packed = [np.zeros(0, dtype="S1")]
    for block in blocks:
        names = np.char.rstrip(block.astype(np.bytes_), b"\0 ")
        width = int(np.char.str_len(names).max(initial=1))
        found = ""
        if width > MAX_WIDTH:
            found = f"one of {width} bytes"
        elif block.dtype == object and any(b"\0" in name.rstrip(b"\0 ") for name in block):
            found = "one with a zero byte in it"
        else:
            try:
                names.tobytes().decode("utf-8")
            except UnicodeDecodeError as damage:
                found = str(damage)
        if found:
            raise error(
                Problem(
                    f"{topic}.encoding",
                    where,
                    f"names must be UTF-8 text of at most {MAX_WIDTH} bytes",
                    found,
                )
            )
        packed.append(names.astype(f"S{max(1, width)}"))
    return np.concatenate(packed)
