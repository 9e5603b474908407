from __future__ import annotations

import pickle

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import stformat as stf
from stformat.errors import GeneLookupError, NotAStoreError
from stformat.lazy import arrays
from stformat.store.files import DirectoryFiles
from stformat.store.reader import open_slide

TILE_PX = 24


@st.composite
def indexers(draw, size):
    """What isel takes along one dimension."""
    kind = draw(st.sampled_from(["int", "slice", "array", "mask"]))
    if kind == "int" and size:
        return draw(st.integers(-size, size - 1))
    if kind == "array" and size:
        return np.array(draw(st.lists(st.integers(-size, size - 1), max_size=6)), dtype=np.int64)
    if kind == "mask":
        return draw(hnp.arrays(bool, size))
    return draw(st.slices(size))


def index_numpy(array, dims, chosen):
    """Index one dimension after the other: the plain definition."""
    for axis in reversed(range(len(dims))):
        if dims[axis] in chosen:
            array = array[(slice(None),) * axis + (chosen[dims[axis]],)]
    return array


@pytest.fixture(scope="session")
def dataset(wide) -> xr.Dataset:
    return stf.open_dataset(wide, tile_px=TILE_PX, normalize="log1p")


@pytest.fixture(scope="session")
def whole(wide):
    """Every variable as NumPy arrays, read through the slide."""
    return {
        "tiles": wide.tiles(TILE_PX)[:],
        "expression": wide.expression(np.arange(wide.n_obs), normalize="log1p"),
        "x_um": wide.obs["x"].to_numpy() * wide.mpp,
        "gene_key": wide.var.index.to_numpy(dtype=object),
    }


def test_the_dataset_is_what_is_documented(dataset, whole):
    assert dict(dataset.sizes) == {
        "obs": 40, "c": 3, "tile_y": TILE_PX, "tile_x": TILE_PX, "var": 30,
    }  # fmt: skip
    assert list(dataset.data_vars) == ["tiles", "expression"]
    assert dataset["tiles"].dims == ("obs", "c", "tile_y", "tile_x")
    assert dataset["expression"].dims == ("obs", "var")
    assert (dataset["tiles"].dtype, dataset["expression"].dtype) == (np.uint8, np.float32)
    along = {name: coord.dims for name, coord in dataset.coords.items()}
    assert along == {
        **dict.fromkeys(
            ["slide", "barcode", "x_px", "y_px", "x_um", "y_um", "in_tissue"], ("obs",)
        ),
        **dict.fromkeys(["gene_key", "gene_id", "gene_name"], ("var",)),
        "c": ("c",),
    }
    assert list(dataset.xindexes) == ["c"]
    assert dataset.attrs == {
        "slide_id": "synthetic-0", "technology": "ST", "mpp": 0.5, "tile_mpp": 0.5,
        "normalize": "log1p", "target_sum": 1e4,
    }  # fmt: skip
    for name, values in whole.items():
        np.testing.assert_array_equal(dataset[name].to_numpy(), values)


def test_coordinates_equal_the_tables_of_the_slide(wide, dataset):
    assert dataset["c"].to_numpy().tolist() == ["r", "g", "b"]
    assert dataset["barcode"].to_numpy().tolist() == wide.obs.index.tolist()
    np.testing.assert_array_equal(dataset["x_px"], wide.obs["x"])
    np.testing.assert_array_equal(dataset["y_px"], wide.obs["y"])
    np.testing.assert_array_equal(dataset["y_um"], wide.obs["y"] * 0.5)
    np.testing.assert_array_equal(dataset["in_tissue"], wide.obs["in_tissue"])
    assert dataset["in_tissue"].dtype == bool
    assert dataset["slide"].to_numpy().tolist() == ["synthetic-0"] * 40
    assert dataset["x_um"].attrs == {"units": "um"}
    assert dataset["x_px"].attrs == {"units": "px"}
    assert dataset["gene_name"].to_numpy().tolist() == [f"G{i}" for i in range(30)]
    gene_id = dataset["gene_id"].to_numpy()
    assert gene_id[0] is None
    assert gene_id[1] == "ENSG00000000001"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("name", ["tiles", "expression", "x_um", "gene_key"])
def test_any_indexer_reads_what_numpy_would(data, dataset, whole, name):
    array, lazy = whole[name], dataset[name]
    for _ in range(2):
        dims = data.draw(st.sets(st.sampled_from(lazy.dims)) if lazy.dims else st.just(set()))
        chosen = {dim: data.draw(indexers(lazy.sizes[dim])) for dim in sorted(dims)}
        array, lazy = index_numpy(array, lazy.dims, chosen), lazy.isel(chosen)
    assert lazy.shape == np.shape(array)
    np.testing.assert_array_equal(lazy.to_numpy(), array)
    assert lazy.to_numpy().dtype == whole[name].dtype


