"""A slide at a URL is the slide in the directory, at a cost that is counted."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import traceback

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import stformat as stf
from stformat.cli import app
from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    StformatError,
    StoreChangedWarning,
    StoreReplaced,
    UncommittedStoreError,
    UnsupportedStoreError,
)
from stformat.store import object_files
from stformat.store.edit import add_element
from stformat.store.object_files import GAP_BYTES

X = "tables/expression/X"


@pytest.fixture
def local(small_store):
    with stf.open_slide(small_store) as slide:
        yield slide


def shard_requests(server, part):
    """Requests for shards below a path, but the commit record's."""
    return [request for request in server.seen(part) if request.path.rsplit("/", 1)[-1].isdigit()]


def test_opening_takes_two_requests(url, server, local):
    with stf.open_slide(url) as slide:
        assert repr(slide) == repr(local)
        assert slide.levels == local.levels
        assert slide.metadata == local.metadata
    assert [(request.method, request.path) for request in server.requests] == [
        ("GET", "slide.zarr/zarr.json"),
        ("GET", "slide.zarr/stformat/commit.json"),
    ]


def test_everything_reads_as_it_does_locally(url, local):
    with stf.open_slide(url) as slide:
        np.testing.assert_array_equal(slide.tiles(64)[:], local.tiles(64)[:])
        np.testing.assert_array_equal(
            slide.tiles(48, field="spot")[:9], local.tiles(48, field="spot")[:9]
        )
        np.testing.assert_array_equal(slide.thumbnail(200), local.thumbnail(200))
        assert (slide.counts[:] != local.counts[:]).nnz == 0
        names = list(local.var.index[[5, 2]])
        assert (slide.counts.genes(names) != local.counts.genes(names)).nnz == 0
        np.testing.assert_array_equal(
            slide.expression(range(7), names, normalize="log1p"),
            local.expression(range(7), names, normalize="log1p"),
        )
        pd.testing.assert_frame_equal(slide.obs, local.obs)
        pd.testing.assert_frame_equal(slide.var, local.var)
        assert slide.rows([local.obs.index[3]]).tolist() == [3]


def test_what_looks_wrong_is_looked_for_at_a_url_too(url, small_store):
    assert stf.check_store(url) == stf.check_store(small_store)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it is read only
)
@given(
    level=st.integers(0, 1),
    corner=st.tuples(st.integers(-50, 900), st.integers(-50, 1100)),
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    rows=st.lists(st.integers(0, 48), max_size=12),
)
def test_any_read_is_the_local_one(open_url, local, *, level, corner, size, rows):
    with open_url() as slide:
        np.testing.assert_array_equal(
            slide.read_region(level, *corner, *size), local.read_region(level, *corner, *size)
        )
        assert (slide.counts[rows] != local.counts[rows]).nnz == 0


def test_an_image_shard_takes_a_request_for_its_index_and_one_for_its_pixels(url, server):
    with stf.open_slide(url) as slide:
        slide.read_region(0, 0, 0, 900, 1100)
        assert len(shard_requests(server, "/he/s0/")) == 2
        server.requests.clear()
        slide.read_region(0, 10, 10, 300, 300)
        assert server.requests == []  # decoded chunks are kept


def test_chunks_near_one_another_are_one_request_and_others_one_each(url, server, local):
    with stf.open_slide(url) as slide:
        centers = np.array([[100.0, 100.0], [600.0, 100.0]])  # columns of chunks 0 and 2 of 5
        slide.tiles(32, centers_px=centers)[:]
        index, pixels = shard_requests(server, "/he/s0/")
        assert index.range.startswith("bytes=-")
        assert pixels.n_bytes < 3 * GAP_BYTES
    server.requests.clear()
    with stf.open_slide(url) as slide:
        centers = np.array([[600.0, 600.0], [100.0, 100.0]])  # a MB apart
        apart = slide.tiles(32, centers_px=centers)[:]
        assert len(shard_requests(server, "/he/s0/")) == 3
        np.testing.assert_array_equal(apart, local.tiles(32, centers_px=centers)[:])


def test_counts_take_at_most_two_requests_a_shard(url, server):
    with stf.open_slide(url) as slide:
        slide.counts[[3, 9]]
        for name in ("indptr", "data", "indices"):
            assert 1 <= len(shard_requests(server, f"{X}/{name}/")) <= 2
        server.requests.clear()
        slide.counts[[3, 9]]
        assert server.requests == []


def test_a_table_takes_one_request_a_file_that_is_small(url, server, local):
    with stf.open_slide(url) as slide:
        _ = slide.obs
    paths = [request.path for request in server.seen("/obs/")]
    assert len(paths) == len(set(paths)) >= len(local.obs.columns)


