from __future__ import annotations

import hashlib
import json
import shutil
import warnings

import pytest
import zarr

from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    StoreChangedWarning,
    StoreReplaced,
    UncommittedStoreError,
    UnsupportedStoreError,
)
from stformat.metadata.strict_json import dump_canonical
from stformat.store import opened
from stformat.store.files import DirectoryFiles
from stformat.store.opened import open_committed

OBS = "tables/expression/obs"


@pytest.fixture
def changed(store_copy):
    """A store whose root another tool rewrote, without changing what it means."""
    root = store_copy / "zarr.json"
    root.write_text(json.dumps(json.loads(root.read_bytes())))
    return store_copy


def open_changed(path):
    with pytest.warns(StoreChangedWarning):
        return open_committed(path)


def test_opening_reads_the_root_and_the_commit_record_only(small_store, monkeypatch):
    read = []
    read_bytes = DirectoryFiles._pread

    def recorded(self, file, path, start, length):
        read.append(path)
        return read_bytes(self, file, path, start, length)

    monkeypatch.setattr(DirectoryFiles, "_pread", recorded)
    with open_committed(small_store) as store:
        assert store.attributes.tables[0].name == "expression"
        assert store.array("images/he/s0").shape[0] == 3
        assert store.node("tables/expression/X")["attributes"]["encoding-type"] == "csr_matrix"
        assert not store.is_changed
    assert sorted(read) == ["stformat/commit.json", "zarr.json"]


def test_children_are_the_committed_nodes_below(small_store):
    with open_committed(small_store) as store:
        assert store.children("") == ["images", "shapes", "stformat", "tables"]
        assert store.children("images") == ["he"]
        assert store.children("stformat/expression") == ["by_gene", "spots"]
        assert store.children("images/he/s0") == []
        assert store.children("nothing") == []
        assert set(store.paths()) >= {"images", "images/he/s0", OBS}


def test_metadata_are_those_that_zarr_reads(small_store):
    with open_committed(small_store) as store:
        for path in store.paths():
            node = zarr.open(small_store / path, mode="r")
            assert store.node(path)["attributes"] == node.attrs.asdict()
            if isinstance(node, zarr.Array):
                metadata = store.array(path)
                assert metadata.shape == node.shape
                assert metadata.chunks == node.chunks
                assert metadata.shards == node.shards


@pytest.mark.parametrize("path", ["nothing", "images/he/s99", "images/he/s0/c"])
def test_nodes_that_are_not_there_are_said_to_be_missing(small_store, path):
    with open_committed(small_store) as store:
        for method in (store.node, store.array):
            with pytest.raises(CorruptStoreError):
                method(path)


def test_what_is_no_store_is_said_to_be_none(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    foreign = tmp_path / "foreign.zarr"
    zarr.create_group(foreign)
    for path in (tmp_path / "nothing", empty, foreign):
        with pytest.raises(NotAStoreError):
            open_committed(path)


def test_a_copy_by_another_tool_is_refused_with_the_way_out(store_copy):
    shutil.rmtree(store_copy / "stformat")
    with pytest.raises(UncommittedStoreError, match="--kind spatialdata") as caught:
        open_committed(store_copy)
    assert caught.value.problems[0].code == "commit.missing"


def test_a_damaged_commit_record_is_no_commit(store_copy):
    commit = store_copy / "stformat/commit.json"
    for data in (b"", b"{}", commit.read_bytes()[:-1], commit.read_bytes().replace(b"0", b"1")):
        commit.write_bytes(data)
        with pytest.raises(UncommittedStoreError):
            open_committed(store_copy)


def test_a_store_without_its_root_is_corrupt(store_copy):
    (store_copy / "zarr.json").unlink()
    with pytest.raises(CorruptStoreError):
        open_committed(store_copy)


@pytest.mark.parametrize("version", ["0.2", "1", None, 0.1])
def test_other_versions_are_refused(store_copy, edit_json, recommit, version):
    def change(root):
        root["attributes"]["stformat"]["format_version"] = version

    edit_json(store_copy / "zarr.json", change)
    recommit(store_copy)
    with pytest.raises(UnsupportedStoreError, match=r"0\.1"):
        open_committed(store_copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda attribute: attribute.pop("slide_id"),
        lambda attribute: attribute.update(unknown=1),
        lambda attribute: attribute.update(tables=[]),
        lambda attribute: attribute["tables"][0].update(name="../x"),
        lambda attribute: attribute["tables"][0].update(n_obs=-1),
    ],
)
def test_an_invalid_attribute_is_refused_committed_or_not(store_copy, edit_json, recommit, change):
    edit_json(store_copy / "zarr.json", lambda root: change(root["attributes"]["stformat"]))
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match="attribute"):
            open_committed(store_copy)
        recommit(store_copy)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"a": NaN}',
        b'{"node_type": "group", "node_type": "group"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"zarr_format": 2}',
        b'{"zarr_format": 3, "node_type": "array"}',
        b'{"zarr_format": 3, "node_type": "group", "attributes": []}',
    ],
    ids=["empty", "list", "no-utf8", "nan", "repeated", "deep", "v2", "array", "attributes"],
)
def test_a_root_that_is_no_strict_json_group_is_refused(store_copy, data):
    (store_copy / "zarr.json").write_bytes(data)
    with pytest.raises(CorruptStoreError):
        open_committed(store_copy)


def test_a_root_without_consolidated_metadata_cannot_have_been_committed(
    store_copy, edit_json, recommit
):
    edit_json(store_copy / "zarr.json", lambda root: root.pop("consolidated_metadata"))
    recommit(store_copy)
    with pytest.raises(CorruptStoreError, match="consolidated"):
        open_committed(store_copy)


