"""Name, size and digest of a file that a slide is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from stformat.model import SourceFile

__all__ = ["source_directory", "source_file"]

_BLOCK = 1 << 20


def source_file(path: Path) -> SourceFile:
    """Describe a source file by its name, size and content.

    Parameters
    ----------
    path : Path
        A regular file.

    Returns
    -------
    SourceFile
        The name without its directory, the size in bytes and the SHA-256 of the content. The file
        is read in blocks of 1 MiB; size and digest come from the same reading.

    Raises
    ------
    OSError
        If the file cannot be opened or read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "spots.tsv")
    ...     _ = path.write_bytes(b"abc")
    ...     source_file(path).size
    3
    """
    digest = hashlib.sha256()
    size = 0
    block = bytearray(_BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as stream:
        while n_read := stream.readinto(block):
            digest.update(view[:n_read])
            size += n_read
    return SourceFile(name=path.name, size=size, sha256=digest.hexdigest())


def source_directory(path: Path, parts: Iterable[str]) -> SourceFile:
    """Describe parts of a directory that is one source, such as a Zarr store.

    Parameters
    ----------
    path : Path
        The directory.
    parts : iterable of str
        Files and directories in it that the source is made of.

    Returns
    -------
    SourceFile
        The name of the directory, the size of all files of the parts, and the SHA-256 of one line
        a file, ascending by path: its digest, a space, its path from the directory and a line feed.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    files = sorted(
        {
            file
            for part in parts
            for file in ([path / part] if (path / part).is_file() else (path / part).rglob("*"))
            if file.is_file()
        },
        key=lambda file: file.relative_to(path).as_posix().encode(),
    )
    digest = hashlib.sha256()
    size = 0
    for file in files:
        source = source_file(file)
        digest.update(f"{source.sha256} {file.relative_to(path).as_posix()}\n".encode())
        size += source.size
    return SourceFile(name=path.name, size=size, sha256=digest.hexdigest())
