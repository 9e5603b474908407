"""What was committed: every file and array of a store, as bytes that show any change.

Specification: spec/stformat-0.1.md, "Integrity".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import google_crc32c
from pydantic import BaseModel, ValidationError

from stformat.kernels._pool import map_chunks
from stformat.metadata.stformat_v0_1 import (
    FORMAT_VERSION,
    ArrayEntry,
    Commit,
    FileEntry,
    Manifest,
    StformatAttributes,
)
from stformat.metadata.strict_json import MAX_BYTES, JsonError, dump_canonical, parse_object
from stformat.store.files import StoreFiles
from stformat.store.layout import COMMIT_PATH, MANIFEST_PATH

__all__ = [
    "ROOT_PATH",
    "RecordError",
    "array_entry",
    "build_manifest",
    "bytes_entry",
    "commit_record",
    "consolidated_root",
    "dump_record",
    "file_crc32c",
    "file_entries",
    "find_bounded",
    "is_node_document",
    "metadata_crc32c",
    "new_manifest",
    "node_path",
    "parse_attributes",
    "parse_commit",
    "parse_manifest",
    "read_bounded",
    "read_object",
]

ROOT_PATH = "zarr.json"
"""The root group's metadata."""

_BLOCK = 1 << 22
_FIXED_MEMBERS = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs")


class RecordError(ValueError):
    """A document is not the record it must be, or not in its canonical form."""


def dump_record(record: Manifest | Commit) -> bytes:
    """Return the one way to write a manifest or a commit record."""
    return dump_canonical(record.model_dump(mode="json"))


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest.

    Raises
    ------
    RecordError
        If `data` is not exactly what `dump_record` would write for what it says.
    """
    _canonical_object(data)
    return _validated(Manifest, data)


def parse_commit(data: bytes) -> Commit:
    """Parse a commit record.

    Raises
    ------
    RecordError
        If `data` is not exactly what `dump_record` would write for what it says, or differs from
        its own checksum.
    """
    members = _canonical_object(data)
    checksum = members.pop("crc32c", None)
    if checksum != _crc32c_text(dump_canonical(members)):
        raise RecordError(f"a record that its own checksum {checksum!r} does not fit")
    return _validated(Commit, data)


def parse_attributes(value: Mapping[str, Any]) -> StformatAttributes:
    """Parse the root attribute ``stformat``.

    Raises
    ------
    RecordError
        If it is not what the specification asks for; the message names every member concerned.
    """
    return _validated(StformatAttributes, dump_canonical(value))


def commit_record(manifest: bytes, root: bytes) -> Commit:
    """Return the record that commits a manifest and a root zarr.json.

    Parameters
    ----------
    manifest, root : bytes
        The two files.

    Returns
    -------
    Commit
        Their digests, under a checksum.
    """
    members = {
        "format_version": FORMAT_VERSION,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "root_sha256": hashlib.sha256(root).hexdigest(),
    }
    return Commit.model_validate({**members, "crc32c": _crc32c_text(dump_canonical(members))})


def build_manifest(files: StoreFiles) -> Manifest:
    """List every file and array that there is.

    Raises
    ------
    StoreError
        If a file cannot be read, or is no regular file.
    JsonError
        If a zarr.json is no strict JSON object.
    RecordError
        If a path cannot stand in a manifest, or an array's metadata are not those of an array.
    """
    paths = [path for path in files.walk() if path not in {MANIFEST_PATH, COMMIT_PATH}]
    documents = {
        node_path(path): read_object(files, path) for path in paths if is_node_document(path)
    }
    entries = [
        array_entry(path, document)
        for path, document in documents.items()
        if document.get("node_type") == "array"
    ]
    return new_manifest(file_entries(files, paths), entries)


def new_manifest(files: Iterable[FileEntry], arrays: Iterable[ArrayEntry]) -> Manifest:
    """Return the manifest of these entries, in its order."""
    try:
        return Manifest(
            format_version=FORMAT_VERSION,
            files=tuple(sorted(files, key=_path_bytes)),
            arrays=tuple(sorted(arrays, key=_path_bytes)),
        )
    except ValidationError as error:
        raise RecordError(_summary(error)) from error


def file_entries(files: StoreFiles, paths: Iterable[str]) -> list[FileEntry]:
    """Return the entries of files, each read once, several at a time."""

    def entry(path: str) -> FileEntry:
        try:
            return FileEntry(path=path, size=files.size(path), crc32c=file_crc32c(files, path))
        except ValidationError as error:
            raise RecordError(_summary(error)) from error

    return list(map_chunks(entry, list(paths)))


def bytes_entry(path: str, data: bytes) -> FileEntry:
    """Return the entry of a file that holds these bytes."""
    return FileEntry(path=path, size=len(data), crc32c=_crc32c_text(data))


def file_crc32c(files: StoreFiles, path: str) -> str:
    """Return the CRC-32C of a file, 8 hexadecimal digits; reads 4 MiB at a time."""
    checksum = 0
    size = files.size(path)
    for start in range(0, size, _BLOCK):
        block = files.read_range(path, start, min(_BLOCK, size - start))
        checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def array_entry(path: str, document: Mapping[str, Any]) -> ArrayEntry:
    """Return the entry of an array.

    Raises
    ------
    RecordError
        If the document lacks what an entry holds.
    """
    try:
        data_type = document["data_type"]
        return ArrayEntry(
            path=path,
            shape=tuple(document["shape"]),
            # An extension type is an object: named by its JSON.
            data_type=data_type if isinstance(data_type, str) else json.dumps(data_type),
            metadata_crc32c=metadata_crc32c(document),
        )
    except (KeyError, TypeError) as error:
        raise RecordError(f"array metadata without usable {error}") from error
    except ValidationError as error:
        raise RecordError(_summary(error)) from error


def metadata_crc32c(document: Mapping[str, Any]) -> str:
    """Return the CRC-32C of what may not change of an array, from its parsed zarr.json.

    Examples
    --------
    >>> members = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs")
    >>> metadata_crc32c(dict.fromkeys(members, 0) | {"attributes": {"may": "change"}})
    '4f6a2e05'
    """
    return _crc32c_text(dump_canonical({name: document[name] for name in _FIXED_MEMBERS}))


def consolidated_root(
    root: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the root's document with every other node's document in it, word for word.

    Parameters
    ----------
    root : mapping
        Document of the root group; consolidated metadata in it are replaced.
    nodes : mapping of str to mapping
        Document of every other node, by its path.

    Returns
    -------
    dict
        Document to write as the root zarr.json.
    """
    documents = {path: dict(nodes[path]) for path in sorted(nodes)}
    for document in documents.values():
        document.pop("consolidated_metadata", None)
    return {
        **root,
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": documents,
        },
    }


