"""``stformat collect``: a folder of stores into a catalogue, as far as it changed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stformat.collection.catalogue import (
    CATALOGUE_NAME,
    FINGERPRINT_VERSION,
    dump_catalogue,
    parse_catalogue,
)
from stformat.collection.catalogue_row import slide_row
from stformat.errors import (
    CatalogueError,
    NotAStoreError,
    Problem,
    StformatError,
    StoreError,
    refusals_of,
)
from stformat.model import Progress, ProgressEvent, silent
from stformat.store.durable import write_file
from stformat.store.layout import COMMIT_PATH
from stformat.store.location import parse_location
from stformat.store.lock import writer_lock
from stformat.store.manifest import ROOT_PATH, RecordError, parse_commit, read_bounded
from stformat.store.open_files import open_files
from stformat.store.reader import open_slide

__all__ = ["CollectReport", "collect_slides"]

_ZIP = ".zarr.zip"
_SAVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectReport:
    """What became of the stores of a folder; paths are below it, with ``/``."""

    path: Path
    """The catalogue."""

    n_slides: int
    """Its rows."""

    read: tuple[str, ...]
    """Stores that were read, being new or another version than in the catalogue before."""

    kept: tuple[str, ...]
    """Stores that were not read, their rows being those of the catalogue before, moved ones too."""

    removed: tuple[str, ...]
    """Stores of the catalogue before that are in it no more."""

    others: tuple[str, ...]
    """Zarr groups that are no stores of stformat."""

    problems: tuple[Problem, ...]
    """What is wrong with stores that are not in the catalogue, and with identifiers."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "catalogue": str(self.path),
            "n_slides": self.n_slides,
            "read": list(self.read),
            "kept": list(self.kept),
            "removed": list(self.removed),
            "others": list(self.others),
            "problems": [problem.to_json() for problem in self.problems],
        }


def collect_slides(
    directory: str | os.PathLike[str], *, progress: Progress | None = None
) -> CollectReport:
    """Write or refresh the catalogue of a folder of stores, ``catalogue.parquet`` in it.

    Parameters
    ----------
    directory : path
        Folder of stores, zip files ``.zarr.zip`` among them, or of folders of stores. Hidden names
        are not looked at, nor what is below a store; links to folders are followed.
    progress : callable, optional
        Called with a `ProgressEvent` of step ``"collect"`` when a store is done.

    Returns
    -------
    CollectReport
        What became of every store.

    Raises
    ------
    CatalogueError
        If `directory` is no folder, has no store, or is a store itself.
    StoreLockedError
        If another process is writing the same catalogue.
    StoreWriteError
        If the file system refuses, or ``catalogue.parquet`` is no file.

    Warns
    -----
    StoreChangedWarning
        If another tool changed a store after it was committed.

    Notes
    -----
    A store whose commit record and root metadata are those of its row is not read again, nor is one
    whose commit record and root metadata are those of any row: it was moved or copied. Of others,
    and where the row has fingerprints of another version, the counts of the default table and the
    thumbnail are read, for fingerprints. The same stores give the same bytes, in whatever order
    they came. The file is replaced at once: who reads it finds the old catalogue or the new. Every
    minute, and when it is interrupted, what was read so far is written beside the rows of stores
    that were not looked at yet, so that the next run goes on from there. A catalogue that is
    damaged, or of another version, is made anew. A store that cannot be read, or whose path is not
    UTF-8, has no row and stands in the report.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.convert import convert_slide
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=400, width=400, n_genes=20, pitch_px=60, seed=0),
    ...                          folder / "source")
    >>> _ = convert_slide(source, folder / "S1.zarr")
    >>> collect_slides(folder).read, collect_slides(folder).kept
    (('S1.zarr',), ('S1.zarr',))
    """
    root = Path(directory)
    if not root.is_dir():
        raise _refused(
            root, "a folder of stores is needed", "a file" if root.exists() else "nothing"
        )
    if _should_be_store(root.resolve()):
        raise _refused(
            root, "a folder of stores is needed", "a store", "give the folder that it lies in"
        )
    target = root / CATALOGUE_NAME
    with ExitStack() as stack:
        with refusals_of(target):
            stack.enter_context(writer_lock(target))
        return _collect(root, target, progress or silent)


