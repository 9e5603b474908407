"""A committed store, opened: what it says of itself, and how far that is to be believed.

Specification: spec/stformat-0.1.md, "Integrity".
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    Problem,
    StoreChangedWarning,
    StoreReplaced,
    UncommittedStoreError,
    UnsupportedStoreError,
)
from stformat.metadata.stformat_v0_1 import (
    FORMAT_VERSION,
    ArrayEntry,
    Commit,
    Manifest,
    StformatAttributes,
)
from stformat.metadata.strict_json import JsonError, parse_object
from stformat.metadata.zarr_array import ArrayMetadata, parse_array
from stformat.store.files import StoreFiles
from stformat.store.layout import COMMIT_PATH, MANIFEST_PATH
from stformat.store.location import Location, parse_location
from stformat.store.manifest import (
    ROOT_PATH,
    RecordError,
    find_bounded,
    is_node_document,
    metadata_crc32c,
    node_path,
    parse_attributes,
    parse_commit,
    parse_manifest,
    read_bounded,
)
from stformat.store.open_files import open_files
from stformat.store.read_ahead import map_reads, one_version

__all__ = ["CommittedStore", "open_committed", "parse_root_attribute", "read_root"]

_ATTEMPTS = 8
_PACKAGE = os.fspath(Path(__file__).parents[1])


class CommittedStore:
    """The metadata of one committed version of a store; safe to share between threads.

    Where the root zarr.json is the one that was committed, its consolidated metadata answer every
    question and nothing else is read. Where another tool has changed it, each node's own zarr.json
    is read when it is asked for, and an array must be as the manifest has it.

    Parameters
    ----------
    files : StoreFiles
        The files of the store; closed with it.
    where : str
        What to call the store in messages.

    Raises
    ------
    NotAStoreError
        If the files are not those of a stformat store.
    UncommittedStoreError
        If there is no valid commit record.
    UnsupportedStoreError
        If the store is of another version of the format.
    CorruptStoreError
        If the root zarr.json or the attribute in it is damaged.
    """

    files: StoreFiles
    """The files of the store."""

    attributes: StformatAttributes
    """The root attribute ``stformat``."""

    commit: Commit
    """The commit record; it tells two versions of a store apart."""

    is_changed: bool
    """Whether the root zarr.json is not the one that was committed."""

    def __init__(self, files: StoreFiles, where: str) -> None:
        self.files = files
        self._where = where
        root_bytes, self._root = read_root(files, where)
        value = self._root["attributes"].get("stformat")
        self.commit = _read_commit(files, where, has_attribute=value is not None)
        self.is_changed = hashlib.sha256(root_bytes).hexdigest() != self.commit.root_sha256
        self.attributes = parse_root_attribute(self._root, where)
        self._nodes = None if self.is_changed else _consolidated_nodes(self._root, where)
        self._manifest: Manifest | None = None
        self._entries: Mapping[str, ArrayEntry] = MappingProxyType({})
        self._arrays: dict[str, ArrayMetadata] = {}
        self._documents: dict[str, bytes | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def manifest(self) -> Manifest:
        """What was committed; read when first asked for.

        Raises
        ------
        CorruptStoreError
            If the manifest is damaged, or is not the one that was committed although the root
            zarr.json is.
        """
        if self._manifest is None:
            with one_version(self.files):
                manifest = self._read_manifest()
            self._entries = {entry.path: entry for entry in manifest.arrays}
            self._manifest = manifest
        return self._manifest

    def node(self, path: str) -> dict[str, Any]:
        """Return the zarr.json document of a group or an array.

        Parameters
        ----------
        path : str
            Path from the root of the store; the root is the empty path.

        Returns
        -------
        dict
            The document; not to be modified.

        Raises
        ------
        CorruptStoreError
            If there is no such node, or its document is damaged.
        """
        if not path:
            return self._root
        document = self._nodes.get(path) if self._nodes is not None else self._read_node(path)
        if not isinstance(document, dict) or document.get("node_type") not in {"group", "array"}:
            raise _corrupt("store.node", path, "a group or an array", "neither")
        return document

    def array(self, path: str) -> ArrayMetadata:
        """Return the metadata of an array.

        Parameters
        ----------
        path : str
            Path of the array from the root of the store.

        Raises
        ------
        CorruptStoreError
            If there is no such array, or the store was changed and the array with it.
        UnsupportedStoreError
            If it is stored in a way that is not read: see `parse_array`.
        """
        metadata = self._arrays.get(path)
        if metadata is None:
            document = self.node(path)
            if self.is_changed:
                self._hold_to_manifest(path, document)
            metadata = self._arrays[path] = parse_array(document, path)
        return metadata

    def children(self, path: str) -> list[str]:
        """Return the names of the committed nodes right below a group, ascending.

        Parameters
        ----------
        path : str
            Path of the group; the root is the empty path.

        Returns
        -------
        list of str
            Names. What another tool added after the commit is not among them, nor what it removed.
        """
        prefix = f"{path}/" if path else ""
        below = (node.removeprefix(prefix) for node in self._listed() if node.startswith(prefix))
        names = sorted({name for name in below if "/" not in name})
        if self._nodes is not None:
            return names
        found = map_reads(self._find_node, [f"{prefix}{name}" for name in names], self.files.costs)
        return [name for name, data in zip(names, found, strict=True) if data is not None]

    def paths(self) -> list[str]:
        """Return the path of every committed node but the root, ascending."""
        return sorted(self._listed())

    def close(self) -> None:
        """Close the files."""
        self.files.close()

    def _read_manifest(self) -> Manifest:
        data = read_bounded(self.files, MANIFEST_PATH)
        is_committed = hashlib.sha256(data).hexdigest() == self.commit.manifest_sha256
        try:
            manifest = parse_manifest(data)
        except RecordError as error:
            raise _corrupt("manifest.invalid", MANIFEST_PATH, "a manifest", str(error)) from error
        if not is_committed and not self.is_changed:
            raise _corrupt(
                "manifest.digest", MANIFEST_PATH, "the manifest that was committed", "another"
            )
        return manifest

    def _listed(self) -> Iterable[str]:
        if self._nodes is not None:
            return self._nodes
        files = (entry.path for entry in self.manifest.files)
        return [node_path(file) for file in files if is_node_document(file) and file != ROOT_PATH]

    def _find_node(self, path: str) -> bytes | None:
        """Return a node's own document, read once."""
        if path not in self._documents:
            self._documents[path] = find_bounded(self.files, f"{path}/{ROOT_PATH}")
        return self._documents[path]

    def _read_node(self, path: str) -> dict[str, Any]:
        document_path = f"{path}/{ROOT_PATH}"
        data = self._find_node(path)
        if data is None:
            raise _missing(document_path)
        try:
            return parse_object(data)
        except JsonError as error:
            raise _corrupt("store.json", document_path, "a JSON object", str(error)) from error

    def _hold_to_manifest(self, path: str, document: Mapping[str, Any]) -> None:
        """Refuse an array that is not the one that was committed."""
        _ = self.manifest
        entry = self._entries.get(path)
        if entry is None:
            raise _corrupt(
                "store.unlisted-array",
                path,
                "an array that was committed",
                "one that another tool added",
                "check the store with stformat verify, then commit it with stformat seal",
            )
        try:
            is_same = metadata_crc32c(document) == entry.metadata_crc32c
        except KeyError:
            is_same = False
        if not is_same:
            raise _corrupt(
                "store.array-changed",
                f"{path}/{ROOT_PATH}",
                f"the shape {entry.shape}, type {entry.data_type} and codecs that were committed",
                "others",
                "restore the array or convert the slide again; stformat seal commits what is there",
            )


