"""Files in the layout of STimage-1K4M: deterministic, and quirky as asked."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from PIL import Image

from stformat.testing import StimageQuirks, expected_stimage, make_slide, write_stimage
from stformat.testing.strategies import stimage_samples


@pytest.fixture(scope="module")
def slide():
    return make_slide(height=300, width=340, n_genes=30, pitch_px=40.0, seed=5)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@settings(max_examples=15, deadline=None)
@given(sample=stimage_samples())
def test_same_slide_same_bytes(sample, tmp_path_factory):
    folders = [sample.write(tmp_path_factory.mktemp("tree")) for _ in range(2)]
    assert contents(folders[0]) == contents(folders[1])


def test_layouts(slide, tmp_path):
    quirks = StimageQuirks(technology="Visium", labels="headerless", meta="corrected")
    assert set(contents(write_stimage(slide, tmp_path / "tree", quirks=quirks))) == {
        "Visium/coord/S1_coord.csv", "Visium/gene_exp/S1_count.csv", "Visium/image/S1.png",
        "annotation/S1_anno.csv", "meta/meta_all_gene.csv", "meta/meta_all_gene02122025.csv",
    }  # fmt: skip
    flat = StimageQuirks(layout="flat", meta="none", is_compressed=True)
    assert set(contents(write_stimage(slide, tmp_path / "flat", quirks=flat))) == {
        "S1_coord.csv.gz", "S1_count.csv.gz", "S1.png",
    }  # fmt: skip


def test_pandas_reads_what_is_expected(slide, tmp_path):
    expected = expected_stimage(slide)
    write_stimage(slide, tmp_path)
    counts = pd.read_csv(tmp_path / "ST/gene_exp/S1_count.csv", index_col=0)
    assert counts.index.tolist() == [f"S1_{name}" for name in expected.barcodes]
    assert counts.columns.tolist() == list(expected.column_names)
    assert (counts.dtypes == np.float64).all()
    np.testing.assert_array_equal(counts.to_numpy(), expected.counts.toarray())
    coord = pd.read_csv(tmp_path / "ST/coord/S1_coord.csv", index_col=0)
    np.testing.assert_array_equal(coord[["xaxis", "yaxis"]].to_numpy(), expected.xy)
    np.testing.assert_array_equal(coord["r"].to_numpy(), expected.radius_px)


@pytest.mark.parametrize(
    ("image_format", "found"), [("jpeg", "JPEG"), ("png", "PNG"), ("tiff-tiled", "TIFF")]
)
def test_images_have_one_name_whatever_they_are(slide, tmp_path, image_format, found):
    write_stimage(slide, tmp_path, image_format=image_format)
    with Image.open(tmp_path / "ST/image/S1.png") as image:
        assert image.format == found


def test_slides_of_several_calls_share_the_catalogue(slide, tmp_path):
    other = make_slide(height=300, width=340, n_genes=30, pitch_px=40.0, seed=6, slide_id="S0")
    write_stimage(slide, tmp_path, image_format=None)
    write_stimage(other, tmp_path, image_format=None, quirks=StimageQuirks(technology="VisiumHD"))
    with (tmp_path / "meta/meta_all_gene.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["slide"], row["tech"]) for row in rows] == [("S0", "VisiumHD"), ("S1", "ST")]


def test_quirks_of_the_text(slide, tmp_path):
    quirks = StimageQuirks(
        is_compressed=True, has_crlf=True, has_quotes=True, has_last_newline=False,
        n_prefixed_genes=2, n_repeated_genes=1, numbers="exponent",
    )  # fmt: skip
    write_stimage(slide, tmp_path, quirks=quirks)
    text = gzip.decompress((tmp_path / "ST/gene_exp/S1_count.csv.gz").read_bytes()).decode()
    assert text.startswith('"","hg38_')
    assert "\r\n" in text
    assert not text.endswith("\n")
    assert "0.000000000e+00" in text
    write_stimage(slide, tmp_path, quirks=StimageQuirks(has_blank_lines=True))
    lines = (tmp_path / "ST/gene_exp/S1_count.csv").read_text().split("\n")
    assert lines[4] == ""
    assert lines[5].startswith("S1_")


def test_quirks_that_leave_nothing_are_refused(slide, tmp_path):
    with pytest.raises(ValueError, match="on both sides"):
        write_stimage(slide, tmp_path, quirks=StimageQuirks(n_spots_without_counts=99))
