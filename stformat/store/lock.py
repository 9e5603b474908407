"""The writer lock of a store: one writer a target, free again when its process is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stformat.errors import Problem, StoreLockedError

__all__ = ["lock_path", "writer_lock"]


def lock_path(target: Path) -> Path:
    """Return where the lock file of a store stands: beside it, hidden."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def writer_lock(target: Path) -> Iterator[None]:
    """Hold the writer lock of a store.

    The lock is the kernel's (flock), so it ends with its process, and threads of one process
    exclude each other too. The file is unlinked while it is still locked: whoever opened it before
    finds, once the lock is theirs, that it has no name any more, and starts over.

    Parameters
    ----------
    target : pathlib.Path
        The store.

    Raises
    ------
    StoreLockedError
        If another writer holds it.
    OSError
        If the file system refuses; ENOSYS where it has no locks.
    """
    path = lock_path(target)
    # A lock by mere existence of a file would outlive its process.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise StoreLockedError(
            Problem(
                "store.locked",
                str(target),
                "one process at a time may write to a store",
                f"another one that holds {path.name}",
                "wait for it to end",
            )
        ) from error
    try:
        yield
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:
            lock.release()
