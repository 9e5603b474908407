"""Outputs that appear whole or not at all: written hidden, synced to disk, renamed.

A directory that an export made holds ``export.json``, which says what is in it. Only such a
directory is ever replaced: another one may hold what its owner has nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from stformat.errors import (
    ExportError,
    Problem,
    StoreExistsError,
    StoreWriteError,
    refusals_of,
)
from stformat.export.description import DESCRIPTION, read_description
from stformat.model import Progress
from stformat.store.commit import checked_target, partial_path
from stformat.store.durable import announced, fsync_directory, fsync_tree, remove
from stformat.store.exchange import can_exchange, exchange, rename_new
from stformat.store.lock import writer_lock

__all__ = ["OutputKind", "appearing"]

_WRITES_ONLY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})

type OutputKind = Literal["file", "directory"]


@contextmanager
def appearing(
    target: str | os.PathLike[str],
    kind: OutputKind,
    *,
    overwrite: bool,
    progress: Progress,
) -> Iterator[Path]:
    """Fill a hidden place; what is there takes the target's name when the block ends.

    Parameters
    ----------
    target : path
        File or directory to make. Its parent must exist.
    kind : {"file", "directory"}
        What it is.
    overwrite : bool
        Replace a file, or a directory that an export made.
    progress : callable
        Told of the steps ``"fsync"`` and ``"rename"``.

    Yields
    ------
    pathlib.Path
        An empty directory, or the path of a file that is not there yet.

    Raises
    ------
    StoreExistsError
        If there is something at `target`, and `overwrite` is False.
    ExportError
        If what is at `target` is not to be replaced by an export, or `target` is no possible name.
    StoreLockedError
        If another process or thread is writing to `target`.
    StoreWriteError
        If the file system refuses, or cannot exchange two directories where one is replaced.

    Notes
    -----
    After any exception, KeyboardInterrupt and SystemExit included, nothing else is left than what
    was at `target` before; but after one that comes once it has its new content, which is whole
    then. What a process leaves that is killed is hidden, and removed by the next one that writes
    to `target`.
    """
    path = checked_target(target, made="an export", named="what is to be made", refusal=ExportError)
    partial = partial_path(path)
    with ExitStack() as stack:
        with refusals_of(path):
            stack.enter_context(writer_lock(path))
            replaces = _check_what_is_there(path, kind, overwrite=overwrite)
        try:
            with refusals_of(path):
                remove(partial)
                partial.mkdir()
                if replaces and kind == "directory":
                    _check_exchange(partial)
            yield partial if kind == "directory" else partial / path.name
            _publish(partial, path, kind, replaces=replaces, progress=progress)
        except BaseException as error:
            _discard(partial, error)
            if isinstance(error, OSError) and _is_refused_write(error, partial):
                with refusals_of(path):
                    raise
            raise
        with refusals_of(path):
            remove(partial)  # of a replacement, what was there before


def _publish(
    partial: Path, target: Path, kind: OutputKind, *, replaces: bool, progress: Progress
) -> None:
    with announced(progress, "fsync", target):
        fsync_tree(partial)
    with announced(progress, "rename", target):
        whole = partial if kind == "directory" else partial / target.name
        if not replaces:
            _rename_new(whole, target)
        elif kind == "directory":
            exchange(whole, target)
        else:
            whole.replace(target)
        fsync_directory(target.parent)


def _rename_new(source: Path, target: Path) -> None:
    try:
        rename_new(source, target)
    except FileExistsError as error:
        raise _exists(target, "something that was made meanwhile") from error


def _check_what_is_there(target: Path, kind: OutputKind, *, overwrite: bool) -> bool:
    """Return whether there is something to replace; refuse what may not be replaced."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return False
    if not overwrite:
        raise _exists(target, "something")
    if kind == "file" and not stat.S_ISREG(mode):
        raise _not_replaceable(target, "only a file may be replaced by one", "something else")
    if kind == "directory" and not (stat.S_ISDIR(mode) and read_description(target)):
        raise _not_replaceable(
            target,
            "only a directory that an export made may be replaced by one",
            f"something that has no {DESCRIPTION} of an export",
        )
    return True


def _check_exchange(partial: Path) -> None:
    if not can_exchange(partial):
        raise StoreWriteError(
            Problem(
                "target.no-exchange",
                str(partial.parent),
                "replacing a directory needs a file system that can exchange two of them",
                "one that cannot",
                "write to a new name, or remove the old export first",
            )
        )


def _is_refused_write(error: OSError, partial: Path) -> bool:
    """Return whether an error is about what is written, not about a caller's own files."""
    name = error.filename
    if isinstance(name, str | bytes) and os.fsdecode(name).startswith(str(partial)):
        return True
    return error.errno in _WRITES_ONLY


def _discard(partial: Path, reason: BaseException) -> None:
    """Remove the hidden directory; the reason is what the caller must hear of, not this."""
    try:
        remove(partial)
    except OSError as error:
        reason.add_note(f"{partial} could not be removed ({error}); the next export removes it")


def _not_replaceable(target: Path, expected: str, found: str) -> ExportError:
    remedy = "choose another target"
    return ExportError(Problem("export.not-replaceable", str(target), expected, found, remedy))


def _exists(target: Path, found: str) -> StoreExistsError:
    return StoreExistsError(
        Problem(
            "export.exists",
            str(target),
            "a target must not exist",
            found,
            "choose another target, or ask to overwrite it",
        )
    )
