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
    +-- ConversionDiedError (RuntimeError) the process that converted a slide died
    +-- ExportError (ValueError)           a format cannot hold what was asked of it
    +-- CatalogueError (ValueError)        a catalogue of slides is missing, or is none
    +-- GenePanelError (ValueError)        genes of several slides do not make a panel
    +-- SplitError (ValueError)            slides cannot be split, or a side used, as asked
    +-- SlidesDifferError (ValueError)     slides are too different to be read together
    +-- NoImageError (LookupError)         the slide has no image
    +-- GeneLookupError (KeyError)         no gene, or several, answer to a name
    +-- BarcodeLookupError (KeyError)      no row has a barcode
    +-- TableLookupError (KeyError)        the slide has no table of a name
    +-- CatalogueLookupError (KeyError)    the catalogue has no slide, or no column, of a name
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = [
    "BarcodeLookupError",
    "CatalogueError",
    "CatalogueLookupError",
    "CatalogueStaleWarning",
    "ConversionDiedError",
    "CorruptStoreError",
    "CountsError",
    "ExportError",
    "GeneLookupError",
    "GenePanelError",
    "ImageCodecWarning",
    "ImageError",
    "InputError",
    "NoImageError",
    "NotAStoreError",
    "PositionsError",
    "Problem",
    "SpeciesUnknownWarning",
    "SplitError",
    "SplitSharesWarning",
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
    "refusals_of",
]

_REMEDIES = {
    errno.ENOSPC: "free space on its file system",
    errno.EDQUOT: "free space, or ask for a larger quota",
    errno.EACCES: "allow writing there, or choose another target",
    errno.EPERM: "allow writing there, or choose another target",
    errno.EROFS: "choose a target on a writable file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EFBIG: "raise the limit of file size (ulimit -f)",
}


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


class ConversionDiedError(StformatError, RuntimeError):
    """The process that converted a slide died: killed, out of memory, or its machine lost."""


class ExportError(StformatError, ValueError):
    """A slide, or what was chosen of it, does not fit the format that it is to be written in."""


class CatalogueError(StformatError, ValueError):
    """A catalogue of slides is missing, damaged, or of another version."""


class GenePanelError(StformatError, ValueError):
    """Genes of several slides do not make a panel, or a file is none."""


class SplitError(StformatError, ValueError):
    """Slides cannot be split into training, validation and test as asked, or a file is no split.

    Or what is asked of one side could be of another: rows, tiles, another version of a store.
    """


class SlidesDifferError(StformatError, ValueError):
    """Slides cannot be read together: other channels, other genes."""


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


class CatalogueLookupError(StformatError, KeyError):
    """The catalogue has no slide of an identifier, or several, or no column of a name."""

    __str__ = StformatError.__str__


class SplitSharesWarning(UserWarning):
    """Sides of a split have shares far from those that were asked for: groups are not cut."""


class ImageCodecWarning(UserWarning):
    """Tools without a codec of their own cannot read the pixels of the store that was made."""


class StoreChangedWarning(UserWarning):
    """Another tool changed the store after it was committed; what it changed is not verified."""


class SpeciesUnknownWarning(UserWarning):
    """Slides that do not say their species are taken for those of the others."""


class CatalogueStaleWarning(UserWarning):
    """A catalogue is of another version of a store than the one that was opened."""


@contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into a StoreWriteError.

    Only writes belong inside: the same OSError from a source or from a caller's progress
    function means something else.

    Parameters
    ----------
    path : pathlib.Path
        What is being written, for the message.

    Raises
    ------
    StoreWriteError
        From any OSError that is not already a StoreError; `found` holds its errno and text.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise StoreWriteError(
            Problem(
                "store.write",
                str(path),
                "the file system must accept what is written",
                f"{reason} ({name})",
                _REMEDIES.get(error.errno or 0, ""),
            )
        ) from error
