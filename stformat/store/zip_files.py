"""The files of a store in one zip file, read in place: its members are stored, not compressed.

Specification: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT version 6.3.10; the
central directory is parsed by zipfile. spec/stformat-0.1.md, "Remote stores and zip files".
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    Problem,
    StoreError,
    UnsupportedStoreError,
)
from stformat.store.files import StoreFiles, parts_of, shown
from stformat.store.kept_bytes import KeptBytes
from stformat.store.read_costs import ReadCosts

__all__ = ["ZipFiles"]

_MAX_DIRECTORY_BYTES = 16 * 2**20
"""Most bytes of a central directory: some 150,000 members."""

_TAIL_BYTES = 66 * 2**10
"""Read at once: the end of central directory with the longest comment, and what Zip64 adds."""

_SMALL_BYTES = 2**16
"""A member that is no larger is read with its local header, where reads wait for a network."""

_HEADER = struct.Struct("<4s5H3I2H")
_HEADER_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_IS_UTF8 = 0x800
_UNREADABLE = (
    zipfile.BadZipFile,
    struct.error,
    NotImplementedError,
    EOFError,
    ValueError,
    OverflowError,
    IndexError,
)
"""What zipfile raises for bytes that it cannot read."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One file in the archive."""

    header: int
    """First byte of its local header."""

    size: int
    """Bytes of its content."""

    stop: int
    """Where the next member begins, or the central directory."""

    name: bytes
    """Its name as the archive has it."""


