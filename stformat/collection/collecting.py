"""``stformat collect``: a folder of stores into a catalogue, as far as it changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
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
    """Stores whose rows stand as they stood."""

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
        If `directory` is no folder, or has no store.
    StoreLockedError
        If another process is writing the same catalogue.
    StoreWriteError
        If the file system refuses.

    Warns
    -----
    StoreChangedWarning
        If another tool changed a store after it was committed.

    Notes
    -----
    A store whose commit record and root metadata are those of its row is not read again. Of others
    the counts of the default table and the thumbnail are read, for fingerprints. The same stores
    give the same bytes, in whatever order they came. The file is replaced at once: who reads it
    finds the old catalogue or the new. A catalogue that is damaged, or of another version, is made
    anew. A store that cannot be read has no row and stands in the report.

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
    target = root / CATALOGUE_NAME
    with ExitStack() as stack:
        with refusals_of(target):
            stack.enter_context(writer_lock(target))
        return _collect(root, target, progress or silent)


def _collect(root: Path, target: Path, progress: Progress) -> CollectReport:
    before = _rows_before(target)
    problems: list[Problem] = []
    found = sorted(_stores_below(root, problems))
    if not found and not problems:
        raise _refused(root, "a folder of stores has one at least", "none")
    rows: dict[str, Mapping[str, Any]] = {}
    read: list[str] = []
    others: list[str] = []
    for number, path in enumerate(found):
        row = before.get(path)
        try:
            if row is None or not _is_of(root / path, row):
                with open_slide(root / path) as slide:
                    row = slide_row(slide, path)
                read.append(path)
            rows[path] = row
        except NotAStoreError as error:
            if (root / path / ROOT_PATH).exists():
                others.append(path)
            else:
                problems.extend(error.problems)
        except StformatError as error:
            problems.extend(_of_store(problem, path) for problem in error.problems)
        progress(ProgressEvent(step="collect", done=number + 1, total=len(found), unit="stores"))
    problems.extend(_repeated_ids(rows))
    is_read = set(read)
    data = dump_catalogue(list(rows.values()))
    if not target.exists() or target.read_bytes() != data:
        with refusals_of(target):
            write_file(target, data)
    return CollectReport(
        path=target,
        n_slides=len(rows),
        read=tuple(read),
        kept=tuple(path for path in rows if path not in is_read),
        removed=tuple(sorted(before.keys() - rows.keys())),
        others=tuple(others),
        problems=tuple(problems),
    )


def _rows_before(target: Path) -> dict[str, Mapping[str, Any]]:
    """Return the rows of the catalogue that is there, by path; none of one that is of no use."""
    if not target.exists():
        return {}
    try:
        rows = parse_catalogue(target.read_bytes(), str(target)).rows()
    except CatalogueError:
        return {}
    return {row["path"]: row for row in rows}


def _is_of(store: Path, row: Mapping[str, Any]) -> bool:
    """Return whether a row is of the version of a store that is there, unchanged."""
    if row["fingerprint_version"] != FINGERPRINT_VERSION or row["is_changed"]:
        return False
    try:
        with closing(open_files(parse_location(store))) as files:
            commit = parse_commit(read_bounded(files, COMMIT_PATH))
            root = hashlib.sha256(read_bounded(files, ROOT_PATH)).hexdigest()
    except (StoreError, RecordError):
        return False  # opening the store says what is wrong with it
    return bool(
        commit.crc32c == row["commit_crc32c"]
        and commit.manifest_sha256 == row["manifest_sha256"]
        and commit.root_sha256 == row["root_sha256"] == root
    )


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
            if path.endswith(_ZIP) or _should_be_store(root / path):
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
        or (directory / ROOT_PATH).exists()
        or (directory / COMMIT_PATH).exists()
    )


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


def _refused(root: Path, expected: str, found: str) -> CatalogueError:
    return CatalogueError(Problem("collect.folder", str(root), expected, found))
