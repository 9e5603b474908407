"""Slides of HEST-1k, generated with every quirk, against what they were generated from."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import geopandas
import h5py
import numpy as np
import pytest
import shapely
from hypothesis import given, settings

import stformat as stf
from stformat.errors import CountsError, ImageError, InputError, PositionsError
from stformat.sources import _anndata_matrix, hest, read_slide
from stformat.testing import HestQuirks, expected_hest, make_slide, write_hest
from stformat.testing.strategies import hest_samples

SIZE = {"height": 260, "width": 300, "n_genes": 30, "pitch_px": 40.0}


@pytest.fixture(scope="module")
def slide():
    return make_slide(**SIZE, seed=3)


def dense(table):
    return np.vstack([block.toarray() for block in table.counts.iter_blocks()])


def codes(record):
    return {note.code: note.count for note in record.notes}


def polygons(record):
    return {
        outlines.name: [
            (shape, *(batch.columns[name][row] for name in outlines.columns))
            for batch in outlines.iter_batches()
            for row, shape in enumerate(batch.geometry)
        ]
        for outlines in record.outlines
    }


@pytest.mark.counts(15, 200, 1000)
def test_any_files_read_as_the_slide_they_were_written_from(n):
    settings(max_examples=n, deadline=None)(given(sample=hest_samples())(reads_as_written))()


def reads_as_written(sample):
    slide, quirks = sample.slide, sample.quirks
    expected = expected_hest(slide, quirks)
    with tempfile.TemporaryDirectory() as folder:
        record = read_slide(sample.write(Path(folder)), slide_id=slide.slide_id)
        tables = {table.name: dense(table) for table in record.tables}
        outlines = polygons(record)
        pixels = record.image and np.concatenate(
            [band.copy() for band in record.image.iter_bands(50)], axis=1
        )
    table = record.tables[0]
    spots = table.spots
    assert spots.barcodes.tolist() == list(expected.barcodes)
    np.testing.assert_array_equal(spots.xy, expected.xy)
    np.testing.assert_array_equal(spots.array_col, expected.array_xy[:, 0])
    np.testing.assert_array_equal(spots.array_row, expected.array_xy[:, 1])
    np.testing.assert_array_equal(spots.in_tissue, expected.in_tissue)
    np.testing.assert_allclose(spots.radius_px, expected.radius_px)
    assert ("annotation" in spots.annotations) == (expected.labels is not None)
    if expected.labels is not None:
        assert tuple(spots.annotations["annotation"]) == expected.labels
    assert table.genes.gene_name.tolist() == list(expected.gene_names)
    np.testing.assert_array_equal(tables.pop("expression"), expected.counts.toarray())
    if quirks.n_antibodies:
        antibodies = tables.pop("antibody_capture")
        np.testing.assert_array_equal(antibodies, expected.antibodies.toarray())
    assert not tables
    if expected.mpp is not None:
        assert (record.mpp.value, record.mpp.method) == (expected.mpp, "file")
    if quirks.has_image:
        np.testing.assert_array_equal(pixels, slide.image)
    assert (record.image is not None) == quirks.has_image
    tissue = [shape for shape, *_ in outlines.get("tissue", [])]
    assert len(tissue) == len(expected.tissue)
    assert all(map(shapely.equals, tissue, expected.tissue))
    cells = outlines.get("cells", [])
    assert len(cells) == len(expected.cells)
    for (shape, label), (wanted, name) in zip(cells, expected.cells, strict=True):
        assert shape.equals(wanted)
        assert label == name


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_blocks_and_bands_stack_to_the_matrix(slide, tmp_path, monkeypatch, layout):
    """Blocks of a few values: runs of rows, and passes over a matrix by columns, meet."""
    monkeypatch.setattr(_anndata_matrix, "BLOCK_VALUES", 17)
    monkeypatch.setattr(_anndata_matrix, "BAND_VALUES", 60)
    quirks = HestQuirks(layout=layout, has_image=False, has_zeros=True)
    record = read_slide(write_hest(slide, tmp_path, quirks=quirks))
    (table,) = record.tables
    blocks = list(table.counts.iter_blocks())
    assert len(blocks) > 3
    np.testing.assert_array_equal(dense(table), expected_hest(slide, quirks).counts.toarray())
    assert ("counts.explicit-zeros" in codes(record)) == (layout != "dense")


def test_a_store_holds_the_outlines(slide, tmp_path):
    quirks = HestQuirks(cells="parquet", has_bom=True)
    expected = expected_hest(slide, quirks)
    source = write_hest(slide, tmp_path / "source", quirks=quirks)
    path = stf.convert_slide(source, tmp_path / "slide.zarr")
    assert stf.verify_store(path) == []
    with stf.open_slide(path) as opened:
        assert sorted(opened.annotations) == ["cells", "tissue"]
        tissue, cells = opened.annotations["tissue"], opened.annotations["cells"]
        assert opened.metadata.technology == "ST"
        assert opened.metadata.pmid == "1"
    assert all(tissue.geometry.geom_equals(geopandas.GeoSeries(expected.tissue)))
    assert tissue["tissue_id"].tolist() == ["0", "1"]
    assert cells["class"].tolist() == [name for _, name in expected.cells]
    import spatialdata

    sdata = spatialdata.read_zarr(path)
    assert {"cells", "tissue", "spots"} <= set(sdata.shapes)
    assert len(sdata["cells"]) == len(expected.cells)


def test_outlines_are_written_in_batches(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("stformat.sources._outlines_geojson.BATCH", 2)
    monkeypatch.setattr("stformat.sources._json_stream._CHUNK", 16)
    quirks = HestQuirks(cells="geojson", tissue="holes", has_image=False)
    expected = expected_hest(slide, quirks)
    record = read_slide(write_hest(slide, tmp_path, quirks=quirks))
    found = polygons(record)
    assert len(found["cells"]) == len(expected.cells)
    assert all(
        one.equals(other)
        for (one, _), (other, _) in zip(found["cells"], expected.cells, strict=True)
    )
    assert shapely.area([shape for shape, _ in found["tissue"]]).tolist() == pytest.approx(
        shapely.area(expected.tissue).tolist()
    )


def test_bins_of_visium_hd_are_squares(slide, tmp_path):
    quirks = HestQuirks(technology="Visium HD")
    record = read_slide(write_hest(slide, tmp_path, quirks=quirks))
    assert record.tables[0].name == "expression_square_100um"
    assert record.tables[0].spots.shape == "square"
    assert record.descriptors.technology == "Visium HD"


def test_the_scale_of_hest_wins_and_others_are_noted(slide, tmp_path):
    quirks = HestQuirks(has_embedded=True)
    source = write_hest(slide, tmp_path, quirks=quirks)
    record = read_slide(source)
    assert (record.mpp.value, record.mpp.method) == (slide.mpp, "file")
    assert {"mpp.embedded", "mpp.contradiction"} <= set(codes(record))
    given = read_slide(source, mpp=2 * slide.mpp)
    assert (given.mpp.value, given.mpp.method) == (2 * slide.mpp, "given")
    assert codes(given)["mpp.contradiction"] == 1


@pytest.mark.parametrize(
    "file",
    ["st/S1.h5ad", "wsis/S1.tif", "metadata/S1.json", "tissue_seg/S1_contours.geojson", "st"],
)
def test_a_slide_may_be_named_by_a_file_of_it(slide, tmp_path, file):
    source = write_hest(slide, tmp_path, quirks=HestQuirks(n_other_slides=2))
    kind = "hest"
    if file == "st":
        with pytest.raises(InputError, match="3 slides: S1, S10, S11"):
            read_slide(source / file, kind=kind)
        return
    assert read_slide(source / file, kind=kind).slide_id == "S1"


def test_an_anndata_file_alone_is_a_slide(slide, tmp_path):
    source = write_hest(slide, tmp_path) / "st" / "S1.h5ad"
    alone = tmp_path / "elsewhere.h5ad"
    source.rename(alone)
    record = read_slide(alone)
    assert record.slide_id == "elsewhere"
    assert record.mpp.method == "unknown"
    assert {"image.none", "mpp.unknown"} <= set(codes(record))
    assert hest.KIND.looks_like(alone) == "AnnData elsewhere.h5ad"


def test_a_pickle_is_refused_or_passed_over(slide, tmp_path):
    source = write_hest(slide, tmp_path, quirks=HestQuirks(tissue="pickle"))
    assert codes(read_slide(source))["outlines.not-read"] == 1
    with pytest.raises(InputError, match="a pickle, which may run any program"):
        read_slide(source / "tissue_seg" / "S1_mask.pkl", kind="hest")


def edited(source, change):
    with h5py.File(source / "st" / "S1.h5ad", "r+") as file:
        change(file)
    return source


def put(path, values):
    def change(file):
        attributes = dict(file[path].attrs)
        del file[path]
        file[path] = values
        file[path].attrs.update(attributes)

    return change


def moved(file):
    file["obs/pxl_row_in_fullres"][1] += 7


def without_centres(file):
    del file["obsm/spatial"]


def without_matrix(file):
    del file["X"]


def linked(file):
    del file["X"]
    file["X"] = h5py.ExternalLink("other.h5ad", "X")


def old_encoding(file):
    file["obs"].attrs["encoding-version"] = "0.1.0"


def unknown_encoding(file):
    file["X"].attrs["encoding-type"] = "array-of-dreams"


def negative(file):
    file["X/data"][0] = -1


def not_a_number(file):
    file["X/data"][0] = np.nan


def column_beyond(file):
    file["X/indices"][0] = 999


def short_pointers(file):
    file["X/indptr"][-1] -= 1


def repeated_names(file):
    file["obs/_index"][1] = file["obs/_index"][0]


def nan_centre(file):
    file["obsm/spatial"][0, 0] = np.nan


def huge(file):
    attributes = dict(file["X/data"].attrs)
    del file["X/data"]
    file.create_dataset("X/data", (10**12,), "f4", chunks=(10**6,))
    file["X/data"].attrs.update(attributes)


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (moved, PositionsError, "positions.contradiction"),
        (without_centres, PositionsError, "positions.missing"),
        (nan_centre, PositionsError, "positions.not-a-number"),
        (put("obs/in_tissue", 2), CountsError, "anndata.structure"),
        (without_matrix, CountsError, "anndata.no-matrix"),
        (linked, CountsError, "counts.h5-link"),
        (huge, CountsError, "counts.h5-size"),
        (old_encoding, CountsError, "anndata.encoding"),
        (unknown_encoding, CountsError, "anndata.encoding"),
        (negative, CountsError, "counts.negative"),
        (not_a_number, CountsError, "counts.not-finite"),
        (column_beyond, CountsError, "counts.structure"),
        (short_pointers, CountsError, "anndata.structure"),
        (repeated_names, CountsError, "counts.repeated-spots"),
    ],
)
def test_what_contradicts_itself_is_refused(slide, tmp_path, change, error, code):
    quirks = HestQuirks(has_decoys=True, has_image=False)
    source = edited(write_hest(slide, tmp_path / "source", quirks=quirks), change)
    with pytest.raises(error) as raised:
        stf.convert_slide(source, tmp_path / "slide.zarr")
    assert raised.value.problems[0].code == code
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_image_of_another_size_is_refused(slide, tmp_path):
    source = write_hest(slide, tmp_path)
    path = source / "metadata" / "S1.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"fullres_px_width": 2 * slide.width}))
    with pytest.raises(ImageError, match="the description says that the image has 600 x 260 px"):
        read_slide(source)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[", "outlines.json"),
        ("{}", "outlines.geojson"),
        ('{"features": [1]}', "outlines.geojson"),
        ('[{"geometry": {"type": "Point", "coordinates": [1, 2]}}]', "outlines.geojson"),
        ('[{"geometry": {"type": "Polygon", "coordinates": [["a"]]}}]', "outlines.geojson"),
        ('[{"geometry": {"type": "Polygon", "coordinates": [[[0, NaN], [1, 1]]]}}]', "outlines.g"),
        ("[] []", "outlines.json"),
        ('[{"properties": 3}]', "outlines.geojson"),
        ('["' + "x" * 100, "outlines.json"),
    ],
)
def test_broken_outlines_are_refused(slide, tmp_path, text, code):
    source = write_hest(slide, tmp_path, quirks=HestQuirks(has_image=False))
    (source / "tissue_seg" / "S1_contours.geojson").write_text(text)
    with pytest.raises(InputError) as raised:
        read_slide(source)
    assert raised.value.problems[0].code.startswith(code)


def test_rings_of_two_places_are_left_out_and_said(slide, tmp_path):
    source = write_hest(slide, tmp_path, quirks=HestQuirks(has_image=False))
    square = [[0, 0], [0, 4], [4, 4], [4, 0]]
    document = [
        {"geometry": None, "properties": None},
        {"geometry": {"coordinates": [[[1, 1], [2, 2], [1, 1]]], "type": "Polygon"}},
        {"properties": {"class": "x"}, "geometry": {"coordinates": [square], "type": "Polygon"}},
    ]
    (source / "tissue_seg" / "S1_contours.geojson").write_text(json.dumps(document))
    record = read_slide(source)
    assert codes(record)["outlines.degenerate"] == 1
    ((shape, label),) = polygons(record)["tissue"]
    assert (shape.area, label) == (16.0, "x")


def test_the_same_files_give_the_same_bytes(slide, tmp_path):
    quirks = HestQuirks(cells="geojson", gene_columns="visium", n_antibodies=2)
    source = write_hest(slide, tmp_path / "source", quirks=quirks)
    commits = [
        (stf.convert_slide(source, tmp_path / name) / "stformat" / "commit.json").read_bytes()
        for name in ("one.zarr", "two.zarr")
    ]
    assert commits[0] == commits[1]


def test_quirks_that_contradict_one_another_are_refused(slide, tmp_path):
    with pytest.raises(ValueError, match="types of features"):
        write_hest(slide, tmp_path, quirks=HestQuirks(n_antibodies=1))
    nothing = dataclasses.replace(slide, in_tissue=np.zeros_like(slide.in_tissue))
    with pytest.raises(ValueError, match="no spot"):
        write_hest(nothing, tmp_path)
