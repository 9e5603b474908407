"""A whole store, not yet committed: its parts, its bytes, and what stops it."""

import contextlib
import dataclasses
import json
import resource

import numpy as np
import pytest
import zarr
from scipy import sparse

from stformat.errors import StoreWriteError
from stformat.metadata.stformat_v0_1 import StformatAttributes
from stformat.store.writer import STEPS, write_slide
from stformat.testing.records import make_counts, make_record

replace = dataclasses.replace


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def attributes(directory):
    return json.loads((directory / "zarr.json").read_bytes())["attributes"]


@pytest.fixture
def target(tmp_path):
    directory = tmp_path / "slide"
    directory.mkdir()
    return directory


def test_the_layout_is_that_of_the_specification(target):
    write_slide(make_record(), target)
    groups = {
        str(path.parent.relative_to(target))
        for path in target.rglob("zarr.json")
        if json.loads(path.read_bytes())["node_type"] == "group"
    }
    expected = {
        *(".", "images", "images/he", "shapes", "shapes/spots", "tables", "tables/expression"),
        *("stformat", "stformat/expression", "stformat/expression/spots"),
        "stformat/expression/by_gene",
    }
    assert expected <= groups
    parts = {path.name for path in (target / "tables" / "expression").iterdir()}
    names = {"X", "obs", "var", "uns", "layers", "obsm", "obsp", "varm", "varp", "zarr.json"}
    assert parts == names
    assert {path.name for path in target.iterdir()} == {
        *("zarr.json", "images", "shapes", "tables", "stformat"),
    }
    assert {path.name for path in (target / "stformat").iterdir()} == {"zarr.json", "expression"}
    assert not list(target.rglob(".*"))


def test_the_root_describes_the_slide(target):
    record = make_record()
    write_slide(record, target)
    root = attributes(target)
    assert root["spatialdata_attrs"]["version"] == "0.2"
    described = StformatAttributes.model_validate_json(json.dumps(root["stformat"]))
    matrix = np.vstack([block.toarray() for block in record.tables[0].counts.iter_blocks()])
    (table,) = described.tables
    assert (table.n_obs, table.n_vars) == matrix.shape
    assert (table.nnz, table.total) == (np.count_nonzero(matrix), matrix.sum())
    assert [section.name for section in described.sections] == ["left", "right"]
    assert [source.name for source in described.sources] == ["counts.tsv", "image.tif"]
    assert described.image.n_levels == 1
    assert {"stformat", "zarr", "numcodecs"} <= described.software.keys()


def test_consolidated_metadata_is_all_metadata(target):
    write_slide(make_record(image_px=(1100, 900)), target)
    root = json.loads((target / "zarr.json").read_bytes())
    consolidated = root["consolidated_metadata"]["metadata"]
    found = {
        str(path.parent.relative_to(target)): json.loads(path.read_bytes())
        for path in target.rglob("zarr.json")
        if path.parent != target
    }
    assert consolidated.keys() == found.keys()
    for path, document in found.items():
        for key, value in document.items():
            assert consolidated[path][key] == value, (path, key)


@pytest.mark.parametrize("options", [{}, {"shape": "square", "count_dtype": np.float32}])
def test_the_same_record_gives_the_same_bytes(tmp_path, monkeypatch, options):
    stores = []
    for threads in (None, "1", "4"):
        if threads is not None:
            monkeypatch.setenv("STFORMAT_NUM_THREADS", threads)
        directory = tmp_path / f"threads-{threads}"
        directory.mkdir()
        write_slide(make_record(n_obs=300, image_px=(1100, 700), **options), directory)
        stores.append(contents(directory))
    assert stores[0] == stores[1] == stores[2]


def test_no_path_of_this_machine_is_in_a_store(target):
    write_slide(make_record(), target)
    for name, content in contents(target).items():
        assert str(target).encode() not in content, name


