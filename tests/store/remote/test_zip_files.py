"""A store in a zip file is the store; what could mislead its reader is refused."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import stformat as stf
from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    StoreError,
    StoreReadError,
    StoreReplaced,
    UnsupportedStoreError,
)
from stformat.store.files import DirectoryFiles
from stformat.store.location import parse_location
from stformat.store.open_files import open_files
from stformat.store.zip_files import ZipFiles

NAME = "slide.zarr.zip"


def pack(store, path, *, skip=(), prefix=""):
    """Write a store as a zip file, its commit record last."""
    files = sorted(file for file in store.rglob("*") if file.is_file())
    files.sort(key=lambda file: file.name == "commit.json")
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            name = file.relative_to(store).as_posix()
            if name not in skip:
                archive.write(file, prefix + name)
    return path


@pytest.fixture(scope="session")
def packed(small_store, tmp_path_factory):
    return pack(small_store, tmp_path_factory.mktemp("zip") / NAME)


@pytest.fixture
def served(server, packed):
    """URL of the zip file."""
    (server.folder / NAME).symlink_to(packed)
    return f"{server.url}/{NAME}"


def members_of(content, tmp_path):
    (tmp_path / "a.zip").write_bytes(content)
    files = ZipFiles(DirectoryFiles(tmp_path), "a.zip", "a.zip")
    try:
        return {path: files.read(path) for path in files.walk()}
    finally:
        files.close()


def archive_of(members, *, comment=b"", **options):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)
        archive.comment = comment
    return content.getvalue()


@pytest.mark.parametrize("place", ["here", "at a URL"])
def test_a_slide_in_a_zip_file_is_the_slide(packed, served, small_store, place):
    path = packed if place == "here" else served
    with stf.open_slide(path) as slide, stf.open_slide(small_store) as local:
        assert repr(slide) == repr(local)
        np.testing.assert_array_equal(slide.tiles(64)[:], local.tiles(64)[:])
        assert (slide.counts[:] != local.counts[:]).nnz == 0
        pd.testing.assert_frame_equal(slide.obs, local.obs)
        pd.testing.assert_frame_equal(slide.var, local.var)
    assert stf.verify_store(path) == []
    assert stf.verify_store(path, deep=False) == []
    with xr.open_dataset(path, engine="stformat", tile_px=32) as dataset:
        assert dataset["tiles"].isel(obs=0).to_numpy().any()
    with xr.open_datatree(os.fspath(path)) as tree:
        assert "s0" in tree


def test_opening_at_a_url_takes_three_requests(served, server):
    with stf.open_slide(served) as slide:
        assert slide.levels
        # The names and the commit record stand at the end.
        assert len(server.requests) <= 3
        assert sum(request.n_bytes for request in server.requests) < 300_000
        server.requests.clear()
        slide.read_region(0, 100, 100, 300, 300)
        assert len(server.requests) <= 4  # the header, the index and two rows of chunks
        server.requests.clear()
        _ = slide.obs
    assert len(server.requests) <= len(slide.obs.columns) + 6


def test_a_zip_file_at_a_url_that_is_replaced_is_said_to_be(server, served, packed):
    with stf.open_slide(served) as slide:
        (server.folder / NAME).unlink()
        (server.folder / NAME).write_bytes(packed.read_bytes())
        with pytest.raises(StoreReplaced):
            slide.read_region(0, 0, 0, 8, 8)


def test_an_open_zip_file_is_one_version(small_store, tmp_path, packed):
    path = tmp_path / NAME
    path.write_bytes(packed.read_bytes())
    with stf.open_slide(path) as slide, stf.open_slide(small_store) as local:
        pack(small_store, tmp_path / "other.zip", skip={"zarr.json"}).replace(path)
        np.testing.assert_array_equal(slide.tiles(64)[:3], local.tiles(64)[:3])


def test_verify_finds_a_flipped_bit_a_missing_member_and_one_too_many(
    small_store, tmp_path, packed
):
    content = bytearray(packed.read_bytes())
    content[content.index((small_store / "images/he/s0/c/0/0/0").read_bytes()[:64]) + 50] ^= 1
    flipped = tmp_path / "flipped.zip"
    flipped.write_bytes(content)
    assert {problem.code for problem in stf.verify_store(flipped)} == {"verify.checksum"}
    lacking = pack(small_store, tmp_path / "lacking.zip", skip={"images/he/s0/c/0/0/0"})
    assert {problem.code for problem in stf.verify_store(lacking)} == {"verify.missing-file"}
    extended = pack(small_store, tmp_path / "extended.zip")
    with zipfile.ZipFile(extended, "a") as archive:
        archive.writestr("images/more", b"more")
        archive.writestr(".hidden", b"ignored")
    problems = stf.verify_store(extended)
    assert [(problem.code, problem.where) for problem in problems] == [
        ("verify.unlisted-file", "images/more")
    ]


names = st.text(
    st.characters(exclude_characters="/\\\x00", exclude_categories=["Cs"]), min_size=1, max_size=9
).filter(lambda name: name not in {".", ".."})
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(paths, st.binary(max_size=300), max_size=6),
    st.binary(max_size=40),
    st.binary(max_size=30),
)
def test_members_are_read_as_zipfile_reads_them(tmp_path_factory, members, comment, before):
    content = before + archive_of(members.items(), comment=comment)
    try:
        expected = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile:  # a comment may hold the mark of an end
        return
    with expected:
        shown = {
            name: expected.read(name)
            for name in expected.namelist()
            if not any(part.startswith(".") for part in name.split("/"))
        }
    assert members_of(content, tmp_path_factory.mktemp("any")) == shown


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damage_is_a_typed_error_or_no_damage(tmp_path_factory, data):
    members = {"a/b": b"0123456789" * 30, "c": b"x" * 200, "d/e/f": b""}
    content = bytearray(archive_of(members.items()))
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
        else:
            content = content[: data.draw(st.integers(1, len(content)))]
    try:
        found = members_of(bytes(content), tmp_path_factory.mktemp("bad"))
    except StoreError:
        return
    # Whatever is read has the size that was said; content is the business of checksums.
    assert sum(map(len, found.values())) <= len(content)


def changed(name="a", data=b"0123456789", *, flag_bits=0, mode=0, **options):
    """An archive of one member whose directory says something special."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        archive.writestr(info, data, compress_type=options.get("compression"))
    raw = bytearray(content.getvalue())
    struct.pack_into("<H", raw, raw.index(b"PK\x01\x02") + 8, flag_bits)
    return bytes(raw)


