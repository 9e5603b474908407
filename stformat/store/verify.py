"""Whether a store is whole: everything that does not hold, as a list of problems.

Specification: spec/stformat-0.1.md, "Integrity".
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

from stformat.errors import Problem, StoreError, StoreReplaced
from stformat.kernels._pool import map_chunks
from stformat.metadata.stformat_v0_1 import FileEntry, Manifest
from stformat.metadata.strict_json import JsonError
from stformat.store.consistency import attribute_problems, own_arrays
from stformat.store.files import StoreFiles, shown
from stformat.store.layout import COMMIT_PATH, MANIFEST_PATH
from stformat.store.location import parse_location
from stformat.store.manifest import (
    ROOT_PATH,
    RecordError,
    array_entry,
    file_crc32c,
    is_node_document,
    node_path,
    parse_manifest,
    read_bounded,
    read_object,
)
from stformat.store.open_files import open_files
from stformat.store.opened import CommittedStore

__all__ = ["content_problems", "verify_store"]

_REMEDY = "restore the store from a copy, or convert the slide again"
_EDITED = "if another tool did that on purpose, commit it with stformat seal"
_EITHER = f"{_REMEDY}; {_EDITED}"


def verify_store(path: str | os.PathLike[str], *, deep: bool = True) -> list[Problem]:
    """Check that a store is whole, to its last byte.

    Parameters
    ----------
    path : path or URL
        The store, as for `stformat.open_slide`.
    deep : bool, default: True
        Read every file: compare checksums, decode every chunk, compare the copies of the counts.
        Without it, metadata, and names and sizes of files.

    Returns
    -------
    list of Problem
        All that does not hold; empty where the store is whole. A path without a store is a
        problem too: nothing is raised for what is, or is not, there.

    Notes
    -----
    Checked are the commit record, the manifest and the root zarr.json; that files and arrays are
    those of the manifest, and none besides; that consolidated metadata agree with each node's own;
    that elements are what the root attribute says; and, deep, that all chunks of the format's own
    arrays decode, that both copies of the counts hold the same values, and sums and centres agree.
    What files hold is looked into where all of them are those that were committed. At a URL files
    are not listed, so that one that is no part of the store is not seen; a deep check reads every
    byte there, most of them twice.
    Memory: one chunk a thread, a million values, and 32 bytes a row of the largest table.
    """
    location = parse_location(path)
    try:
        with closing(open_files(location)) as files:
            problems = _Verification(files, str(location), deep=deep).problems()
            files.check_version()
            return problems
    except StoreError as error:
        return list(error.problems)


def content_problems(
    store: CommittedStore, manifest: Manifest, *, changed: Collection[str] | None = None
) -> Iterator[Problem]:
    """Yield what is wrong inside the files of a store.

    Parameters
    ----------
    store : CommittedStore
        The store; its metadata agree with its root attribute.
    manifest : Manifest
        Its files.
    changed : collection of str, optional
        Paths of the files to look into; all by default. A matrix is compared with its copy if a
        file of its table is among them.

    Yields
    ------
    Problem
        What does not decode, or contradicts another part of the store.
    """
    # Arrays are read through modules that only a deep check needs.
    from stformat.store.content import chunk_problems, table_problems  # noqa: PLC0415 - see above

    own = set(own_arrays(store))
    listed = [entry.path for entry in manifest.files]
    arrays = {entry.path for entry in manifest.arrays}
    n_files = Counter(_array_of(path, arrays) for path in listed)
    chosen = arrays if changed is None else {_array_of(path, arrays) for path in changed}
    for path in sorted(chosen & (own | _table_arrays(store, arrays))):
        yield from chunk_problems(store, path, n_files[path], is_own=path in own)
    for table in store.attributes.tables:
        roots = (f"tables/{table.name}/", f"stformat/{table.name}/")
        if changed is None or any(path.startswith(roots) for path in changed):
            yield from table_problems(store, table)


class _Verification:
    """One walk over a store; what it finds goes into a list."""

    def __init__(self, files: StoreFiles, where: str, *, deep: bool) -> None:
        self._files = files
        self._where = where
        self._deep = deep
        self._found: list[Problem] = []

    def problems(self) -> list[Problem]:
        """Check everything."""
        store = self._check_open()
        manifest = self._check_manifest(store)
        if manifest is not None:
            self._check_files(
                manifest, skipped={ROOT_PATH} if store and store.is_changed else set()
            )
            self._check_arrays(manifest)
        if store is not None and manifest is not None:
            if not store.is_changed:
                self._check_consolidated(store, manifest)
            self._check_content(store, manifest)
        return list(dict.fromkeys(self._found))

    def _add(self, code: str, where: str, expected: str, found: str, remedy: str = _REMEDY) -> None:
        self._found.append(Problem(code, shown(where), expected, found, remedy))

    def _check_open(self) -> CommittedStore | None:
        try:
            store = CommittedStore(self._files, self._where)
        except StoreReplaced:
            raise
        except StoreError as error:
            self._found += error.problems
            return None
        if store.is_changed:
            self._add(
                "verify.root-changed",
                ROOT_PATH,
                "the root metadata must be those that were committed",
                "others",
                _EDITED,
            )
        return store

    def _check_manifest(self, store: CommittedStore | None) -> Manifest | None:
        try:
            data = read_bounded(self._files, MANIFEST_PATH)
            manifest = parse_manifest(data)
        except StoreReplaced:
            raise
        except StoreError as error:
            # Without a commit record and a manifest it is not a store, which was said already.
            self._found += error.problems if self._files.exists(COMMIT_PATH) else ()
            return None
        except RecordError as error:
            self._add("manifest.invalid", MANIFEST_PATH, "a manifest must be valid", str(error))
            return None
        if store is not None:
            digest = hashlib.sha256(data).hexdigest()
            if digest != store.commit.manifest_sha256:
                self._add(
                    "manifest.digest",
                    MANIFEST_PATH,
                    "the manifest must be the one that was committed",
                    "another",
                )
        return manifest

    def _check_files(self, manifest: Manifest, skipped: set[str]) -> None:
        entries = {entry.path: entry for entry in manifest.files}
        # Where files are not listed, one that is missing is found when it is read.
        walked = self._files.walk() if self._files.costs.can_list else entries
        there = set(walked) - {MANIFEST_PATH, COMMIT_PATH}
        for path in sorted(there - entries.keys()):
            self._add(
                "verify.unlisted-file",
                path,
                "files must be those of the manifest",
                "one more",
                _EDITED,
            )
        for path in sorted(entries.keys() - there):
            self._add(
                "verify.missing-file", path, "every file of the manifest must exist", "nothing"
            )
        common = [entries[path] for path in sorted((entries.keys() & there) - skipped)]
        for problem in map_chunks(self._file_problem, common):
            if problem is not None:
                self._found.append(problem)

    def _file_problem(self, entry: FileEntry) -> Problem | None:
        try:
            size = self._files.size(entry.path)
            if size != entry.size:
                return Problem(
                    "verify.size", entry.path, f"{entry.size} bytes are needed", str(size), _EITHER
                )
            crc32c = file_crc32c(self._files, entry.path) if self._deep else entry.crc32c
        except StoreReplaced:
            raise
        except StoreError as error:
            return error.problems[0]
        if crc32c == entry.crc32c:
            return None
        return Problem(
            "verify.checksum", entry.path, f"its CRC-32C must be {entry.crc32c}", crc32c, _EITHER
        )

    def _check_arrays(self, manifest: Manifest) -> None:
        """Compare the metadata of every array with the manifest's."""
        entries = {entry.path: entry for entry in manifest.arrays}
        found = {}
        for entry in manifest.files:
            if is_node_document(entry.path):
                document = self._read_node(entry.path)
                if document is not None and document.get("node_type") == "array":
                    found[node_path(entry.path)] = document
        for path in sorted(entries.keys() | found.keys()):
            try:
                is_same = path in found and entries.get(path) == array_entry(path, found[path])
            except RecordError:
                is_same = False
            if not is_same:
                self._add(
                    "verify.array",
                    path,
                    "arrays must be those of the manifest, with its shape, type and codecs",
                    "another" if path in found and path in entries else "one too many or too few",
                    _EDITED,
                )

    def _check_consolidated(self, store: CommittedStore, manifest: Manifest) -> None:
        """Compare what readers believe with each node's own metadata."""
        files = (entry.path for entry in manifest.files)
        listed = {node_path(file) for file in files if is_node_document(file)} - {""}
        believed = set(store.paths())
        for path in sorted(listed | believed):
            document = self._read_node(f"{path}/{ROOT_PATH}") if path in listed else None
            if path in listed and document is None:
                continue  # reported as what it is
            if path not in believed or not _agree(document, store, path):
                self._add(
                    "verify.consolidated",
                    path,
                    "consolidated metadata must agree with the node's own zarr.json",
                    "something else",
                    _EDITED,
                )

    def _check_content(self, store: CommittedStore, manifest: Manifest) -> None:
        found = list(attribute_problems(store))
        if self._deep and not found and not self._found:
            found = list(content_problems(store, manifest))
        self._found += found

    def _read_node(self, path: str) -> dict[str, Any] | None:
        try:
            return read_object(self._files, path)
        except StoreReplaced:
            raise
        except StoreError:
            return None  # a file that is missing or cannot be read is reported as such
        except JsonError as error:
            self._add("store.json", path, "metadata must be a strict JSON object", str(error))
            return None


def _agree(document: Mapping[str, Any] | None, store: CommittedStore, path: str) -> bool:
    try:
        return document is not None and _essence(document) == _essence(store.node(path))
    except StoreError:
        return False


def _essence(document: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what may be there or not without a difference in meaning."""
    optional: dict[str, object] = {
        "attributes": {},
        "storage_transformers": [],
        "dimension_names": None,
    }
    return {
        key: value
        for key, value in document.items()
        if key != "consolidated_metadata" and not (key in optional and value == optional[key])
    }


def _array_of(path: str, arrays: Collection[str]) -> str:
    """Return the array that a chunk's file belongs to, or the empty path."""
    array = path.removesuffix("/c") if path.endswith("/c") else path.rpartition("/c/")[0]
    return array if array in arrays and not is_node_document(path) else ""


def _table_arrays(store: CommittedStore, arrays: Collection[str]) -> set[str]:
    roots = tuple(f"tables/{table.name}/" for table in store.attributes.tables)
    return {path for path in arrays if path.startswith(roots)}
