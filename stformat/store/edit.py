"""Changes to a committed store: sealing what another tool edited, adding an element.

Specification: spec/stformat-0.1.md, "Editing a committed store".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from stformat.errors import (
    CorruptStoreError,
    InputError,
    Problem,
    StoreError,
    UncommittedStoreError,
)
from stformat.metadata.stformat_v0_1 import ElementName, Manifest
from stformat.metadata.strict_json import JsonError, dump_canonical
from stformat.metadata.zarr_array import parse_array
from stformat.model import Progress, silent
from stformat.store.consistency import attribute_problems
from stformat.store.durable import announced, fsync_directory, fsync_tree, remove, write_file
from stformat.store.exchange import rename_new
from stformat.store.files import DirectoryFiles, StoreFiles
from stformat.store.layout import COMMIT_PATH, MANIFEST_PATH
from stformat.store.location import local_path
from stformat.store.lock import writer_lock
from stformat.store.manifest import (
    ROOT_PATH,
    RecordError,
    build_manifest,
    bytes_entry,
    commit_record,
    consolidated_root,
    dump_record,
    is_node_document,
    new_manifest,
    node_path,
    parse_manifest,
    read_bounded,
    read_object,
)
from stformat.store.nodes import refusals_of
from stformat.store.opened import CommittedStore, read_root
from stformat.store.verify import content_problems

__all__ = ["ElementKind", "add_element", "seal_store"]

type ElementKind = Literal["images", "labels", "shapes", "tables"]

_KINDS = ("images", "labels", "points", "shapes", "tables")
_EMPTY_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def seal_store(path: str | os.PathLike[str]) -> None:
    """Commit a store anew, as it is now that another tool has edited it.

    Parameters
    ----------
    path : path
        Directory of the store.

    Raises
    ------
    NotAStoreError
        If there is no store at `path`.
    UncommittedStoreError
        If it was never committed, or is a copy that lost its manifest.
    CorruptStoreError
        If what is there contradicts the root attribute, if part of a committed array is gone, or
        if a chunk that changed since the commit does not decode.
    UnsupportedStoreError
        If it holds links, or an array that is not read.
    StoreLockedError
        If another process is writing to the store.
    StoreWriteError
        If the file system refuses.

    Notes
    -----
    Sealing must not turn damage into a committed store, so every file that is not as the old
    manifest has it is looked into: chunks must decode against their checksums, both copies of
    the counts must agree, parquet files must read. What carries no checksum of its own, such as a
    chunk that the other tool wrote without one, is taken as it is.

    A kill leaves the store changed or committed, as it was or anew.
    """
    target = Path(local_path(path)).resolve()
    with ExitStack() as stack:
        files = _locked_files(target, stack)
        _, document = read_root(files, str(target))
        old = _old_manifest(files, target)
        now = _Overlay(files, _records_of_now(files, document, target))
        problems = list(_seal_problems(now, old, target))
        if problems:
            raise CorruptStoreError(*problems)
        with refusals_of(target):
            fsync_tree(target)
            for name, data in now.replaced.items():
                write_file(target / name, data)


def add_element(
    store_path: str | os.PathLike[str],
    kind: ElementKind,
    name: str,
    write: Callable[[Path], None],
    *,
    progress: Progress = silent,
) -> None:
    """Add one element to a committed store and commit the store anew.

    Parameters
    ----------
    store_path : path
        Directory of the store.
    kind : {"images", "labels", "shapes", "tables"}
        Type of the element.
    name : str
        Name of the element, unique over all types, ignoring case.
    write : callable
        Called with an empty directory to fill; a ``zarr.json`` must stand in it afterwards.
    progress : callable, default: silent
        Told of each step before it begins: ``"write"``, ``"fsync"``, ``"rename"``, ``"root"``,
        ``"manifest"``, ``"commit"``.

    Raises
    ------
    InputError
        If the name cannot be used, or what `write` made is no element.
    UncommittedStoreError
        If another tool changed the store since it was committed.
    StoreError
        If the store cannot be read, is locked, or the file system refuses.

    Notes
    -----
    After an exception the store is what it was. A process that is killed leaves it as it was, or
    changed: it opens with a warning, and `seal_store` commits it.
    """
    target = Path(local_path(store_path)).resolve()
    with ExitStack() as stack:
        store = CommittedStore(_locked_files(target, stack), str(target))
        _check_addition(store, target, kind, name)
        undo = stack.enter_context(ExitStack())
        hidden = _make_hidden(target / kind, name, progress, undo)
        write(hidden)
        records = _records_with(store, kind, name, hidden)
        with announced(progress, "fsync", target):
            fsync_tree(hidden)
        with announced(progress, "rename", target):
            rename_new(hidden, target / kind / name)
            undo.callback(rename_new, target / kind / name, hidden)
            fsync_directory(target / kind)
            fsync_directory(target)
        for step, path in (
            ("root", ROOT_PATH),
            ("manifest", MANIFEST_PATH),
            ("commit", COMMIT_PATH),
        ):
            with announced(progress, step, target):
                undo.callback(write_file, target / path, (target / path).read_bytes())
                write_file(target / path, records[path])
        undo.pop_all()


class _Overlay:
    """Files of a store, some of them replaced by what is about to be written."""

    def __init__(self, files: StoreFiles, replaced: Mapping[str, bytes]) -> None:
        self._files = files
        self.replaced = replaced
        self.costs = files.costs

    def find(self, path: str, *, at_most: int | None = None) -> bytes | None:
        """Return a file, or its first `at_most` bytes; None where there is none."""
        return self.read(path, at_most=at_most) if self.exists(path) else None

    def read(self, path: str, *, at_most: int | None = None) -> bytes:
        """Return a whole file, or its first `at_most` bytes where it is longer."""
        if path in self.replaced:
            return self.replaced[path][:at_most]
        return self._files.read(path, at_most=at_most)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start` on."""
        if path in self.replaced:
            return self.replaced[path][start : start + length]
        return self._files.read_range(path, start, length)

    def read_tail(self, path: str, at_most: int) -> tuple[bytes, int]:
        """Return the last `at_most` bytes, or all if there are fewer, and the size of the file."""
        if path in self.replaced:
            data = self.replaced[path]
            return data[max(0, len(data) - at_most) :], len(data)
        return self._files.read_tail(path, at_most)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        return len(self.replaced[path]) if path in self.replaced else self._files.size(path)

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""
        return path in self.replaced or self._files.exists(path)

    def walk(self) -> Iterator[str]:
        """Yield the path of everything that is no directory, ascending."""
        yield from sorted({*self._files.walk(), *self.replaced}, key=os.fsencode)

    def check_version(self) -> None:
        """Look at the files below."""
        self._files.check_version()

    def close(self) -> None:
        """Close the files below."""
        self._files.close()