def test_points_are_read_one_by_one(dataset, whole):
    points = {"obs": [3, 39, 3], "c": [0, 2, 1], "tile_x": [5, 5, 0]}
    picked = dataset["tiles"].isel({dim: ("point", at) for dim, at in points.items()})
    np.testing.assert_array_equal(
        picked.transpose("point", "tile_y").to_numpy(),
        whole["tiles"][points["obs"], points["c"], :, points["tile_x"]],
    )


@pytest.mark.parametrize("chunks", [None, {"obs": 20}])
def test_nothing_but_metadata_is_read_to_open_and_to_print(store, monkeypatch, chunks):
    paths: list[str] = []
    for name in ("read", "read_range", "read_tail"):
        original = getattr(DirectoryFiles, name)

        def spy(self, path, *args, _original=original, **options):
            paths.append(path)
            return _original(self, path, *args, **options)

        monkeypatch.setattr(DirectoryFiles, name, spy)
    with stf.open_dataset(store("wide"), chunks=chunks) as dataset:
        assert ("..." if chunks is None else "dask.array") in repr(dataset)
        assert "<svg" in dataset._repr_html_()
        assert paths
        assert [path for path in paths if not path.endswith(".json")] == []
        assert dataset["tiles"].isel(obs=0).to_numpy().any()
        assert [path for path in paths if not path.endswith(".json")] != []


def test_positions_do_not_load_the_table(store):
    with stf.open_slide(store("wide")) as slide:
        dataset = stf.open_dataset(slide, chunks={})
        np.testing.assert_array_equal(dataset["y_um"][[7, 3]], slide.centers_px([7, 3])[:, 1] * 0.5)
        assert "obs" not in vars(slide._table)


def test_only_the_wanted_rows_and_genes_are_read(wide, reads):
    dataset = stf.open_dataset(wide, tile_px=TILE_PX)
    assert reads == []
    dataset["tiles"].isel(obs=[30, 2, 30], c=1, tile_y=slice(0, 3)).to_numpy()
    ((name, rows),) = reads
    assert name == "tiles"
    np.testing.assert_array_equal(rows, [30, 2, 30])
    reads.clear()
    dataset["expression"].isel(obs=slice(4, 12, 3), var=[7, 5, 7]).to_numpy()
    ((name, (rows, genes)),) = reads
    assert name == "expression"
    np.testing.assert_array_equal(rows, [4, 7, 10])
    assert list(genes) == ["G5", "G7"]
    reads.clear()
    dataset["tiles"].isel(obs=slice(0, 0)).to_numpy()
    assert reads == []


def test_genes_come_in_the_order_asked_for(wide):
    dataset = stf.open_dataset(wide, genes=["G9", "G2"])
    assert dataset["gene"].to_numpy().tolist() == ["G9", "G2"]
    assert dataset["gene_key"].to_numpy().tolist() == ["G9", "G2"]
    assert dataset["gene_id"].to_numpy().tolist() == [None, "ENSG00000000002"]
    counts = wide.counts[:].toarray()
    np.testing.assert_array_equal(dataset["expression"], counts[:, [9, 2]])
    np.testing.assert_array_equal(dataset["expression"].isel(var=-1), counts[:, 2])
    np.testing.assert_array_equal(dataset["expression"].isel(var=[1, 0, 1]), counts[:, [2, 9, 2]])
    reversed_keys = wide.var.index[::-1]
    everything = stf.open_dataset(wide, genes=list(reversed_keys))
    np.testing.assert_array_equal(everything["expression"], counts[:, ::-1])
    assert stf.open_dataset(wide, genes=[])["expression"].to_numpy().shape == (40, 0)


@pytest.mark.parametrize("target_sum", [None, 100.0])
def test_normalisation_is_the_slides_own(wide, target_sum):
    dataset = stf.open_dataset(wide, genes=["G9"], normalize="log1p", target_sum=target_sum)
    expected = wide.expression(
        np.arange(wide.n_obs), ["G9"], normalize="log1p", target_sum=target_sum
    )
    np.testing.assert_array_equal(dataset["expression"], expected)
    assert dataset.attrs["target_sum"] == (target_sum or np.median(wide.obs["total_counts"]))


def test_raw_counts_name_no_normalisation(wide):
    attributes = stf.open_dataset(wide).attrs
    assert not {"normalize", "target_sum"} & attributes.keys()


def test_tiles_at_an_mpp_are_the_slides_own(wide):
    dataset = stf.open_dataset(wide, tile_px=16, mpp=1.3)
    np.testing.assert_array_equal(dataset["tiles"], wide.tiles(16, mpp=1.3)[:])
    assert dataset.attrs["tile_mpp"] == 1.3


def test_a_slide_without_an_image_has_no_tiles(store):
    with stf.open_dataset(store("no-image"), chunks={}) as dataset:
        assert list(dataset.data_vars) == ["expression"]
        assert set(dataset.sizes) == {"obs", "var"}
        assert "tile_mpp" not in dataset.attrs
        assert dataset["expression"].to_numpy().shape == (40, 30)


