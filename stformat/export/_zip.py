"""A store as one file: a zip archive of its files as they are, not compressed.

Specification: spec/stformat-0.1.md, "Remote stores and zip files"; ZIP: PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import google_crc32c

from stformat.errors import CorruptStoreError, ExportError, Problem
from stformat.model import Progress, ProgressEvent
from stformat.store.layout import COMMIT_PATH, MANIFEST_PATH
from stformat.store.manifest import ROOT_PATH
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
    expected = {entry.path: entry.crc32c for entry in store.manifest.files}
    listed = sorted(expected, key=lambda member: (member != ROOT_PATH, member.encode()))
    members = [*listed, MANIFEST_PATH, COMMIT_PATH]
    copied: dict[str, str] = {}
    progress(ProgressEvent(step="copy", total=len(members), unit="files"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, member in enumerate(members, start=1):
            copied[member] = _copy(store, member, archive)
            _check(member, copied[member], expected.get(member))
            progress(ProgressEvent(step="copy", done=number, total=len(members), unit="files"))
    progress(ProgressEvent(step="verify", total=len(members), unit="files"))
    with zipfile.ZipFile(path) as archive:
        for number, member in enumerate(members, start=1):
            _check(member, _checksum(archive, member), copied[member])
            progress(ProgressEvent(step="verify", done=number, total=len(members), unit="files"))


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


def _copy(store: CommittedStore, member: str, archive: zipfile.ZipFile) -> str:
    size = store.files.size(member)
    header = zipfile.ZipInfo(member, date_time=_DATE)
    header.create_system = _UNIX
    header.external_attr = _MODE << 16
    header.file_size = size
    checksum = 0
    with archive.open(header, "w", force_zip64=size >= zipfile.ZIP64_LIMIT) as target:
        for start in range(0, size, _BLOCK):
            block = store.files.read_range(member, start, min(_BLOCK, size - start))
            checksum = google_crc32c.extend(checksum, block)
            target.write(block)
    return f"{checksum:08x}"


def _checksum(archive: zipfile.ZipFile, member: str) -> str:
    checksum = 0
    with archive.open(member) as source:
        while block := source.read(_BLOCK):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def _check(member: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise CorruptStoreError(
            Problem(
                "export.checksum",
                member,
                f"the checksum must be {expected}",
                found,
                "run `stformat verify` on the store",
            )
        )