class ZipFiles:
    r"""The files of a store in a zip file; safe to share between threads.

    Parameters
    ----------
    outer : StoreFiles
        What holds the zip file; closed with this.
    name : str
        Its path there.
    where : str
        What to call it in messages.

    Raises
    ------
    NotAStoreError
        If there is no file, or no zip file.
    UnsupportedStoreError
        If a member is compressed or encrypted, a link, occurs twice, or has a name that is absolute
        or contains ``\`` or a part ``..``.
    CorruptStoreError
        If members overlap or reach beyond the central directory.
    StoreReadError
        If it cannot be read.

    Notes
    -----
    Opening reads the last 66 KiB, which hold the names of some 500 members, and what more there are
    names; the first read of a member reads its local header too. Names take some 400 bytes a
    member; small members at a URL are kept, up to 4 MiB.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stformat.store.files import DirectoryFiles
    >>> folder = Path(tempfile.mkdtemp())
    >>> with zipfile.ZipFile(folder / "a.zip", "w") as archive:
    ...     archive.writestr("images/zarr.json", "{}")
    >>> files = ZipFiles(DirectoryFiles(folder), "a.zip", "a.zip")
    >>> list(files.walk()), files.read("images/zarr.json")
    (['images/zarr.json'], b'{}')
    >>> files.close()
    """

    def __init__(self, outer: StoreFiles, name: str, where: str) -> None:
        self._outer = outer
        self._name = name
        self._where = where
        self._begins: dict[str, int] = {}
        self._whole = KeptBytes()
        try:
            self._members = self._read_directory()
        except BaseException:
            outer.close()
            raise

    @property
    def costs(self) -> ReadCosts:
        """How the zip file is best read; its files can be listed wherever it is."""
        outer = self._outer.costs
        return ReadCosts(
            n_in_flight=outer.n_in_flight,
            gap_bytes=outer.gap_bytes,
            request_bytes=outer.request_bytes,
        )

    def find(self, path: str, *, at_most: int | None = None) -> bytes | None:
        """Return a file, or its first `at_most` bytes; None where there is none."""
        return self.read(path, at_most=at_most) if self.exists(path) else None

    def read(self, path: str, *, at_most: int | None = None) -> bytes:
        """Return a whole file, or its first `at_most` bytes where it is longer."""
        size = self.size(path)
        return self.read_range(path, 0, size if at_most is None else min(size, at_most))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start` on."""
        size = self.size(path)
        if start < 0 or length < 0 or start + length > size:
            raise CorruptStoreError(
                Problem(
                    "store.file-short",
                    shown(path),
                    f"{length} bytes from {start} on",
                    f"{size} bytes in all",
                )
            )
        if not length:
            return b""
        begin = self._begin(path) + start
        piece = self._whole.get(path)
        if piece is not None:
            begin -= self._members[path].header
            return piece[begin : begin + length]
        return self._outer.read_range(self._name, begin, length)

    def read_tail(self, path: str, at_most: int) -> tuple[bytes, int]:
        """Return the last `at_most` bytes, or all if there are fewer, and the size of the file."""
        size = self.size(path)
        length = min(at_most, size)
        return self.read_range(path, size - length, length), size

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        return self._member(path).size

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""
        parts_of(path)
        return path in self._members

    def walk(self) -> Iterator[str]:
        """Yield the path of every file, ascending by its UTF-8 bytes; hidden names left out."""
        for path in sorted(self._members, key=os.fsencode):
            if not any(part.startswith(".") for part in path.split("/")):
                yield path

    def check_version(self) -> None:
        """Look at what holds the zip file: its members are of one version with it."""
        self._outer.check_version()

    def close(self) -> None:
        """Close what holds the zip file."""
        self._outer.close()
        self._whole.clear()

    def _member(self, path: str) -> _Member:
        parts_of(path)
        member = self._members.get(path)
        if member is None:
            raise CorruptStoreError(
                Problem("store.file-missing", shown(path), "the file must exist", "nothing")
            )
        return member

    def _begin(self, path: str) -> int:
        """Return where the content of a member begins: its local header is as long as it says."""
        begin = self._begins.get(path)
        if begin is None:
            member = self._members[path]
            n_bytes = _HEADER.size + len(member.name)
            header = self._read_header(path, member, n_bytes)
            magic, _, flags, method, *_, n_name, n_extra = _HEADER.unpack_from(header)
            if (
                magic != _HEADER_MAGIC
                or flags & _ENCRYPTED
                or method != zipfile.ZIP_STORED
                or n_name != len(member.name)
                or header[_HEADER.size :] != member.name
            ):
                raise _damaged(
                    path, "the header of a member must be what the central directory says"
                )
            begin = member.header + n_bytes + n_extra
            if begin + member.size > member.stop:
                raise _overlapping(path)
            self._begins[path] = begin
        return begin

    def _read_header(self, path: str, member: _Member, n_bytes: int) -> bytes:
        """Read so many bytes of a local header; with a small member where one more read is dear."""
        n_whole = member.stop - member.header
        if not self._outer.costs.n_in_flight or n_whole > _SMALL_BYTES:
            return self._outer.read_range(self._name, member.header, n_bytes)
        piece = self._outer.read_range(self._name, member.header, n_whole)
        self._whole.put(path, piece)
        return piece[:n_bytes]

    def _read_directory(self) -> dict[str, _Member]:
        try:
            source = _Source(self._outer, self._name)
        except CorruptStoreError as error:
            raise self._no_zip("nothing") from error
        try:
            with zipfile.ZipFile(source) as archive:
                infos, end = archive.infolist(), archive.start_dir
        except StoreError:
            raise
        except _UNREADABLE as error:
            raise self._no_zip(f"something else, or a part of one ({error})") from error
        members: dict[str, _Member] = {}
        infos.sort(key=lambda info: info.header_offset)
        stops = [*(info.header_offset for info in infos[1:]), end]
        for info, stop in zip(infos, stops, strict=False):  # of no members, none is the last
            path = info.filename
            self._check(info)
            if path in members:
                raise self._refused(path, "a name must occur once", "one that occurs twice")
            name = info.orig_filename.encode("utf-8" if info.flag_bits & _IS_UTF8 else "cp437")
            if info.header_offset < 0 or info.header_offset + _HEADER.size + len(name) > stop:
                raise _overlapping(path)
            if not info.is_dir():
                members[path] = _Member(info.header_offset, info.file_size, stop, name)
        self._check_root(members)
        return members

    def _check(self, info: zipfile.ZipInfo) -> None:
        path = info.filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        parts = path.removesuffix("/").split("/")
        is_bad = any(part in {"", ".", ".."} for part in parts) or "\\" in path
        if is_bad or "\x00" in info.orig_filename:
            raise self._refused(path, "a name must be a relative path", "another")
        if info.flag_bits & _ENCRYPTED:
            raise self._refused(path, "a member must not be encrypted", "one that is")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise self._refused(
                path, "a member must be stored without compression (zip -0)", "one that is not"
            )
        if kind not in {0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG}:
            raise self._refused(path, "a member must be a file or a directory", "a link or device")

    def _check_root(self, members: Mapping[str, _Member]) -> None:
        """Say so where somebody packed the directory instead of what is in it."""
        inner = next((path for path in members if path.endswith("/stformat/commit.json")), None)
        if inner is not None and "stformat/commit.json" not in members:
            raise NotAStoreError(
                Problem(
                    "store.zip-root",
                    self._where,
                    "a store must stand at the root of a zip file",
                    f"one in the directory {shown(inner.removesuffix('/stformat/commit.json'))}",
                    "pack it anew from inside its directory: zip -0 -r ../slide.zarr.zip .",
                )
            )

    def _no_zip(self, found: str) -> NotAStoreError:
        return NotAStoreError(
            Problem("store.no-zip", self._where, "there must be a zip file", found)
        )

    def _refused(self, path: str, expected: str, found: str) -> UnsupportedStoreError:
        return UnsupportedStoreError(
            Problem("store.zip-member", f"{self._where}, {shown(path)}", expected, found)
        )


class _Source(io.RawIOBase):
    """What zipfile reads: the end of a file at once, the rest where it is asked for."""

    def __init__(self, files: StoreFiles, name: str) -> None:
        super().__init__()
        self._files = files
        self._name = name
        self._tail, self._size = files.read_tail(name, _TAIL_BYTES)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a place before the file")  # as a file would, which zipfile expects
        self._at = base + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        rest = max(0, self._size - self._at)
        length = rest if size < 0 else min(size, rest)
        if length > _MAX_DIRECTORY_BYTES:
            raise UnsupportedStoreError(
                Problem(
                    "store.zip-directory",
                    self._name,
                    f"a central directory must take at most {_MAX_DIRECTORY_BYTES} bytes",
                    f"{length}",
                )
            )
        begin = self._at - (self._size - len(self._tail))
        if begin >= 0:
            data = self._tail[begin : begin + length]
        else:
            data = self._files.read_range(self._name, self._at, length) if length else b""
        self._at += length
        return data


def _overlapping(path: str) -> CorruptStoreError:
    return _damaged(path, "members must stand one after another, before the central directory")


def _damaged(path: str, expected: str) -> CorruptStoreError:
    return CorruptStoreError(
        Problem(
            "store.zip-damaged", shown(path), expected, "something else", "copy the zip file anew"
        )
    )
