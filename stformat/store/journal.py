"""What is finished of a store that is being written, so that an interrupted writer can go on.

The journal is a hidden file of the hidden directory that a store is written in. It is removed
before that directory becomes a store.

Specification: spec/stformat-0.1.md, "Writing".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Protocol

import google_crc32c
from pydantic import TypeAdapter, ValidationError

from stformat.errors import StoreError
from stformat.kernels._pool import map_chunks
from stformat.metadata.stformat_v0_1 import FileEntry
from stformat.metadata.strict_json import JsonError, dump_canonical, parse_object
from stformat.model import Progress, ProgressEvent, silent
from stformat.store.durable import fsync_directory, remove
from stformat.store.files import DirectoryFiles, StoreFiles
from stformat.store.manifest import file_crc32c, file_entries, read_bounded
from stformat.store.nodes import refusals_of

__all__ = ["NO_JOURNAL", "Journal", "Key", "has_journal", "open_journal", "remove_journal"]

STEP = "resume"
"""Name of the step in progress events; it comes only where something may be kept."""

_NAME = ".journal.json"
_BATCH = 64


class Journal(Protocol):
    """What a writer asks before it writes a part of a store, and tells once the part is whole.

    A part is one or several directories of the store, with everything in them. It is kept as one,
    or written again as one; another part may lie in it.
    """

    def is_finished(self, *part: Path) -> bool:
        """Return whether all of this part is there already; if not, nothing of it is."""

    def finish(self, *part: Path) -> None:
        """Note that this part is whole from now on: nothing is written in it any more."""

    def forget(self) -> None:
        """Note that nothing is finished, whatever is said to be from now on.

        For a disk that refused something: what is read back may be in memory alone.
        """

    def save(self) -> None:
        """Put on record what is finished and could not be so far, for want of the key."""


class _NoJournal:
    def is_finished(self, *_part: Path) -> bool:
        return False

    def finish(self, *part: Path) -> None:
        pass

    def forget(self) -> None:
        pass

    def save(self) -> None:
        pass


NO_JOURNAL: Journal = _NoJournal()
"""Knows of nothing that is finished, and notes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What stands for everything that decides the bytes that are about to be written.

    A journal of another key is worth nothing.
    """

    text: Callable[[], str]
    """Returns the key; may take long the first time."""

    is_known: Callable[[], bool]
    """Whether `text` returns soon: what is finished is put on record only then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noted:
    """Content of a journal."""

    files: tuple[FileEntry, ...] = ()
    """Files of finished parts."""

    finished: frozenset[tuple[str, ...]] = frozenset()
    """Finished parts: the names of their directories."""


_NOTHING = _Noted()
_FILES: TypeAdapter[tuple[FileEntry, ...]] = TypeAdapter(tuple[FileEntry, ...])
_PARTS: TypeAdapter[frozenset[tuple[str, ...]]] = TypeAdapter(frozenset[tuple[str, ...]])


def open_journal(directory: Path, key: Key, *, progress: Progress = silent) -> Journal:
    """Go on with a directory: keep of it what is finished and whole, remove everything else.

    Parameters
    ----------
    directory : pathlib.Path
        Hidden directory of a store that is being written; empty where nothing was begun.
    key : Key
        Of what is about to be written (`stformat.store.record_key.record_key`). Waited for at
        once only where something may be finished.
    progress : callable, default: silent
        Told, as step ``"resume"``, how many noted files have been read and compared.

    Returns
    -------
    Journal
        Knows the parts whose files all have the size and the checksum that were noted. Its
        `finish` and `save` raise StoreReadError or StoreWriteError if the file system refuses.

    Raises
    ------
    StoreReadError, StoreWriteError
        If the file system refuses.

    Notes
    -----
    A journal that is damaged is one that knows of nothing: everything is written again.
    """
    with DirectoryFiles(directory) as files:
        noted = _NOTHING
        if files.exists(_NAME):
            noted = _verified(files, _read(files, key.text()), progress)
    # The journal stays as it is: of what else it names nothing will verify until it is written
    # again, with the same bytes.
    kept = [_NAME] if noted.finished else []
    with refusals_of(directory):
        _remove_all_but([*kept, *(entry.path for entry in noted.files)], directory)
    return _DirectoryJournal(directory, key, noted)


def has_journal(directory: Path) -> bool:
    """Return whether something of a directory may be finished; no link is followed."""
    return not directory.is_symlink() and (directory / _NAME).is_file()


def remove_journal(directory: Path) -> None:
    """Remove the journal of a directory durably, if there is one.

    Raises
    ------
    OSError
        If the file system refuses.
    """
    (directory / _NAME).unlink(missing_ok=True)
    fsync_directory(directory)