def test_reads_wait_at_the_same_time(url, server):
    server.latency_s = 0.2
    with stf.open_slide(url) as slide:
        _ = slide.obs
    # One after the other they would wait for the sum of these.
    assert len(server.seen("/obs/")) > 8
    assert server.most_at_once > 4


def test_no_request_is_made_again_for_what_failed_to_exist(server, own_copy):
    (own_copy / "stformat/commit.json").unlink()
    with pytest.raises(UncommittedStoreError):
        stf.open_slide(f"{server.url}/slide.zarr")
    assert len(server.requests) == 2
    with pytest.raises(NotAStoreError):
        stf.open_slide(f"{server.url}/nothing.zarr")


def test_a_missing_shard_is_corruption(server, own_copy):
    (own_copy / "images/he/s0/c/0/0/0").unlink()
    with (
        stf.open_slide(f"{server.url}/slide.zarr") as slide,
        pytest.raises(CorruptStoreError, match="must exist"),
    ):
        slide.read_region(0, 0, 0, 8, 8)


def test_a_flipped_bit_is_corruption(server, own_copy):
    shard = own_copy / "images/he/s0/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    with stf.open_slide(f"{server.url}/slide.zarr") as slide, pytest.raises(CorruptStoreError):
        slide.read_region(0, 0, 0, 8, 8)
    problems = stf.verify_store(f"{server.url}/slide.zarr")
    assert {problem.code for problem in problems} == {"verify.checksum"}


def test_a_store_at_a_url_is_verified(url, own_copy):
    assert stf.verify_store(url) == []
    assert stf.verify_store(url, deep=False) == []
    (own_copy / "tables/expression/obs/x/c/0").unlink()
    assert [problem.code for problem in stf.verify_store(url)] == ["store.file-missing"]


def test_annotations_are_read(server, own_copy):
    outline = geopandas.GeoDataFrame({"geometry": [shapely.box(0, 0, 50, 60)]})
    add_shapes(own_copy, outline)
    with stf.open_slide(f"{server.url}/slide.zarr") as slide:
        assert list(slide.annotations) == ["tumour"]
        assert slide.annotations["tumour"].geometry.area.tolist() == [3000.0]


def add_shapes(store, outline):
    def write(directory):
        shutil.copy(store / "shapes/spots/zarr.json", directory)
        outline.to_parquet(directory / "shapes.parquet")

    add_element(store, "shapes", "tumour", write)


def test_a_store_that_was_changed_is_read_node_by_node(server, own_copy, edit_json, local):
    edit_json(own_copy / "zarr.json", lambda root: root["attributes"].update(mine=1))
    with pytest.warns(StoreChangedWarning, match="slide.zarr"):
        slide = stf.open_slide(f"{server.url}/slide.zarr")
    with slide:
        np.testing.assert_array_equal(slide.tiles(32)[:5], local.tiles(32)[:5])
        pd.testing.assert_frame_equal(slide.obs, local.obs)
    assert len(server.seen("obs/x/zarr.json")) == 1


def test_a_pickled_slide_opens_the_same_version_with_its_options(own_copy, open_url, other_store):
    with open_url() as slide:
        pickled = pickle.dumps(slide)
        first = slide.tiles(32)[0]
    with pickle.loads(pickled) as again:  # noqa: S301 - our own
        np.testing.assert_array_equal(again.tiles(32)[0], first)
    shutil.rmtree(own_copy)
    shutil.copytree(other_store, own_copy)
    with pytest.raises(StoreReplaced, match="another version"):
        pickle.loads(pickled)  # noqa: S301 - our own


@pytest.fixture(scope="session")
def other_store(tmp_path_factory):
    """Another slide in arrays of the same shape as those of the small store."""
    from stformat.testing import make_slide, write_legacy_st

    folder = tmp_path_factory.mktemp("other")
    source = write_legacy_st(
        make_slide(height=900, width=1100, n_genes=120, seed=8), folder / "source"
    )
    return stf.convert_slide(source, folder / "other.zarr")


def test_a_store_that_is_replaced_is_never_mixed_with_the_next(own_copy, open_url, other_store):
    with open_url() as slide:
        first = slide.tiles(32)[:3]
        shutil.rmtree(own_copy)
        shutil.copytree(other_store, own_copy)
        # What was read stays what it was; anything new says that there is another.
        np.testing.assert_array_equal(slide.tiles(32)[:3], first)
        for read in (
            lambda: slide.counts[:5],
            lambda: slide.obs,
            lambda: slide.read_region(1, 0, 0, 50, 50),
        ):
            with pytest.raises(StoreReplaced):
                read()


