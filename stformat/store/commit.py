"""How a store comes to be, all at once: written hidden, synced, recorded, renamed.

Specification: spec/stformat-0.1.md, "Integrity".
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
    CorruptStoreError,
    Problem,
    StformatError,
    StoreExistsError,
    StoreWriteError,
)
from stformat.metadata.strict_json import JsonError
from stformat.model import Progress, ProgressEvent, silent
from stformat.store.durable import announced, fsync_directory, fsync_tree, remove, write_file
from stformat.store.edit import add_element, seal_store
from stformat.store.exchange import can_exchange, exchange, rename_new
from stformat.store.files import DirectoryFiles
from stformat.store.journal import has_journal, remove_journal
from stformat.store.layout import COMMIT_PATH, MANIFEST_PATH
from stformat.store.lock import writer_lock
from stformat.store.manifest import (
    ROOT_PATH,
    RecordError,
    build_manifest,
    commit_record,
    dump_record,
)
from stformat.store.nodes import refusals_of
from stformat.store.opened import parse_root_attribute, read_root

__all__ = [
    "add_element",
    "checked_target",
    "discard_unfinished",
    "partial_path",
    "replace_store",
    "seal_store",
]

_WRITES_ONLY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def partial_path(target: Path) -> Path:
    """Return where a store is written before it is whole: beside its target, hidden."""
    return target.with_name(f".{target.name}.partial")


def checked_target(
    target: str | os.PathLike[str],
    *,
    made: str = "a store",
    named: str = "a new directory",
    refusal: type[StformatError] = StoreWriteError,
) -> Path:
    """Return the absolute path of what is to be made, where it can be.

    Parameters
    ----------
    target : path
        As it was given.
    made, named : str
        What is made, and what its name is the name of, for messages.
    refusal : type
        What is raised for a name that cannot be.

    Raises
    ------
    StformatError
        Of the type `refusal`, if there is no name, or one that unfinished work has.
    StoreWriteError
        If the directory that it is made in does not exist.
    """
    path = Path(target)
    is_reserved = path.name.startswith(".") and path.suffix in {".lock", ".partial"}
    if path.name in {"", ".."} or "\x00" in str(path) or is_reserved:
        raise refusal(
            Problem(
                "target.name",
                str(target),
                f"a target is a path that ends with the name of {named}, not one that "
                "begins with '.' and ends with '.partial' or '.lock'",
                repr(path.name),
            )
        )
    path = path.absolute()
    if not path.parent.is_dir():
        raise StoreWriteError(
            Problem(
                "target.parent",
                str(path.parent),
                f"the directory that {made} is made in must exist",
                "a file" if path.parent.exists() else "nothing",
                "make the directory first",
            )
        )
    return path


@contextmanager
def replace_store(
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    unfinished: Literal["discard", "keep"] = "discard",
    progress: Progress = silent,
) -> Iterator[Path]:
    """Fill a hidden directory; it takes the target's name when the block ends.

    Parameters
    ----------
    target : path
        Directory to make. Its parent must exist.
    overwrite : bool, default: False
        Replace the store at `target`, in one atomic exchange.
    unfinished : {"discard", "keep"}, default: "discard"
        What becomes of a hidden directory that is no whole store: of one that an earlier writer
        left, and of this one after an exception. It is removed, or kept where it has a journal
        (`stformat.store.journal`) that says what of it is finished.
    progress : callable, default: silent
        Told of each step before it begins: ``"manifest"``, ``"fsync"``, ``"commit"``, then
        ``"rename"`` or, where a store is replaced, ``"exchange"``, then ``"fsync-parent"`` and,
        where a store was replaced, ``"remove-old"``.

    Yields
    ------
    pathlib.Path
        A directory beside the target: empty, or one that was kept, as it was left. When the block
        ends it must hold a whole store but for the manifest and the commit record.

    Raises
    ------
    StoreExistsError
        If `target` exists and `overwrite` is False, or if something else than a store is there.
    StoreLockedError
        If another process or thread is writing to `target`.
    StoreWriteError
        If the file system refuses, or cannot exchange two directories where one is replaced.
    CorruptStoreError
        If what was written is no store.

    Notes
    -----
    After any exception, KeyboardInterrupt and SystemExit included, `target` is what it was before
    and nothing else is left but, if so wanted, what was finished, of which a note of the exception
    then speaks. The one exception is an error while the replaced version is being
    removed: the new version is in place then, durably. What a process leaves that is killed is
    removed, or kept, by the next one that writes to `target`.
    """
    target = checked_target(target)
    partial = partial_path(target)
    with ExitStack() as stack:
        with refusals_of(target):
            stack.enter_context(writer_lock(target))
            replaces = _check_what_is_there(target, overwrite=overwrite)
        if unfinished == "keep":
            stack.push(lambda _type, error, _traceback: _note_what_is_kept(partial, error))
        try:
            with refusals_of(target):
                if unfinished == "discard" or not has_journal(partial):
                    remove(partial)
                    partial.mkdir()
                if replaces:
                    _check_exchange(partial)
            yield partial
            _publish(partial, target, replaces=replaces, progress=progress)
        except BaseException as error:
            if unfinished == "discard" or not has_journal(partial):
                _discard(partial, error)
            if isinstance(error, OSError) and _is_refused_write(error, partial):
                with refusals_of(target):
                    raise
            raise


def discard_unfinished(
    target: str | os.PathLike[str], *, unfinished: Literal["discard", "keep"] = "discard"
) -> None:
    """Remove what a killed writer left beside a target, where no other will write to it.

    Parameters
    ----------
    target : path
        The store that was to be made; it stays as it is.
    unfinished : {"discard", "keep"}, default: "discard"
        What becomes of a hidden directory that has a journal, as for `replace_store`.

    Raises
    ------
    StoreLockedError
        If the writer lives.
    StoreWriteError
        If the file system refuses.
    """
    target = checked_target(target)
    partial = partial_path(target)
    with refusals_of(target), writer_lock(target):
        if unfinished == "discard" or not has_journal(partial):
            remove(partial)


def _publish(partial: Path, target: Path, *, replaces: bool, progress: Progress) -> None:
    """Make a finished directory the store at the target."""
    with announced(progress, "manifest", target):
        manifest, root = _write_manifest(partial)
    with announced(progress, "fsync", target):
        _sync(partial)
    with announced(progress, "commit", target):
        write_file(partial / COMMIT_PATH, dump_record(commit_record(manifest, root)))
    with announced(progress, "exchange" if replaces else "rename", target):
        remove_journal(partial)
        if replaces:
            exchange(partial, target)
        else:
            _rename_new(partial, target)
    try:
        with announced(progress, "fsync-parent", target):
            fsync_directory(target.parent)
        if replaces:
            progress(ProgressEvent(step="remove-old"))
    except BaseException:
        (exchange if replaces else rename_new)(target, partial)
        raise
    if replaces:
        with refusals_of(partial):
            remove(partial)


def _sync(partial: Path) -> None:
    try:
        fsync_tree(partial)
    except OSError:
        # A system that could not write a page may show it as if it had, and reports that once:
        # what is here would verify, and still not be on the disk.
        remove_journal(partial)
        raise


def _write_manifest(directory: Path) -> tuple[bytes, bytes]:
    """Write the manifest of a directory that is a whole store else; return it and the root."""
    with DirectoryFiles(directory) as files:
        root, document = read_root(files, str(directory))
        parse_root_attribute(document, str(directory))
        try:
            manifest = dump_record(build_manifest(files))
        except (RecordError, JsonError) as error:
            raise CorruptStoreError(
                Problem("store.content", str(directory), "a store must be written", str(error))
            ) from error
    path = directory / MANIFEST_PATH
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(manifest)
    return manifest, root


def _rename_new(source: Path, target: Path) -> None:
    try:
        rename_new(source, target)
    except FileExistsError as error:
        raise _exists(target, "something that was made meanwhile") from error


def _check_exchange(partial: Path) -> None:
    trial = partial / ".exchange"
    remove(trial)
    trial.mkdir()
    is_possible = can_exchange(trial)
    trial.rmdir()
    if not is_possible:
        raise StoreWriteError(
            Problem(
                "store.no-exchange",
                str(partial.parent),
                "replacing a store needs a file system that can exchange two directories",
                "one that cannot",
                "write to a new name, or remove the old store first",
            )
        )


def _discard(partial: Path, reason: BaseException) -> None:
    """Remove the hidden directory; the reason is what the caller must hear of, not this."""
    try:
        remove(partial)
    except OSError as error:
        reason.add_note(f"{partial} could not be removed ({error}); the next writer removes it")


def _note_what_is_kept(partial: Path, reason: BaseException | None) -> None:
    if reason is not None and has_journal(partial):
        reason.add_note(
            f"what was finished is kept in {partial}; the same conversion, run again to resume, "
            "goes on from there"
        )


def _is_refused_write(error: OSError, partial: Path) -> bool:
    """Return whether an error of the block is about what it writes, not about what it reads."""
    name = error.filename
    if isinstance(name, str | bytes) and os.fsdecode(name).startswith(f"{partial}{os.sep}"):
        return True
    return error.errno in _WRITES_ONLY


def _check_what_is_there(target: Path, *, overwrite: bool) -> bool:
    """Return whether there is a store to replace; refuse what may not be replaced."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return False
    if not overwrite:
        raise _exists(target, "something", "choose another target, or ask to overwrite it")
    if stat.S_ISLNK(mode):
        raise _exists(target, "a symbolic link", "name the directory that it points to")
    if not stat.S_ISDIR(mode):
        raise _exists(target, "a file")
    if not _is_store(target):
        raise _exists(target, "a directory that is no stformat store")
    return True


def _is_store(directory: Path) -> bool:
    """Return whether a directory is, or once was, a stformat store; it may be damaged."""
    with DirectoryFiles(directory) as files:
        if files.exists(COMMIT_PATH) or files.exists(MANIFEST_PATH):
            return True
        if not files.exists(ROOT_PATH):
            return False
        try:
            _, root = read_root(files, str(directory))
        except CorruptStoreError:
            return False
        return "stformat" in root["attributes"]


def _exists(target: Path, found: str, remedy: str = "choose another target") -> StoreExistsError:
    return StoreExistsError(
        Problem(
            "store.exists",
            str(target),
            "a target must not exist, or be a stformat store that may be overwritten",
            found,
            remedy,
        )
    )
