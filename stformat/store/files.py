"""The files of one version of a store, read through the descriptor of its directory.

A directory that is held stays readable when another takes its name, so a reader never sees two
versions mixed. Nothing is followed: a link or a device inside a store is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Protocol, Self

from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    Problem,
    StoreError,
    StoreReadError,
    StoreReplaced,
    UnsupportedStoreError,
)
from stformat.store.read_costs import ReadCosts

__all__ = [
    "MAX_DEPTH",
    "MAX_OPEN_FILES",
    "DirectoryFiles",
    "StoreFiles",
    "parts_of",
    "shown",
]

MAX_OPEN_FILES = 64
"""Files of one store that are kept open between reads."""

MAX_DEPTH = 64
"""Directories below one another that are entered."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe returns at once, to be refused, instead of waiting for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

# One lock for every store: it is held for a few list operations, never while reading, and it can
# be taken around fork, so that no child inherits it locked.
_lock = threading.Lock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class StoreFiles(Protocol):
    """Where the bytes of a store come from. Paths are relative, with ``/``."""

    @property
    def costs(self) -> ReadCosts:
        """How the files are best read."""

    def find(self, path: str, *, at_most: int | None = None) -> bytes | None:
        """Return a file, or its first `at_most` bytes; None where there is none."""

    def read(self, path: str, *, at_most: int | None = None) -> bytes:
        """Return a whole file, or its first `at_most` bytes where it is longer."""

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start` on."""

    def read_tail(self, path: str, at_most: int) -> tuple[bytes, int]:
        """Return the last `at_most` bytes, or all if there are fewer, and the size of the file."""

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""

    def walk(self) -> Iterator[str]:
        """Yield the path of everything that is no directory, ascending; hidden names left out."""

    def check_version(self) -> None:
        """Raise StoreReplaced if what was read may be of another version than what was opened."""

    def close(self) -> None:
        """Let go of what is held; no other method may be called afterwards."""


class _Descriptor:
    """An open file, closed when it is retired and its last user is done, or when forgotten."""

    __slots__ = ("fd", "is_retired", "n_users", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.n_users = 0
        self.is_retired = False

    def __del__(self) -> None:
        # Without the lock: garbage may be collected in a thread that holds it.
        if self.fd >= 0:
            self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)


class DirectoryFiles:
    """The files of a store in a local directory; safe to share between threads.

    Parameters
    ----------
    path : path
        The directory. A link is followed here, once, and nowhere below.
    max_open_files : int, default: 64
        Files kept open between reads.

    Raises
    ------
    NotAStoreError
        If `path` is no directory.
    StoreReadError
        If the directory may not be read.

    Notes
    -----
    Every method raises `UnsupportedStoreError` for a link or a device on the way to a file,
    `StoreReplaced` for a missing file where another directory has taken the store's path,
    `CorruptStoreError` for any other missing file and for a range beyond the end of a file, and
    `StoreReadError` where the file system refuses.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "zarr.json").write_bytes(b"{}")
    >>> with DirectoryFiles(folder) as files:
    ...     files.read("zarr.json"), list(files.walk())
    (b'{}', ['zarr.json'])
    """

    costs: ClassVar[ReadCosts] = ReadCosts()

    path: Path
    """The directory, absolute, links resolved."""

    def __init__(
        self, path: str | os.PathLike[str], *, max_open_files: int = MAX_OPEN_FILES
    ) -> None:
        self._max_open_files = max_open_files
        self._open_files: OrderedDict[str, _Descriptor] = OrderedDict()
        try:
            self.path = Path(path).resolve()
            self._root = _Descriptor(os.open(self.path, _DIRECTORY), 0)
        except (FileNotFoundError, NotADirectoryError, ValueError, RuntimeError) as error:
            # ValueError: a null character in the path; RuntimeError: a circle of links.
            raise NotAStoreError(
                Problem("store.missing", str(path), "a store is a directory", _no_directory(path))
            ) from error
        except OSError as error:
            raise _refused(error, str(path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def find(self, path: str, *, at_most: int | None = None) -> bytes | None:
        """Return a file, or its first `at_most` bytes; None where there is none."""
        return self.read(path, at_most=at_most) if self.exists(path) else None

    def read(self, path: str, *, at_most: int | None = None) -> bytes:
        """Return a whole file, or its first `at_most` bytes where it is longer."""
        with self._borrowed(path) as file:
            length = file.size if at_most is None else min(at_most, file.size)
            return self._pread(file, path, 0, length)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start` on."""
        with self._borrowed(path) as file:
            return self._pread(file, path, start, length)

    def read_tail(self, path: str, at_most: int) -> tuple[bytes, int]:
        """Return the last `at_most` bytes, or all if there are fewer, and the size of the file."""
        with self._borrowed(path) as file:
            length = min(at_most, file.size)
            return self._pread(file, path, file.size - length, length), file.size

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        with self._borrowed(path) as file:
            return file.size

    def exists(self, path: str) -> bool:
        """Return whether there is a file; a link or a device is there, and refused when read."""
        *directories, name = parts_of(path)
        try:
            with self._descended(directories) as directory:
                mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            # In a version that is being removed, what is gone by now was there.
            if self.is_replaced():
                raise _replaced(self.path) from error
            return False
        except OSError as error:
            raise self._failure(error, path) from error
        return not stat.S_ISDIR(mode)

    def walk(self) -> Iterator[str]:
        """Yield the path of everything that is no directory, ascending by its UTF-8 bytes.

        Names that begin with ``.`` are no part of a store, nor is what lies below them.
        """
        paths = sorted(self._walk(), key=os.fsencode)
        # A version that is being removed looks like one that lacks files.
        if self.is_replaced():
            raise _replaced(self.path)
        yield from paths

    def check_version(self) -> None:
        """Do nothing: the directory that is held is one version."""

    def close(self) -> None:
        """Close every descriptor as soon as no thread uses it."""
        with _lock:
            self._retire(self._root)
            while self._open_files:
                self._retire(self._open_files.popitem()[1])

    def is_replaced(self) -> bool:
        """Return whether the store's path names another directory by now, or none."""
        with self._using(self._root) as root:
            held = os.fstat(root.fd)
        try:
            named = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        return (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino)

    def _walk(self) -> Iterator[str]:
        pending: list[tuple[str, ...]] = [()]
        while pending:
            directories = pending.pop()
            if len(directories) > MAX_DEPTH:
                raise _unsupported("/".join(directories), f"at most {MAX_DEPTH} levels", "more")
            for name, is_directory in self._scan(directories):
                if is_directory:
                    pending.append((*directories, name))
                else:
                    yield "/".join((*directories, name))

    def _scan(self, directories: tuple[str, ...]) -> list[tuple[str, bool]]:
        try:
            with self._descended(directories) as directory, os.scandir(directory) as entries:
                return [
                    (entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except OSError as error:
            raise self._failure(error, "/".join(directories)) from error

    @contextmanager
    def _borrowed(self, path: str) -> Iterator[_Descriptor]:
        with _lock:
            file = self._open_files.get(path)
            if file is not None:
                file.n_users += 1
                self._open_files.move_to_end(path)
        if file is None:
            file = self._keep(path, self._opened(path))
        try:
            yield file
        finally:
            _release(file)

    def _keep(self, path: str, file: _Descriptor) -> _Descriptor:
        """Put a file that was just opened among the open ones and count the caller as a user."""
        with _lock:
            other = self._open_files.get(path)
            if other is not None:  # another thread was first
                self._retire(file)
                file = other
            file.n_users += 1
            if self._root.is_retired:
                self._retire(file)
            else:
                self._open_files[path] = file
            while len(self._open_files) > self._max_open_files:
                self._retire(self._open_files.popitem(last=False)[1])
        return file

    def _opened(self, path: str) -> _Descriptor:
        *directories, name = parts_of(path)
        try:
            return self._open_at(directories, name, path)
        except StoreError:  # an OSError too
            raise
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise self._failure(error, path) from error
        self._close_idle()
        try:
            return self._open_at(directories, name, path)
        except StoreError:
            raise
        except OSError as error:
            raise self._failure(error, path) from error

    def _open_at(self, directories: list[str], name: str, path: str) -> _Descriptor:
        with self._descended(directories) as directory:
            fd = os.open(name, _FILE, dir_fd=directory)
        try:
            found = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise _unsupported(path, "a store holds regular files", "something else")
        return _Descriptor(fd, found.st_size)

    @contextmanager
    def _descended(self, directories: list[str] | tuple[str, ...]) -> Iterator[int]:
        """Open the directories one below the other, following no link."""
        opened: list[int] = []
        with self._using(self._root) as root:
            try:
                at = root.fd
                for name in directories:
                    at = os.open(name, _DIRECTORY, dir_fd=at)
                    opened.append(at)
                    if len(opened) > 1:
                        os.close(opened.pop(0))
                yield at
            finally:
                for fd in opened:
                    os.close(fd)

    @contextmanager
    def _using(self, file: _Descriptor) -> Iterator[_Descriptor]:
        with _lock:
            if file.is_retired:
                raise ValueError(f"the files of {self.path} are closed")
            file.n_users += 1
        try:
            yield file
        finally:
            _release(file)

    def _pread(self, file: _Descriptor, path: str, start: int, length: int) -> bytes:
        # The range is checked before a buffer of its length is made.
        if start < 0 or length < 0 or start + length > file.size:
            raise _short(path, f"{length} bytes from {start} on", f"{file.size} bytes in all")
        try:
            data = os.pread(file.fd, length, start)
            while len(data) < length:  # a read returns at most 2 GiB
                more = os.pread(file.fd, length - len(data), start + len(data))
                if not more:
                    raise _short(path, f"{file.size} bytes", f"its end at {start + len(data)}")
                data += more
        except StoreError:
            raise
        except OSError as error:
            raise self._failure(error, path) from error
        return data

    def _close_idle(self) -> None:
        with _lock:
            for path in [path for path, file in self._open_files.items() if not file.n_users]:
                self._retire(self._open_files.pop(path))

    @staticmethod
    def _retire(file: _Descriptor) -> None:
        """Close a file now, or when its last user is done; the lock is held."""
        if not file.is_retired:
            file.is_retired = True
            if not file.n_users:
                file.close()

    def _failure(self, error: OSError, path: str) -> StoreError:
        """Say what an error of the operating system means for the store."""
        if error.errno in {errno.ELOOP, errno.EMLINK} or (
            error.errno == errno.ENOTDIR and self._has_link(path)
        ):
            return _unsupported(path, "a store holds no links", "a symbolic link")
        if error.errno == errno.ESTALE:
            return _replaced(self.path)
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            if self.is_replaced():
                return _replaced(self.path)
            return CorruptStoreError(
                Problem("store.file-missing", shown(path), "the file must exist", "nothing")
            )
        if error.errno == errno.ENAMETOOLONG:
            return _unsupported(shown(path)[:64], "a name has at most 255 bytes", "more")
        return _refused(error, shown(path))

    def _has_link(self, path: str) -> bool:
        parts = parts_of(path)
        for depth, name in enumerate(parts):
            try:
                with self._descended(parts[:depth]) as directory:
                    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            except OSError:
                return False
            if stat.S_ISLNK(mode):
                return True
        return False


def shown(path: str) -> str:
    r"""Return a path that may hold any bytes as text that can be printed.

    Examples
    --------
    >>> shown("a/b"), shown("\udcff\n")
    ('a/b', '\\udcff\\n')
    """
    if path.isprintable():
        return path
    return path.encode("unicode_escape").decode()


def _release(file: _Descriptor) -> None:
    with _lock:
        file.n_users -= 1
        if file.is_retired and not file.n_users:
            file.close()


def parts_of(path: str) -> list[str]:
    """Return the parts of a path inside a store.

    Raises
    ------
    UnsupportedStoreError
        If it does not name one file in it.

    Examples
    --------
    >>> parts_of("images/zarr.json")
    ['images', 'zarr.json']
    """
    parts = path.split("/")
    if any(part in {"", ".", ".."} or "\x00" in part for part in parts):
        raise _unsupported(path, "a path inside a store names one file in it", repr(path))
    return parts


def _unsupported(path: str, expected: str, found: str) -> UnsupportedStoreError:
    return UnsupportedStoreError(Problem("store.path", shown(path), expected, found))


def _replaced(path: Path) -> StoreReplaced:
    return StoreReplaced(
        Problem(
            "store.replaced",
            str(path),
            "the version that was opened must exist",
            "another version, or none, at its path",
            "open the store again",
        )
    )


def _short(path: str, expected: str, found: str) -> CorruptStoreError:
    return CorruptStoreError(Problem("store.file-short", shown(path), expected, found))


def _refused(error: OSError, where: str) -> StoreReadError:
    return StoreReadError(
        Problem("store.read-refused", where, "the file system must allow reading", str(error))
    )


def _no_directory(path: str | os.PathLike[str]) -> str:
    try:
        return "a file" if Path(path).exists() else "nothing"
    except (ValueError, OSError):
        return "nothing"