def test_the_order_of_sources_and_blocks_leaves_no_trace(tmp_path):
    record = make_record()
    table = record.tables[0]
    matrix = sparse.vstack(list(table.counts.iter_blocks()), format="csr")
    other_blocks = replace(table, counts=make_counts(matrix, block_rows=13))
    other = replace(record, sources=record.sources[::-1], tables=(other_blocks,))
    for name, each in (("a", record), ("b", other)):
        (tmp_path / name).mkdir()
        write_slide(each, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_without_an_image_there_are_no_images(target):
    events = []
    write_slide(make_record(image_px=None), target, progress=events.append)
    assert not (target / "images").exists()
    assert attributes(target)["stformat"]["image"] is None
    assert "image" not in {event.step for event in events}


def test_without_mpp_there_is_no_micron(target):
    write_slide(make_record(mpp=None), target)
    assert attributes(target)["stformat"]["mpp"] == {
        "value": None,
        "method": "unknown",
        "residual": None,
    }
    for element in ("images/he", "shapes/spots"):
        text = (target / element / "zarr.json").read_text()
        assert '"global"' in text
        assert "micron" not in text
    assert "micrometer" not in (target / "images" / "zarr.json").read_text()


def test_tables_of_one_region_share_its_shapes(target):
    record = make_record()
    first = record.tables[0]
    proteins = replace(
        first,
        name="antibody_capture",
        counts=make_counts(sparse.csr_array(np.eye(*first.counts.shape, dtype=np.int32))),
    )
    write_slide(replace(record, tables=(first, proteins)), target)
    assert [path.name for path in (target / "shapes").iterdir() if path.is_dir()] == ["spots"]
    names = [table["name"] for table in attributes(target)["stformat"]["tables"]]
    assert names == ["expression", "antibody_capture"]
    group = zarr.open_group(str(target), mode="r")
    np.testing.assert_array_equal(
        group["tables/expression/obs/source_index"][...],
        group["tables/antibody_capture/obs/source_index"][...],
    )


def test_steps_come_in_their_order(target):
    events = []
    write_slide(make_record(), target, progress=events.append)
    assert tuple(dict.fromkeys(event.step for event in events)) == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_a_consumer_can_stop_at_every_step(target, step):
    class StopHere(Exception):  # noqa: N818 - it is no error
        pass

    def progress(event):
        if event.step == step:
            raise StopHere

    with pytest.raises(StopHere):
        write_slide(make_record(), target, progress=progress)
    # What makes a reader believe in a store is not there before the last step.
    assert "consolidated_metadata" not in (
        json.loads((target / "zarr.json").read_bytes()) if step == "consolidate" else {}
    )


@contextlib.contextmanager
def refusing_system():
    """Yield a function that makes the system refuse files over a size, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("step", "n_bytes", "where"),
    [
        ("image", 0, "images/he/s0/c/0/0/0"),
        ("image", 20_000, "images/he/s0/c/0/0/0"),
        ("shapes", 0, "shapes/spots/zarr.json"),
        ("shapes", 2_000, "shapes/spots/shapes.parquet"),
        ("matrix", 0, "tables/expression/X/data/c/0"),
        ("by-gene", 0, "stformat/expression/by_gene/data/c/0"),
        ("table", 0, "stformat/expression/spots/x/c/0"),
        ("table", 3_000, "tables/expression/obs"),
        ("root", 0, "zarr.json"),
        ("consolidate", 10_000, "zarr.json"),
    ],
)
def test_refused_writes_are_typed_wherever_they_happen(target, step, n_bytes, where):
    record = make_record(n_obs=200, image_px=(120, 130))
    table = record.tables[0]
    # Barcodes that do not compress: the first array over 3000 bytes that AnnData writes.
    letters = np.random.default_rng(0).integers(33, 127, (200, 40), np.uint8)
    barcodes = np.array([bytes(row).decode() for row in letters], dtype=object)
    table = replace(table, spots=replace(table.spots, barcodes=barcodes))
    with refusing_system() as refuse_over:

        def progress(event):
            if event.step == step:
                refuse_over(n_bytes)

        with pytest.raises(StoreWriteError) as caught:
            write_slide(replace(record, tables=(table,)), target, progress=progress)
    (problem,) = caught.value.problems
    assert "EFBIG" in problem.found
    assert problem.where == str(target / where)


def test_an_unreadable_source_is_no_refused_write(target):
    record = make_record()

    def gone(_height):
        raise OSError(5, "the source's disk is gone")

    with pytest.raises(OSError, match="source's disk") as caught:
        write_slide(replace(record, image=replace(record.image, iter_bands=gone)), target)
    assert not isinstance(caught.value, StoreWriteError)
