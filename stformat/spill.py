"""Arrays beyond a budget of memory, kept in files that have no name and so never outlive us."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from stformat.errors import Problem, StoreWriteError, refusals_of

__all__ = ["MEMORY_BYTES", "Pile", "Spill"]

MEMORY_BYTES = 1 << 26
"""Bytes of arrays that a `Spill` holds in memory before it turns to files: 64 MiB."""

_BUFFER_BYTES = 1 << 16


class Spill:
    """Room for arrays: in memory while a budget lasts, then on disk.

    The files have no name: whatever ends the process, the system frees them. Use it as a context
    manager; what its piles gave is of no use after it ends.

    Parameters
    ----------
    directory : pathlib.Path or None
        Where the files lie; None is the system's directory for temporary files.
    memory_bytes : int, optional
        Bytes of all piles together that stay in memory; by default `MEMORY_BYTES`.

    Examples
    --------
    >>> with Spill(None, memory_bytes=10) as spill:
    ...     pile = spill.pile()
    ...     pile.append(np.arange(4))
    ...     pile.append(np.arange(2))
    ...     spill.is_on_disk, pile.joined(np.dtype(np.int64)).tolist()
    (True, [0, 1, 2, 3, 0, 1])
    """

    def __init__(self, directory: Path | None, *, memory_bytes: int | None = None) -> None:
        self._directory = Path(tempfile.gettempdir()) if directory is None else directory
        self._left = MEMORY_BYTES if memory_bytes is None else memory_bytes
        self._piles: list[Pile] = []
        self._files = ExitStack()
        self.is_on_disk = False
        """Whether the budget was exceeded, and arrays are in files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._piles.clear()
        self._files.close()

    def expect(self, n_bytes: int) -> None:
        """Make sure that the disk has room, where so many bytes will not fit into memory.

        Parameters
        ----------
        n_bytes : int
            Bytes that the piles will hold at most.

        Raises
        ------
        StoreWriteError
            If the file system has less space.
        """
        if n_bytes <= self._left:
            return
        with refusals_of(self._directory):
            free = shutil.disk_usage(self._directory).free
        if free < n_bytes:
            raise StoreWriteError(
                Problem(
                    "scratch.space",
                    str(self._directory),
                    f"{n_bytes} bytes are needed for a while, to put counts in order",
                    f"{free} bytes free",
                    "free space on its file system, or choose a target on another",
                )
            )

    def pile(self) -> Pile:
        """Begin a pile of arrays."""
        pile = Pile(self)
        self._piles.append(pile)
        return pile

    def _take(self, n_bytes: int) -> None:
        """Account for bytes that a pile is about to hold."""
        self._left -= n_bytes
        if self._left < 0 and not self.is_on_disk:
            self.is_on_disk = True
            for pile in self._piles:
                pile._to_disk()  # noqa: SLF001 - the two classes are one thing

    def _give_back(self, n_bytes: int) -> None:
        self._left += n_bytes

    def _open(self) -> IO[bytes]:
        with refusals_of(self._directory):
            return self._files.enter_context(
                tempfile.TemporaryFile(dir=self._directory, buffering=_BUFFER_BYTES)
            )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array stands in the file of a pile."""

    dtype: np.dtype[Any]
    offset: int
    n_bytes: int


class Pile:
    """One-dimensional arrays in the order in which they were added; made by `Spill.pile`."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._held: list[NDArray[Any]] = []
        self._file: IO[bytes] | None = None
        self._places: list[_Place] = []
        self._n_bytes = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add an array; it must not be changed any more.

        Parameters
        ----------
        values : (n,) ndarray
            Any type of fixed size.

        Raises
        ------
        StoreWriteError
            If the file system refuses.
        """
        if not self._spill.is_on_disk:
            self._held.append(values)
            self._spill._take(values.nbytes)  # noqa: SLF001 - as there
        else:
            self._write(values)

    def pieces(self) -> list[NDArray[Any]]:
        """Return the arrays as they were added; those on disk are mapped, not read."""
        if self._held:
            return self._held
        content = self._mapped()
        return [
            content[place.offset : place.offset + place.n_bytes].view(place.dtype)
            for place in self._places
        ]

    def joined(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return all arrays, which are of this type, as one; on disk it is mapped, not read."""
        if self._held:
            return self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        return self._mapped().view(dtype)

    def clear(self) -> None:
        """Forget the arrays: memory is given back, and so is space on disk."""
        if self._held:
            self._spill._give_back(sum(values.nbytes for values in self._held))  # noqa: SLF001
            self._held = []
        if self._file is not None:
            self._file.close()
            self._file = None
        self._places = []
        self._n_bytes = 0

    def _to_disk(self) -> None:
        held, self._held = self._held, []
        held.reverse()
        while held:
            self._write(held.pop())

    def _write(self, values: NDArray[Any]) -> None:
        if self._file is None:
            self._file = self._spill._open()  # noqa: SLF001 - as above
        with refusals_of(self._spill._directory):  # noqa: SLF001 - as above
            self._file.write(memoryview(np.ascontiguousarray(values)).cast("B"))
        self._places.append(_Place(values.dtype, self._n_bytes, values.nbytes))
        self._n_bytes += values.nbytes

    def _mapped(self) -> NDArray[np.uint8]:
        if self._file is None or not self._n_bytes:
            return np.zeros(0, dtype=np.uint8)
        with refusals_of(self._spill._directory):  # noqa: SLF001 - as above
            self._file.flush()
            content = np.memmap(self._file, dtype=np.uint8, mode="r", shape=(self._n_bytes,))
        return np.asarray(content)
