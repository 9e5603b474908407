from __future__ import annotations

import json
import shutil

import anndata
import geopandas as gpd
import numpy as np
import pytest
import shapely
import zarr

from stformat.errors import (
    CorruptStoreError,
    InputError,
    NotAStoreError,
    Problem,
    StoreChangedWarning,
    StoreLockedError,
    StoreWriteError,
    UncommittedStoreError,
    UnsupportedStoreError,
)
from stformat.store import edit
from stformat.store.commit import add_element, seal_store
from stformat.store.lock import writer_lock
from stformat.store.nodes import write_group
from stformat.store.opened import open_committed
from stformat.store.verify import verify_store

OBS = "tables/expression/obs"
STEPS = ["write", "fsync", "rename", "root", "manifest", "commit"]


@pytest.fixture
def store(small_store, fast_path):
    return shutil.copytree(small_store, fast_path / "slide.zarr")


def content_of(store):
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file()
    }


def codes(problems):
    return {problem.code for problem in problems}


def add_column(store, name="quality"):
    """Add a column to obs as AnnData does, without a checksum in its chunks."""
    group = zarr.open_group(store / OBS, mode="r+")
    n_obs = group["x"].shape[0]
    anndata.io.write_elem(group, name, np.arange(n_obs, dtype=np.float64))
    group.attrs["column-order"] = [*group.attrs["column-order"], name]


def write_polygon(directory):
    square = shapely.box(0, 0, 10, 10)
    gpd.GeoDataFrame({"label": ["a"]}, geometry=[square]).to_parquet(directory / "shapes.parquet")
    write_group(directory, {"encoding-type": "ngff:shapes"})


def write_labels(directory):
    write_group(directory)
    zarr.create_array(directory / "s0", data=np.eye(20, dtype=np.uint16), chunks=(10, 10))


def test_sealing_what_another_tool_edited_makes_it_whole(store):
    add_column(store)
    assert codes(verify_store(store)) >= {"verify.unlisted-file", "verify.consolidated"}
    seal_store(store)
    assert verify_store(store) == []
    with open_committed(store) as opened:
        assert "quality" in opened.children(OBS)
        assert not opened.is_changed
        assert opened.array(f"{OBS}/quality").data_type == "float64"


def test_sealing_a_store_that_is_whole_keeps_it_whole(store):
    seal_store(store)
    assert verify_store(store) == []
    before = content_of(store)
    seal_store(store)
    assert content_of(store) == before


def test_sealing_takes_over_a_rewritten_root(store):
    zarr.open_group(store, mode="r+").attrs["mine"] = {"a": 1}
    with pytest.warns(StoreChangedWarning), open_committed(store) as opened:
        assert opened.is_changed
    seal_store(store)
    with open_committed(store) as opened:
        assert opened.node("")["attributes"]["mine"] == {"a": 1}
    assert verify_store(store) == []


def test_sealing_takes_over_removed_and_rewritten_arrays_of_others(store):
    group = zarr.open_group(store / OBS, mode="r+")
    del group["array_row"]
    group.attrs["column-order"] = [n for n in group.attrs["column-order"] if n != "array_row"]
    anndata.io.write_elem(group, "in_tissue", np.zeros(group["x"].shape[0], dtype=bool))
    seal_store(store)
    assert verify_store(store) == []


def test_sealing_clears_what_a_dead_writer_left(store):
    (store / "shapes/.polygons.partial").mkdir()
    (store / "stformat/.manifest.json.partial").touch()
    seal_store(store)
    assert not list(store.rglob(".*"))


def flip(path, position=0.5):
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)


def remove_chunk(store):
    (store / OBS / "in_tissue/c/0").unlink()


def remove_own_chunk(store):
    (store / "stformat/expression/spots/x/c/0").unlink()


def flip_pixels(store):
    flip(store / "images/he/s0/c/0/0/0", 0.3)


def flip_index(store):
    flip(store / "images/he/s0/c/0/0/0", 0.9999)


def flip_barcodes(store):
    flip(store / OBS / "barcode/c/0")


def flip_parquet_footer(store):
    flip(store / "shapes/spots/shapes.parquet", 0.999)


def truncate_parquet(store):
    path = store / "shapes/spots/shapes.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def change_counts(store):
    data = zarr.open_array(store / "tables/expression/X/data", mode="r+")
    data[3] = data[3] + 1


def remove_table(store):
    shutil.rmtree(store / "tables/expression")


def rewrite_x_without_checksums(store):
    group = zarr.open_group(store / "tables/expression/X", mode="r+")
    values = group["data"][:]
    del group["data"]
    group.create_array("data", data=values)


def grow_table(store):
    zarr.open_array(store / "tables/expression/X/indptr", mode="r+").resize((3,))


def break_json(store):
    (store / OBS / "zarr.json").write_bytes(b'{"a": NaN}')


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (remove_chunk, "verify.missing-file"),
        (remove_own_chunk, "verify.missing-file"),
        (flip_pixels, "array.chunk"),
        (flip_index, "array.shard-index"),
        (flip_barcodes, None),
        (flip_parquet_footer, "verify.parquet"),
        (truncate_parquet, "verify.parquet"),
        (change_counts, None),
        (remove_table, None),
        (rewrite_x_without_checksums, "verify.codecs"),
        (grow_table, "verify.attribute"),
        (break_json, "store.content"),
    ],
)
def test_sealing_does_not_bless_damage(store, damage, code):
    damage(store)
    before = content_of(store)
    with pytest.raises(CorruptStoreError) as caught:
        seal_store(store)
    assert code is None or code in codes(caught.value.problems)
    assert content_of(store) == before


