"""An open slide says and reads what was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stformat import coords
from stformat.errors import (
    BarcodeLookupError,
    CorruptStoreError,
    GeneLookupError,
    NoImageError,
    StoreChangedWarning,
    TableLookupError,
)
from stformat.kernels import downsample_2x2, normalize_log1p
from stformat.store.commit import add_element
from stformat.store.reader import open_slide
from stformat.testing.records import make_record


def test_it_says_what_it_is(slide, record):
    assert slide.slide_id == record.slide_id == slide.metadata.slide_id
    assert slide.has_image
    assert slide.mpp == 0.5
    assert slide.tables == ("expression", "expression_square_008um")
    assert (slide.n_obs, slide.n_vars) == (60, 30)
    assert slide.channel_names == ("r", "g", "b")
    assert slide.dtype == np.uint8
    assert repr(slide) == (
        "<Slide synthetic-0: ST, 700 x 1100 px, mpp 0.5, "
        "60 x 30 in *expression, expression_square_008um>"
    )


def test_levels(slide):
    assert [(n.level, n.height, n.width, n.downsample, n.mpp) for n in slide.levels] == [
        (0, 1100, 700, 1.0, 0.5),
        (1, 550, 350, 2.0, 1.0),
    ]


def test_obs_and_var_are_those_written(slide, oracle):
    assert isinstance(slide.obs, pd.DataFrame)
    assert list(slide.obs.index) == list(oracle.table.spots.barcodes[oracle.order])
    np.testing.assert_array_equal(slide.obs[["x", "y"]].to_numpy(), oracle.xy)
    np.testing.assert_array_equal(slide.obs["total_counts"], oracle.matrix.sum(axis=1))
    assert list(slide.var.index) == oracle.keys
    assert slide.obs is slide.obs
    np.testing.assert_array_equal(slide.radius_px, oracle.radius)


def test_tables_share_the_store(slide, record, oracle_of):
    bins = slide.table("expression_square_008um")
    expected = oracle_of(record, table=1)
    assert (bins.n_obs, bins.n_vars) == (20, 9)
    np.testing.assert_array_equal(bins.counts[:].toarray(), expected.matrix.toarray())
    np.testing.assert_array_equal(bins.obs[["x", "y"]].to_numpy(), expected.xy)
    assert bins.table("expression").n_obs == 60
    with pytest.raises(TableLookupError, match="one of expression, expression_square_008um"):
        slide.table("nope")


def test_a_table_may_be_bound_at_once(path):
    with open_slide(str(path), table="expression_square_008um") as bins:
        assert bins.n_obs == 20
    with pytest.raises(TableLookupError):
        open_slide(path, table="nope")


def test_rows_by_mask_barcode_position(slide, oracle):
    barcodes = list(oracle.table.spots.barcodes[oracle.order])
    np.testing.assert_array_equal(slide.rows([barcodes[7], barcodes[2]]), [7, 2])
    np.testing.assert_array_equal(slide.rows(np.array(barcodes[3:5])), [3, 4])
    np.testing.assert_array_equal(slide.rows(pd.Series(barcodes[3:5])), [3, 4])
    mask = np.arange(60) % 2 == 0
    np.testing.assert_array_equal(slide.rows(mask), np.flatnonzero(mask))
    np.testing.assert_array_equal(
        slide.rows(slide.obs["x"] > 300), np.flatnonzero(oracle.xy[:, 0] > 300)
    )
    np.testing.assert_array_equal(slide.rows([-1, 0]), [59, 0])
    assert slide.rows([]).dtype == np.int64
    unknown = [f"no{n}" for n in range(7)]
    with pytest.raises(BarcodeLookupError, match=r"no0, no1, no2, no3, no4 and 2 more"):
        slide.rows([barcodes[0], *unknown])
    with pytest.raises(KeyError):
        slide.rows("nope")
    with pytest.raises(IndexError):
        slide.rows([60])


def test_rows_and_genes_are_found_without_a_data_frame(path, oracle, monkeypatch):
    from stformat.store import elements

    read: list[str] = []
    monkeypatch.setattr(elements, "read_element", lambda _store, name: read.append(name))
    barcodes = oracle.table.spots.barcodes[oracle.order]
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.rows([barcodes[7], barcodes[2]]), [7, 2])
        np.testing.assert_array_equal(slide.gene_columns(["N3", oracle.keys[1]]), [5, 1])
    assert read == []


# ---- pixels


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.sampled_from([None, 0.5, 1.0]))
def test_tiles_are_crops_around_the_spots(slide, oracle, tile_px, mpp):
    level = 1 if mpp == 1.0 else 0
    found = slide.tiles(tile_px, mpp=mpp)
    assert found.shape == (60, 3, tile_px, tile_px)
    corner = np.floor(oracle.xy / 2**level - tile_px / 2 + 0.5).astype(int)
    for tile, (left, top) in zip(found, corner.tolist(), strict=True):
        np.testing.assert_array_equal(tile, oracle.crop(level, left, top, tile_px))


def test_the_three_ways_to_ask_for_a_resolution(slide):
    by_mpp = slide.tiles(20, mpp=0.75)
    by_size = slide.tiles(20, size_um=15.0)
    np.testing.assert_array_equal(by_mpp[:], by_size[:])
    assert repr(by_size) == "<Tiles: 60 of 3 x 20 x 20 px uint8, level 0, resampled, mpp 0.75>"
    for wrong in ({"mpp": 0.5, "size_um": 1.0}, {"size_um": 1.0, "field": "spot"}):
        with pytest.raises(ValueError, match="one of mpp, size_um and field"):
            slide.tiles(20, **wrong)
    with pytest.raises(ValueError, match="'spot', got 'bin'"):
        slide.tiles(20, field="bin")
    with pytest.raises(ValueError, match="tile_px must be at least 1"):
        slide.tiles(0, size_um=3.0)


def test_the_field_of_each_spot_is_its_own(slide, oracle):
    found = slide.tiles(16, field="spot")
    for radius in (9.25, 20.0):
        here = np.flatnonzero(oracle.radius == radius)
        # 16 pixels across a square of 2 * radius pixels of half a micron each
        alone = slide.tiles(16, mpp=2 * radius / 16 * 0.5, rows=here)
        np.testing.assert_array_equal(found[here], alone[:])
        np.testing.assert_array_equal(found.coverage[here], alone.coverage)
    assert slide.tiles(16, field="spot", rows=[])[:].shape == (0, 3, 16, 16)


def test_rows_and_centres(slide, oracle):
    every = slide.tiles(30)
    mask = np.arange(60) % 3 == 1
    np.testing.assert_array_equal(slide.tiles(30, rows=mask)[:], every[mask])
    np.testing.assert_array_equal(slide.tiles(30, rows=[5, 5, -1])[:], every[[5, 5, -1]])
    np.testing.assert_array_equal(slide.tiles(30, centers_px=oracle.xy)[:], every[:])
    with pytest.raises(ValueError, match="without rows"):
        slide.tiles(30, centers_px=oracle.xy, rows=[1])
    with pytest.raises(ValueError, match="without rows and without field"):
        slide.tiles(30, centers_px=oracle.xy, field="spot")
    with pytest.raises(ValueError, match="columns"):
        slide.tiles(30, centers_px=[1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        slide.tiles(30, centers_px=[[1.0, np.nan]])


def test_what_lies_outside_is_background_or_as_given(slide):
    far = [[-500.0, -500.0], [0.0, 0.0]]
    assert (slide.tiles(8, centers_px=far)[0] == 255).all()
    assert (slide.tiles(8, centers_px=far, fill_value=3)[0] == 3).all()
    np.testing.assert_array_equal(slide.tiles(8, centers_px=far).coverage, [0, 0.25])
    for wrong in (256, -1, 1.5):
        with pytest.raises(ValueError, match="0 to 255"):
            slide.tiles(8, fill_value=wrong)


def test_regions(slide, oracle):
    np.testing.assert_array_equal(
        slide.read_region(1, -3, 340, 20, 20), oracle.crop(1, 340, -3, 20)
    )


@pytest.mark.parametrize(
    "key",
    [
        (slice(None), slice(3, 50), slice(7, 9)),
        (1, 5, slice(None)),
        (slice(None), slice(None, None, 101), slice(None, None, -77)),
        (slice(0, 1), slice(5, 5), 3),
        ([2, 0], [600, 5, 5], slice(10, 12)),
    ],
)
def test_the_image_is_a_lazy_array(slide, oracle, key):
    image = slide.image
    assert image.dims == ("c", "y", "x")
    assert image.shape == (3, 1100, 700)
    assert list(image["c"].to_numpy()) == ["r", "g", "b"]
    expected = oracle.levels[0]
    for axis, part in reversed(list(enumerate(key))):
        expected = expected[(slice(None),) * axis + (part,)]
    np.testing.assert_array_equal(image[key].to_numpy(), expected)


def test_the_image_reads_only_what_is_asked_for(path, monkeypatch):
    from stformat.store.arrays import ArrayReader

    read: list[tuple[str, list[int]]] = []
    plain = ArrayReader.visit_chunks
    monkeypatch.setattr(
        ArrayReader,
        "visit_chunks",
        lambda self, chunks, visit: (
            read.append((self.path, chunks.tolist())),
            plain(self, chunks, visit),
        )[1],
    )
    with open_slide(path) as slide:
        part = slide.image[:, 300:310].isel(x=slice(400, 402))
        assert not read
        _ = part.to_numpy()
    # Three chunks a row: the second of the second.
    assert read == [("images/he/s0", [4])]


@pytest.mark.parametrize("max_px", [2000, 1100, 1099, 550, 512, 40, 1])
def test_a_thumbnail_continues_the_pyramid(slide, oracle, max_px):
    expected = oracle.levels[0]
    while max(expected.shape[1:]) > max_px:
        expected = downsample_2x2(expected)
    np.testing.assert_array_equal(slide.thumbnail(max_px), expected)
    with pytest.raises(ValueError, match="max_px"):
        slide.thumbnail(0)


def test_a_slide_without_an_image(bare):
    with open_slide(bare) as slide:
        assert not slide.has_image
        assert slide.levels == ()
        assert "no image, mpp unknown" in repr(slide)
        for ask in (
            slide.tiles,
            slide.thumbnail,
            lambda: slide.image,
            lambda: slide.channel_names,
            lambda: slide.dtype,
            lambda: slide.read_region(0, 0, 0, 1, 1),
        ):
            with pytest.raises(NoImageError, match="none in this store"):
                ask()
        assert slide.counts[:].shape == (40, 30)


def test_fluorescence_of_unknown_mpp(tmp_path, write_store, oracle_of):
    record = make_record(n_channels=4, pixel_dtype=np.uint16, image_px=(90, 80), n_obs=5, mpp=None)
    with open_slide(write_store(record, tmp_path / "s")) as slide:
        assert slide.channel_names == ("ch0", "ch1", "ch2", "ch3")
        found = slide.tiles(10, centers_px=[[5.0, 5.0], [-50.0, 0.0]])[:]
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found[0], oracle_of(record).levels[0][:, :10, :10])
        assert (found[1] == 0).all()
        assert slide.tiles(8, field="spot")[:].shape == (5, 4, 8, 8)
        for wrong in ({"mpp": 1.0}, {"size_um": 5.0}):
            with pytest.raises(ValueError, match="known"):
                slide.tiles(8, **wrong)


# ---- expression

rows_and_genes = st.tuples(
    st.one_of(
        st.lists(st.integers(-60, 59), max_size=20).map(lambda rows: np.array(rows, dtype=int)),
        st.slices(60),
        st.lists(st.booleans(), min_size=60, max_size=60).map(np.array),
    ),
    st.none() | st.lists(st.integers(0, 29), max_size=10),
)


@settings(deadline=None)
@given(rows_and_genes)
def test_raw_expression_is_the_matrix(slide, oracle, wanted):
    rows, columns = wanted
    expected = oracle.matrix.toarray()[rows]
    genes = None
    if columns is not None:
        expected = expected[:, columns]
        genes = [oracle.keys[column] for column in columns]
    found = slide.expression(rows, genes)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    out = np.full(expected.shape, np.nan, dtype=np.float32)
    assert slide.expression(rows, genes, out=out) is out
    np.testing.assert_array_equal(out, expected)


@settings(deadline=None)
@given(rows_and_genes, st.sampled_from([1e4, 1.0, None]))
def test_normalised_expression_uses_whole_totals(slide, oracle, wanted, target_sum):
    rows, columns = wanted
    totals = oracle.matrix.sum(axis=1)
    target = float(np.median(totals)) if target_sum is None else target_sum
    csr = oracle.matrix
    values = normalize_log1p(csr.data, csr.indptr, target_sum=target)
    expected = sparse.csr_array((values, csr.indices, csr.indptr), shape=csr.shape).toarray()
    expected = expected[rows]
    genes = None
    if columns is not None:
        expected = expected[:, columns]
        genes = [oracle.keys[column] for column in columns]
    found = slide.expression(rows, genes, normalize="log1p", target_sum=target_sum)
    np.testing.assert_array_equal(found, expected)
    with np.errstate(divide="ignore"):
        exact = np.log1p(csr.toarray() * np.where(totals > 0, target / totals, 0)[:, None])[rows]
    np.testing.assert_allclose(found, exact if columns is None else exact[:, columns], rtol=3e-7)


def test_expression_of_rows_without_counts_is_zero(slide, oracle):
    empty = np.flatnonzero(oracle.matrix.sum(axis=1) == 0)
    assert len(empty)
    assert not slide.expression(empty, normalize="log1p").any()


def test_wrong_expression_is_refused(slide):
    with pytest.raises(ValueError, match="None or 'log1p'"):
        slide.expression([0], normalize="cpm")
    with pytest.raises(GeneLookupError, match="keys G0, G1"):
        slide.expression([0], ["SAME"])
    with pytest.raises(IndexError):
        slide.expression([60])
    with pytest.raises(ValueError, match="target_sum"):
        slide.expression([0], normalize="log1p", target_sum=-1.0)
    narrow = np.full((1, 2), np.nan, dtype=np.float32)
    for out in (narrow, narrow.astype(np.float64), np.asfortranarray(np.ones((3, 3), "f4"))):
        with pytest.raises(ValueError, match="out must"):
            slide.expression([0] * len(out), ["G3"] * 3, out=out)
    assert np.isnan(narrow).all()


def test_few_genes_of_every_row_come_from_the_gene_major_copy(path, monkeypatch):
    with open_slide(path) as slide:
        monkeypatch.setattr(slide.counts._by_row._data, "_visit", None)
        slide.expression(slice(None), ["G3"], normalize="log1p")
        with pytest.raises(TypeError):
            slide.expression([1, 2])


def test_the_median_of_totals(slide, oracle):
    assert slide.median_total == np.median(oracle.matrix.sum(axis=1))


# ---- annotations


def test_annotations_are_the_shapes_that_are_no_regions(bare, tmp_path, edit_json):
    path = Path(shutil.copytree(bare, tmp_path / "s"))
    with open_slide(path) as slide:
        assert dict(slide.annotations) == {}
    outline = geopandas.GeoDataFrame(
        {"kind": ["tumour"]}, geometry=[shapely.box(1, 2, 3, 4)], index=["a"]
    )

    def add(directory: Path) -> None:
        document = json.loads((path / "shapes/spots/zarr.json").read_bytes())
        (directory / "zarr.json").write_text(json.dumps(document))
        outline.to_parquet(directory / "shapes.parquet")

    add_element(path, "shapes", "tissue", add)
    with open_slide(path) as slide:
        assert list(slide.annotations) == ["tissue"]
        found = slide.annotations["tissue"]
        assert found.equals(outline)
        with pytest.raises(KeyError):
            slide.annotations["spots"]
    parquet = path / "shapes/tissue/shapes.parquet"
    content = bytearray(parquet.read_bytes())
    content[len(content) // 3] ^= 1
    parquet.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(CorruptStoreError, match="checksum"):
        slide.annotations["tissue"]
    edit_json(path / "zarr.json", lambda root: root["attributes"].update(note="edited"))
    parquet.write_bytes(b"no parquet")
    with (
        pytest.warns(StoreChangedWarning),
        open_slide(path) as slide,
        pytest.raises(CorruptStoreError, match="GeoParquet"),
    ):
        slide.annotations["tissue"]


def test_tiles_lie_where_coordinates_say(slide, oracle):
    grid = coords.grid_for_mpp(21, target_mpp=0.8, mpp=0.5, n_levels=2)
    np.testing.assert_array_equal(
        slide.tiles(21, mpp=0.8).coverage, coords.coverage(oracle.xy, grid, (1100, 700))
    )