@pytest.mark.parametrize(
    "content",
    [
        changed("../a"),
        changed("a/../b"),
        changed("/etc/passwd"),
        changed("a\\b"),
        changed("a//b"),
        changed("./a"),
        changed("a", b"0" * 1000, compression=zipfile.ZIP_DEFLATED),
        changed("a", flag_bits=0x1),
        changed("a", mode=stat.S_IFLNK | 0o777),
        changed("a", mode=stat.S_IFIFO),
        changed("ab").replace(b"ab", b"a\x00"),
    ],
)
def test_members_that_mislead_are_refused(content, tmp_path):
    with pytest.raises(UnsupportedStoreError):
        members_of(content, tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(UnsupportedStoreError, match="twice"):
        members_of(archive_of([("a", b"1"), ("b", b"2"), ("a", b"3")]), tmp_path)


def test_directories_and_zip64_members_are_taken(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.mkdir("a")
        with archive.open("a/b", "w", force_zip64=True) as member:
            member.write(b"wide")
        archive.comment = b"c" * 0xFFFF
    assert members_of(content.getvalue(), tmp_path) == {"a/b": b"wide"}


class Unseekable(io.BytesIO):
    """Makes zipfile write sizes behind members."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation

    def tell(self):
        raise io.UnsupportedOperation


def test_members_with_sizes_behind_them_are_taken(tmp_path):
    content = Unseekable()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a", b"first")
        archive.writestr("b", b"second")
    assert members_of(content.getvalue(), tmp_path) == {"a": b"first", "b": b"second"}


@pytest.mark.parametrize(
    ("at", "value"),
    [(26, 2), (28, 30), (8, 8), (6, 1), (0, 0), (30, ord("z"))],
    ids=["name length", "extra length", "method", "encryption", "magic", "name"],
)
def test_a_header_that_contradicts_the_directory_is_damage(tmp_path, at, value):
    content = bytearray(archive_of([("a", b"0123456789"), ("b", b"x")]))
    content[at] = value
    with pytest.raises(CorruptStoreError):
        members_of(bytes(content), tmp_path)


def test_members_that_overlap_are_damage(tmp_path):
    content = bytearray(archive_of([("a", b"0123456789"), ("b", b"x")]))
    directory = content.index(b"PK\x01\x02")
    struct.pack_into("<II", content, directory + 20, 40, 40)
    with pytest.raises(CorruptStoreError, match="one after another"):
        members_of(bytes(content), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip file at all", b"PK\x05\x06"])
def test_what_is_no_zip_file_is_no_store(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(NotAStoreError, match="zip file"):
        stf.open_slide(tmp_path / NAME)


def test_a_zip_file_that_was_cut_off_is_no_store(tmp_path, packed):
    (tmp_path / NAME).write_bytes(packed.read_bytes()[:-5])
    with pytest.raises(NotAStoreError, match="a part of one"):
        stf.open_slide(tmp_path / NAME)


def test_a_missing_zip_file_is_no_store(tmp_path, server):
    with pytest.raises(NotAStoreError):
        stf.open_slide(tmp_path / NAME)
    with pytest.raises(NotAStoreError):
        stf.open_slide(f"{server.url}/{NAME}")


@pytest.mark.usefixtures("served")
def test_a_server_that_fails_is_not_taken_for_a_damaged_zip_file(server, open_url):
    server.fault = lambda _path, _nth: 503
    with pytest.raises(StoreReadError):
        open_url(NAME)


def test_a_store_that_was_packed_with_its_directory_is_told_how_to(small_store, tmp_path):
    with pytest.raises(NotAStoreError, match=r"at the root.*from inside"):
        stf.open_slide(pack(small_store, tmp_path / NAME, prefix="slide.zarr/"))


def test_the_files_of_a_zip_file_are_those_of_the_store(packed, small_store):
    files = open_files(parse_location(packed))
    with DirectoryFiles(small_store) as local:
        assert list(files.walk()) == list(local.walk())
        for path in local.walk():
            size = local.size(path)
            assert files.size(path) == size
            assert files.read_tail(path, 30) == local.read_tail(path, 30)
            assert files.read_range(path, size // 3, size // 2) == local.read_range(
                path, size // 3, size // 2
            )
    assert files.find("nothing") is None
    with pytest.raises(CorruptStoreError):
        files.read("nothing")
    with pytest.raises(CorruptStoreError):
        files.read_range("zarr.json", 1, files.size("zarr.json"))
    with pytest.raises(UnsupportedStoreError):
        files.read("../zarr.json")
    files.close()


def test_a_directory_beyond_memory_is_refused(tmp_path):
    content = archive_of([("a", b"0")])
    end = content.index(b"PK\x05\x06")
    size = 17 * 2**20
    padded = content[:end] + bytes(size) + content[end:]
    raw = bytearray(padded)
    struct.pack_into("<II", raw, len(raw) - 10, size, end)
    with pytest.raises(UnsupportedStoreError, match="central directory"):
        members_of(bytes(raw), tmp_path)
