"""Slides in the layout of STimage-1K4M, generated with every quirk, against what they are of."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import stformat as stf
from stformat.errors import CountsError, ImageError, InputError, PositionsError, UnknownSourceError
from stformat.sources import list_slides as slides_of_tree
from stformat.sources import read_slide
from stformat.sources._stimage_files import list_slides
from stformat.testing import StimageQuirks, expected_stimage, make_slide, write_stimage
from stformat.testing.strategies import stimage_samples

SIZE = {"height": 260, "width": 300, "n_genes": 30, "pitch_px": 40.0}
PLAIN = "ST/coord/S1_coord.csv", "ST/gene_exp/S1_count.csv", "ST/image/S1.png"


@pytest.fixture(scope="module")
def slide():
    return make_slide(**SIZE, seed=3)


@pytest.fixture(scope="module")
def hexagonal():
    return make_slide(**{**SIZE, "height": 400, "width": 400}, seed=4, lattice="hexagonal")


@pytest.fixture
def tree(slide, tmp_path):
    return write_stimage(slide, tmp_path / "tree", image_format="png")


def dense(record):
    return np.vstack([block.toarray() for block in record.tables[0].counts.iter_blocks()])


def codes(record):
    return {note.code: note.count for note in record.notes}


def contents(store):
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store): path.read_bytes() for path in files}


def refusal(source, **arguments):
    with pytest.raises(InputError) as caught:
        read_slide(source, kind="stimage", **arguments)
    return caught.value.problems[0]


@pytest.mark.counts(25, 200, 1000)
def test_any_files_read_as_the_slide_they_were_written_from(n):
    settings(max_examples=n, deadline=None)(given(sample=stimage_samples())(reads_as_written))()


def reads_as_written(sample):
    slide, quirks = sample.slide, sample.quirks
    expected = expected_stimage(slide, quirks)
    with tempfile.TemporaryDirectory() as folder:
        # Bare names like 10x13 beside numbers in a folder of their own are legacy ST's as well.
        is_bare = quirks.layout == "flat" and quirks.prefixed != "both"
        record = read_slide(sample.write(Path(folder)), kind="stimage" if is_bare else "auto")
        pixels = record.image and np.concatenate(
            [band.copy() for band in record.image.iter_bands(50)], axis=1
        )
    (table,) = record.tables
    spots, genes = table.spots, table.genes
    assert tuple(spots.barcodes) == expected.barcodes
    np.testing.assert_array_equal(spots.xy, expected.xy)
    np.testing.assert_array_equal(spots.radius_px, expected.radius_px)
    np.testing.assert_array_equal(
        np.stack([spots.array_col, spots.array_row], axis=1), expected.array_xy
    )
    np.testing.assert_array_equal(dense(record), expected.counts.toarray())
    np.testing.assert_array_equal(dense(record), expected.counts.toarray())  # and once more
    assert table.counts.dtype == expected.counts.dtype or not quirks.has_fractions
    assert tuple(genes.gene_name) == expected.gene_names
    assert tuple(genes.genome) == expected.genomes
    assert len(set(genes.keys)) == len(expected.column_names)
    if quirks.labels == "none":
        assert not spots.annotations
    else:
        assert tuple(spots.annotations["label"]) == expected.labels
    found = codes(record)
    assert found.get("spots.without-counts", 0) == expected.n_spots_without_counts
    assert found.get("counts.without-position", 0) == expected.n_counts_without_spot
    is_repeated = len(set(expected.column_names)) < len(expected.column_names)
    assert found.get("genes.repeated-names", 0) == is_repeated
    assert ("labels.repeated" in found) == (quirks.labels != "none" and quirks.has_repeated_label)
    assert record.descriptors.technology == quirks.technology.replace("HD", " HD")
    assert record.descriptors.species == (None if quirks.meta == "none" else "human")
    if sample.image_format is None:
        assert record.image is None
    else:
        np.testing.assert_array_equal(pixels, slide.image)


def test_plain_slide_has_nothing_to_say(tree):
    record = read_slide(tree)
    assert record.notes == ()
    assert record.slide_id == "S1"
    assert record.default_table == record.tables[0].name == "expression"
    spots = record.tables[0].spots
    assert (spots.region, spots.shape, spots.pitch_um, spots.diameter_um) == (
        "spots", "circle", 200.0, 100.0,
    )  # fmt: skip
    assert spots.in_tissue.all()
    assert record.mpp.method == "lattice"
    assert [source.name for source in record.sources] == [
        "S1.png", "S1_coord.csv", "S1_count.csv", "meta_all_gene.csv",
    ]  # fmt: skip


def test_catalogue_becomes_descriptors(tree):
    found = read_slide(tree, options={"tissue": "Breast"}).descriptors
    assert (found.technology, found.species, found.tissue) == ("ST", "human", "Breast")
    assert found.study == "STimage-1K4M"
    assert (found.pmid, found.citation) == ("34650042", "PMID 34650042, PMID 32579974")
    assert found.title == 'A "synthetic" study of tissue, with commas'
    assert found.keywords == (
        "breast cancer", "spatial transcriptomics", "tumor microenvironment",
    )  # fmt: skip
    assert found.involves_cancer is True


@pytest.mark.parametrize("name", PLAIN)
def test_source_may_be_any_file_of_the_slide(slide, tmp_path, name):
    other = make_slide(**SIZE, seed=9, slide_id="S10")
    tree = write_stimage([slide, other], tmp_path, image_format="png")
    record = read_slide(tree / name)
    assert record.slide_id == "S1"
    assert record.image is not None
    np.testing.assert_array_equal(dense(record), expected_stimage(slide).counts.toarray())
    assert read_slide(tree / name, slide_id="mine").slide_id == "mine"


def test_slides_of_a_tree_are_listed_and_chosen_by_name(tmp_path, hexagonal):
    names = ["A1", "A10", "A1.5_b", "B"]
    squares = [make_slide(**SIZE, seed=seed, slide_id=name) for seed, name in enumerate(names)]
    write_stimage(squares, tmp_path, image_format=None)
    write_stimage(hexagonal, tmp_path, quirks=StimageQuirks(technology="Visium"))
    listed = list_slides(tmp_path)
    assert [(slide.slide_id, slide.technology) for slide in listed] == [
        ("A1", "ST"), ("A1.5_b", "ST"), ("A10", "ST"), ("B", "ST"), ("S1", "Visium"),
    ]  # fmt: skip
    assert list_slides(tmp_path / "Visium") == listed[-1:]
    found = slides_of_tree(tmp_path).slides
    assert [(slide.kind, slide.slide_id) for slide in found] == [
        ("stimage", slide.slide_id) for slide in listed
    ]
    assert read_slide(found[-1].path).descriptors.technology == "Visium"
    for square in squares:
        record = read_slide(tmp_path, slide_id=square.slide_id)
        np.testing.assert_array_equal(dense(record), expected_stimage(square).counts.toarray())
        assert record.descriptors.species == "human"
    assert "A1, A1.5_b, A10, B, S1" in str(refusal(tmp_path))
    assert refusal(tmp_path, slide_id="C").code == "source.slides"


def test_slides_in_a_folder_together(slide, tmp_path):
    flat = StimageQuirks(layout="flat")
    other = make_slide(**SIZE, seed=9, slide_id="S2")
    write_stimage([slide, other], tmp_path, image_format="png", quirks=flat)
    assert [listed.slide_id for listed in list_slides(tmp_path)] == ["S1", "S2"]
    record = read_slide(tmp_path, slide_id="S2")
    np.testing.assert_array_equal(dense(record), expected_stimage(other).counts.toarray())
    assert record.descriptors.technology == "ST"


def test_visium_has_its_scale_and_no_places(hexagonal, tmp_path):
    source = write_stimage(hexagonal, tmp_path, quirks=StimageQuirks(technology="Visium"))
    record = read_slide(source)
    assert record.mpp.method == "lattice"
    assert record.mpp.value == pytest.approx(hexagonal.mpp, rel=0.01)
    spots = record.tables[0].spots
    assert (spots.pitch_um, spots.diameter_um, spots.shape) == (100.0, 55.0, "circle")
    assert (spots.array_row == -1).all()
    assert read_slide(source, options={"pitch_um": 50.0}).mpp.value == pytest.approx(
        hexagonal.mpp / 2, rel=0.01
    )


def test_visium_off_its_array_has_no_scale(slide, tmp_path):
    record = read_slide(write_stimage(slide, tmp_path, quirks=StimageQuirks(technology="Visium")))
    assert record.mpp.method == "unknown"
    assert {"positions.off-array", "mpp.unknown"} <= set(codes(record))


def test_visium_hd_has_bins(slide, tmp_path):
    record = read_slide(write_stimage(slide, tmp_path, quirks=StimageQuirks(technology="VisiumHD")))
    (table,) = record.tables
    assert table.name == record.default_table == "expression_square_008um"
    assert (table.spots.region, table.spots.shape) == ("square_008um", "square")
    assert (table.spots.pitch_um, table.spots.diameter_um) == (8.0, 8.0)
    assert record.mpp.value == pytest.approx(8 / slide.pitch_px, rel=0.02)


def test_st_off_the_1k_array_needs_a_pitch(tmp_path):
    wide = make_slide(height=200, width=800, seed=1, n_genes=5, pitch_px=20, array_shape=(9, 40))
    source = write_stimage(wide, tmp_path)
    assert "mpp.unknown" in codes(read_slide(source))
    record = read_slide(source, options={"pitch_um": 150})
    assert record.mpp.value == pytest.approx(7.5, rel=0.01)


def test_each_spot_has_its_own_radius(tree):
    coord = tree / PLAIN[0]
    lines = coord.read_text().splitlines()
    lines[1:] = [line.rsplit(",", 1)[0] + f",{row + 1}.5" for row, line in enumerate(lines[1:])]
    coord.write_text("\n".join(lines))
    spots = read_slide(tree).tables[0].spots
    np.testing.assert_array_equal(spots.radius_px, np.arange(len(spots.radius_px)) + 1.5)


def test_contradictions_are_noted(tree):
    shutil.move(tree / "ST", tree / "Visium")
    meta = tree / "meta/meta_all_gene.csv"
    meta.write_text(meta.read_text().replace('"30"', '"31"'))
    record = read_slide(tree)
    assert record.descriptors.technology == "Visium"
    assert {"technology.contradiction", "meta.contradiction"} <= set(codes(record))
    meta.write_text(meta.read_text().replace('"S1"', '"S2"'))
    assert "meta.none" in codes(read_slide(tree))


def test_technology_that_nothing_tells_must_be_given(slide, tmp_path):
    quirks = StimageQuirks(layout="flat", meta="none", prefixed="neither")
    source = write_stimage(slide, tmp_path, quirks=quirks)
    for path in source.glob("*.csv"):
        lines = [line.replace("x", "-", 1) if line[:1] != "," else line
                 for line in path.read_text().splitlines()]  # fmt: skip
        path.write_text("\n".join(lines))
    assert refusal(source).code == "technology.unknown"
    record = read_slide(source, options={"technology": "other"})
    assert (record.descriptors.technology, record.mpp.method) == ("other", "unknown")


def test_files_of_other_kinds_are_none_of_this(small_source, tmp_path):
    with pytest.raises(UnknownSourceError):
        read_slide(tmp_path)
    assert read_slide(small_source).descriptors.technology == "ST"
    assert refusal(small_source).code == "source.slides"


@pytest.mark.parametrize(
    ("name", "change", "error", "code"),
    [
        (PLAIN[0], ("yaxis", "y"), PositionsError, "positions.columns"),
        (PLAIN[0], ("S1_4x1,", "S1_4x1,9,"), PositionsError, "positions.ragged"),
        (PLAIN[0], (",10.0\n", ",0\n"), PositionsError, "positions.radius"),
        (PLAIN[0], (",10.0\n", ",nan\n"), PositionsError, "positions.not-a-number"),
        (PLAIN[0], ("S1_4x1", "S1_3x1"), PositionsError, "positions.repeated-spots"),
        (PLAIN[1], ("S1_4x1", "S1_3x1"), CountsError, "counts.repeated-spots"),
        (PLAIN[1], ("0.0\n", "-1.0\n"), CountsError, "counts.negative"),
        (PLAIN[1], ("0.0\n", "\n"), CountsError, "counts.not-a-number"),
        (PLAIN[1], ("0.0\n", "0.0,0.0\n"), CountsError, "counts.ragged"),
        (PLAIN[1], ("ERBB2", ""), CountsError, "counts.gene-names"),
        ("meta/meta_all_gene.csv", ('"S1"', '"S1","2"'), InputError, "meta.ragged"),
        ("meta/meta_all_gene.csv", ('"S1"', '"S1"x'), InputError, "meta.damaged"),
    ],
)
def test_what_is_wrong_is_said(tree, name, change, error, code):
    path, (old, new) = tree / name, change
    text = path.read_text()
    assert old in text, text[:400]
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(error) as caught:
        read_slide(tree)
    assert caught.value.problems[0].code == code
    assert path.name in caught.value.problems[0].where


def test_missing_files(tree):
    image = tree / PLAIN[2]
    image.with_suffix(".jpg").write_bytes(image.read_bytes())
    with pytest.raises(ImageError, match="one image"):
        read_slide(tree)
    (tree / PLAIN[1]).unlink()
    with pytest.raises(CountsError, match="S1_count"):
        read_slide(tree)
    write_again = (tree / PLAIN[0]).rename(tree / "ST/coord/S2_coord.csv")
    assert refusal(write_again).code == "counts.missing"
    with pytest.raises(PositionsError, match="S1_coord"):
        read_slide(_only_counts(tree), kind="stimage")


def _only_counts(tree):
    shutil.rmtree(tree / "ST/coord")
    (tree / PLAIN[1]).write_text(",g\nS1_1x1,1\n")
    return tree


def test_counts_and_coordinates_of_other_slides_do_not_join(tree):
    coord = tree / PLAIN[0]
    lines = coord.read_text().splitlines()
    coord.write_text("\n".join([lines[0], *(f"T{line[:3]}9{line[3:]}" for line in lines[1:])]))
    with pytest.raises(PositionsError, match="must be those of the coordinates"):
        read_slide(tree)


@pytest.mark.parametrize("technology", ["ST", "Visium", "VisiumHD"])
def test_converts_to_the_same_bytes_twice(slide, hexagonal, tmp_path, technology):
    chosen = hexagonal if technology == "Visium" else slide
    quirks = StimageQuirks(technology=technology, labels="header", n_prefixed_genes=2)
    source = write_stimage(chosen, tmp_path / "tree", quirks=quirks)
    stores = [stf.convert_slide(source, tmp_path / f"{name}.zarr") for name in "ab"]
    assert contents(stores[0]) == contents(stores[1])
    assert stf.verify_store(stores[0]) == []
    expected = expected_stimage(chosen, quirks)
    with stf.open_slide(stores[0]) as opened:
        order = [list(opened.obs.index).index(name) for name in expected.barcodes]
        np.testing.assert_array_equal(
            opened.counts[np.array(order)].toarray(), expected.counts.toarray()
        )