def open_committed(path: str | os.PathLike[str] | Location) -> CommittedStore:
    """Open a store that was committed.

    Parameters
    ----------
    path : path, URL or Location
        Where the store is.

    Returns
    -------
    CommittedStore
        A context manager; reads the root zarr.json and the commit record only.

    Raises
    ------
    NotAStoreError
        If there is no stformat store at `path`.
    UncommittedStoreError
        If there is no valid commit record.
    UnsupportedStoreError
        If the store is of another version of the format, or holds links.
    CorruptStoreError
        If the root zarr.json or the attribute in it is damaged.
    StoreReadError
        If the file system, or the server, does not let it be read.

    Warns
    -----
    StoreChangedWarning
        If another tool changed the store after it was committed.
    """
    location = path if isinstance(path, Location) else parse_location(path)
    store = _open_latest(location)
    if store.is_changed:
        warnings.warn(
            f"{location}: another tool changed this store after it was committed, so its metadata "
            "are read one by one; check it with stformat verify, then commit it with stformat seal",
            StoreChangedWarning,
            stacklevel=2,
            skip_file_prefixes=(_PACKAGE,),
        )
    return store


def read_root(files: StoreFiles, where: str) -> tuple[bytes, dict[str, Any]]:
    """Read the root zarr.json.

    Returns
    -------
    data : bytes
        The file.
    document : dict
        The document, a Zarr v3 group whose ``attributes`` are an object.

    Raises
    ------
    NotAStoreError
        If there is none, nor any other trace of a stformat store.
    CorruptStoreError
        If it is missing from a store, or is no Zarr v3 group.
    """
    data = find_bounded(files, ROOT_PATH)
    if data is None:
        if files.find(COMMIT_PATH, at_most=0) is not None:
            raise _missing(ROOT_PATH)
        raise NotAStoreError(
            Problem("store.not-zarr", where, "a store has a zarr.json at its root", "none")
        )
    try:
        document = parse_object(data)
    except JsonError as error:
        raise _corrupt("store.json", ROOT_PATH, "a JSON object", str(error)) from error
    is_group = document.get("zarr_format") == 3 and document.get("node_type") == "group"
    if not is_group or not isinstance(document.setdefault("attributes", {}), dict):
        raise _corrupt("store.node", ROOT_PATH, "a Zarr v3 group", "something else")
    return data, document


