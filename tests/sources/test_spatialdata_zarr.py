"""SpatialData containers of every form, against the slides that they were generated from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import shapely
import spatialdata
from hypothesis import HealthCheck, given, settings

import stformat as stf
from stformat.errors import ImageError, InputError, UncommittedStoreError
from stformat.sources import _spatialdata_image, read_slide, spatialdata_zarr
from stformat.sources._packed_text import texts_of
from stformat.testing import (
    HestQuirks,
    SpatialDataQuirks,
    expected_spatialdata,
    make_slide,
    make_spatialdata,
    write_hest,
    write_spatialdata,
)
from stformat.testing.strategies import spatialdata_samples

# What anndata and pandas say of one another when a test edits an object.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")

SIZE = {"height": 260, "width": 300, "n_genes": 30, "pitch_px": 40.0}


@pytest.fixture(scope="module")
def slide():
    return make_slide(**SIZE, seed=3)


def dense(table):
    return np.vstack([block.toarray() for block in table.counts.iter_blocks()])


def codes(record):
    return {note.code: note.count for note in record.notes}


def shapes_of(outlines):
    return [shape for batch in outlines.iter_batches() for shape in batch.geometry]


def hold_to(expected, quirks, record):
    """Hold a record to what it was generated from."""
    (table,) = record.tables
    spots = table.spots
    is_exact = quirks.placement == "identity" and quirks.shapes == "circles"
    assert (table.name, spots.region) == ("expression", "spots")
    assert spots.shape == ("square" if quirks.shapes == "squares" else "circle")
    assert texts_of(spots.barcodes) == list(expected.barcodes)
    np.testing.assert_allclose(
        spots.xy, expected.xy, rtol=0 if is_exact else 1e-9, atol=0 if is_exact else 1e-6
    )
    np.testing.assert_allclose(spots.radius_px, expected.radius_px, rtol=1e-6)
    np.testing.assert_array_equal(spots.array_col, expected.array_xy[:, 0])
    np.testing.assert_array_equal(spots.array_row, expected.array_xy[:, 1])
    np.testing.assert_array_equal(spots.in_tissue, expected.in_tissue)
    np.testing.assert_array_equal(dense(table), expected.counts.toarray())
    assert table.counts.dtype == np.int32
    if expected.mpp is not None:
        assert record.mpp.method == "file"
        assert record.mpp.value == pytest.approx(expected.mpp, rel=1e-9)
    outlines = {one.name: one for one in record.outlines}
    assert ("spots_outlines" in outlines) == (quirks.shapes == "polygons")
    drawn = shapes_of(outlines["drawn"]) if expected.outlines else []
    assert all(
        shapely.equals_exact(one, other, tolerance=1e-6)
        for one, other in zip(drawn, expected.outlines, strict=True)
    )


@pytest.mark.counts(8, 200, 1000)
def test_any_container_reads_as_the_slide_it_was_written_from(n):
    slow = [HealthCheck.too_slow]
    run = settings(max_examples=n, deadline=None, suppress_health_check=slow)
    run(given(sample=spatialdata_samples())(reads_as_written))()


def reads_as_written(sample):
    expected = expected_spatialdata(sample.slide, sample.quirks)
    with tempfile.TemporaryDirectory() as folder:
        record = read_slide(sample.write(Path(folder)))
        hold_to(expected, sample.quirks, record)
        if expected.image is None:
            assert record.image is None
            return
        for height in (50, 7, 1000):
            bands = [band.copy() for band in record.image.iter_bands(height)]
            assert {band.shape[1] for band in bands[:-1]} <= {height}
            np.testing.assert_array_equal(np.concatenate(bands, axis=1), expected.image)
    assert record.image.channel_names == ("r", "g", "b")


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sample=spatialdata_samples())
def test_an_object_in_memory_gives_the_store_of_its_container(sample):
    expected = expected_spatialdata(sample.slide, sample.quirks)
    with tempfile.TemporaryDirectory() as folder:
        sdata = make_spatialdata(sample.slide, sample.quirks)
        path = stf.from_spatialdata(sdata, Path(folder) / "from.zarr")
        assert stf.verify_store(path) == []
        assert [child.name for child in Path(folder).iterdir()] == ["from.zarr"]
        with stf.open_slide(path) as slide:
            assert slide.metadata.slide_id == "from"
            order = slide.obs["source_index"].to_numpy()
            np.testing.assert_array_equal(
                slide.counts[:].toarray(), expected.counts.toarray()[order]
            )
            centres = slide.obs[["x", "y"]].to_numpy()
            np.testing.assert_allclose(centres, expected.xy[order], atol=1e-6)
            assert slide.has_image == (expected.image is not None)
            if expected.image is not None:
                pixels = slide.read_region(0, 0, 0, *expected.image.shape[1:])
                np.testing.assert_array_equal(pixels, expected.image)


def same_slides(first, second):
    with stf.open_slide(first) as one, stf.open_slide(second) as other:
        assert one.obs.drop(columns="source_index").equals(other.obs.drop(columns="source_index"))
        assert one.var.equals(other.var)
        assert (one.counts[:] != other.counts[:]).nnz == 0
        size = one.levels[0].shape[-2:] if hasattr(one.levels[0], "shape") else one.image.shape[-2:]
        np.testing.assert_array_equal(
            one.read_region(0, 0, 0, *size), other.read_region(0, 0, 0, *size)
        )
        assert one.mpp == other.mpp
        for name in ("slide_id", "technology", "species", "donor", "tables", "default_table"):
            assert getattr(one.metadata, name) == getattr(other.metadata, name)
        assert one.metadata.mpp == other.metadata.mpp
        assert sorted(one.annotations) == sorted(other.annotations)
        for name in one.annotations:
            assert one.annotations[name].equals(other.annotations[name])


@pytest.mark.parametrize("technology", ["Spatial Transcriptomics", "Visium HD"])
def test_a_store_and_a_copy_of_it_convert_to_the_same_slide(slide, tmp_path, technology):
    """The copy by SpatialData has lost what stformat derives: stformat itself refuses it."""
    quirks = HestQuirks(
        technology=technology, cells="parquet", has_label=True, gene_columns="visium"
    )
    store = stf.convert_slide(
        write_hest(slide, tmp_path / "hest", quirks=quirks), tmp_path / "store.zarr"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spatialdata.read_zarr(store).write(tmp_path / "copy.zarr")
    with pytest.raises(UncommittedStoreError, match="--kind spatialdata"):
        stf.open_slide(tmp_path / "copy.zarr")
    for source in ("store.zarr", "copy.zarr"):
        made = stf.convert_slide(tmp_path / source, tmp_path / f"from-{source}")
        assert stf.verify_store(made) == []
        same_slides(store, made)
    in_memory = stf.from_spatialdata(spatialdata.read_zarr(store), tmp_path / "memory.zarr")
    same_slides(store, in_memory)


def test_the_library_spatialdata_is_not_needed_to_convert(slide, tmp_path):
    source = write_spatialdata(slide, tmp_path / "source.zarr")
    code = (
        "import sys; sys.modules['spatialdata'] = None; import stformat as stf; "
        f"stf.convert_slide({str(source)!r}, {str(tmp_path / 'slide.zarr')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert stf.verify_store(tmp_path / "slide.zarr") == []


def test_each_chunk_is_read_once(slide, tmp_path):
    quirks = SpatialDataQuirks(chunk_px=(37, 50))
    record = read_slide(write_spatialdata(slide, tmp_path / "slide.zarr", quirks=quirks))
    container = spatialdata_zarr.open_container(tmp_path / "slide.zarr")
    raster = container.images["slide_image"]
    asked = []

    def counting(top, bottom):
        asked.append((top, bottom))
        return raster.read(top, bottom)

    counted = _spatialdata_image.Raster(
        **{name: getattr(raster, name) for name in raster.__slots__ if name != "read"},
        read=counting,
    )
    image = _spatialdata_image.as_image(counted, stain="he", source=None)
    for height in (10, 37, 100):
        asked.clear()
        bands = np.concatenate([band.copy() for band in image.iter_bands(height)], axis=1)
        np.testing.assert_array_equal(bands, slide.image)
        assert [bottom for _, bottom in asked][:-1] == [top for top, _ in asked][1:]
        assert all(top % 37 == 0 for top, _ in asked)
    assert record.image.codec == "zarr/zstd"


def test_the_same_container_gives_the_same_bytes(slide, tmp_path):
    quirks = SpatialDataQuirks(placement="affine", shapes="polygons", has_outlines=True)
    source = write_spatialdata(slide, tmp_path / "source.zarr", quirks=quirks)
    commits = [
        (stf.convert_slide(source, tmp_path / name) / "stformat" / "commit.json").read_bytes()
        for name in ("one.zarr", "two.zarr")
    ]
    assert commits[0] == commits[1]


def attributes(path, change):
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"])
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.fixture
def two_of_each(slide, tmp_path):
    """A container of two tables with their shapes, and of two images in one system."""
    sdata = make_spatialdata(slide)
    sdata["other_areas"] = sdata["areas"].copy()
    other = sdata["counts"].copy()
    other.obs["which"] = other.obs["which"].cat.rename_categories({"areas": "other_areas"})
    other.uns["spatialdata_attrs"]["region"] = "other_areas"
    sdata["other_counts"] = other
    sdata["slide_image_2"] = sdata["slide_image"].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata.write(tmp_path / "two.zarr")
    return tmp_path / "two.zarr"


def test_what_is_ambiguous_is_refused_with_the_list(two_of_each):
    with pytest.raises(ImageError, match="found slide_image, slide_image_2; name the"):
        read_slide(two_of_each)
    record = read_slide(two_of_each, options={"image_element": "slide_image"})
    assert [table.name for table in record.tables] == ["counts", "other_counts"]
    assert [table.spots.region for table in record.tables] == ["areas", "other_areas"]
    options = {"image_element": "slide_image", "table": "other_counts"}
    (table,) = read_slide(two_of_each, options=options).tables
    assert table.name == "expression"
    options = {"image_element": "slide_image", "region": "areas"}
    record = read_slide(two_of_each, options=options)
    assert len(record.tables) == 1
    assert [outlines.name for outlines in record.outlines] == []
    assert codes(record)["elements.left-out"] == 2
    assert codes(record)["outlines.left-out"] == 1
    for options in (
        {"table": "none"},
        {"region": "none"},
        {"table": "counts", "region": "other_areas"},
    ):
        with pytest.raises(InputError, match="a table that annotates shapes is needed"):
            read_slide(two_of_each, options=options)
    with pytest.raises(ImageError, match="the image 'none' must be there"):
        read_slide(two_of_each, options={"image_element": "none"})
    with pytest.raises(InputError, match="must share a coordinate system"):
        read_slide(
            two_of_each, options={"image_element": "slide_image", "coordinate_system": "moon"}
        )


def test_a_table_of_two_regions_needs_one_named(slide, tmp_path):
    sdata = make_spatialdata(slide, SpatialDataQuirks(image="none"))
    frame, table = sdata["areas"], sdata["counts"]
    sdata["left"], sdata["right"] = frame.iloc[:10].copy(), frame.iloc[10:].copy()
    which = np.where(np.arange(len(table)) < 10, "left", "right")
    table.obs["which"] = spatialdata_categorical(which)
    table.uns["spatialdata_attrs"]["region"] = ["left", "right"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata.write(tmp_path / "two.zarr")
    with pytest.raises(InputError, match="found left, right; name one with region="):
        read_slide(tmp_path / "two.zarr")
    record = read_slide(tmp_path / "two.zarr", options={"region": "right"})
    np.testing.assert_array_equal(dense(record.tables[0]), slide.counts[10:].toarray())
    np.testing.assert_array_equal(record.tables[0].spots.xy, slide.xy[10:])


def spatialdata_categorical(values):
    import pandas as pd

    return pd.Categorical(values)


def other_axes(path):
    def change(attributes):
        (multiscale,) = attributes["ome"]["multiscales"]
        multiscale["axes"][0]["name"] = "z"

    attributes(path / "images" / "slide_image", change)


def by_dimension(path):
    def change(attributes):
        attributes["coordinateTransformations"][0]["type"] = "byDimension"

    attributes(path / "shapes" / "areas", change)


def flat_scale(path):
    def change(attributes):
        (multiscale,) = attributes["ome"]["multiscales"]
        first = multiscale["coordinateTransformations"][0]
        first |= {"type": "scale", "scale": [1, 0, 0]}

    attributes(path / "images" / "slide_image", change)


def no_geometries(path):
    (path / "shapes" / "areas" / "shapes.parquet").unlink()


def broken_geometries(path):
    file = path / "shapes" / "areas" / "shapes.parquet"
    file.write_bytes(file.read_bytes()[:-100])


def no_instances(path):
    def change(attributes):
        attributes["column-order"] = ["which"]

    attributes(path / "tables" / "counts" / "obs", change)


def broken_root(path):
    (path / "zarr.json").write_text("{")


def broken_image(path):
    for file in (path / "images" / "slide_image").rglob("c/0/*/*"):
        file.write_bytes(b"nothing")


def broken_counts(path):
    for file in (path / "tables" / "counts" / "X" / "data" / "c").rglob("0"):
        file.write_bytes(b"\xff" * file.stat().st_size)


def half_attribute(path):
    attributes(path, lambda attributes: attributes.update(stformat={"format_version": "0.1"}))


def level_outside(path):
    def change(attributes):
        attributes["ome"]["multiscales"][0]["datasets"][0]["path"] = "../../shapes"

    attributes(path / "images" / "slide_image", change)


def pointless(path):
    shutil.rmtree(path / "tables")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (other_axes, "image.ngff"),
        (level_outside, "image.ngff"),
        (by_dimension, "spatialdata.transformation"),
        (flat_scale, "spatialdata.transformation"),
        (no_geometries, "spatialdata.shapes"),
        (broken_geometries, "outlines.damaged"),
        (no_instances, "spatialdata.join"),
        (broken_root, "zarr.damaged"),
        (broken_image, "image.damaged"),
        (broken_counts, "zarr.damaged"),
        (half_attribute, "spatialdata.stformat"),
        (pointless, "spatialdata.no-table"),
    ],
)
def test_damaged_containers_are_refused(slide, tmp_path, change, code):
    source = write_spatialdata(slide, tmp_path / "source.zarr")
    change(source)
    with pytest.raises(InputError) as raised:
        stf.convert_slide(source, tmp_path / "slide.zarr", kind="spatialdata")
    assert raised.value.problems[0].code == code
    assert [path.name for path in tmp_path.iterdir()] == ["source.zarr"]


def test_images_that_a_slide_cannot_have_are_refused(slide, tmp_path):
    from spatialdata.models import Image2DModel

    sdata = make_spatialdata(slide, SpatialDataQuirks(image="none"))
    for name, pixels in (
        ("float", np.zeros((3, 50, 60), np.float32)),
        ("five", np.zeros((5, 50, 60), np.uint8)),
    ):
        sdata["picture"] = Image2DModel.parse(pixels, dims=("c", "y", "x"))
        with pytest.raises(ImageError, match=r"uint8 or uint16|pass stain='if'"):
            stf.from_spatialdata(sdata, tmp_path / name)
        del sdata["picture"]
    sdata["picture"] = Image2DModel.parse(
        np.ones((5, 50, 60), np.uint8), dims=("c", "y", "x"), c_coords=list("ABCDE")
    )
    path = stf.from_spatialdata(sdata, tmp_path / "if.zarr", stain="if")
    with stf.open_slide(path) as opened:
        assert opened.image.shape == (5, 50, 60)


def test_unknown_options_are_refused(slide, tmp_path):
    with pytest.raises(InputError, match="pitch_um"):
        stf.from_spatialdata(make_spatialdata(slide), tmp_path / "slide.zarr", pitch_um=3)
    with pytest.raises(InputError, match="a name is needed"):
        stf.from_spatialdata(make_spatialdata(slide), tmp_path / "slide.zarr", table=3)
    assert list(tmp_path.iterdir()) == []


def test_quirks_that_leave_nothing_are_refused(slide):
    with pytest.raises(ValueError, match="no row"):
        make_spatialdata(slide, SpatialDataQuirks(n_rows_without_shape=1000))
