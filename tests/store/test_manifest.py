from __future__ import annotations

import json
import os
from pathlib import Path

import google_crc32c
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from stformat.metadata.stformat_v0_1 import Manifest
from stformat.metadata.strict_json import dump_canonical
from stformat.store.files import DirectoryFiles
from stformat.store.manifest import (
    RecordError,
    array_entry,
    build_manifest,
    commit_record,
    consolidated_root,
    dump_record,
    metadata_crc32c,
    parse_commit,
    parse_manifest,
    read_bounded,
)

COMMIT = dump_record(commit_record(b"manifest", b"root"))


def test_every_single_flipped_bit_of_a_commit_record_is_seen():
    parse_commit(COMMIT)
    for bit in range(8 * len(COMMIT)):
        damaged = bytearray(COMMIT)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordError):
            parse_commit(bytes(damaged))


def test_every_way_to_cut_a_commit_record_short_is_seen():
    for length in range(len(COMMIT)):
        with pytest.raises(RecordError):
            parse_commit(COMMIT[:length])


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_record(data):
    for parse in (parse_commit, parse_manifest):
        with pytest.raises(RecordError):
            parse(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.pop("crc32c"),
        lambda members: members.update(extra=1),
        lambda members: members.update(format_version="0.2"),
        lambda members: members.update(crc32c=None),
    ],
)
def test_a_canonical_record_with_other_members_is_refused(change):
    members = json.loads(COMMIT)
    change(members)
    with pytest.raises(RecordError):
        parse_commit(dump_canonical(members))


def test_a_manifest_must_be_in_canonical_form(small_store):
    data = (small_store / "stformat/manifest.json").read_bytes()
    parse_manifest(data)
    for other in (json.dumps(json.loads(data)).encode(), data + b"\n", data.upper()):
        with pytest.raises(RecordError):
            parse_manifest(other)


def test_a_manifest_lists_every_file_with_its_checksum(small_store):
    manifest = parse_manifest((small_store / "stformat/manifest.json").read_bytes())
    there = {
        str(path.relative_to(small_store)): path
        for path in small_store.rglob("*")
        if path.is_file()
    }
    del there["stformat/commit.json"], there["stformat/manifest.json"]
    assert [entry.path for entry in manifest.files] == sorted(there)
    for entry in manifest.files:
        data = there[entry.path].read_bytes()
        assert entry.size == len(data)
        assert entry.crc32c == f"{google_crc32c.value(data):08x}"


def test_a_manifest_lists_every_array(small_store):
    manifest = parse_manifest((small_store / "stformat/manifest.json").read_bytes())
    arrays = {path: array.shape for path, array in zarr.open_group(small_store).members(None)
              if isinstance(array, zarr.Array)}  # fmt: skip
    assert {entry.path: entry.shape for entry in manifest.arrays} == arrays


def test_files_larger_than_a_block_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("stformat.store.manifest._BLOCK", 7)
    data = bytes(range(100))
    (tmp_path / "a").write_bytes(data)
    with DirectoryFiles(tmp_path) as files:
        (entry,) = build_manifest(files).files
    assert entry.crc32c == f"{google_crc32c.value(data):08x}"


@pytest.mark.parametrize("name", [b"a\nb", b"a\\b", b"\xff", b"a\x01"])
def test_names_that_cannot_stand_in_a_manifest_are_refused(tmp_path, name):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    with DirectoryFiles(tmp_path) as files, pytest.raises(RecordError):
        build_manifest(files)


def test_array_metadata_survive_a_rewrite_by_zarr(store_copy):
    paths = ["images/he/s0", "tables/expression/X/data", "stformat/expression/spots/x"]
    for path in paths:
        file = store_copy / path / "zarr.json"
        before = json.loads(file.read_bytes())
        zarr.open_array(store_copy / path, mode="r+").attrs["note"] = "edited"
        after = json.loads(file.read_bytes())
        assert after["attributes"] == {"note": "edited"}
        assert metadata_crc32c(after) == metadata_crc32c(before)


@pytest.mark.parametrize("member", ["shape", "data_type", "chunk_grid", "codecs", "fill_value"])
def test_array_entries_need_what_they_hold(small_store, member):
    document = json.loads((small_store / "images/he/s0/zarr.json").read_bytes())
    array_entry("images/he/s0", document)
    del document[member]
    with pytest.raises(RecordError, match=member):
        array_entry("images/he/s0", document)


@pytest.mark.parametrize("shape", [[1.5], ["1"], [-1], 3, None])
def test_array_entries_need_a_shape(small_store, shape):
    document = json.loads((small_store / "images/he/s0/zarr.json").read_bytes())
    with pytest.raises(RecordError):
        array_entry("images/he/s0", {**document, "shape": shape})


def test_extension_data_types_are_named_by_their_json(small_store):
    document = json.loads((small_store / "images/he/s0/zarr.json").read_bytes())
    data_type = {"name": "numpy.datetime64", "configuration": {"unit": "s"}}
    entry = array_entry("a", {**document, "data_type": data_type})
    assert json.loads(entry.data_type) == data_type


def test_zarr_reads_what_was_consolidated_word_for_word(store_copy, reconsolidate):
    before = dict(zarr.open_group(store_copy, use_consolidated=True).members(None))
    reconsolidate(store_copy)
    after = dict(zarr.open_group(store_copy, use_consolidated=True).members(None))
    assert len(after) > 50
    assert after.keys() == before.keys()
    assert all(after[path].attrs.asdict() == before[path].attrs.asdict() for path in after)


def test_consolidating_twice_changes_nothing():
    nodes = {"a": {"node_type": "group", "attributes": {"x": 1}}}
    once = consolidated_root({"node_type": "group", "attributes": {}}, nodes)
    assert consolidated_root(once, {"a": {**nodes["a"], "consolidated_metadata": 0}}) == once


def test_a_file_too_large_for_json_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "zarr.json").open("wb") as file:
        file.truncate(1 << 40)
    with DirectoryFiles(tmp_path) as files:
        assert len(read_bounded(files, "zarr.json")) == (16 << 20) + 1


def test_manifests_sort_by_utf8_bytes():
    # Code units of UTF-16 would put the second before the first.
    files = [{"path": path, "size": 0, "crc32c": "00000000"} for path in ("\uffee", "\U0001f600")]
    document = {"format_version": "0.1", "files": files, "arrays": []}
    assert len(Manifest.model_validate_json(json.dumps(document)).files) == 2
