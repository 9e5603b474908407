from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from stformat.errors import StoreReplaced
from stformat.metadata.strict_json import dump_canonical
from stformat.store import content
from stformat.store.files import DirectoryFiles
from stformat.store.vector_writer import write_vector
from stformat.store.verify import verify_store

X = "tables/expression/X"
BY_GENE = "stformat/expression/by_gene"
SPOTS = "stformat/expression/spots"
OBS = "tables/expression/obs"


@pytest.fixture
def store(small_store, fast_path):
    return shutil.copytree(small_store, fast_path / "slide.zarr")


@pytest.fixture
def committed(store, reconsolidate, recommit):
    """Make an edit look as if the store had been written so; return what verify finds then."""

    def check(edit):
        edit(store)
        reconsolidate(store)
        recommit(store)
        return verify_store(store)

    return check


def found(problems):
    return {(problem.code, problem.where) for problem in problems}


def flip(path, position=0.5):
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)


def rewrite(path, change):
    """Write a vector anew, with checksums, after a function changed its values."""
    values = change(zarr.open_array(path, mode="r")[:])
    shutil.rmtree(path)
    write_vector(path, np.asarray(values))


def test_a_whole_store_has_no_problems(small_store):
    assert verify_store(small_store) == []
    assert verify_store(small_store, deep=False) == []


def test_verifying_changes_nothing(store):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    verify_store(store)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


@pytest.mark.parametrize("name", ["nothing", "file", "empty", "foreign"])
def test_what_is_no_store_is_one_problem(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    zarr.create_group(tmp_path / "foreign")
    (problem,) = verify_store(tmp_path / name)
    assert problem.code.startswith("store.")


def test_a_store_that_vanishes_meanwhile_is_one_problem(store, monkeypatch):
    walk = DirectoryFiles.walk

    def remove_first(self):
        shutil.rmtree(store)
        return walk(self)

    monkeypatch.setattr(DirectoryFiles, "walk", remove_first)
    (problem,) = verify_store(store)
    assert problem.code == "store.replaced"
    assert issubclass(StoreReplaced, OSError)


FILES = [
    "images/he/s0/c/0/0/0", f"{X}/data/c/0", f"{OBS}/barcode/c/0", "shapes/spots/shapes.parquet",
    f"{SPOTS}/x/zarr.json",
]  # fmt: skip


@pytest.mark.parametrize("path", FILES)
def test_a_flipped_bit_is_found_when_looking_deep(store, path):
    flip(store / path)
    assert ("verify.checksum", path) in found(verify_store(store))


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("deep", [True, False])
def test_a_missing_file_and_a_short_one_are_found_at_a_glance(store, path, deep):
    os.truncate(store / path, (store / path).stat().st_size - 1)
    assert ("verify.size", path) in found(verify_store(store, deep=deep))
    (store / path).unlink()
    assert ("verify.missing-file", path) in found(verify_store(store, deep=deep))


def test_all_problems_are_found_at_once(store):
    for path in FILES[:3]:
        flip(store / path)
    (store / FILES[3]).unlink()
    (store / "images/he/s0/c/0/0/7").touch()
    assert found(verify_store(store)) == {
        *(("verify.checksum", path) for path in FILES[:3]),
        ("verify.missing-file", FILES[3]),
        ("verify.unlisted-file", "images/he/s0/c/0/0/7"),
        ("verify.attribute", FILES[3]),
    }


def test_hidden_files_are_no_part_of_a_store(store):
    (store / ".DS_Store").touch()
    (store / "images/.x").mkdir()
    (store / "images/.x/zarr.json").touch()
    assert verify_store(store) == []


@pytest.mark.parametrize("deep", [True, False])
def test_links_are_found(store, deep):
    outside = store.parent / "outside"
    shutil.move(store / FILES[0], outside)
    (store / FILES[0]).symlink_to(outside)
    assert found(verify_store(store, deep=deep)) == {("store.path", FILES[0])}


def test_a_linked_directory_is_found(store):
    outside = store.parent / "outside"
    shutil.move(store / "images", outside)
    (store / "images").symlink_to(outside)
    assert ("verify.unlisted-file", "images") in found(verify_store(store))


def test_names_that_cannot_be_printed_are_escaped(store):
    (store / os.fsdecode(b"\xff\x1b[31m")).touch()
    (problem,) = verify_store(store)
    assert str(problem).isprintable()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("stformat/commit.json", "commit.invalid"),
        ("stformat/manifest.json", "manifest.invalid"),
        ("zarr.json", "store.json"),
    ],
)
def test_records_that_are_none_are_found(store, path, code):
    (store / path).write_bytes(b"\0")
    assert code in {problem.code for problem in verify_store(store)}