def parse_root_attribute(root: Mapping[str, Any], where: str) -> StformatAttributes:
    """Parse the attribute ``stformat`` out of the root's document.

    Raises
    ------
    CorruptStoreError
        If there is none, or it is damaged.
    UnsupportedStoreError
        If it is of another version of the format.
    """
    value = root["attributes"].get("stformat")
    if not isinstance(value, dict):
        raise _corrupt("store.attribute", ROOT_PATH, "the root attribute 'stformat'", "none")
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise UnsupportedStoreError(
            Problem(
                "store.format-version",
                where,
                f"this reader reads format version {FORMAT_VERSION}",
                repr(version),
                "read it with the version of stformat that wrote it",
            )
        )
    try:
        return parse_attributes(value)
    except RecordError as error:
        raise _corrupt("store.attribute", ROOT_PATH, "a valid attribute", str(error)) from error


def _open_latest(location: Location) -> CommittedStore:
    """Open the version that is there now; another may take its place meanwhile."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(StoreReplaced):
            return _open_once(location)
    return _open_once(location)


def _open_once(location: Location) -> CommittedStore:
    files = open_files(location)
    try:
        return CommittedStore(files, str(location))
    except BaseException:
        files.close()
        raise


def _read_commit(files: StoreFiles, where: str, *, has_attribute: bool) -> Commit:
    data = find_bounded(files, COMMIT_PATH)
    if data is None:
        if not has_attribute:
            raise NotAStoreError(
                Problem(
                    "store.no-attribute",
                    where,
                    "a store has the root attribute 'stformat'",
                    "a Zarr group without it",
                    "convert it with stformat convert",
                )
            )
        raise UncommittedStoreError(
            Problem(
                "commit.missing",
                where,
                f"a store ends with {COMMIT_PATH}",
                "none",
                "if this is a copy made by sdata.write, convert it with --kind spatialdata; "
                "if it is unfinished, convert the slide again",
            )
        )
    try:
        return parse_commit(data)
    except RecordError as error:
        raise UncommittedStoreError(
            Problem(
                "commit.invalid",
                COMMIT_PATH,
                "a valid commit record is needed",
                str(error),
                "restore the store from a copy, or convert the slide again",
            )
        ) from error


def _consolidated_nodes(root: Mapping[str, Any], where: str) -> dict[str, Any]:
    consolidated = root.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(nodes, dict):
        raise _corrupt("store.unconsolidated", where, "consolidated metadata", "none")
    return nodes


def _missing(path: str) -> CorruptStoreError:
    return CorruptStoreError(Problem("store.file-missing", path, "the file must exist", "nothing"))


def _corrupt(
    code: str, where: str, expected: str, found: str, remedy: str = ""
) -> CorruptStoreError:
    remedy = remedy or "restore the store from a copy, or convert the slide again"
    return CorruptStoreError(Problem(code, where, f"{expected} is needed", found, remedy))
