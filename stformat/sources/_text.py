"""A whole text file of bounded size, compressed or not."""

from __future__ import annotations

from pathlib import Path

from stformat.errors import InputError, Problem
from stformat.sources._sniff import GZIP_ERRORS, open_text

__all__ = ["read_text"]

_POINTER = "version https://git-lfs"


def read_text(path: Path, *, topic: str, error: type[InputError], max_bytes: int) -> str:
    """Read a text file whole.

    Parameters
    ----------
    path : pathlib.Path
        UTF-8 text, gzip-compressed or not.
    topic : str
        First part of the codes of problems: ``"positions"`` gives ``positions.truncated``.
    error : type of InputError
        What is raised.
    max_bytes : int
        Most bytes of text that are read.

    Returns
    -------
    str
        The text without a byte order mark.

    Raises
    ------
    InputError
        If the file cannot be opened; `error` if it is damaged, larger, no text, or a pointer of
        git-LFS.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "barcodes.tsv")
    >>> _ = path.write_text("AAAC-1")
    >>> read_text(path, topic="counts", error=InputError, max_bytes=100)
    'AAAC-1'
    """
    with open_text(path) as file:
        try:
            data = file.read(max_bytes + 1)
        except GZIP_ERRORS as damage:
            raise error(
                Problem(
                    f"{topic}.truncated",
                    path.name,
                    "the compressed file must be whole",
                    f"damaged or cut-off gzip data ({damage})",
                    "copy the file again from its source",
                )
            ) from damage
    if len(data) > max_bytes:
        raise error(
            Problem(f"{topic}.size", path.name, f"at most {max_bytes} bytes are read", "more")
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as damage:
        raise error(
            Problem(f"{topic}.encoding", path.name, "the file must be UTF-8 text", str(damage))
        ) from damage
    if text.startswith(_POINTER):
        raise error(
            Problem(
                f"{topic}.lfs-pointer",
                path.name,
                "the file itself is needed",
                "a pointer of git-LFS to it",
                "fetch it with git lfs pull",
            )
        )
    return text