def test_another_manifest_is_found(store):
    manifest = store / "stformat/manifest.json"
    document = json.loads(manifest.read_bytes())
    document["files"][0]["crc32c"] = "00000000"
    manifest.write_bytes(dump_canonical(document))
    codes = {problem.code for problem in verify_store(store)}
    assert {"manifest.digest", "verify.checksum"} <= codes


def test_a_changed_root_is_found(store):
    zarr.open_group(store, mode="r+").attrs["mine"] = 1
    assert found(verify_store(store)) == {("verify.root-changed", "zarr.json")}


def test_changed_metadata_of_an_array_are_found(store):
    zarr.open_array(store / f"{OBS}/x", mode="r+").resize((3,))
    assert ("verify.array", f"{OBS}/x") in found(verify_store(store, deep=False))


def test_consolidated_metadata_that_lie_are_found(store, edit_json, recommit):
    def lie(root):
        root["consolidated_metadata"]["metadata"]["images/he"]["attributes"]["ome"] = {}

    edit_json(store / "zarr.json", lie)
    recommit(store)
    assert found(verify_store(store)) == {("verify.consolidated", "images/he")}


@pytest.mark.parametrize("path", ["ghost", "../outside", "/etc", "a//b", "images/he/s0/c"])
def test_consolidated_nodes_that_are_not_there_are_found(store, edit_json, recommit, path):
    def lie(root):
        nodes = root["consolidated_metadata"]["metadata"]
        nodes[path] = nodes["images"]

    edit_json(store / "zarr.json", lie)
    recommit(store)
    assert found(verify_store(store)) == {("verify.consolidated", path)}


def test_nodes_that_are_not_consolidated_are_found(store, edit_json, recommit):
    def hide(root):
        del root["consolidated_metadata"]["metadata"][f"{OBS}/array_row"]

    edit_json(store / "zarr.json", hide)
    recommit(store)
    assert found(verify_store(store)) == {("verify.consolidated", f"{OBS}/array_row")}


def set_in_attribute(**values):
    def edit(store):
        root = json.loads((store / "zarr.json").read_bytes())
        root["attributes"]["stformat"]["tables"][0].update(values)
        (store / "zarr.json").write_text(json.dumps(root))

    return edit


def remove(path):
    return lambda store: shutil.rmtree(store / path)


def set_levels(store):
    root = json.loads((store / "zarr.json").read_bytes())
    root["attributes"]["stformat"]["image"]["n_levels"] += 1
    (store / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (set_in_attribute(n_obs=3), f"{X}/indptr"),
        (set_in_attribute(n_vars=3), X),
        (set_in_attribute(nnz=3), f"{BY_GENE}/data"),
        (set_in_attribute(region="nowhere"), "shapes/nowhere"),
        (set_levels, "images/he"),
        (remove("images/he/s0"), "images/he/s0"),
        (remove("tables/expression/X"), X),
        (remove("tables/expression/var"), "tables/expression/var"),
        (remove(f"{OBS}/x"), f"{OBS}/x"),
        (remove(f"{OBS}/barcode"), f"{OBS}/barcode"),
        (remove("shapes/spots"), "shapes/spots/shapes.parquet"),
        (remove(BY_GENE), BY_GENE),
        (remove(f"{SPOTS}/radius"), f"{SPOTS}/radius"),
        (lambda store: rewrite(store / SPOTS / "x", lambda x: x[:-1]), f"{SPOTS}/x"),
        (lambda store: rewrite(store / X / "data", np.int64), f"{X}/data"),
    ],
)
def test_a_store_must_hold_what_its_attribute_says(committed, edit, where):
    assert where in {problem.where for problem in committed(edit)}


def swapped(values):
    values[:2] = values[1::-1]
    return values


def plus_one(values):
    values[5] += 1
    return values


def descending(values):
    values[1], values[2] = values[2], values[1]
    return values


def repeated(values):
    values[1] = values[0]
    return values


def set_at(position, value):
    def change(values):
        values[position] = value
        return values

    return change


