"""What can go wrong, as data: one problem, the exceptions that carry problems, the warnings.

The tree (every exception also has a builtin parent, so that code that knows nothing of
stformat still catches it sensibly)::

    StformatError
    +-- InputError (ValueError)            a source is not what it must be
    |   +-- UnknownSourceError             no kind, or several, fit the source
    |   +-- ImageError                     the image cannot be decoded as it stands
    |   +-- PositionsError                 spot positions or their labels
    |   +-- CountsError                    the count matrix
    +-- StoreError (OSError)               a store cannot be written or read
    |   +-- StoreExistsError (FileExistsError)
    |   +-- StoreLockedError (BlockingIOError)  another process writes to the same target
    |   +-- StoreWriteError                the file system refused (disk full, permissions)
    |   +-- StoreReadError                 the file system refused (permissions, I/O error)
    |   +-- NotAStoreError (FileNotFoundError)
    |   +-- UncommittedStoreError          no valid commit record
    |   +-- CorruptStoreError              bytes differ from what was committed
    |   +-- UnsupportedStoreError          a format version, codec or link that is not read
    |   +-- StoreReplaced                  the version that was opened no longer exists
    +-- NoImageError (LookupError)         the slide has no image
    +-- GeneLookupError (KeyError)         no gene, or several, answer to a name
    +-- BarcodeLookupError (KeyError)      no row has a barcode
    +-- TableLookupError (KeyError)        the slide has no table of a name
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = [
    "BarcodeLookupError",
    "CorruptStoreError",
    "CountsError",
    "GeneLookupError",
    "ImageCodecWarning",
    "ImageError",
    "InputError",
    "NoImageError",
    "NotAStoreError",
    "PositionsError",
    "Problem",
    "StformatError",
    "StoreChangedWarning",
    "StoreError",
    "StoreExistsError",
    "StoreLockedError",
    "StoreReadError",
    "StoreReplaced",
    "StoreWriteError",
    "TableLookupError",
    "UncommittedStoreError",
    "UnknownSourceError",
    "UnsupportedStoreError",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold.

    Examples
    --------
    >>> print(Problem("image.truncated", "slide.jpg", "a JPEG must end with an EOI marker",
    ...               "end of file after 4096 bytes", "copy the file again from its source"))
    slide.jpg: a JPEG must end with an EOI marker, found end of file after 4096 bytes; copy the \
file again from its source
    """

    code: str
    """Stable machine-readable kind, ``topic.kind``; never reworded between releases."""

    where: str
    """The file, element or argument concerned."""

    expected: str
    """What must hold, in the reader's words."""

    found: str
    """What was found instead."""

    remedy: str = ""
    """What to do about it; empty where nothing general can be said."""

    def __str__(self) -> str:
        text = f"{self.where}: {self.expected}, found {self.found}"
        return f"{text}; {self.remedy}" if self.remedy else text

    def to_json(self) -> dict[str, str]:
        """Return the problem as a JSON object."""
        return asdict(self)


class StformatError(Exception):
    """Base of every error that stformat raises on purpose.

    Parameters
    ----------
    *problems : Problem
        Every problem found, not just the first.
    """

    problems: tuple[Problem, ...]

    def __init__(self, *problems: Problem) -> None:
        # OSError's own constructor reads errno out of two or more arguments: keep it away.
        Exception.__init__(self, *problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class InputError(StformatError, ValueError):
    """A source is not what it must be."""


class UnknownSourceError(InputError):
    """No kind of source, or more than one, fits what was given."""


class ImageError(InputError):
    """An image cannot be decoded as it stands: truncated, too large, unsupported."""


class PositionsError(InputError):
    """Spot positions, or labels that join to them, are not usable."""


class CountsError(InputError):
    """A count matrix is not usable."""


class StoreError(StformatError, OSError):
    """A store cannot be written or read."""


class StoreExistsError(StoreError, FileExistsError):
    """The target exists and was not to be overwritten."""


class StoreLockedError(StoreError, BlockingIOError):
    """Another process is writing to the same target."""


class StoreWriteError(StoreError):
    """The file system refused a write: disk full, no permission, I/O error."""


class StoreReadError(StoreError):
    """The file system refused a read: no permission, too many open files, I/O error."""


class NotAStoreError(StoreError, FileNotFoundError):
    """Nothing that could be a stformat store is at the path."""


class UncommittedStoreError(StoreError):
    """The store has no valid commit record: unfinished, or rewritten by another tool."""


class CorruptStoreError(StoreError):
    """Bytes of a store differ from what was committed."""


class UnsupportedStoreError(StoreError):
    """The store asks for something this reader refuses: a newer format, a codec, a link."""


class StoreReplaced(StoreError):  # noqa: N818 - an event that readers wait for, named as the specification names it
    """The version of the store that was opened has been replaced and is gone; open it again."""


class NoImageError(StformatError, LookupError):
    """The slide has no image, so it has no tiles."""


class GeneLookupError(StformatError, KeyError):
    """No gene, or more than one, answers to a name."""

    # KeyError prints the repr of its argument; the message is meant to be read.
    __str__ = StformatError.__str__


class BarcodeLookupError(StformatError, KeyError):
    """No row of the table has a barcode."""

    __str__ = StformatError.__str__


class TableLookupError(StformatError, KeyError):
    """The slide has no table of a name."""

    __str__ = StformatError.__str__


class ImageCodecWarning(UserWarning):
    """Tools without a codec of their own cannot read the pixels of the store that was made."""


class StoreChangedWarning(UserWarning):
    """Another tool changed the store after it was committed; what it changed is not verified."""
