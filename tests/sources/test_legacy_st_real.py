"""Published legacy ST samples, read in place, against pandas and the studies' own numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stformat.sources import legacy_st, read_slide

SHAPES = {"A1": (346, 15045), "B1": (295, 15109), "B4": (283, 15289), "C2": (187, 15706)}
SPOTS_WITHOUT_COUNTS = {"A1": 2, "B1": 0, "B4": 1, "C2": 0}
IMAGES = {"B4": (3, 9923, 9272), "C2": (3, 9911, 9274)}
MPP = {"B4": 0.6889, "C2": 0.6961}


def codes(record):
    return {note.code: note.count for note in record.notes}


def dense(record):
    return np.vstack([block.toarray() for block in record.tables[0].counts.iter_blocks()])


def spot_table(path):
    spots = pd.read_csv(path, sep="\t")
    spots.index = pd.Index([f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)])
    return spots


@pytest.fixture(scope="module", params=sorted(SHAPES))
def her2st(request, real_data):
    folder = real_data / f"her2st_{request.param}"
    return request.param, folder, read_slide(folder)


def test_her2st_counts(her2st):
    sample, folder, record = her2st
    published = pd.read_csv(folder / "ST-cnts" / f"{sample}.tsv.gz", sep="\t", index_col=0)
    (table,) = record.tables
    assert table.counts.shape == SHAPES[sample]
    assert table.counts.dtype == np.int32
    assert table.spots.barcodes.tolist() == published.index.tolist()
    assert table.genes.keys.tolist() == published.columns.tolist()
    assert table.genes.key_kind == "gene_name"
    np.testing.assert_array_equal(dense(record), published.to_numpy())


def test_her2st_positions(her2st):
    sample, folder, record = her2st
    spots = spot_table(folder / "ST-spotfiles" / f"{sample}_selection.tsv")
    found = record.tables[0].spots
    joined = spots.loc[found.barcodes.tolist()]
    np.testing.assert_array_equal(found.xy, joined[["pixel_x", "pixel_y"]])
    np.testing.assert_array_equal(found.array_col, joined["x"])
    np.testing.assert_array_equal(found.array_row, joined["y"])
    assert found.in_tissue.all()
    assert codes(record).get("spots.without-counts", 0) == SPOTS_WITHOUT_COUNTS[sample]
    assert "counts.without-position" not in codes(record)


def test_her2st_scale_and_image(her2st):
    sample, _, record = her2st
    assert record.mpp.method == "lattice"
    assert record.mpp.residual < 0.001
    assert record.slide_id == sample
    if sample in MPP:
        assert record.mpp.value == pytest.approx(MPP[sample], rel=0.03)
        assert record.image.shape == IMAGES[sample]
        assert "spots.outside-image" not in codes(record)
    else:
        assert record.image is None


@pytest.mark.parametrize("sample", ["A1", "B1"])
def test_pathologists_labels(real_data, sample):
    path = real_data / "her2st_labels" / f"{sample}_labeled_coordinates.tsv"
    record = read_slide(real_data / f"her2st_{sample}", options={"labels": path})
    labels = pd.read_csv(path, sep="\t")
    spots = spot_table(real_data / f"her2st_{sample}/ST-spotfiles/{sample}_selection.tsv")
    # Measured positions are printed alike in both files.
    label_of = dict(zip(zip(labels["x"], labels["y"], strict=True), labels["label"], strict=True))
    found = record.tables[0].spots
    joined = spots.loc[found.barcodes.tolist()]
    places = zip(joined["new_x"], joined["new_y"], strict=True)
    assert found.annotations["label"].tolist() == [label_of[place] for place in places]
    noted = codes(record)
    assert noted.get("labels.without-spot", 0) == len(labels) - found.n_obs
    assert not {"labels.moved", "spots.without-label", "labels.repeated"} & noted.keys()


def test_labels_of_another_patient_do_not_pass_unseen(real_data):
    path = real_data / "her2st_labels" / "B1_labeled_coordinates.tsv"
    record = read_slide(real_data / "her2st_A1", options={"labels": path})
    assert codes(record)["labels.moved"] > 200


def test_published_coordinates_of_stimage(real_data):
    record = read_slide(real_data / "her2st_A1")
    published = pd.read_csv(next((real_data / "stimage_example").glob("*_coord.csv")), index_col=0)
    published.index = published.index.str.rsplit("_", n=1).str[-1]
    spots = record.tables[0].spots
    published = published.loc[spots.barcodes.tolist()]
    assert len(published) == 346
    np.testing.assert_array_equal(spots.xy, published[["xaxis", "yaxis"]])
    # They take the pitch along x alone, which differs by 0.3 % from the mean of both axes.
    np.testing.assert_allclose(spots.radius_px, published["r"], rtol=0.005)


def test_olfactory_bulb(real_data):
    folder = real_data / "st_mob1"
    record = read_slide(folder)
    (table,) = record.tables
    published = pd.read_csv(folder / "MOB1.tsv", sep="\t", index_col=0)
    spots = spot_table(folder / "alignment_table_MOB1.tsv")
    assert table.counts.shape == (1923, 1000)
    assert codes(record)["counts.without-position"] == len(published) - 1923 == 11
    assert codes(record)["spots.without-counts"] == len(spots) - 1923 == 145
    joined = spots.loc[table.spots.barcodes.tolist()]
    np.testing.assert_array_equal(table.spots.xy, joined[["pixel_x", "pixel_y"]])
    np.testing.assert_array_equal(table.spots.in_tissue, joined["selected"] == 1)
    assert table.spots.in_tissue.sum() == 379
    np.testing.assert_array_equal(dense(record), published.loc[table.spots.barcodes.tolist()])
    assert table.genes.key_kind == "gene_id"
    assert record.image.shape == (3, 1905, 1905)
    # A checkerboard of 2k spots: its pitch in microns is not in the files.
    assert record.mpp.value is None
    assert table.spots.pitch_px == pytest.approx(22.84 * np.sqrt(2), rel=0.001)
    given = read_slide(folder, options={"pitch_um": 110})
    assert given.mpp.value == pytest.approx(110 / table.spots.pitch_px)


def test_toy_sample_names_both_its_images(real_data):
    with pytest.raises(ValueError, match=r"image\.jpg, mask\.png"):
        read_slide(real_data / "xfuse" / "st")
    record = read_slide(
        real_data / "xfuse" / "st", image=real_data / "xfuse" / "st" / "image.jpg", slide_id="toy"
    )
    assert record.slide_id == "toy"
    assert record.tables[0].counts.shape[1] == 10
    assert record.image.shape == (3, 990, 929)


@pytest.mark.parametrize(
    "folder", ["her2st_labels", "stimage_example", "humanpilot_151673", "xfuse/visium", "wsi"]
)
def test_other_kinds_of_source_are_not_taken_for_legacy_st(real_data, folder):
    assert legacy_st.KIND.looks_like(real_data / folder) is None


def test_evidence_names_the_files(real_data):
    assert legacy_st.KIND.looks_like(real_data / "st_mob1") == (
        "counts MOB1.tsv, spot file alignment_table_MOB1.tsv"
    )