@pytest.mark.parametrize(
    ("path", "change", "code"),
    [
        (f"{X}/indptr", descending, "verify.indptr"),
        (f"{X}/indptr", set_at(0, 1), "verify.indptr"),
        (f"{X}/indptr", set_at(-1, 1), "verify.indptr"),
        (f"{BY_GENE}/indptr", descending, "verify.indptr"),
        (f"{X}/indices", swapped, "verify.indices"),
        (f"{X}/indices", repeated, "verify.indices"),
        (f"{X}/indices", set_at(0, -1), "verify.indices"),
        (f"{X}/indices", set_at(-1, 10**6), "verify.indices"),
        (f"{BY_GENE}/indices", set_at(-1, 10**6), "verify.indices"),
        (f"{X}/data", set_at(3, 0), "verify.values"),
        (f"{X}/data", set_at(3, -2), "verify.values"),
        (f"{BY_GENE}/data", plus_one, "verify.by-gene"),
        (f"{X}/data", plus_one, "verify.by-gene"),
        (f"{SPOTS}/x", plus_one, "verify.spots"),
        (f"{SPOTS}/y", plus_one, "verify.spots"),
        (f"{OBS}/n_genes", plus_one, "verify.sums"),
        (f"{OBS}/total_counts", plus_one, "verify.sums"),
    ],
)
def test_copies_of_the_counts_must_agree(committed, path, change, code):
    problems = committed(lambda store: rewrite(store / path, change))
    assert code in {problem.code for problem in problems}


def test_the_total_must_be_that_of_the_counts(committed):
    (problem,) = committed(set_in_attribute(total=1.0))
    assert problem.code == "verify.total"


@pytest.mark.parametrize("block", [7, 100])
def test_blocks_of_any_length_give_the_same_answer(small_store, monkeypatch, block):
    monkeypatch.setattr(content, "_VALUES_AT_ONCE", block)
    n_values = zarr.open_array(small_store / X / "data", mode="r").shape[0]
    assert n_values > 100
    assert verify_store(small_store) == []


def test_two_values_that_change_places_are_found(committed):
    """Sums of rows and genes stay what they were; the values are others."""

    def swap(store):
        data = zarr.open_array(store / BY_GENE / "data", mode="r")[:]
        indptr = zarr.open_array(store / BY_GENE / "indptr", mode="r")[:]
        gene = next(
            gene
            for gene in range(len(indptr) - 1)
            if len(set(data[indptr[gene] : indptr[gene + 1]])) > 1
        )
        rewrite(store / BY_GENE / "data", lambda values: _rolled(values, indptr, gene))

    (problem,) = committed(swap)
    assert problem.code == "verify.by-gene"


def _rolled(values, indptr, gene):
    part = slice(indptr[gene], indptr[gene + 1])
    values[part] = np.roll(values[part], 1)
    return values


def test_a_chunk_without_a_checksum_is_found(committed):
    def rewrite_plainly(store):
        values = zarr.open_array(store / SPOTS / "x", mode="r")[:]
        shutil.rmtree(store / SPOTS / "x")
        zarr.create_array(
            store / SPOTS / "x",
            data=values,
            shards=values.shape,
            chunks=values.shape,
            compressors=ZstdCodec(level=1, checksum=False),
        )

    (problem,) = committed(rewrite_plainly)
    assert (problem.code, problem.where) == ("verify.codecs", f"{SPOTS}/x")


def test_chunks_that_were_committed_broken_are_found(committed):
    paths = ["images/he/s0/c/0/0/0", f"{OBS}/barcode/c/0", f"{OBS}/array_row/c/0"]

    def break_all(store):
        for path in paths:
            flip(store / path, 0.3)

    problems = committed(break_all)
    for path in paths:
        assert any(problem.where.startswith(path.rpartition("/c/")[0]) for problem in problems)


def test_own_shards_that_were_committed_missing_are_found(committed):
    (problem,) = committed(lambda store: (store / "images/he/s0/c/0/0/0").unlink())
    assert (problem.code, problem.where) == ("verify.shards", "images/he/s0")


def test_a_shape_far_beyond_its_files_is_found_at_once(committed, edit_json):
    def grow(store):
        for name in ("x", "y"):
            for group in (OBS, SPOTS):
                edit_json(
                    store / group / name / "zarr.json",
                    lambda document: document.update(shape=[1 << 50]),
                )
        set_in_attribute(n_obs=1 << 50)(store)

    assert committed(grow)


def test_links_inside_are_not_followed_anywhere(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes((store / f"{OBS}/x/c/0").read_bytes())
    (store / f"{OBS}/x/c/0").unlink()
    (store / f"{OBS}/x/c/0").symlink_to(secret)
    assert found(verify_store(store)) == {("store.path", f"{OBS}/x/c/0")}
