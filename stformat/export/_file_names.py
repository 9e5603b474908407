"""Names of files for things that may be called anything."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stformat.errors import ExportError, Problem

__all__ = ["checked_file_name", "file_stems"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MAX_STEM = 80
"""Longest stem: with a suffix and an ending it fits the 100 bytes that a tar header has."""

_MAX_NAME_BYTES = 200
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def file_stems(labels: Iterable[str]) -> list[str]:
    """Make a name for a file of each label, none twice.

    Parameters
    ----------
    labels : iterable of str
        Barcodes: any text.

    Returns
    -------
    list of str
        ASCII letters, digits, ``_`` and ``-``, at most 100 of them: without dots, which end the
        key of a sample in WebDataset. What a label has else becomes ``_``. They are unique also
        where a file system ignores case: where two labels would have one name, the first has it
        and the next gets ``-2``, ``-3``, ... in their order.

    Examples
    --------
    >>> file_stems(["AAAC-1", "13.064x6.086", "a/b", "A:B", "aux"])
    ['AAAC-1', '13_064x6_086', 'a_b', 'A_B-2', '_aux']
    """
    stems = [_stem(label) for label in labels]
    taken = {stem.lower() for stem in stems}
    if len(taken) == len(stems):
        return stems
    last: dict[str, int] = {}
    for place, stem in enumerate(stems):
        key = stem.lower()
        if key not in last:
            last[key] = 1
            continue
        number = last[key] + 1
        while f"{key}-{number}" in taken:
            number += 1
        last[key] = number
        stems[place] = f"{stem}-{number}"
        taken.add(f"{key}-{number}")
    return stems


def _stem(label: str) -> str:
    stem = _UNSAFE.sub("_", label)[:_MAX_STEM]
    is_awkward = not stem or stem.startswith("-") or _DEVICES.fullmatch(stem)
    return f"_{stem}"[:_MAX_STEM] if is_awkward else stem


def checked_file_name(name: str, what: str) -> str:
    """Return a name that files are to begin with, or refuse it.

    Parameters
    ----------
    name : str
        Identifier of a slide.
    what : str
        What it names, for the message.

    Returns
    -------
    str
        `name`.

    Raises
    ------
    ExportError
        If no file can have the name on every system.

    Examples
    --------
    >>> checked_file_name("Human_Breast_10X.2", "the slide")
    'Human_Breast_10X.2'
    """
    is_printable = name.isprintable() and len(name.encode()) <= _MAX_NAME_BYTES
    if is_printable and name and name[0] != "." and not set('/\\:*?"<>|') & set(name):
        return name
    raise ExportError(
        Problem(
            "export.file-name",
            what,
            "files are named by it, so it must be a file name",
            repr(name[:_MAX_NAME_BYTES]),
            "convert the slide again with another --slide-id",
        )
    )
