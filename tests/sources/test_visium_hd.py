"""Visium HD outputs, generated with every quirk, against what they were generated from."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings

import stformat as stf
from stformat.errors import CountsError, InputError, PositionsError, UnknownSourceError
from stformat.sources import _bin_positions, _row_matrix, read_slide
from stformat.testing import VisiumHdQuirks, expected_visium_hd, make_slide, write_visium_hd
from stformat.testing.strategies import visium_hd_samples

SIZE = {"height": 240, "width": 220, "n_genes": 30, "pitch_px": 7.0, "jitter": 0.0,
        "array_shape": (26, 24)}  # fmt: skip


@pytest.fixture(scope="module")
def slide():
    return make_slide(**SIZE, seed=3, slide_id="H1")


def write(slide, folder, **quirks):
    return write_visium_hd(slide, folder, quirks=VisiumHdQuirks(**quirks))


def dense(table):
    blocks = list(table.counts.iter_blocks())
    assert all(block.has_canonical_format for block in blocks)
    assert {block.dtype for block in blocks} == {table.counts.dtype}
    assert sum(block.nnz for block in blocks) <= table.counts.nnz
    return np.vstack([block.toarray() for block in blocks])


def named(record):
    return {table.name: table for table in record.tables}


def codes(record):
    found = {}
    for note in record.notes:
        found[note.code] = found.get(note.code, 0) + note.count
    return found


def read_all(folder, **arguments):
    for table in read_slide(folder, **arguments).tables:
        list(table.counts.iter_blocks())


def refused(error, folder, **arguments):
    with pytest.raises(error) as caught:
        read_all(folder, **arguments)
    (problem,) = caught.value.problems
    return problem


def assert_equal(table, expected, *, size_um, mpp):
    spots = table.spots
    assert [name.decode() for name in spots.barcodes] == list(expected.barcodes)
    np.testing.assert_allclose(spots.xy, expected.xy, atol=1e-9)
    np.testing.assert_array_equal(spots.array_col, expected.array_xy[:, 0])
    np.testing.assert_array_equal(spots.array_row, expected.array_xy[:, 1])
    np.testing.assert_array_equal(spots.in_tissue, expected.in_tissue)
    np.testing.assert_array_equal(dense(table), expected.counts.toarray())
    assert table.counts.dtype == np.int32
    if size_um is not None:
        assert (spots.shape, spots.region) == ("square", f"square_{size_um:03d}um")
        assert spots.diameter_um == size_um
        np.testing.assert_allclose(spots.radius_px, size_um / mpp / 2)


def assert_nuclei_equal(record, expected):
    if expected.nucleus_areas is None:
        assert record.outlines == ()
        return
    (nuclei,) = record.outlines
    assert nuclei.name == "nuclei"
    (batch,) = nuclei.iter_batches()
    np.testing.assert_allclose(shapely.area(batch.geometry), expected.nucleus_areas)
    names = [f"cellid_{number:09d}-1" for number in range(1, len(batch.geometry) + 1)]
    assert batch.columns["cell_id"].tolist() == names


@pytest.mark.counts(15, 200, 1000)
def test_any_files_read_as_the_slide_they_were_written_from(n):
    settings(max_examples=n, deadline=None)(given(sample=visium_hd_samples())(reads_as_written))()


def reads_as_written(sample):
    slide, quirks = sample.slide, sample.quirks
    expected = expected_visium_hd(slide, quirks)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_row_matrix, "BLOCK_NNZ", 50)
        patch.setattr(_row_matrix, "_BLOCK_ROWS", 7)
        patch.setattr(_bin_positions, "_ROWS_AT_ONCE", 11)
        sample.write(Path(folder))
        record = read_slide(folder, options={"bins": quirks.sizes_um})
        tables = named(record)
        for size, bins in expected.bins.items():
            assert_equal(
                tables.pop(f"expression_square_{size:03d}um"), bins, size_um=size,
                mpp=record.mpp.value,
            )  # fmt: skip
            if quirks.n_antibodies:
                antibodies = tables.pop(f"antibody_capture_square_{size:03d}um")
                np.testing.assert_array_equal(dense(antibodies), bins.antibodies.toarray())
        if expected.cells is not None:
            cells = tables.pop("expression_cells")
            assert_equal(cells, expected.cells, size_um=None, mpp=None)
            assert cells.spots.shape == "polygon"
            np.testing.assert_allclose(np.pi * cells.spots.radius_px**2, expected.cell_areas)
            clusters = {name: tuple(of) for name, of in cells.spots.annotations.items()}
            assert clusters == ({"graphclust": expected.clusters} if expected.clusters else {})
            if quirks.n_antibodies:
                antibodies = tables.pop("antibody_capture_cells")
                np.testing.assert_array_equal(
                    dense(antibodies), expected.cells.antibodies.toarray()
                )
        assert not tables
        assert_nuclei_equal(record, expected)
        pixels = record.image and np.concatenate(
            [band.copy() for band in record.image.iter_bands(50)], axis=1
        )
    found = codes(record)
    bins = expected.bins.values()
    assert found.get("bins.without-counts", 0) == sum(
        one.n_without_counts + quirks.n_counts_without_position for one in bins
    ) - quirks.n_counts_without_position * len(expected.bins)
    lost = quirks.n_counts_without_position * len(expected.bins)
    assert found.get("counts.without-position", 0) == lost
    assert found.get("bins.off-tissue", 0) == sum((~one.in_tissue).sum() for one in bins)
    assert ("barcodes.suffix" in found) == (quirks.suffixes != "both")
    assert ("cells.incomplete" in found) == quirks.cells.startswith("no-")
    is_told = "microns_per_pixel" not in quirks.missing_factors
    assert record.mpp.method == ("file" if is_told else "lattice")
    assert record.mpp.value == pytest.approx(expected.mpp)
    if expected.image is None:
        assert record.image is None
    else:
        np.testing.assert_array_equal(pixels, expected.image)


def test_default_sizes_and_table(slide, tmp_path):
    record = read_slide(write(slide, tmp_path / "P7", cells="numbers"))
    assert [table.name for table in record.tables] == [
        "expression_square_008um", "expression_square_016um", "expression_cells",
    ]  # fmt: skip
    assert record.default_table == "expression_square_008um"
    assert record.slide_id == "P7"
    assert record.descriptors.technology == "Visium HD"
    assert record.descriptors.species == "human"
    for sizes, stored in (((2, 16), ["square_016um"]), ((2, 4), ["square_002um"])):
        folder = write(slide, tmp_path / f"{sizes}", sizes_um=sizes)
        record = read_slide(folder)
        assert [table.spots.region for table in record.tables] == stored
        assert record.default_table == record.tables[0].name


def test_every_way_to_name_the_folder(slide, tmp_path):
    folder = write(slide, tmp_path / "P7", images="full", cells="numbers")
    outs = folder / "outs"
    both = ["square_008um", "square_016um"]
    for path, regions in (
        (folder, [*both, "cells"]),
        (outs, [*both, "cells"]),
        (outs / "binned_outputs", both),
        (outs / "binned_outputs" / "square_002um", ["square_002um"]),
        (outs / "segmented_outputs", ["cells"]),
    ):
        record = read_slide(path)
        assert [table.spots.region for table in record.tables] == regions
        assert record.slide_id == "P7"
    assert read_slide(outs / "binned_outputs" / "square_008um").image.shape[1:] == (240, 220)
    bins = outs / "binned_outputs" / "square_008um"
    bins.rename(tmp_path / "renamed")
    record = read_slide(tmp_path / "renamed")
    assert record.tables[0].spots.region == "square_008um"
    assert record.slide_id == "renamed"


@pytest.mark.parametrize("given", ["4,8,12,16", [16, 12, 8, 4], (4, 8, 12, 16, 16)])
def test_coarser_bins_are_the_sums_of_finer_ones(slide, tmp_path, given):
    everything = expected_visium_hd(slide, VisiumHdQuirks(sizes_um=(2, 4, 8, 12, 16)))
    record = read_slide(write(slide, tmp_path, sizes_um=(2, 4)), options={"bins": given})
    tables = named(record)
    assert list(tables) == [f"expression_square_{size:03d}um" for size in (4, 8, 12, 16)]
    for size in (4, 8, 12, 16):
        expected = everything.bins[size]
        table = tables[f"expression_square_{size:03d}um"]
        by_place = np.lexsort(expected.array_xy.T)
        assert by_place.tolist() == list(range(len(by_place)))
        assert_equal(table, expected, size_um=size, mpp=record.mpp.value)
        assert dense(table).sum() == everything.bins[4].counts.sum()
    pooled = [note for note in record.notes if note.code == "bins.pooled"]
    assert [note.count for note in pooled] == [4, 9, 16]


def test_sums_equal_the_sizes_that_the_source_has_too(slide, tmp_path):
    write(slide, tmp_path, sizes_um=(2, 8, 16), has_zeros=True, is_shuffled=True)
    own = named(read_slide(tmp_path, options={"bins": "8,16"}))
    for coarse in ("008", "016"):
        folder = tmp_path / "outs" / "binned_outputs" / "square_002um"
        summed = read_slide(folder, options={"bins": int(coarse)}).tables[0]
        other = own[f"expression_square_{coarse}um"]
        assert summed.spots.barcodes.tolist() == other.spots.barcodes.tolist()
        np.testing.assert_array_equal(dense(summed), dense(other))
        np.testing.assert_allclose(summed.spots.xy, other.spots.xy)


def test_pooling_takes_rows_in_any_order_and_any_blocks(slide, tmp_path, monkeypatch):
    write(slide, tmp_path, sizes_um=(2,))
    whole = read_slide(tmp_path, options={"bins": 6}).tables[0]
    from stformat import row_order, spill

    expected = dense(whole)
    monkeypatch.setattr(row_order, "BLOCK_NNZ", 13)
    monkeypatch.setattr(row_order, "BUCKET_ROWS", 40)
    monkeypatch.setattr(spill, "MEMORY_BYTES", 100)
    np.testing.assert_array_equal(dense(whole), expected)
    assert len(list(whole.counts.iter_blocks())) > 10


def test_sums_beyond_int32_are_refused(slide, tmp_path):
    write(slide, tmp_path, sizes_um=(2,))
    path = tmp_path / "outs/binned_outputs/square_002um/filtered_feature_bc_matrix.h5"
    with h5py.File(path, "r+") as file:
        file["matrix/data"][:] = 2**31 - 1
    assert refused(CountsError, tmp_path, options={"bins": 8}).code == "counts.overflow"


@pytest.mark.parametrize("bins", ["", "x", 0, [1.5], 1.5, [8, -2], "3", 1000, [], "8;16"])
def test_sizes_that_cannot_be(slide, tmp_path, bins):
    write(slide, tmp_path, sizes_um=(2, 8))
    assert refused(InputError, tmp_path, options={"bins": bins}).code == "option.bins"


def test_store_of_bins_and_cells(slide, tmp_path):
    quirks = VisiumHdQuirks(
        cells="numbers", nuclei="clustered", n_antibodies=2, has_off_tissue=True
    )
    expected = expected_visium_hd(slide, quirks)
    source = write_visium_hd(slide, tmp_path / "source", quirks=quirks)
    store = stf.convert_slide(source, tmp_path / "slide.zarr", bins=(8,))
    assert stf.verify_store(store) == []
    with stf.open_slide(store) as opened:
        assert opened.tables == (
            "expression_square_008um", "antibody_capture_square_008um",
            "expression_cells", "antibody_capture_cells",
        )  # fmt: skip
        assert opened.metadata.default_table == "expression_square_008um"
        assert opened.metadata.mpp.method == "file"
        bins, table = expected.bins[8], opened.table("expression_square_008um")
        rows = table.rows(list(bins.barcodes))
        np.testing.assert_array_equal(table.counts[rows].toarray(), bins.counts.toarray())
        np.testing.assert_array_equal(table.obs["in_tissue"].to_numpy()[rows], bins.in_tissue)
        cells = opened.table("expression_cells")
        rows = cells.rows(list(expected.cells.barcodes))
        np.testing.assert_array_equal(cells.counts[rows].toarray(), expected.cells.counts.toarray())
        clusters = cells.obs["graphclust"].iloc[rows]
        assert [None if pd.isna(one) else one for one in clusters] == list(expected.clusters)
        nuclei = opened.annotations["nuclei"]
        np.testing.assert_allclose(nuclei.geometry.area, expected.nucleus_areas)
        assert list(nuclei["cell_id"]) == list(expected.cells.barcodes)
    again = stf.convert_slide(source, tmp_path / "again.zarr", bins="8")
    digests = [(path / "stformat/commit.json").read_bytes() for path in (store, again)]
    assert digests[0] == digests[1]


def spatial(folder, size=8):
    return folder / "outs/binned_outputs" / f"square_{size:03d}um" / "spatial"


def edit_positions(folder, **columns):
    path = spatial(folder) / "tissue_positions.parquet"
    table = pq.read_table(path)
    for name, change in columns.items():
        place = table.schema.get_field_index(name)
        if change is None:
            table = table.remove_column(place)
            continue
        values = table[name].to_pylist()
        table = table.set_column(place, name, pa.array(change(values)))
    pq.write_table(table, path)


def first(value):
    return lambda values: [value, *values[1:]]


@pytest.mark.parametrize(
    ("column", "change", "code"),
    [
        ("array_row", None, "positions.columns"),
        ("barcode", None, "positions.columns"),
        ("barcode", lambda values: [values[1], *values[1:]], "positions.repeated-spots"),
        ("barcode", first(""), "positions.repeated-spots"),
        ("barcode", first(None), "positions.not-a-number"),
        ("barcode", first("a\0b"), "positions.encoding"),
        ("barcode", first("x" * 300), "positions.encoding"),
        ("barcode", lambda values: list(range(len(values))), "positions.not-a-number"),
        ("barcode", lambda values: [f"{value}x" for value in values], "positions.no-join"),
        ("in_tissue", first(2), "positions.not-a-number"),
        ("in_tissue", first(None), "positions.not-a-number"),
        ("array_col", first(-1), "positions.not-a-number"),
        ("array_col", lambda values: [0.5, *map(float, values[1:])], "positions.not-a-number"),
        ("pxl_row_in_fullres", first(float("nan")), "positions.not-a-number"),
        ("pxl_col_in_fullres", first(1e10), "positions.not-a-number"),
        ("pxl_col_in_fullres", lambda values: list(map(str, values)), "positions.not-a-number"),
    ],
)  # fmt: skip
def test_damaged_positions(slide, tmp_path, column, change, code):
    write(slide, tmp_path, sizes_um=(8,))
    edit_positions(tmp_path, **{column: change})
    assert refused(PositionsError, tmp_path).code == code


@pytest.mark.parametrize(
    ("factors", "code"),
    [
        ({"bin_size_um": 16.0}, "bins.size"),
        ({"bin_size_um": 8.5}, "bins.size"),
        ({"bin_size_um": -8}, "scalefactors.value"),
        ({"microns_per_pixel": "x"}, "scalefactors.value"),
    ],
)
def test_factors_that_cannot_be(slide, tmp_path, factors, code):
    write(slide, tmp_path, sizes_um=(8,))
    path = spatial(tmp_path) / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | factors))
    assert refused(PositionsError, tmp_path).code == code


def test_files_that_are_missing_or_too_many(slide, tmp_path):
    write(slide, tmp_path, sizes_um=(8,), cells="no-counts")
    bins = spatial(tmp_path).parent
    problem = refused(PositionsError, tmp_path / "outs" / "segmented_outputs")
    assert problem.code == "cells.incomplete"
    (bins / "spatial" / "tissue_positions.csv").write_bytes(
        (bins / "spatial" / "tissue_positions.parquet").read_bytes()
    )
    assert refused(PositionsError, tmp_path).code == "positions.several"
    for path in bins.rglob("tissue_positions.*"):
        path.unlink()
    assert refused(PositionsError, tmp_path).code == "positions.missing"
    (bins / "filtered_feature_bc_matrix.h5").unlink()
    assert refused(CountsError, tmp_path).code == "counts.missing"
    copy = bins.with_name("copy")
    write(slide, tmp_path / "other", sizes_um=(8,))
    spatial(tmp_path / "other").parent.rename(copy)
    assert refused(PositionsError, tmp_path).code == "bins.several"
    (tmp_path / "outs2" / "binned_outputs").mkdir(parents=True)
    assert refused(UnknownSourceError, tmp_path / "outs2").code == "source.visium-hd"


def edit_h5(folder, part, change):
    path = spatial(folder).parent / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "r+") as file:
        values = file["matrix"][part][:]
        del file["matrix"][part]
        file["matrix"].create_dataset(part, data=change(values))


@pytest.mark.parametrize(
    ("part", "change", "code"),
    [
        ("barcodes", lambda v: np.concatenate([v[1:2], v[1:]]), "counts.repeated-spots"),
        ("barcodes", lambda v: np.concatenate([[b""], v[1:]]), "counts.repeated-spots"),
        ("barcodes", lambda v: np.arange(len(v)), "counts.structure"),
        ("indptr", lambda v: np.concatenate([v[:1], v[2:3], v[1:2], v[3:]]), "counts.structure"),
        ("indptr", lambda v: v[:-1], "counts.structure"),
        ("indices", lambda v: v[:-1], "counts.structure"),
        ("indices", lambda v: np.concatenate([v[:-1], [10_000]]), "counts.structure"),
        ("indices", lambda v: np.concatenate([v[1:2], v[1:]]), "counts.repeated-entries"),
        ("indices", lambda v: v.astype(float), "counts.structure"),
        ("data", lambda v: -v, "counts.negative"),
        ("data", lambda v: v * np.nan, "counts.not-finite"),
        ("data", lambda v: v.astype("S2"), "counts.structure"),
    ],
)
def test_damaged_counts(slide, tmp_path, part, change, code):
    write(slide, tmp_path, sizes_um=(8,))
    edit_h5(tmp_path, part, change)
    assert refused(CountsError, tmp_path).code == code


def test_values_that_are_no_counts_and_chunks_too_large(slide, tmp_path, monkeypatch):
    write(slide, tmp_path, sizes_um=(8,))
    edit_h5(tmp_path, "data", lambda values: np.concatenate([[0.5], values[1:]]))
    monkeypatch.setattr(_row_matrix, "BLOCK_NNZ", 20)
    record = read_slide(tmp_path)
    assert dense(record.tables[0]).dtype == np.float32
    assert codes(record)["counts.non-integer"] == 1
    write(slide, tmp_path / "b", sizes_um=(8,))
    monkeypatch.setattr(_row_matrix, "MAX_CHUNK_BYTES", 1000)
    assert refused(CountsError, tmp_path / "b").code == "counts.h5-chunk"


def test_a_cut_file_is_a_typed_error(slide, tmp_path):
    write(slide, tmp_path, sizes_um=(8,), cells="numbers")
    for path in sorted(tmp_path.rglob("*")):
        if not path.is_file() or path.suffix == ".png":
            continue
        content = path.read_bytes()
        for n_bytes in (0, 3, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:n_bytes])
            with pytest.raises(InputError):
                read_all(tmp_path)
        path.write_bytes(content)
    read_all(tmp_path)


@pytest.mark.parametrize(
    "feature",
    [
        {},
        [],
        {"properties": {"cell_id": 1}},
        {"properties": {"cell_id": -1}},
        {"properties": {"cell_id": True}, "geometry": {"type": "Polygon", "coordinates": []}},
        {"properties": {"cell_id": 9}, "geometry": {"type": "Polygon", "coordinates": []}},
        {"properties": {"cell_id": 9}, "geometry": {"type": "Point", "coordinates": [1, 1]}},
        {"properties": {"cell_id": 9}, "geometry": {"type": "Polygon", "coordinates": [[[0, 0]]]}},
        {"properties": {"cell_id": 9}, "geometry": {"type": "No", "coordinates": 1}},
        {
            "properties": {"cell_id": 9},
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]},
        },
        {
            "properties": {"cell_id": 1},
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 0], [0, 0]]]},
        },
    ],
)
def test_damaged_outlines(slide, tmp_path, feature):
    write(slide, tmp_path, sizes_um=(8,), cells="numbers")
    path = tmp_path / "outs" / "segmented_outputs" / "cell_segmentations.geojson"
    document = json.loads(path.read_text())
    document["features"][5] = feature
    path.write_text(json.dumps(document))
    assert refused(PositionsError, tmp_path).code == "cells.outlines"


def test_cells_without_partner_are_counted(slide, tmp_path):
    write(slide, tmp_path, sizes_um=(8,), cells="names")
    path = tmp_path / "outs" / "segmented_outputs" / "cell_segmentations.geojson"
    document = json.loads(path.read_text())
    document["features"][2]["properties"]["cell_id"] = 12345
    square = [[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]]
    document["features"][3]["geometry"] = {"type": "MultiPolygon", "coordinates": [square]}
    path.write_text(json.dumps(document))
    record = read_slide(tmp_path)
    found = codes(record)
    assert (found["cells.without-counts"], found["counts.without-position"]) == (1, 1)
    cells = named(record)["expression_cells"].spots
    np.testing.assert_allclose(cells.xy[2], [0.75, 0.75])
    document["features"] = document["features"][2:3]
    path.write_text(json.dumps(document))
    assert refused(PositionsError, tmp_path).code == "positions.no-join"