def _locked_files(target: Path, stack: ExitStack) -> DirectoryFiles:
    """Lock a store, clear away what a writer that was killed left in it, and hold its files."""
    DirectoryFiles(target).close()  # nothing is locked where there is nothing
    with refusals_of(target):
        stack.enter_context(writer_lock(target))
        for directory in (target, target / "stformat", *(target / kind for kind in _KINDS)):
            for left in directory.glob(".*.partial"):
                remove(left)
    return stack.enter_context(DirectoryFiles(target))


def _old_manifest(files: StoreFiles, target: Path) -> Manifest:
    if not (files.exists(COMMIT_PATH) and files.exists(MANIFEST_PATH)):
        raise UncommittedStoreError(
            Problem(
                "commit.missing",
                str(target),
                f"a store that is sealed has {MANIFEST_PATH} and {COMMIT_PATH}",
                "not both",
                "if this is a copy made by sdata.write, convert it with --kind spatialdata",
            )
        )
    try:
        return parse_manifest(read_bounded(files, MANIFEST_PATH))
    except RecordError as error:
        raise CorruptStoreError(
            Problem(
                "manifest.invalid",
                MANIFEST_PATH,
                "the manifest of the last commit must be valid, to tell edits from damage",
                str(error),
                "restore it from a copy, or convert the slide again",
            )
        ) from error


def _records_of_now(
    files: StoreFiles, root_document: Mapping[str, Any], target: Path
) -> dict[str, bytes]:
    """Return the root, manifest and commit of what is there now, in the order of writing."""
    try:
        nodes = {
            node_path(path): read_object(files, path)
            for path in files.walk()
            if is_node_document(path) and path != ROOT_PATH
        }
        root = dump_canonical(consolidated_root(root_document, nodes))
        manifest = dump_record(build_manifest(_Overlay(files, {ROOT_PATH: root})))
    except (JsonError, RecordError) as error:
        raise CorruptStoreError(
            Problem("store.content", str(target), "metadata must be valid", str(error))
        ) from error
    commit = dump_record(commit_record(manifest, root))
    return {ROOT_PATH: root, MANIFEST_PATH: manifest, COMMIT_PATH: commit}


def _seal_problems(now: _Overlay, old: Manifest, target: Path) -> Iterator[Problem]:
    """Yield what keeps a store from being sealed as it is now."""
    store = CommittedStore(now, str(target))
    manifest = store.manifest
    found = [*_unreadable_arrays(store), *attribute_problems(store), *_lost_files(old, manifest)]
    yield from found
    if found:
        return
    before = {entry.path: entry for entry in old.files}
    changed = [entry.path for entry in manifest.files if before.get(entry.path) != entry]
    yield from content_problems(store, manifest, changed=changed)
    for path in changed:
        if path.endswith(".parquet"):
            yield from _parquet_problems(target, path)