def test_an_unknown_mpp_has_no_microns(store):
    with stf.open_dataset(store("unknown-mpp"), tile_px=8) as dataset:
        assert not {"x_um", "y_um"} & set(dataset.coords)
        assert not {"mpp", "tile_mpp"} & dataset.attrs.keys()
        assert dataset["tiles"].isel(obs=0).to_numpy().shape == (3, 8, 8)
    with pytest.raises(ValueError, match="known"):
        stf.open_dataset(store("unknown-mpp"), mpp=0.5)


def test_fluorescence_keeps_its_type_and_its_channels(store):
    with stf.open_dataset(store("fluorescence"), tile_px=8) as dataset:
        assert dataset["tiles"].dtype == np.uint16
        assert dataset["c"].to_numpy().tolist() == ["ch0", "ch1", "ch2", "ch3"]
        np.testing.assert_array_equal(
            dataset["tiles"].sel(c="ch2"), dataset["tiles"].to_numpy()[:, 2]
        )


def test_rows_are_found_by_barcode_once_an_index_is_wanted(dataset):
    indexed = dataset.set_xindex("barcode")
    barcode = str(dataset["barcode"][7].item())
    assert indexed.sel(barcode=barcode)["x_px"].item() == dataset["x_px"][7].item()


def test_dask_chunks_follow_cells_and_the_limit(wide, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_CHUNK_BYTES", 7 * 3 * TILE_PX**2)
    dataset = stf.open_dataset(wide, tile_px=TILE_PX, chunks={})
    xy = wide.obs[["x", "y"]].to_numpy()
    assert dataset.chunks["obs"] == arrays.row_chunks(xy, max_rows=7)
    # Left and right of the image are spots too: five cells, not three.
    assert len(arrays.row_chunks(xy, max_rows=1000)) > 2
    by_engine = xr.open_dataset(wide, engine="stformat", tile_px=TILE_PX, chunks={})
    assert by_engine.chunks == dataset.chunks


@pytest.mark.parametrize("chunks", [{}, {"obs": 11}, {"var": 7}, {"obs": -1, "c": 1}])
def test_dask_computes_what_is_read_eagerly(wide, dataset, chunks):
    chunked = stf.open_dataset(wide, tile_px=TILE_PX, normalize="log1p", chunks=chunks)
    assert all(dask.is_dask_collection(chunked[name].data) for name in chunked.data_vars)
    xr.testing.assert_identical(chunked.compute(), dataset.compute())
    if "obs" in chunks:
        assert chunked.chunks["obs"][0] == (11 if chunks["obs"] == 11 else 40)


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_dataset_pickles_by_reopening(store, dataset, chunks):
    with stf.open_dataset(
        store("wide"), tile_px=TILE_PX, normalize="log1p", chunks=chunks
    ) as opened:
        pickled = pickle.dumps(opened)
    # The first is closed by now; the copy has a slide of its own.
    with pickle.loads(pickled) as copy:  # noqa: S301 - pickled above
        xr.testing.assert_identical(copy.compute(), dataset.compute())


def test_other_processes_compute_the_same(store, dataset):
    with (
        stf.open_dataset(store("wide"), tile_px=TILE_PX, chunks={"obs": 20}) as chunked,
        dask.config.set({"multiprocessing.context": "spawn"}),
    ):
        tiles = chunked["tiles"].data.compute(scheduler="processes", num_workers=2)
    np.testing.assert_array_equal(tiles, dataset["tiles"])


def test_a_copy_is_deep_only_in_what_is_read(wide):
    dataset = stf.open_dataset(wide, tile_px=TILE_PX)
    deep = dataset.copy(deep=True)
    np.testing.assert_array_equal(deep["tiles"].isel(obs=1), dataset["tiles"].isel(obs=1))


@pytest.mark.parametrize("chunks", [None, {}])
def test_closing_closes_only_what_was_opened_here(store, closed, chunks):
    with stf.open_dataset(store("wide"), chunks=chunks):
        assert closed == []
    assert len(closed) == 1
    with open_slide(store("wide")) as slide:
        with stf.open_dataset(slide, tile_px=8, chunks=chunks) as dataset:
            pass
        assert len(closed) == 1
        assert dataset["tiles"].isel(obs=0).to_numpy().shape == (3, 8, 8)


def test_a_slide_is_closed_when_its_dataset_cannot_be_made(store, closed):
    with pytest.raises(GeneLookupError, match="NO-SUCH-GENE"):
        stf.open_dataset(store("wide"), genes=["NO-SUCH-GENE"])
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_px": 0}, "tile_px"),
        ({"mpp": -1.0}, "mpp"),
        ({"normalize": "sqrt"}, "normalize"),
        ({"target_sum": 0.0}, "target_sum"),
        ({"target_sum": float("nan")}, "target_sum"),
    ],
)
def test_impossible_options_are_refused_when_opening(wide, options, message):
    with pytest.raises(ValueError, match=message):
        stf.open_dataset(wide, **options)


def test_what_is_no_slide_is_refused(tmp_path):
    with pytest.raises(NotAStoreError):
        stf.open_dataset(tmp_path / "missing")
    with pytest.raises(TypeError, match="path or an opened Slide"):
        stf.open_dataset(b"bytes")