def read_object(files: StoreFiles, path: str) -> dict[str, Any]:
    """Read a strict JSON object.

    Raises
    ------
    JsonError
        If the file is none.
    StoreError
        If it cannot be read.
    """
    return parse_object(read_bounded(files, path))


def read_bounded(files: StoreFiles, path: str) -> bytes:
    """Read a file that should hold JSON: whole, or as much as shows that it is too large."""
    return files.read(path, at_most=MAX_BYTES + 1)


def find_bounded(files: StoreFiles, path: str) -> bytes | None:
    """Read a file that should hold JSON, as `read_bounded` does; None where there is none."""
    return files.find(path, at_most=MAX_BYTES + 1)


def is_node_document(path: str) -> bool:
    """Return whether a file of a store is the metadata of a group or an array."""
    return path == ROOT_PATH or path.endswith(f"/{ROOT_PATH}")


def node_path(path: str) -> str:
    """Return the node that a zarr.json stands for; the root is the empty path.

    Examples
    --------
    >>> node_path("images/he/zarr.json"), node_path("zarr.json")
    ('images/he', '')
    """
    return path.removesuffix(ROOT_PATH).removesuffix("/")


def _canonical_object(data: bytes) -> dict[str, Any]:
    try:
        members = parse_object(data)
    except JsonError as error:
        raise RecordError(str(error)) from error
    if dump_canonical(members) != data:
        raise RecordError("JSON that is not in canonical form")
    return members


def _validated[Record: BaseModel](model: type[Record], data: bytes) -> Record:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise RecordError(_summary(error)) from error


def _summary(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False)
    )


def _crc32c_text(data: bytes) -> str:
    return f"{google_crc32c.value(data):08x}"


def _path_bytes(entry: FileEntry | ArrayEntry) -> bytes:
    return entry.path.encode()