def _unreadable_arrays(store: CommittedStore) -> Iterator[Problem]:
    for entry in store.manifest.arrays:
        try:
            store.array(entry.path)
        except StoreError as error:
            yield from error.problems


def _lost_files(old: Manifest, new: Manifest) -> Iterator[Problem]:
    """Yield each file that a committed array has lost although the array is still the same."""
    kept = set(old.arrays) & set(new.arrays)
    prefixes = tuple(f"{array.path}/c" for array in kept)
    there = {entry.path for entry in new.files}
    for entry in old.files:
        if entry.path not in there and entry.path.startswith(prefixes):
            yield Problem(
                "verify.missing-file",
                entry.path,
                "a committed array must keep its chunks",
                "nothing",
                "restore the file, or remove or rewrite the whole array",
            )


def _parquet_problems(target: Path, path: str) -> Iterator[Problem]:
    import pyarrow as pa  # noqa: PLC0415 - only where a parquet file was edited
    from pyarrow import parquet  # noqa: PLC0415 - likewise

    try:
        with parquet.ParquetFile(target / path, page_checksum_verification=True) as file:
            for _ in file.iter_batches():
                pass
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Problem("verify.parquet", path, "a parquet file must read", str(error))


def _check_addition(store: CommittedStore, target: Path, kind: str, name: str) -> None:
    if kind not in get_args(ElementKind.__value__):
        raise ValueError(f"kind must be one of {get_args(ElementKind.__value__)}, got {kind!r}")
    if store.is_changed:
        raise UncommittedStoreError(
            Problem(
                "store.changed",
                str(target),
                "an element is added to a store as it was committed",
                "a root zarr.json that another tool changed",
                "check the store with stformat verify, then commit it with stformat seal",
            )
        )
    try:
        TypeAdapter(ElementName).validate_python(name, strict=True)
    except ValidationError as error:
        raise InputError(
            Problem(
                "element.name",
                repr(name),
                "a name must consist of letters, digits and _ - . and begin with none of '.', '__'",
                repr(name),
            )
        ) from error
    for other in _KINDS:
        on_disk = [path.name for path in (target / other).glob("[!.]*") if path.is_dir()]
        for taken in {*store.children(other), *on_disk}:
            if taken.lower() == name.lower():
                raise InputError(
                    Problem(
                        "element.exists",
                        f"{kind}/{name}",
                        "names of elements must be unique over all types, ignoring case",
                        f"{other}/{taken}",
                        "choose another name",
                    )
                )


def _make_hidden(directory: Path, name: str, progress: Progress, undo: ExitStack) -> Path:
    """Make the hidden directory that an element is written into, and its group if need be."""
    hidden = directory / f".{name}.partial"
    with announced(progress, "write", directory):
        if not directory.exists():
            undo.callback(remove, directory)
            directory.mkdir()
            write_file(directory / ROOT_PATH, dump_canonical(_EMPTY_GROUP))
        undo.callback(remove, hidden)
        hidden.mkdir()
    return hidden


def _records_with(store: CommittedStore, kind: str, name: str, directory: Path) -> dict[str, bytes]:
    """Return root, manifest and commit of a store with one more element.

    What was committed keeps its entries unread, so damage to it stays visible.
    """
    place = f"{kind}/{name}"
    with DirectoryFiles(directory) as files:
        if not files.exists(ROOT_PATH):
            raise _no_element(place, "nothing")
        try:
            element = build_manifest(files)
            documents = {
                node_path(f"{place}/{entry.path}"): read_object(files, entry.path)
                for entry in element.files
                if is_node_document(entry.path)
            }
        except (JsonError, RecordError) as error:
            raise _no_element(place, str(error)) from error
    for path, document in documents.items():
        if document.get("node_type") == "array":
            parse_array(document, path)
    nodes = {kind: _EMPTY_GROUP, **{path: store.node(path) for path in store.paths()}, **documents}
    root = dump_canonical(consolidated_root(store.node(""), nodes))
    group_path = f"{kind}/{ROOT_PATH}"
    entries = {group_path: bytes_entry(group_path, dump_canonical(_EMPTY_GROUP))}
    entries |= {entry.path: entry for entry in store.manifest.files}
    entries[ROOT_PATH] = bytes_entry(ROOT_PATH, root)
    moved = [entry.model_copy(update={"path": f"{place}/{entry.path}"}) for entry in element.files]
    arrays = [
        entry.model_copy(update={"path": f"{place}/{entry.path}"}) for entry in element.arrays
    ]
    manifest = dump_record(
        new_manifest([*entries.values(), *moved], [*store.manifest.arrays, *arrays])
    )
    return {
        ROOT_PATH: root,
        MANIFEST_PATH: manifest,
        COMMIT_PATH: dump_record(commit_record(manifest, root)),
    }


def _no_element(place: str, found: str) -> InputError:
    return InputError(
        Problem("element.content", place, "an element must have a valid zarr.json", found)
    )