@dataclass(slots=True, kw_only=True)
class _Refresh:
    """Rows of a catalogue on their way from what it was to what the folder holds."""

    root: Path
    target: Path
    before: Mapping[str, Mapping[str, Any]]
    """Rows of the catalogue that was there, by path."""
    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Rows of stores that were looked at."""
    read: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def take(self, path: str, moved: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the row of a store that is there; `moved` has rows by digest of the manifest."""
        try:
            row = _known_row(self.root / path, self.before.get(path), moved)
            if row is None:
                with open_slide(self.root / path) as slide:
                    row = slide_row(slide, path)
                self.read.append(path)
            self.rows[path] = {**row, "path": path}
        except NotAStoreError as error:
            if _is_there(self.root / path / ROOT_PATH):
                self.others.append(path)
            else:
                self.problems.extend(error.problems)
        except StformatError as error:
            self.problems.extend(_of_store(problem, path) for problem in error.problems)

    def save(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Write a catalogue unless it is there."""
        data = dump_catalogue(list(rows.values()))
        with refusals_of(self.target):
            if not self.target.exists() or self.target.read_bytes() != data:
                write_file(self.target, data)

    def save_halfway(self, ahead: list[str]) -> None:
        """Write what was read beside the rows of stores that were not looked at yet."""
        if self.read:
            old = {path: self.before[path] for path in ahead if path in self.before}
            self.save({**old, **self.rows})


def _collect(root: Path, target: Path, progress: Progress) -> CollectReport:
    refresh = _Refresh(root=root, target=target, before=_rows_before(target))
    found = sorted(_stores_below(root, refresh.problems))
    if not found and not refresh.problems:
        raise _refused(root, "a folder of stores has one at least", "none")
    moved = {row["manifest_sha256"]: row for row in refresh.before.values()}
    saved, number = time.monotonic(), 0
    try:
        for number, path in enumerate(found):
            refresh.take(path, moved)
            progress(
                ProgressEvent(step="collect", done=number + 1, total=len(found), unit="stores")
            )
            if time.monotonic() - saved >= _SAVE_SECONDS:
                refresh.save_halfway(found[number + 1 :])
                saved = time.monotonic()
    except BaseException:
        refresh.save_halfway(found[number:])
        raise
    refresh.problems.extend(_repeated_ids(refresh.rows))
    refresh.save(refresh.rows)
    is_read = set(refresh.read)
    return CollectReport(
        path=target,
        n_slides=len(refresh.rows),
        read=tuple(refresh.read),
        kept=tuple(path for path in refresh.rows if path not in is_read),
        removed=tuple(sorted(refresh.before.keys() - refresh.rows.keys())),
        others=tuple(refresh.others),
        problems=tuple(refresh.problems),
    )


def _rows_before(target: Path) -> dict[str, Mapping[str, Any]]:
    """Return the rows of the catalogue that is there, by path; none of one that is of no use."""
    with refusals_of(target):
        if not target.exists():
            return {}
        data = target.read_bytes()
    try:
        rows = parse_catalogue(data, str(target)).rows()
    except CatalogueError:
        return {}
    return {row["path"]: row for row in rows}


def _known_row(
    store: Path, row: Mapping[str, Any] | None, moved: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return the row of the version of a store that is there, unchanged; None where none is."""
    try:
        with closing(open_files(parse_location(store))) as files:
            commit = parse_commit(read_bounded(files, COMMIT_PATH))
            root = hashlib.sha256(read_bounded(files, ROOT_PATH)).hexdigest()
    except (StoreError, RecordError):
        return None  # opening the store says what is wrong with it
    for each in (row, moved.get(commit.manifest_sha256)):
        if (
            each is not None
            and each["fingerprint_version"] == FINGERPRINT_VERSION
            and not each["is_changed"]
            and commit.crc32c == each["commit_crc32c"]
            and commit.manifest_sha256 == each["manifest_sha256"]
            and commit.root_sha256 == each["root_sha256"] == root
        ):
            return each
    return None


def _stores_below(root: Path, problems: list[Problem]) -> Iterator[str]:
    """Yield the path of everything that is, or should be, a store."""
    pending = [""]
    seen: set[tuple[int, int]] = set()
    while pending:
        below = pending.pop()
        try:
            with os.scandir(root / below) as entries:
                names = sorted(entry.name for entry in entries if _may_hold_stores(entry))
            identity = (root / below).stat()
        except OSError as error:
            problems.append(
                Problem(
                    "collect.unreadable",
                    below or str(root),
                    "a folder of stores must be readable",
                    str(error.strerror or error),
                )
            )
            continue
        if (identity.st_dev, identity.st_ino) in seen:
            continue  # a link that leads to where this began
        seen.add((identity.st_dev, identity.st_ino))
        for name in names:
            path = f"{below}/{name}" if below else name
            if not _is_utf8(name):
                problems.append(
                    Problem(
                        "collect.name",
                        os.fsencode(path).decode(errors="backslashreplace"),
                        "paths of stores must be UTF-8",
                        "bytes that are none",
                        "rename it",
                    )
                )
            elif path.endswith(_ZIP) or _should_be_store(root / path):
                yield path
            else:
                pending.append(path)


def _may_hold_stores(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return False
    return entry.is_dir() or entry.name.endswith(_ZIP)


def _should_be_store(directory: Path) -> bool:
    return (
        directory.suffix == ".zarr"
        or _is_there(directory / ROOT_PATH)
        or _is_there(directory / COMMIT_PATH)
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # who looks into a folder that may not be entered is told so
        return False


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that os.scandir could not decode
        return False
    return True


def _of_store(problem: Problem, path: str) -> Problem:
    """Name the store in a problem that names a file inside it."""
    if path in problem.where:
        return problem
    return Problem(
        problem.code,
        f"{path}: {problem.where}",
        problem.expected,
        problem.found,
        problem.remedy,
    )


def _repeated_ids(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    paths: dict[str, list[str]] = {}
    for path in sorted(rows):
        paths.setdefault(rows[path]["slide_id"], []).append(path)
    for slide_id, where in sorted(paths.items()):
        if len(where) > 1:
            yield Problem(
                "catalogue.repeated-id",
                slide_id,
                "an identifier must mean one slide",
                f"{len(where)} stores: {', '.join(where)}",
                "convert all but one of them with another --slide-id, or move them away",
            )


def _refused(root: Path, expected: str, found: str, remedy: str = "") -> CatalogueError:
    return CatalogueError(Problem("collect.folder", str(root), expected, found, remedy))
