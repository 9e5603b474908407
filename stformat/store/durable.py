"""Writes that survive a power cut, and removal of what is not wanted."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from stformat.kernels._pool import map_chunks
from stformat.model import Progress, ProgressEvent
from stformat.store.nodes import refusals_of

__all__ = ["announced", "fsync_ahead", "fsync_directory", "fsync_tree", "remove", "write_file"]


@contextmanager
def announced(progress: Progress, step: str, where: Path) -> Iterator[None]:
    """Announce a step of writing, then let the block do it.

    Parameters
    ----------
    progress : callable
        Told of the step; an exception that it raises stays what it is.
    step : str
        Name of the step.
    where : pathlib.Path
        What is being written, for the message.

    Raises
    ------
    StoreWriteError
        If the file system refuses what the block does.
    """
    progress(ProgressEvent(step=step))
    with refusals_of(where):
        yield


def fsync_tree(directory: Path) -> None:
    """Flush every file and directory below `directory`, and itself, to the disk."""
    files: list[Path] = []
    directories: list[Path] = []
    for parent, _, names in os.walk(directory, onerror=_raise):
        directories.append(Path(parent))
        files.extend(Path(parent, name) for name in names)
    map_chunks(_fsync_file, files)
    for path in reversed(directories):
        fsync_directory(path)


@contextmanager
def fsync_ahead(refused: Callable[[], None]) -> Iterator[Callable[[Path], None]]:
    """Flush finished files in a thread, so that `fsync_tree` finds little left to flush.

    Parameters
    ----------
    refused : callable
        Called in that thread as soon as the disk has refused a file, however the block ends.

    Yields
    ------
    callable
        Takes the path of a file that nobody writes to any more, and returns at once.

    Raises
    ------
    StoreWriteError
        At the end of the block, if the disk refused a file. It says so only once: whoever flushes
        the file again hears nothing.
    """

    def flush(path: Path) -> None:
        try:
            _fsync_file(path)
        except OSError:
            refused()
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="stformat-fsync") as thread:
        flushing: list[tuple[Path, Future[None]]] = []
        try:
            yield lambda path: flushing.append((path, thread.submit(flush, path)))
        except BaseException:
            thread.shutdown(wait=False, cancel_futures=True)
            raise
        for path, flushed in flushing:
            with refusals_of(path):
                flushed.result()


def fsync_directory(directory: Path) -> None:
    """Flush the names in a directory to the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _flush(fd)
    except OSError as error:
        # Some network file systems have nothing to flush for a directory, and say so.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes) -> None:
    """Write a file durably; a reader, or a power cut, finds the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        _flush(file.fileno())
    partial.replace(path)
    fsync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove whatever is at `path`, if anything; links are removed, not followed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        path.unlink()
        return
    # One directory open at a time, where shutil.rmtree holds as many as are nested: what could
    # not be written for want of file descriptors must still be removable.
    for parent, directories, files in os.walk(path, topdown=False, onerror=_raise):
        for name in files:
            Path(parent, name).unlink()
        for name in directories:
            directory = Path(parent, name)
            if directory.is_symlink():
                directory.unlink()
            else:
                directory.rmdir()
    path.rmdir()


def _fsync_file(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        return  # a link, or a pipe: nothing that holds content
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _flush(fd)
    finally:
        os.close(fd)


def _flush(fd: int) -> None:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - for this system alone

        # fsync on macOS leaves data in the drive's own cache.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def _raise(error: OSError) -> None:
    raise error
