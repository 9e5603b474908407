"""Legacy ST samples, generated with every quirk, against what they were generated from."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from stformat.sources import legacy_st, read_slide
from stformat.sources._image import open_image
from stformat.testing import LegacyStQuirks, expected_legacy_st, make_slide, write_legacy_st
from stformat.testing.strategies import legacy_st_samples

SIZE = {"height": 260, "width": 300, "n_genes": 30, "pitch_px": 40.0}


@pytest.fixture(scope="module")
def slide():
    return make_slide(**SIZE, seed=3)


def dense(record):
    return np.vstack([block.toarray() for block in record.tables[0].counts.iter_blocks()])


def codes(record):
    return {note.code: note.count for note in record.notes}


@pytest.mark.counts(25, 200, 1000)
def test_any_files_read_as_the_slide_they_were_written_from(n):
    settings(max_examples=n, deadline=None)(given(sample=legacy_st_samples())(reads_as_written))()


def reads_as_written(sample):
    slide, quirks = sample.slide, sample.quirks
    expected = expected_legacy_st(slide, quirks)
    with tempfile.TemporaryDirectory() as folder:
        record = read_slide(sample.write(Path(folder)))
        pixels = record.image and np.concatenate(
            [band.copy() for band in record.image.iter_bands(50)], axis=1
        )
    (table,) = record.tables
    spots = table.spots
    assert spots.barcodes.tolist() == list(expected.barcodes)
    np.testing.assert_array_equal(spots.xy, expected.xy)
    np.testing.assert_array_equal(spots.array_col, expected.array_xy[:, 0])
    np.testing.assert_array_equal(spots.array_row, expected.array_xy[:, 1])
    np.testing.assert_array_equal(spots.in_tissue, expected.in_tissue)
    np.testing.assert_array_equal(dense(record), expected.counts.toarray())
    assert table.counts.dtype == np.int32
    assert table.genes.gene_name.tolist() == list(expected.gene_names)
    assert len(set(table.genes.keys)) == len(expected.gene_names)
    if quirks.labels == "none":
        assert not spots.annotations
    else:
        assert tuple(spots.annotations["label"]) == expected.labels
    found = codes(record)
    assert found.get("spots.without-counts", 0) == expected.n_spots_without_counts
    assert found.get("counts.without-position", 0) == expected.n_counts_without_spot
    assert found.get("genes.repeated-names", 0) == quirks.n_repeated_genes
    assert found.get("labels.repeated", 0) == (
        quirks.labels != "none"
        and quirks.has_repeated_label
        and slide.in_tissue.nonzero()[0][-1] in expected.rows
    )
    assert spots.pitch_px == pytest.approx(slide.pitch_px, rel=0.05)
    assert record.mpp.value == pytest.approx(slide.mpp, rel=0.05)
    np.testing.assert_array_equal(spots.radius_px, spots.pitch_px / 4)
    if sample.image_format is None:
        assert record.image is None
        assert "image.none" in found
    else:
        np.testing.assert_array_equal(pixels, slide.image)
        outside = ((expected.xy < 0) | (expected.xy >= (slide.width, slide.height))).any(axis=1)
        assert found.get("spots.outside-image", 0) == outside.sum()
        assert not quirks.is_off_image or outside.any() or not expected.rows.size


def test_plain_sample_has_nothing_to_say(slide, tmp_path):
    record = read_slide(write_legacy_st(slide, tmp_path, image_format="png"))
    assert record.notes == ()
    assert record.slide_id == "S1"
    assert record.default_table == record.tables[0].name == "expression"
    assert record.tables[0].spots.region == "spots"
    assert record.tables[0].spots.shape == "circle"
    assert record.tables[0].spots.diameter_um == 100.0
    assert record.tables[0].spots.pitch_um == 200.0
    assert record.descriptors.technology == "ST"
    assert record.mpp.method == "lattice"
    assert [source.name for source in record.sources] == [
        "S1.tsv.gz", "S1_HE.png", "S1_selection.tsv",
    ]  # fmt: skip


def test_source_may_be_the_count_matrix(slide, tmp_path):
    for layout, counts in (("her2st", "ST-cnts/S1.tsv.gz"), ("flat", "S1.tsv.gz")):
        folder = write_legacy_st(slide, tmp_path / layout, image_format="png", layout=layout)
        record = read_slide(folder / counts)
        assert record.image is not None
        assert record.tables[0].counts.shape == expected_legacy_st(slide).counts.shape


def test_one_of_several_samples_is_chosen_by_slide_id(tmp_path):
    for name in ("A1", "A10", "A1_rep", "B1"):
        other = make_slide(**SIZE, seed=len(name), slide_id=name)
        quirks = LegacyStQuirks(labels="by-place" if name == "A1" else "none")
        write_legacy_st(other, tmp_path, image_format="png", quirks=quirks)
        write_legacy_st(other, tmp_path / "flat", image_format="png", layout="flat", quirks=quirks)
    for folder in (tmp_path, tmp_path / "flat"):
        record = read_slide(folder, slide_id="A10")
        assert record.slide_id == "A10"
        assert {source.name.partition("A10")[1] for source in record.sources} == {"A10"}
        assert not record.tables[0].spots.annotations
        assert "label" in read_slide(folder, slide_id="A1").tables[0].spots.annotations
    assert read_slide(tmp_path / "ST-cnts" / "B1.tsv.gz", slide_id="new").slide_id == "new"


def test_names_without_a_common_word_join_where_there_is_one_of_each(slide, tmp_path):
    write_legacy_st(slide, tmp_path, layout="flat", image_format="png")
    (tmp_path / "S1.tsv.gz").rename(tmp_path / "counts.data")
    (tmp_path / "alignment_table_S1.tsv").rename(tmp_path / "spots")
    (tmp_path / "S1.png").rename(tmp_path / "scan.of.the.section")
    record = read_slide(tmp_path)
    assert record.slide_id == "counts.data"
    assert record.image is not None


def test_files_that_are_no_part_of_a_sample_are_passed_over(slide, tmp_path):
    write_legacy_st(slide, tmp_path, layout="flat", image_format=None)
    (tmp_path / ".backup.tsv").write_text("\tERBB2\n1x1\t4\n")
    (tmp_path / "notes.txt").write_text("x y\nseen 10x13\n")
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "broken.tsv.gz").write_bytes(b"\x1f\x8b\x08rest")
    (tmp_path / "archive.zip").write_bytes(b"PK\x03\x04\0\0\n" * 10)
    (tmp_path / "._S1.tsv").write_bytes(b"\0\x05\x16\x07")
    assert read_slide(tmp_path).tables[0].counts.shape[1] == 30


def test_given_image_and_labels_win(slide, tmp_path):
    source = write_legacy_st(slide, tmp_path / "a", image_format=None, layout="flat")
    other = write_legacy_st(
        slide, tmp_path / "b", layout="flat", image_format="png",
        quirks=LegacyStQuirks(labels="by-pixel"),
    )  # fmt: skip
    record = read_slide(
        source, image=other / "S1.png", options={"labels": str(other / "S1_labels.tsv")}
    )
    assert record.image.shape == (3, slide.height, slide.width)
    assert tuple(record.tables[0].spots.annotations["label"]) == tuple(
        slide.labels[expected_legacy_st(slide).rows]
    )


def test_mpp_is_given_before_it_is_fitted(slide, tmp_path):
    source = write_legacy_st(slide, tmp_path, image_format=None)
    record = read_slide(source, mpp=slide.mpp * 1.04)
    assert (record.mpp.value, record.mpp.method) == (slide.mpp * 1.04, "given")
    assert record.mpp.residual is not None
    assert "mpp.contradiction" not in codes(record)
    assert "mpp.contradiction" in codes(read_slide(source, mpp=slide.mpp * 1.06))


def test_given_pitch_gives_mpp_on_any_array(slide, tmp_path):
    source = write_legacy_st(slide, tmp_path, image_format=None)
    record = read_slide(source, options={"pitch_um": 110})
    assert record.mpp.value == pytest.approx(slide.mpp * 110 / 200, rel=0.001)
    assert record.tables[0].spots.diameter_um == 55.0


def test_unknown_array_leaves_mpp_unknown(tmp_path):
    slide = make_slide(height=200, width=800, seed=1, n_genes=5, pitch_px=20, array_shape=(9, 40))
    record = read_slide(write_legacy_st(slide, tmp_path, image_format=None))
    assert record.mpp.value is None
    assert record.mpp.method == "unknown"
    assert record.mpp.residual < 0.01
    assert "--pitch-um" in next(n.message for n in record.notes if n.code == "mpp.unknown")
    assert record.tables[0].spots.diameter_um is None
    assert record.tables[0].spots.pitch_px == pytest.approx(20, rel=0.01)


def _write_tiny(folder: Path, places, pixels) -> Path:
    names = [f"{x}x{y}" for x, y in places]
    rows = "".join(f"{name}\t{index + 1}\t0\n" for index, name in enumerate(names))
    (folder / "S.tsv").write_text(f"\tERBB2\tKRT8\n{rows}")
    spots = zip(places, pixels, strict=True)
    table = "".join(f"{x}\t{y}\t{px}\t{py}\n" for (x, y), (px, py) in spots)
    (folder / "S_spots.tsv").write_text(f"x\ty\tpixel_x\tpixel_y\n{table}")
    return folder


def test_spots_on_a_line_take_the_distance_of_neighbours(tmp_path):
    source = _write_tiny(tmp_path, [(1, 1), (2, 1), (3, 1)], [(10, 10), (30, 10), (50, 10)])
    record = read_slide(source)
    assert record.tables[0].spots.pitch_px == 20
    assert record.mpp.value is None
    assert record.mpp.residual is None


def test_single_spot_is_sized_by_given_pitch_and_mpp(tmp_path):
    source = _write_tiny(tmp_path, [(4, 4)], [(10, 10)])
    record = read_slide(source, mpp=0.5, options={"pitch_um": 200})
    assert record.tables[0].spots.radius_px.tolist() == [100.0]


def test_positions_off_the_array_give_no_scale(tmp_path):
    rng = np.random.default_rng(0)
    places = [(x, y) for x in range(1, 7) for y in range(1, 7)]
    source = _write_tiny(tmp_path, places, np.round(rng.uniform(0, 500, (36, 2)), 1))
    record = read_slide(source)
    assert record.mpp.value is None
    assert "positions.off-array" in codes(record)


def test_checkerboard_is_not_taken_for_a_full_grid(tmp_path):
    places = [(x, y) for x in range(1, 9) for y in range(1, 9) if (x + y) % 2 == 0]
    source = _write_tiny(tmp_path, places, [(10 * x, 10 * y) for x, y in places])
    record = read_slide(source)
    assert record.tables[0].spots.pitch_px == pytest.approx(10 * 2**0.5)
    assert record.mpp.value is None


def test_labels_of_another_section_are_reported(slide, tmp_path):
    other = make_slide(**{**SIZE, "seed": 4})
    source = write_legacy_st(slide, tmp_path / "a", image_format=None)
    labels = write_legacy_st(
        other, tmp_path / "b", image_format=None, quirks=LegacyStQuirks(labels="by-place")
    )
    record = read_slide(
        source, options={"labels": labels / "ST-pat/lbl/S1_labeled_coordinates.tsv"}
    )
    assert codes(record)["labels.moved"] > 10


def test_missing_labels_are_none(slide, tmp_path):
    source = write_legacy_st(slide, tmp_path, image_format=None)
    row = expected_legacy_st(slide).rows[0]
    x, y = slide.array_xy[row]
    labels = tmp_path / "labels.csv"
    labels.write_text(f"x,y,label\n{x},{y},NA\nNA,NA,lost\n{x + 1},{y},tumour\n")
    record = read_slide(source, options={"labels": labels})
    values = record.tables[0].spots.annotations["label"]
    assert values[0] is None
    assert sorted({value for value in values if value}) == ["tumour"]
    assert codes(record)["labels.without-spot"] == 1
    assert codes(record)["spots.without-label"] == len(values) - 1


def test_descriptors_come_from_options(slide, tmp_path):
    source = write_legacy_st(slide, tmp_path, image_format=None)
    options = {"species": "human", "technology": "ST 2k", "donor": None, "licence": "CC-BY-4.0"}
    descriptors = read_slide(source, options=options).descriptors
    assert (descriptors.species, descriptors.technology) == ("human", "ST 2k")
    assert (descriptors.donor, descriptors.licence, descriptors.stain) == (None, "CC-BY-4.0", "he")


def test_ensembl_identifiers_become_the_key(tmp_path):
    source = _write_tiny(tmp_path, [(1, 1), (1, 2), (2, 1)], [(10, 10), (10, 20), (20, 10)])
    text = (source / "S.tsv").read_text()
    (source / "S.tsv").write_text(
        text.replace("ERBB2", "ENSG00000141736.13").replace("KRT8", "ENSMUSG00000049382")
    )
    genes = read_slide(source).tables[0].genes
    assert genes.key_kind == "gene_id"
    assert genes.keys.tolist() == ["ENSG00000141736.13", "ENSMUSG00000049382"]
    assert genes.gene_id.tolist() == ["ENSG00000141736", "ENSMUSG00000049382"]
    assert genes.gene_name.tolist() == [None, None]
    assert genes.feature_type.tolist() == ["Gene Expression"] * 2


def test_values_that_are_no_integers_are_float32_and_said(tmp_path):
    source = _write_tiny(tmp_path, [(1, 1), (1, 2), (2, 1)], [(10, 10), (10, 20), (20, 10)])
    text = (source / "S.tsv").read_text()
    (source / "S.tsv").write_text(text.replace("\t2\t", "\t2.5\t"))
    record = read_slide(source)
    assert record.tables[0].counts.dtype == np.float32
    assert codes(record)["counts.non-integer"] == 1
    assert dense(record)[:, 0].tolist() == [1.0, 2.5, 3.0]


def test_blocks_can_be_read_again(slide, tmp_path):
    record = read_slide(write_legacy_st(slide, tmp_path, image_format=None))
    np.testing.assert_array_equal(dense(record), dense(record))
    for block in record.tables[0].counts.iter_blocks():
        assert block.has_canonical_format
        assert (block.data != 0).all()


def test_names_are_compared_with_as_many_decimals_as_they_print(tmp_path):
    places = [(1.2, 1.2), (1.41, 1.2), (1.2, 1.4)]
    source = _write_tiny(tmp_path, places, [(12, 12), (14, 12), (12, 14)])
    spots = (source / "S_spots.tsv").read_text().replace("1.41", "1.4096")
    (source / "S_spots.tsv").write_text(spots)
    record = read_slide(source)
    assert record.tables[0].spots.barcodes.tolist() == ["1.2x1.2", "1.41x1.2", "1.2x1.4"]
    assert record.tables[0].spots.xy.tolist() == [[12, 12], [14, 12], [12, 14]]


@pytest.mark.parametrize(("offset", "expected"), [(0.4, ["a", "b"]), (0.6, ["b"])])
def test_labels_by_pixel_are_of_spots_within_half_a_pixel(tmp_path, offset, expected):
    source = _write_tiny(tmp_path, [(1, 1), (1, 2), (2, 1)], [(10, 10), (10, 20), (20, 10)])
    labels = tmp_path / "labels"
    labels.write_text(f"pixel_x,pixel_y,label\n{10 + offset},10,a\n20,10,b\n")
    values = read_slide(source, options={"labels": labels}).tables[0].spots.annotations["label"]
    assert [value for value in values if value] == expected


@pytest.mark.parametrize("pitch_um", [None, 300.0])
def test_image_tags_give_mpp_where_nothing_else_does(tmp_path, monkeypatch, pitch_um):
    slide = make_slide(height=200, width=800, seed=1, n_genes=5, pitch_px=20, array_shape=(9, 40))
    source = write_legacy_st(slide, tmp_path, image_format="png")

    def open_tagged(path, **arguments):
        return dataclasses.replace(open_image(path, **arguments), tag_mpp=11.0)

    monkeypatch.setattr(legacy_st, "open_image", open_tagged)
    record = read_slide(source, options={"pitch_um": pitch_um})
    if pitch_um is None:
        assert (record.mpp.value, record.mpp.method) == (11.0, "image-tags")
        assert "mpp.contradiction" not in codes(record)
    else:
        assert record.mpp.method == "lattice"
        assert "mpp.contradiction" in codes(record)
