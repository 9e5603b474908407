"""Visium outputs, generated with every quirk, against what they were generated from."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import stformat as stf
from stformat.errors import (
    CountsError,
    GeneLookupError,
    ImageError,
    InputError,
    PositionsError,
    UnknownSourceError,
)
from stformat.sources import read_slide, visium, visium_hd
from stformat.testing import VisiumQuirks, expected_visium, make_slide, write_visium
from stformat.testing.strategies import visium_samples

SIZE = {"height": 260, "width": 300, "n_genes": 30, "pitch_px": 24.0}


@pytest.fixture(scope="module")
def slide():
    return make_slide(**SIZE, seed=3, jitter=0.0, lattice="hexagonal", slide_id="A1")


def write(slide, folder, **quirks):
    return write_visium(slide, folder, quirks=VisiumQuirks(**quirks))


def dense(table):
    blocks = list(table.counts.iter_blocks())
    # What a store takes: a matrix in canonical form, of the type that the record says.
    assert all(block.has_canonical_format for block in blocks)
    assert {block.dtype for block in blocks} == {table.counts.dtype}
    return np.vstack([block.toarray() for block in blocks])


def codes(record):
    return {note.code: note.count for note in record.notes}


def refused(error, folder, **arguments):
    with pytest.raises(error) as caught:
        read_slide(folder, **arguments)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.counts(20, 200, 1000)
def test_any_files_read_as_the_slide_they_were_written_from(n):
    settings(max_examples=n, deadline=None)(given(sample=visium_samples())(reads_as_written))()


def reads_as_written(sample):
    slide, quirks = sample.slide, sample.quirks
    expected = expected_visium(slide, quirks)
    with tempfile.TemporaryDirectory() as folder:
        record = read_slide(sample.write(Path(folder)))
        pixels = record.image and np.concatenate(
            [band.copy() for band in record.image.iter_bands(50)], axis=1
        )
    table, *others = record.tables
    spots, genes = table.spots, table.genes
    assert spots.barcodes.tolist() == list(expected.barcodes)
    np.testing.assert_array_equal(spots.xy, expected.xy)
    np.testing.assert_array_equal(spots.array_col, expected.array_xy[:, 0])
    np.testing.assert_array_equal(spots.array_row, expected.array_xy[:, 1])
    np.testing.assert_array_equal(spots.in_tissue, expected.in_tissue)
    assert (None if spots.section is None else tuple(spots.section)) == expected.section
    np.testing.assert_array_equal(dense(table), expected.counts.toarray())
    assert table.counts.dtype == np.int32
    assert genes.keys.tolist() == genes.gene_id.tolist() == list(expected.gene_ids)
    assert genes.gene_name.tolist() == list(expected.gene_names)
    assert tuple(genes.genome) == expected.genomes
    if quirks.n_antibodies:
        (antibodies,) = others
        assert antibodies.name == "antibody_capture"
        assert antibodies.spots is spots
        np.testing.assert_array_equal(dense(antibodies), expected.antibodies.toarray())
        assert antibodies.genes.gene_id.tolist() == [None] * quirks.n_antibodies
    else:
        assert not others
    found = codes(record)
    assert found.get("spots.without-counts", 0) == expected.n_spots_without_counts
    assert found.get("counts.without-position", 0) == expected.n_counts_without_position
    assert ("counts.raw" in found) == (quirks.content == "raw")
    assert ("counts.probes" in found) == (quirks.content == "probes")
    is_one_sided = quirks.suffixes in {"counts", "positions"}
    assert found.get("barcodes.suffix", 0) == is_one_sided * len(expected.rows)
    assert spots.diameter_um == 55
    # Integer pixels leave a few spots of small pitch a few per cent of play.
    close = 0.05 if quirks.is_rounded else 1e-3
    assert spots.pitch_px == pytest.approx(slide.pitch_px * expected.scale, rel=close)
    assert record.mpp.value == pytest.approx(slide.mpp / expected.scale, rel=close)
    np.testing.assert_allclose(spots.radius_px, 27.5 / record.mpp.value)
    if expected.image is None:
        assert record.image is None
        assert {"image.none", "image.no-scale"} & found.keys()
    else:
        np.testing.assert_array_equal(pixels, expected.image)
        height, width = expected.image.shape[1:]
        outside = ((expected.xy < 0) | (expected.xy >= (width, height))).any(axis=1)
        assert found.get("spots.outside-image", 0) == outside.sum()


def test_plain_outputs_have_little_to_say(slide, tmp_path):
    record = read_slide(write(slide, tmp_path / "P7", images="full"))
    n_off_tissue = int(np.count_nonzero(~slide.in_tissue))
    assert codes(record) == {"mpp.agreement": 1, "spots.without-counts": n_off_tissue}
    assert record.slide_id == "P7"
    assert record.descriptors.technology == "Visium"
    assert record.descriptors.species == "human"
    assert (record.mpp.method, record.mpp.residual) == ("lattice", pytest.approx(0, abs=1e-3))
    assert [source.name for source in record.sources] == [
        "filtered_feature_bc_matrix.h5",
        "scalefactors_json.json",
        "tissue_image.png",
        "tissue_positions.csv",
    ]


def test_store_of_a_slide_with_antibodies(slide, tmp_path):
    quirks = VisiumQuirks(n_antibodies=2, n_repeated_names=1, images="hires+lowres")
    expected = expected_visium(slide, quirks)
    source = write_visium(slide, tmp_path / "source", quirks=quirks)
    store = stf.convert_slide(source, tmp_path / "slide.zarr")
    assert stf.verify_store(store) == []
    with stf.open_slide(store) as opened, stf.open_slide(store, table="antibody_capture") as other:
        assert opened.tables == ("expression", "antibody_capture")
        rows = opened.rows(list(expected.barcodes))
        np.testing.assert_array_equal(opened.counts[rows].toarray(), expected.counts.toarray())
        np.testing.assert_array_equal(other.counts[rows].toarray(), expected.antibodies.toarray())
        np.testing.assert_array_equal(opened.obs["x"].to_numpy()[rows], expected.xy[:, 0])
        assert opened.metadata.default_table == "expression"
        assert opened.mpp == pytest.approx(slide.mpp / 0.5, rel=1e-3)
        np.testing.assert_array_equal(
            opened.read_region(0, 0, 0, *expected.image.shape[1:]), expected.image
        )
        with pytest.raises(GeneLookupError, match=expected.gene_ids[0]):
            opened.counts.genes([slide.gene_names[0]])


def test_option_names_the_counts(slide, tmp_path):
    write(slide, tmp_path / "a", content="both", counts="mtx")
    raw = tmp_path / "a" / "outs" / "raw_feature_bc_matrix"
    for path in (raw, raw / "matrix.mtx.gz"):
        record = read_slide(tmp_path / "a", options={"counts": str(path)})
        assert record.tables[0].spots.n_obs == len(slide.xy)
        assert "counts.raw" in codes(record)
    for path in (raw, raw / "matrix.mtx.gz"):
        record = read_slide(path)
        assert record.slide_id == "a"
        assert record.tables[0].spots.n_obs == len(slide.xy)
    problem = refused(InputError, tmp_path / "a", options={"counts": tmp_path / "none"})
    assert problem.code == "option.path"
    problem = refused(CountsError, tmp_path / "a", options={"counts": tmp_path})
    assert problem.code == "counts.missing"


def test_h5_is_a_source_of_its_own(slide, tmp_path):
    write(slide, tmp_path / "a")
    record = read_slide(tmp_path / "a" / "outs" / "filtered_feature_bc_matrix.h5")
    assert record.slide_id == "a"
    assert record.image is not None


def test_one_of_several_flat_samples_is_named_by_the_slide(slide, tmp_path):
    other = make_slide(**SIZE, seed=4, jitter=0.0, lattice="hexagonal", slide_id="A10")
    for one in (slide, other):
        write(one, tmp_path, layout="flat", images="hires")
    problem = refused(CountsError, tmp_path)
    assert problem.code == "counts.several"
    assert "slide_id" in problem.remedy
    for one in (slide, other):
        record = read_slide(tmp_path, slide_id=one.slide_id)
        expected = expected_visium(one, VisiumQuirks(images="hires"))
        assert record.tables[0].spots.barcodes.tolist() == list(expected.barcodes)
        np.testing.assert_array_equal(dense(record.tables[0]), expected.counts.toarray())
        assert all(f"_{one.slide_id}_" in source.name for source in record.sources)


def test_files_of_another_sample_do_not_stand_in_for_missing_ones(slide, tmp_path):
    other = make_slide(**SIZE, seed=4, jitter=0.0, lattice="hexagonal", slide_id="B7")
    write(slide, tmp_path, layout="flat", images="none")
    write(other, tmp_path, layout="flat", images="hires")
    assert codes(read_slide(tmp_path, slide_id="A1"))["image.none"] == 1
    assert read_slide(tmp_path, slide_id="B7").image is not None
    (tmp_path / "GSM1_B7_tissue_hires_image.png").rename(tmp_path / "tissue_hires_image.png")
    assert read_slide(tmp_path, slide_id="A1").image is not None
    (tmp_path / "GSM1_A1_tissue_positions.csv").unlink()
    assert refused(PositionsError, tmp_path, slide_id="A1").code == "positions.missing"


def test_hidden_copies_of_files_are_passed_over(slide, tmp_path):
    """Archives made on macOS have them, named as the files are."""
    write(slide, tmp_path, counts="mtx")
    folder = tmp_path / "outs" / "filtered_feature_bc_matrix"
    for path in [*folder.iterdir()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(100))
    record = read_slide(tmp_path)
    assert [*record.tables[0].spots.barcodes] == [*read_slide(folder).tables[0].spots.barcodes]


def test_a_sample_may_have_a_word_in_its_name(slide, tmp_path):
    path = write(slide, tmp_path) / "outs" / "filtered_feature_bc_matrix.h5"
    path.rename(path.with_name("strawberry.h5"))
    assert "counts.raw" not in codes(read_slide(tmp_path))
    path.with_name("strawberry.h5").rename(path.with_name("S1-raw.h5"))
    assert "counts.raw" in codes(read_slide(tmp_path))


def test_a_store_of_two_genomes(slide, tmp_path):
    source = write(slide, tmp_path / "source", is_legacy=True, n_genomes=2)
    store = stf.convert_slide(source, tmp_path / "slide.zarr")
    expected = expected_visium(slide, VisiumQuirks(is_legacy=True, n_genomes=2))
    with stf.open_slide(store) as opened:
        rows = opened.rows(list(expected.barcodes))
        np.testing.assert_array_equal(opened.counts[rows].toarray(), expected.counts.toarray())


def test_one_is_no_plural(slide, tmp_path):
    write(slide, tmp_path, content="raw", n_spots_without_counts=1, n_counts_without_position=2)
    notes = {note.code: note.message for note in read_slide(tmp_path).notes}
    assert notes["spots.without-counts"].startswith("1 spot of the spot file has no counts and is ")
    assert notes["counts.without-position"].startswith("2 rows of counts have no place")


@pytest.mark.parametrize("content", ["{", "version https://git-lfs.github.com/spec/v1\n"])
@pytest.mark.parametrize("name", ["tissue_positions.csv", "scalefactors_json.json"])
def test_damaged_tables_are_refused_and_not_passed_over(slide, tmp_path, name, content):
    write(slide, tmp_path)
    (tmp_path / "outs" / "spatial" / name).write_text(content)
    problem = refused(PositionsError, tmp_path)
    assert problem.where == name


def test_what_is_missing_is_said(slide, tmp_path):
    write(slide, tmp_path)
    outs = tmp_path / "outs"
    positions = outs / "spatial" / "tissue_positions.csv"
    matrix = outs / "filtered_feature_bc_matrix.h5"
    matrix.rename(tmp_path / "away.h5")
    problem = refused(CountsError, tmp_path)
    assert problem.code == "counts.missing"
    assert problem.found == "tissue positions without one"
    assert read_slide(tmp_path, options={"counts": tmp_path / "away.h5"}).tables
    (tmp_path / "away.h5").rename(matrix)
    positions.unlink()
    assert refused(PositionsError, tmp_path).code == "positions.missing"
    matrix.unlink()
    assert refused(UnknownSourceError, tmp_path).code == "source.unknown"


def test_copies_of_positions_must_agree(slide, tmp_path):
    write(slide, tmp_path)
    positions = tmp_path / "outs" / "spatial" / "tissue_positions.csv"
    lines = positions.read_text().splitlines(keepends=True)
    copy = positions.with_name("tissue_positions_list.csv")
    copy.write_text("".join(lines[1:]))
    assert read_slide(tmp_path).tables
    copy.write_text("".join(lines[2:]))
    assert refused(PositionsError, tmp_path).code == "positions.several"
    copy.unlink()
    (positions.parent / "other.json").write_text('{"tissue_hires_scalef": 0.25}')
    assert refused(PositionsError, tmp_path).code == "scalefactors.several"


def test_damaged_matrix_is_found_and_refused(slide, tmp_path):
    write(slide, tmp_path)
    path = tmp_path / "outs" / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:999])
    assert refused(CountsError, tmp_path).code == "counts.damaged"


def test_other_samples_do_not_join(slide, tmp_path):
    write(slide, tmp_path)
    positions = tmp_path / "outs" / "spatial" / "tissue_positions.csv"
    positions.write_text(positions.read_text().replace("-1,", "-1_S2,"))
    assert refused(PositionsError, tmp_path).code == "positions.no-join"


@pytest.mark.parametrize("sign", ["binned_outputs", "segmented_outputs", "square_008um", "bins"])
def test_visium_hd_is_another_kind(slide, tmp_path, sign):
    folder = tmp_path / ("square_008um" if sign == "square_008um" else "outs")
    write(slide, folder, layout="spatial")
    if sign.endswith("outputs"):
        (folder / sign).mkdir()
    if sign == "bins":
        factors = folder / "spatial" / "scalefactors_json.json"
        factors.write_text(json.dumps({"bin_size_um": 8.0}))
    problem = refused(UnknownSourceError, folder, kind="visium")
    assert problem.code == "source.visium-hd"
    assert "Visium HD" in problem.found
    assert visium.KIND.looks_like(folder) is None
    assert "Visium HD" in visium_hd.KIND.looks_like(folder)


def test_visium_hd_is_recognised_by_its_factors_in_any_folder(slide, tmp_path):
    write(slide, tmp_path, layout="flat")
    path = tmp_path / "GSM1_A1_scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bin_size_um": 8.0}))
    assert refused(UnknownSourceError, tmp_path, kind="visium").code == "source.visium-hd"
    assert visium.KIND.looks_like(tmp_path) is None


def edit_factors(folder, **changes):
    path = folder / "outs" / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_given_resolution_wins_and_contradictions_are_noted(slide, tmp_path):
    write(slide, tmp_path, images="full")
    record = read_slide(tmp_path, mpp=2 * slide.mpp)
    assert (record.mpp.value, record.mpp.method) == (2 * slide.mpp, "given")
    contradictions = [note for note in record.notes if note.code == "mpp.contradiction"]
    assert len(contradictions) == 2
    # The size of a spot follows the array, whatever is said of the pixels.
    spots = record.tables[0].spots
    assert spots.radius_px[0] == pytest.approx(0.275 * slide.pitch_px, rel=1e-3)


def test_lattice_of_many_spots_outweighs_a_fiducial_of_few_none(slide, tmp_path):
    assert len(slide.xy) >= 100
    fiducial = 105 / slide.mpp
    write(slide, tmp_path / "many", images="full")
    edit_factors(tmp_path / "many", fiducial_diameter_fullres=1.2 * fiducial)
    record = read_slide(tmp_path / "many")
    assert record.mpp.method == "lattice"
    assert record.mpp.value == pytest.approx(slide.mpp, rel=1e-3)
    assert "mpp.contradiction" in codes(record)
    few = make_slide(
        height=150, width=150, n_genes=5, pitch_px=24.0, seed=1, jitter=0.0, lattice="hexagonal"
    )
    write(few, tmp_path / "few", images="full")
    edit_factors(tmp_path / "few", fiducial_diameter_fullres=1.2 * fiducial)
    record = read_slide(tmp_path / "few")
    assert (record.mpp.value, record.mpp.method) == (None, "unknown")
    assert {"mpp.contradiction", "mpp.unknown"} <= codes(record).keys()
    assert record.tables[0].spots.diameter_um == 55


def test_array_that_is_not_hexagonal_gives_no_scale_unless_its_pitch_is_given(tmp_path):
    square = make_slide(**SIZE, seed=3, jitter=0.0)
    write(square, tmp_path, images="full")
    record = read_slide(tmp_path)
    spots = record.tables[0].spots
    assert record.mpp.value is None
    assert "mpp.unknown" in codes(record)
    assert spots.diameter_um is None
    assert spots.pitch_um is None
    np.testing.assert_allclose(spots.radius_px, 32.5 / square.mpp)
    known = read_slide(tmp_path, options={"pitch_um": 200})
    assert known.mpp.method == "lattice"
    assert known.mpp.value == pytest.approx(square.mpp, rel=1e-3)
    assert "mpp.agreement" in codes(known)
    assert known.tables[0].spots.diameter_um == pytest.approx(65, rel=1e-3)
    edit_factors(tmp_path, spot_diameter_fullres=None)
    assert refused(PositionsError, tmp_path).code == "positions.spot-size"


def test_fiducial_alone_where_spots_say_nothing(slide, tmp_path):
    write(slide, tmp_path, images="full", content="raw")
    positions = tmp_path / "outs" / "spatial" / "tissue_positions.csv"
    positions.write_text("".join(positions.read_text().splitlines(keepends=True)[:3]))
    record = read_slide(tmp_path)
    spots = record.tables[0].spots
    assert spots.n_obs == 2
    assert record.mpp.method == "fiducial"
    assert record.mpp.value == pytest.approx(slide.mpp)
    assert (spots.pitch_px, spots.diameter_um) == (None, 55)
    np.testing.assert_allclose(spots.radius_px, 27.5 / slide.mpp)


def test_image_given_wins_over_the_reduced_one(slide, tmp_path):
    write(slide, tmp_path / "full", images="full")
    write(slide, tmp_path / "hires", images="hires")
    image = tmp_path / "full" / "outs" / "tissue_image.png"
    record = read_slide(tmp_path / "hires", image=image)
    np.testing.assert_array_equal(
        record.tables[0].spots.xy, expected_visium(slide, VisiumQuirks(images="full")).xy
    )
    assert not {"image.hires-fallback", "image.lowres-fallback"} & codes(record).keys()


def test_reduced_image_given_as_the_full_one_is_refused(slide, tmp_path):
    write(slide, tmp_path)
    image = tmp_path / "outs" / "spatial" / "tissue_hires_image.png"
    problem = refused(ImageError, tmp_path, image=image)
    assert problem.code == "image.contradicts-positions"
    assert "tissue_hires_scalef (0.5)" in problem.remedy
    edit_factors(tmp_path, tissue_hires_scalef=2.0)
    problem = refused(ImageError, tmp_path)
    assert problem.code == "image.contradicts-positions"
    assert "same slide" in problem.remedy


def test_images_that_cannot_be_chosen(slide, tmp_path):
    write(slide, tmp_path)
    spatial = tmp_path / "outs" / "spatial"
    hires = spatial / "tissue_hires_image.png"
    (spatial / "tissue_hires_image.jpg").write_bytes(hires.read_bytes())
    assert refused(ImageError, tmp_path).code == "image.several"
    (spatial / "tissue_hires_image.jpg").unlink()
    hires.with_suffix(".png.gz").write_bytes(gzip.compress(hires.read_bytes()))
    hires.unlink()
    problem = refused(ImageError, tmp_path)
    assert problem.code == "image.compressed"
    assert "gunzip" in problem.remedy


def test_derived_images_are_not_taken_for_the_full_one(slide, tmp_path):
    write(slide, tmp_path)
    hires = tmp_path / "outs" / "spatial" / "tissue_hires_image.png"
    for name in ("detected_tissue_image.png", "cytassist_image.png", "mask.png"):
        (tmp_path / "outs" / name).write_bytes(hires.read_bytes())
    assert read_slide(tmp_path).image.source.name == "tissue_hires_image.png"
    full = write(slide, tmp_path / "other", images="full") / "outs" / "tissue_image.png"
    (tmp_path / "outs" / "microscope_image").mkdir()
    full.rename(tmp_path / "outs" / "microscope_image" / "P7_image.png")
    assert read_slide(tmp_path).image.source.name == "P7_image.png"
    full = write(slide, tmp_path / "10x", images="full") / "outs" / "tissue_image.png"
    instruments = full.with_name("CytAssist_FFPE_Human_Tonsil_image.png")
    instruments.write_bytes(full.read_bytes())
    microscopes = full.with_name("CytAssist_FFPE_Human_Tonsil_tissue_image.png")
    full.rename(microscopes)
    assert read_slide(tmp_path / "10x").image.source.name == microscopes.name


def test_genes_of_an_aggregate_of_genomes_lose_their_prefix(slide, tmp_path):
    write(slide, tmp_path, n_genomes=2, counts="h5")
    path = tmp_path / "outs" / "filtered_feature_bc_matrix.h5"
    import h5py

    with h5py.File(path, "a") as file:
        table = file["matrix/features"]
        ids = [f"mm10___{gene.decode()}" for gene in table["id"][:]]
        genomes = [b"mm10"] * len(ids)
        del table["id"], table["genome"]
        table["id"], table["genome"] = np.array(ids, dtype="S40"), np.array(genomes)
    record = read_slide(tmp_path)
    genes = record.tables[0].genes
    assert genes.keys[0] == "mm10___ENSG00000000000"
    assert genes.gene_id[0] == "ENSG00000000000"
    assert record.descriptors.species == "mouse"
    assert read_slide(tmp_path, options={"species": "rat"}).descriptors.species == "rat"


def test_repeated_identifiers_get_a_suffix(slide, tmp_path):
    write(slide, tmp_path, counts="mtx", is_legacy=True)
    genes = tmp_path / "outs" / "filtered_feature_bc_matrix" / "genes.tsv"
    genes.write_text(genes.read_text().replace("ENSG00000000001", "ENSG00000000000"))
    record = read_slide(tmp_path)
    keys = record.tables[0].genes.keys[:2].tolist()
    assert keys == ["ENSG00000000000", "ENSG00000000000-1"]
    assert codes(record)["genes.repeated-names"] == 1
    assert record.descriptors.species is None


def test_table_without_genes_is_the_default_one(slide, tmp_path):
    write(slide, tmp_path, counts="mtx", n_antibodies=30)
    record = read_slide(tmp_path)
    assert record.default_table == "antibody_capture"
    assert record.tables[0].genes.key_kind == "gene_id"
    features = tmp_path / "outs" / "filtered_feature_bc_matrix" / "features.tsv.gz"
    text = gzip.decompress(features.read_bytes()).decode()
    for name, table in (
        ("Spots", "spots_features"),
        ("++", "other_features"),
        ("CRISPR", "crispr"),
    ):
        content = text.replace("Antibody Capture", name).encode()
        features.write_bytes(gzip.compress(content))
        assert read_slide(tmp_path).default_table == table
    features.write_bytes(
        gzip.compress(
            text.replace("Antibody Capture", "a b", 1).replace("Antibody Capture", "A-B").encode()
        )
    )
    assert refused(CountsError, tmp_path).code == "counts.feature-types"