def test_sealing_refuses_links(store, tmp_path):
    (store / "shapes/more").symlink_to(tmp_path)
    with pytest.raises(UnsupportedStoreError, match="link"):
        seal_store(store)


def test_sealing_refuses_codecs_that_do_more_than_transform_bytes(store, edit_json):
    array = store / OBS / "quality/zarr.json"
    add_column(store)
    edit_json(array, lambda document: document.update(codecs=[{"name": "numcodecs.pickle"}]))
    with pytest.raises(CorruptStoreError, match="pickle"):
        seal_store(store)


@pytest.mark.parametrize("lost", ["stformat", "stformat/manifest.json", "stformat/commit.json"])
def test_sealing_does_not_make_a_store_of_a_copy(store, lost):
    path = store / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UncommittedStoreError, match="--kind spatialdata"):
        seal_store(store)


def test_sealing_needs_a_valid_manifest_to_tell_edits_from_damage(store):
    (store / "stformat/manifest.json").write_bytes(b"{}")
    with pytest.raises(CorruptStoreError, match="manifest"):
        seal_store(store)


def test_sealing_needs_a_store(tmp_path):
    with pytest.raises(NotAStoreError):
        seal_store(tmp_path / "nothing")
    with pytest.raises(NotAStoreError):
        seal_store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sealing_waits_for_no_other_writer(store):
    with writer_lock(store), pytest.raises(StoreLockedError):
        seal_store(store)


@pytest.mark.parametrize(
    ("kind", "name", "write"),
    [("shapes", "tumour", write_polygon), ("labels", "cells", write_labels)],
)
def test_an_added_element_is_part_of_the_store(store, kind, name, write):
    steps = []
    add_element(store, kind, name, write, progress=lambda event: steps.append(event.step))
    assert steps == STEPS
    assert verify_store(store) == []
    assert sorted(path.name for path in store.parent.iterdir()) == ["slide.zarr"]
    with open_committed(store) as opened:
        assert not opened.is_changed
        assert name in opened.children(kind)
        if kind == "labels":
            assert opened.array("labels/cells/s0").shape == (20, 20)


def test_elements_can_be_added_one_after_the_other(store):
    for name in ("a", "b", "c"):
        add_element(store, "shapes", name, write_polygon)
    with open_committed(store) as opened:
        assert opened.children("shapes") == ["a", "b", "c", "spots"]
    assert verify_store(store) == []


@pytest.mark.parametrize("name", ["spots", "HE", "Expression", "", ".x", "__x", "a/b", "x.json"])
def test_names_that_are_taken_or_unusable_are_refused(store, name):
    before = content_of(store)
    with pytest.raises(InputError):
        add_element(store, "shapes", name, write_polygon)
    assert content_of(store) == before


def test_names_of_elements_that_were_never_committed_are_taken_too(store):
    write_polygon_into = store / "shapes/unlisted"
    write_polygon_into.mkdir()
    with pytest.raises(InputError, match="unique"):
        add_element(store, "labels", "Unlisted", write_labels)


def test_only_kinds_of_elements_can_be_added(store):
    with pytest.raises(ValueError, match="kind"):
        add_element(store, "stformat", "x", write_polygon)


def test_nothing_is_added_to_a_store_that_another_tool_changed(store):
    zarr.open_group(store, mode="r+").attrs["mine"] = 1
    with pytest.raises(UncommittedStoreError, match="seal"):
        add_element(store, "shapes", "x", write_polygon)


def write_nothing(_directory):
    pass


def write_broken_json(directory):
    (directory / "zarr.json").write_bytes(b"{")


def write_pickles(directory):
    write_labels(directory)
    array = directory / "s0/zarr.json"
    document = json.loads(array.read_bytes())
    array.write_text(json.dumps({**document, "codecs": [{"name": "numcodecs.pickle"}]}))


def write_links(directory):
    write_polygon(directory)
    (directory / "more").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (write_nothing, InputError),
        (write_broken_json, InputError),
        (write_pickles, UnsupportedStoreError),
        (write_links, UnsupportedStoreError),
    ],
)
@pytest.mark.parametrize("kind", ["shapes", "labels"])
def test_what_is_no_element_is_not_added(store, kind, write, error):
    before = content_of(store)
    with pytest.raises(error):
        add_element(store, kind, "x", write)
    assert content_of(store) == before


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["shapes", "labels"])
def test_an_exception_at_any_step_leaves_the_store_as_it_was(store, kind, step):
    def stop(event):
        if event.step == step:
            raise InputError(Problem("test", step, "nothing", "an exception"))

    before = content_of(store)
    with pytest.raises(InputError):
        add_element(store, kind, "x", write_polygon, progress=stop)
    assert content_of(store) == before
    assert not (store / "labels").exists()


@pytest.mark.parametrize("n_writes", [1, 2, 3])
def test_a_refusal_by_the_file_system_leaves_the_store_as_it_was(store, monkeypatch, n_writes):
    """The write of the root, the manifest or the commit record fails; undoing it does not."""
    real, calls = edit.write_file, []

    def refuse(path, data):
        calls.append(path)
        if len(calls) == n_writes:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(edit, "write_file", refuse)
    before = content_of(store)
    with pytest.raises(StoreWriteError, match="ENOSPC"):
        add_element(store, "shapes", "x", write_polygon)
    assert content_of(store) == before


def test_adding_does_not_bless_damage_to_what_was_there(store):
    flip(store / "images/he/s0/c/0/0/0", 0.3)
    add_element(store, "shapes", "tumour", write_polygon)
    assert codes(verify_store(store)) == {"verify.checksum"}
