"""Atomic renames that the standard library lacks: exchange two paths, never replace one.

Linux: renameat2(2). macOS: renamex_np(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["can_exchange", "exchange", "rename_new"]

_AT_FDCWD = -100
_NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})

type _Rename = Callable[[bytes, bytes], int]


def exchange(first: Path, second: Path) -> None:
    """Let two paths of one file system name each other's content, in one step.

    Raises
    ------
    OSError
        ENOTSUP if the system or the file system has no such operation; whatever it says else.
    """
    _call(_EXCHANGE, first, second)


def rename_new(source: Path, target: Path) -> None:
    """Rename a directory to a path that nothing has yet, in one step.

    Where the file system cannot refuse to replace, an empty directory made at `target` in the same
    instant is replaced; nothing else is.

    Raises
    ------
    OSError
        EEXIST if there is something at `target`; whatever the file system says else.
    """
    try:
        _call(_RENAME_NEW, source, target)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    else:
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def can_exchange(directory: Path) -> bool:
    """Try an exchange of two new directories inside an empty `directory`; leaves it empty.

    Raises
    ------
    OSError
        If the file system refuses for another reason.
    """
    pair = directory / "a", directory / "b"
    for path in pair:
        path.mkdir()
    try:
        exchange(*pair)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return False
    finally:
        for path in pair:
            path.rmdir()
    return True


def _call(rename: _Rename | None, source: Path, target: Path) -> None:
    if rename is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(source), None, str(target))
    if rename(os.fsencode(source), os.fsencode(target)):
        code = ctypes.get_errno()
        code = errno.ENOTSUP if code in _NOT_OFFERED else code
        raise OSError(code, os.strerror(code), str(source), None, str(target))


def _bind(linux_flag: int, macos_flag: int) -> _Rename | None:
    """Return the system's rename under a flag, or None where it has none."""
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        renamex = getattr(library, "renamex_np", None)
        if renamex is None:
            return None
        renamex.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
        return lambda source, target: renamex(source, target, macos_flag)
    renameat2 = getattr(library, "renameat2", None)
    if renameat2 is None:
        return None
    path = [ctypes.c_int, ctypes.c_char_p]
    renameat2.argtypes = [*path, *path, ctypes.c_uint]
    return lambda source, target: renameat2(_AT_FDCWD, source, _AT_FDCWD, target, linux_flag)


_RENAME_NEW = _bind(linux_flag=1, macos_flag=4)  # RENAME_NOREPLACE, RENAME_EXCL
_EXCHANGE = _bind(linux_flag=2, macos_flag=2)  # RENAME_EXCHANGE, RENAME_SWAP
