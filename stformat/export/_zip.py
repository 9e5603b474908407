"""A store as one file: a zip archive of its files as they are, not compressed.

Specification: spec/stformat-0.1.md, "Remote stores and zip files"; ZIP: PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import google_crc32c

from stformat.errors import CorruptStoreError, ExportError, Problem
from stformat.metadata.stformat_v0_1 import FileEntry
from stformat.model import Progress, ProgressEvent
from stformat.store.layout import COMMIT_PATH, MANIFEST_PATH
from stformat.store.manifest import ROOT_PATH, bytes_entry
from stformat.store.opened import CommittedStore
from stformat.store.reader import Slide

__all__ = ["write_zip"]

_BLOCK = 1 << 22
_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644


def write_zip(slide: Slide, path: Path, progress: Progress) -> None:
    """Write the files of a store into one archive, and read them back.

    Parameters
    ----------
    slide : Slide
        The slide; all of its tables go along, whichever it is bound to.
    path : pathlib.Path
        The file.
    progress : callable
        Told of ``"copy"`` and ``"verify"``.

    Raises
    ------
    ExportError
        If another tool changed the store since it was committed.
    CorruptStoreError
        If a file is not what was committed, or not what was written a moment ago.

    Notes
    -----
    Members are the files that the manifest lists, ``zarr.json`` first and then ascending, the
    manifest and the commit record last; of one date and one mode, so that the same store gives the
    same bytes. Memory: 4 MiB.
    """
    store = slide.opened.store
    _check_unchanged(store, slide)
    entries = [*_listed(store), *_records(store)]
    progress(ProgressEvent(step="copy", total=len(entries), unit="files"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, entry in enumerate(entries, start=1):
            _check(entry, _copy(store, entry, archive))
            progress(ProgressEvent(step="copy", done=number, total=len(entries), unit="files"))
    progress(ProgressEvent(step="verify", total=len(entries), unit="files"))
    with zipfile.ZipFile(path) as archive:
        for number, entry in enumerate(entries, start=1):
            _check(entry, _checksum(archive, entry.path))
            progress(ProgressEvent(step="verify", done=number, total=len(entries), unit="files"))


def _listed(store: CommittedStore) -> list[FileEntry]:
    """Return the files of the manifest, the root's metadata first: readers begin with them."""
    return sorted(store.manifest.files, key=lambda entry: entry.path != ROOT_PATH)


def _records(store: CommittedStore) -> list[FileEntry]:
    """Describe the manifest and the commit record, which list each other but not themselves."""
    return [bytes_entry(path, store.files.read(path)) for path in (MANIFEST_PATH, COMMIT_PATH)]


def _check_unchanged(store: CommittedStore, slide: Slide) -> None:
    if store.is_changed:
        raise ExportError(
            Problem(
                "export.changed-store",
                slide.slide_id,
                "a zip file holds a store as it was committed",
                "one that another tool has changed since",
                "commit it anew with `stformat seal`",
            )
        )


def _copy(store: CommittedStore, entry: FileEntry, archive: zipfile.ZipFile) -> str:
    size = entry.size
    header = zipfile.ZipInfo(entry.path, date_time=_DATE)
    header.create_system = _UNIX
    header.external_attr = _MODE << 16
    header.file_size = size
    checksum = 0
    with archive.open(header, "w", force_zip64=size >= zipfile.ZIP64_LIMIT) as target:
        for start in range(0, size, _BLOCK):
            block = store.files.read_range(entry.path, start, min(_BLOCK, size - start))
            checksum = google_crc32c.extend(checksum, block)
            target.write(block)
    return f"{checksum:08x}"


def _checksum(archive: zipfile.ZipFile, member: str) -> str:
    checksum = 0
    with archive.open(member) as source:
        while block := source.read(_BLOCK):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def _check(entry: FileEntry, found: str) -> None:
    if found != entry.crc32c:
        raise CorruptStoreError(
            Problem(
                "export.checksum",
                entry.path,
                f"the checksum must be {entry.crc32c}",
                found,
                "run `stformat verify` on the store",
            )
        )
