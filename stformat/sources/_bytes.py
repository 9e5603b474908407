"""Name, size and digest of a file that a slide is made from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from stformat.digests import Digest
from stformat.model import SourceFile
from stformat.sources._image_file import FileIdentity, InputFile

__all__ = ["image_source", "in_order", "source_directory", "source_file"]

_BLOCK = 1 << 20
_SOON = 1 << 25


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
    return SourceFile(name=path.name, size=size, digest=Digest.known(digest.hexdigest()))


def image_source(path: Path, identity: FileIdentity) -> SourceFile:
    """Describe an image file, which may be large: its bytes are read when they are needed.

    Parameters
    ----------
    path : Path
        The file.
    identity : FileIdentity
        Its state when its header was read.

    Returns
    -------
    SourceFile
        The name without its directory, the size and the SHA-256 of the content, which of a file
        of more than 32 MiB is worked out when somebody asks for it. Reading raises ImageError if
        the file is no longer the one whose header was read.

    Raises
    ------
    ImageError
        If a smaller file cannot be read.
    """
    digest = Digest(partial(_blocks, path, identity))
    if identity.size <= _SOON:
        digest.hexdigest()
    return SourceFile(name=path.name, size=identity.size, digest=digest)


def _blocks(path: Path, identity: FileIdentity) -> Generator[memoryview]:
    block = memoryview(bytearray(_BLOCK))
    with InputFile.reopen(path, identity) as file:
        for start in range(0, identity.size, _BLOCK):
            part = block[: min(_BLOCK, identity.size - start)]
            file.read_into(start, np.frombuffer(part, np.uint8))
            yield part


def in_order(sources: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    """Return sources ascending by name, each once; their content decides only between equal names.

    Examples
    --------
    >>> files = [SourceFile(name=name, size=1, digest=Digest.known("")) for name in "ba"]
    >>> [source.name for source in in_order([*files, files[0]])]
    ['a', 'b']
    """
    unique = list(dict.fromkeys(sources))
    n_of_name = Counter(source.name for source in unique)

    def key(source: SourceFile) -> tuple[str, str]:
        return source.name, source.sha256 if n_of_name[source.name] > 1 else ""

    return tuple(sorted(unique, key=key))


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
    return SourceFile(name=path.name, size=size, digest=Digest.known(digest.hexdigest()))
