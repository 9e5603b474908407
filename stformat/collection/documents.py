"""JSON documents that carry their own digest: panels of genes, splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stformat.errors import Problem, StformatError, refusals_of
from stformat.metadata.strict_json import JsonError, dump_canonical, parse_object
from stformat.store.durable import write_file

__all__ = ["Document", "content_digest", "read_document", "write_document"]

MAX_BYTES = 2**28
"""Most bytes of a document: one of the user's own making, so more than a store may hold. Sides of
rows take some bytes for each run of rows, a million rows in runs of ten half a MiB."""

_SHOWN_DIGITS = 12


class Document(BaseModel):
    """A document whose members are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of a document without its digest."""
    return hashlib.sha256(dump_canonical(content)).hexdigest()


def write_document(content: Mapping[str, Any], path: str | os.PathLike[str], *, stem: str) -> Path:
    """Write a document with its digest, atomically.

    Parameters
    ----------
    content : mapping
        The document.
    path : path
        File to write, or a directory, where the file is named after `stem` and the digest.
    stem : str
        Beginning of that name.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    ValueError
        If the document is larger than `read_document` would read.
    """
    digest = content_digest(content)
    target = Path(path)
    if target.is_dir():
        target /= f"{stem}-{digest[:_SHOWN_DIGITS]}.json"
    data = dump_canonical({**content, "digest": digest})
    if len(data) > MAX_BYTES:
        raise ValueError(f"a {stem} must take at most {MAX_BYTES} bytes, got {len(data)}")
    with refusals_of(target):
        write_file(target, data)
    return target


def read_document[Found: Document](
    path: str | os.PathLike[str],
    model: type[Found],
    *,
    what: str,
    error: Callable[[Problem], StformatError],
) -> Found:
    """Read a document, and hold it to its digest.

    Parameters
    ----------
    path : path
        File made by `write_document`.
    model : type
        What its members must be.
    what : str
        What the file should be, for messages.
    error : callable
        Makes the exception of a problem.

    Returns
    -------
    Document
        The members, without the digest.

    Raises
    ------
    StformatError
        From `error`: if the file cannot be read, is no such document, or is not what was written.
    """
    try:
        content = parse_object(Path(path).read_bytes(), max_bytes=MAX_BYTES)
        _check_digest(content)
        return model.model_validate(content)
    except (OSError, JsonError) as reason:
        found = str(reason)
        raise error(_unreadable(path, what, found)) from reason
    except ValidationError as reason:
        first = reason.errors(include_url=False, include_input=False)[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise error(_unreadable(path, what, found)) from reason


def _check_digest(content: dict[str, Any]) -> None:
    if content.pop("digest", None) != content_digest(content):
        raise JsonError("content that its digest is not of")


def _unreadable(path: str | os.PathLike[str], what: str, found: str) -> Problem:
    return Problem(
        f"{what}.file", str(path), f"a {what} is a file that its save() wrote", found,
        "restore it from a copy, or make it again",
    )  # fmt: skip