class _DirectoryJournal:
    """A journal that is saved each time a part is finished."""

    def __init__(self, directory: Path, key: Key, noted: _Noted) -> None:
        self._directory = directory
        self._key = key
        self._files = {entry.path: entry for entry in noted.files}
        self._finished = set(noted.finished)
        self._lock = Lock()
        self._is_forgotten = False

    def is_finished(self, *part: Path) -> bool:
        return tuple(map(self._name, part)) in self._finished

    def finish(self, *part: Path) -> None:
        for directory in part:
            self._note_files(directory)
        self._finished.add(tuple(map(self._name, part)))
        if self._key.is_known():
            self.save()

    def forget(self) -> None:
        with self._lock:
            self._is_forgotten = True
            remove_journal(self._directory)

    def save(self) -> None:
        with self._lock:
            if self._finished and not self._is_forgotten:
                self._save()

    def _save(self) -> None:
        # Not synced. A power cut may leave a journal that is torn, or one that names files whose
        # content never reached the disk: neither fits its checksums, so it is written again.
        members = {
            "key": self._key.text(),
            "files": [self._files[path].model_dump(mode="json") for path in sorted(self._files)],
            "finished": sorted(self._finished),
        }
        path = self._directory / _NAME
        partial = path.with_name(f"{_NAME}.partial")
        with refusals_of(path):
            partial.write_bytes(dump_canonical(members | {"crc32c": _crc32c(members)}))
            partial.replace(path)

    def _name(self, directory: Path) -> str:
        return directory.relative_to(self._directory).as_posix()

    def _note_files(self, directory: Path) -> None:
        """Add the files of a directory; those of a part inside it are known already."""
        name = self._name(directory)
        with DirectoryFiles(directory) as files:
            new = [path for path in files.walk() if f"{name}/{path}" not in self._files]
            for entry in file_entries(files, new):
                path = f"{name}/{entry.path}"
                self._files[path] = entry.model_copy(update={"path": path})


def _read(files: StoreFiles, key: str) -> _Noted:
    """Return what was noted for a key; nothing where the journal is torn or of another."""
    try:
        members = parse_object(read_bounded(files, _NAME))
        if members.pop("crc32c", None) != _crc32c(members) or members["key"] != key:
            return _NOTHING
        return _Noted(
            files=_FILES.validate_python(tuple(members["files"])),
            finished=_PARTS.validate_python(members["finished"]),
        )
    except (JsonError, ValidationError, KeyError, TypeError, StoreError):
        return _NOTHING


def _verified(files: StoreFiles, noted: _Noted, progress: Progress) -> _Noted:
    """Return the parts whose files are all whole, and those files."""
    total = len(noted.files)
    whole: list[FileEntry] = []
    broken: set[str] = set()
    for start in range(0, total, _BATCH):
        progress(ProgressEvent(step=STEP, done=start, total=total, unit="files"))
        batch = noted.files[start : start + _BATCH]
        for entry, is_whole in zip(
            batch, map_chunks(lambda entry: _is_whole(files, entry), batch), strict=True
        ):
            if is_whole:
                whole.append(entry)
            else:
                broken.update(_directories_of(entry.path))
    if total:
        progress(ProgressEvent(step=STEP, done=total, total=total, unit="files"))
    finished = frozenset(part for part in noted.finished if broken.isdisjoint(part))
    kept = {directory for part in finished for directory in part}
    return _Noted(
        files=tuple(entry for entry in whole if not kept.isdisjoint(_directories_of(entry.path))),
        finished=finished,
    )


def _is_whole(files: StoreFiles, entry: FileEntry) -> bool:
    try:
        return (
            files.size(entry.path) == entry.size and file_crc32c(files, entry.path) == entry.crc32c
        )
    except StoreError:  # gone, a link, or the disk cannot read it: it is written again
        return False


def _directories_of(path: str) -> list[str]:
    """Return every directory that a file lies in.

    Examples
    --------
    >>> _directories_of("images/he/zarr.json")
    ['images/he', 'images']
    """
    return [parent.as_posix() for parent in PurePosixPath(path).parents][:-1]


def _remove_all_but(kept: Collection[str], directory: Path) -> None:
    """Remove everything below a directory that is neither one of these files nor around one."""
    wanted = {*kept, *(name for path in kept for name in _directories_of(path))}
    for parent, directories, names in os.walk(directory, onerror=_raise):
        inside = Path(parent).relative_to(directory)
        for name in [*directories, *names]:
            if (inside / name).as_posix() not in wanted:
                remove(Path(parent, name))
        directories[:] = [name for name in directories if (inside / name).as_posix() in wanted]


def _crc32c(members: Mapping[str, object]) -> str:
    return f"{google_crc32c.value(dump_canonical(members)):08x}"


def _raise(error: OSError) -> None:
    raise error
