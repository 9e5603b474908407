"""Name, size and digest of a file that a slide is made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stformat.model import SourceFile

__all__ = ["source_file"]

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