def test_a_store_whose_record_is_gone_is_being_replaced(own_copy, open_url):
    with open_url() as slide:
        (own_copy / "stformat/commit.json").unlink()
        with pytest.raises(StoreReplaced):
            slide.read_region(0, 0, 0, 8, 8)
        with pytest.raises(StoreReplaced):  # nor from what was kept of it
            slide.read_region(0, 0, 0, 8, 8)


def test_an_object_that_changes_between_two_reads_is_another_version(own_copy, open_url):
    shard = own_copy / "images/he/s0/c/0/0/0"
    with open_url() as slide:
        slide.read_region(0, 0, 0, 8, 8)
        shard.write_bytes(shard.read_bytes())  # the same bytes, later
        os.utime(shard, (1, 1))
        with pytest.raises(StoreReplaced):
            slide.read_region(0, 400, 500, 8, 8)


@pytest.mark.parametrize("chunks", [None, {}])
def test_xarray_opens_a_url(url, small_store, chunks):
    options = {"tile_px": 32, "chunks": chunks}
    with (
        xr.open_dataset(url, engine="stformat", **options) as remote,
        xr.open_dataset(small_store, engine="stformat", **options) as here,
    ):
        picked = {"obs": slice(4, 9)}
        xr.testing.assert_equal(remote.isel(picked).load(), here.isel(picked).load())
    with xr.open_datatree(url, engine="stformat") as tree:
        assert tree["s0"].sizes == {"c": 3, "y": 900, "x": 1100}
    with xr.open_dataset(url) as guessed:
        assert "tiles" in guessed
    with stf.open_dataset(url, chunks=chunks) as own, stf.open_datatree(url) as levels:
        assert own.sizes["obs"] == here.sizes["obs"]
        assert set(levels.children) == set(tree.children)


def test_other_urls_are_not_asked_whether_they_are_stores(server):
    backend = xr.backends.plugins.list_engines()["stformat"]
    assert not backend.guess_can_open(f"{server.url}/slide.nc")
    assert not backend.guess_can_open("ftp://example.invalid/slide.zarr")
    assert server.requests == []
    assert not backend.guess_can_open(f"{server.url}/nothing.zarr")


def test_the_command_line_takes_urls_and_hides_their_secrets(server, url):
    runner = CliRunner()
    secret = url.replace("http://", "http://me:hidden@") + "?signature=hidden"
    for command in (["info"], ["info", "--json"], ["verify", "--shallow"]):
        result = runner.invoke(app, [*command, secret])
        assert result.exit_code == 0, result.output
        assert "slide.zarr" in result.output
        assert "hidden" not in result.output
    assert {request.query for request in server.requests} == {"signature=hidden"}
    assert all(request.authorization.startswith("Basic ") for request in server.requests)


def test_secrets_stand_in_no_message(server, caplog):
    secret = "open" + "sesame"  # source lines in tracebacks do not show it as one
    caplog.set_level(0)
    address = f"{server.url}/slide.zarr?signature={secret}".replace(
        "http://", f"http://me:{secret}@"
    )
    errors = []

    def fail(read):
        with pytest.raises(StformatError) as caught:
            read()
        errors.append(caught.value)

    slide = stf.open_slide(address)
    texts = [repr(slide), repr(slide.opened.location)]
    for status in (403, 404, 400):
        server.fault = lambda _path, _nth, status=status: status
        fail(lambda: slide.read_region(0, 0, 0, 8, 8))
    fail(lambda: stf.open_slide(address))
    with pytest.raises(ValueError, match="bad_key") as caught:
        stf.open_slide(address, storage_options={"bad_key": secret})
    errors.append(caught.value)
    fail(lambda: stf.open_slide(address.replace("http://", "ftp://")))
    fail(lambda: stf.seal_store(address))
    texts += [text for error in errors for text in traceback.format_exception(error)]
    texts += [repr(error) for error in errors]
    assert secret not in "".join(texts) + caplog.text


def test_a_forked_process_is_told_to_be_started_otherwise(url, monkeypatch):
    with stf.open_slide(url) as slide:
        monkeypatch.setattr(object_files, "_process", os.getpid() + 1)
        with pytest.raises(StformatError, match="forkserver"):
            slide.read_region(0, 0, 0, 8, 8)


def test_the_extra_is_named_where_it_is_missing(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UnsupportedStoreError, match=r"stformat\[remote\]"):
        stf.open_slide(url)


def test_local_stores_do_without_obstore(small_store):
    code = (
        "import sys, stformat as stf\n"
        f"with stf.open_slide({os.fspath(small_store)!r}) as slide:\n"
        "    slide.tiles(32)[0], slide.counts[0]\n"
        "print([name for name in sys.modules if name.startswith(('obstore', 'zipfile'))])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "obstore" not in run.stdout