def test_an_unchanged_root_with_another_manifest_is_corrupt_when_the_manifest_is_needed(store_copy):
    manifest = store_copy / "stformat/manifest.json"
    document = json.loads(manifest.read_bytes())
    document["files"][0]["size"] += 1
    manifest.write_bytes(dump_canonical(document))
    with open_committed(store_copy) as store:
        assert store.array("images/he/s0").shape[0] == 3
        with pytest.raises(CorruptStoreError, match="manifest"):
            _ = store.manifest


def test_a_changed_store_says_so_once_to_the_caller(changed):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_committed(changed) as store:
            store.array("images/he/s0")
            store.children("")
    assert [(item.category, item.filename) for item in caught] == [(StoreChangedWarning, __file__)]
    assert store.is_changed


def test_a_changed_store_believes_no_consolidated_metadata(changed, edit_json):
    def lie(root):
        root["consolidated_metadata"]["metadata"]["images/he/s0"]["shape"] = [3, 1, 1]

    edit_json(changed / "zarr.json", lie)
    with open_changed(changed) as store:
        assert store.array("images/he/s0").shape != (3, 1, 1)
        assert store.children("images") == ["he"]


def test_attributes_of_a_changed_store_may_change(changed):
    zarr.open_array(changed / "images/he/s0", mode="r+").attrs["note"] = "edited"
    with open_changed(changed) as store:
        assert store.node("images/he/s0")["attributes"] == {"note": "edited"}
        store.array("images/he/s0")


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(shape=[3, 10, 10]),
        lambda document: document.update(data_type="uint16"),
        lambda document: document.update(fill_value=1),
        lambda document: document.pop("codecs"),
        lambda document: document["codecs"][0]["configuration"].update(index_location="start"),
    ],
)
def test_arrays_of_a_changed_store_must_be_those_of_the_manifest(changed, edit_json, change):
    edit_json(changed / "images/he/s0/zarr.json", change)
    with open_changed(changed) as store:
        with pytest.raises(CorruptStoreError, match="committed"):
            store.array("images/he/s0")
        store.array("tables/expression/X/data")


def test_what_was_added_to_a_changed_store_is_not_seen(changed):
    group = zarr.open_group(changed / OBS, mode="r+")
    group.create_array("extra", shape=(3,), dtype="int32")
    with open_changed(changed) as store:
        assert "extra" not in store.children(OBS)
        assert f"{OBS}/extra" not in store.paths()
        with pytest.raises(CorruptStoreError, match="seal"):
            store.array(f"{OBS}/extra")


def test_what_was_removed_from_a_changed_store_is_not_seen(changed):
    shutil.rmtree(changed / OBS / "array_row")
    with open_changed(changed) as store:
        assert "array_row" not in store.children(OBS)
        assert "array_col" in store.children(OBS)


def test_a_newer_manifest_of_a_changed_store_is_believed(changed):
    """A writer that dies while it adds an element leaves one."""
    manifest = changed / "stformat/manifest.json"
    document = json.loads(manifest.read_bytes())
    document["files"][0]["size"] += 1
    manifest.write_bytes(dump_canonical(document))
    with open_changed(changed) as store:
        assert store.array("images/he/s0").shape[0] == 3


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format_version": "0.1"}'])
def test_a_manifest_that_is_none_is_refused_when_needed(changed, data):
    (changed / "stformat/manifest.json").write_bytes(data)
    with open_changed(changed) as store, pytest.raises(CorruptStoreError, match="manifest"):
        store.array("images/he/s0")


def test_codecs_that_do_more_than_transform_bytes_are_refused(store_copy, edit_json, recommit):
    def change(root):
        nodes = root["consolidated_metadata"]["metadata"]
        nodes["images/he/s0"]["codecs"] = [{"name": "numcodecs.pickle"}]

    edit_json(store_copy / "zarr.json", change)
    recommit(store_copy)
    with open_committed(store_copy) as store, pytest.raises(UnsupportedStoreError, match="pickle"):
        store.array("images/he/s0")


@pytest.mark.parametrize("node", [None, 1, [], {}, {"node_type": "file"}])
def test_consolidated_nodes_that_are_none_are_refused(store_copy, edit_json, recommit, node):
    def change(root):
        root["consolidated_metadata"]["metadata"]["images/he/s0"] = node

    edit_json(store_copy / "zarr.json", change)
    recommit(store_copy)
    with open_committed(store_copy) as store, pytest.raises(CorruptStoreError):
        store.array("images/he/s0")


def test_a_store_that_is_replaced_while_it_opens_is_opened_anew(small_store, monkeypatch):
    attempts = []
    read_root = opened.read_root

    def vanish_once(files, where):
        attempts.append(where)
        if len(attempts) == 1:
            raise StoreReplaced
        return read_root(files, where)

    monkeypatch.setattr(opened, "read_root", vanish_once)
    open_committed(small_store).close()
    assert len(attempts) == 2


def test_a_store_that_is_replaced_for_ever_is_given_up(small_store, monkeypatch):
    def vanish(_files, _where):
        raise StoreReplaced

    monkeypatch.setattr(opened, "read_root", vanish)
    with pytest.raises(StoreReplaced):
        open_committed(small_store)


def test_two_versions_are_told_apart_by_their_commit(small_store):
    with open_committed(small_store) as store:
        root = hashlib.sha256((small_store / "zarr.json").read_bytes()).hexdigest()
        assert store.commit.root_sha256 == root
