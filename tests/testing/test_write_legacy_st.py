"""Files of synthetic slides: deterministic, and quirky as asked."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from stformat.testing import LegacyStQuirks, expected_legacy_st, make_slide, write_legacy_st


@pytest.fixture(scope="module")
def slide():
    return make_slide(height=300, width=340, n_genes=30, pitch_px=40.0, seed=5)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("image_format", ["jpeg", "png", "tiff-tiled", "tiff-striped"])
def test_same_slide_same_bytes(slide, tmp_path, image_format):
    again = make_slide(height=300, width=340, n_genes=30, pitch_px=40.0, seed=5)
    quirks = LegacyStQuirks(labels="by-place")
    first = write_legacy_st(slide, tmp_path / "a", image_format=image_format, quirks=quirks)
    second = write_legacy_st(again, tmp_path / "b", image_format=image_format, quirks=quirks)
    assert digests(first) == digests(second)
    assert len(digests(first)) == 4


def test_layouts(slide, tmp_path):
    quirks = LegacyStQuirks(labels="by-place", is_compressed=False)
    write_legacy_st(slide, tmp_path / "her2st", quirks=quirks)
    assert set(digests(tmp_path / "her2st")) == {
        "ST-cnts/S1.tsv",
        "ST-spotfiles/S1_selection.tsv",
        "ST-imgs/S/S1/S1_HE.jpg",
        "ST-pat/lbl/S1_labeled_coordinates.tsv",
    }
    write_legacy_st(slide, tmp_path / "flat", layout="flat", image_format=None)
    assert set(digests(tmp_path / "flat")) == {"S1.tsv.gz", "alignment_table_S1.tsv"}


@pytest.mark.parametrize("image_format", ["png", "tiff-tiled", "tiff-striped"])
def test_lossless_images_hold_the_pixels(slide, tmp_path, image_format):
    folder = write_legacy_st(slide, tmp_path, image_format=image_format, layout="flat")
    path = next(path for path in folder.iterdir() if path.suffix in {".png", ".tif"})
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture).transpose(2, 0, 1), slide.image)
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].is_tiled is (image_format == "tiff-tiled")
            assert len(tiff.pages[0].dataoffsets) > 1


def test_jpeg_is_close_to_the_pixels(slide, tmp_path):
    folder = write_legacy_st(slide, tmp_path, layout="flat")
    with Image.open(folder / "S1.jpg") as picture:
        difference = np.abs(np.asarray(picture).transpose(2, 0, 1).astype(int) - slide.image)
    assert difference.mean() < 8


def read_lines(path: Path) -> list[str]:
    data = path.read_bytes()
    return (
        (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines(keepends=True)
    )


def test_quirks_are_in_the_files(slide, tmp_path):
    quirks = LegacyStQuirks(
        spot_names="padded", is_transposed=True, delimiter=";", has_crlf=True, is_compressed=False,
        has_corner=False, has_quotes=True, has_point_zero=True, n_spots_without_counts=2,
        n_counts_without_spot=1, has_unselected=True, is_shuffled=True, n_repeated_genes=2,
        has_measured=False, is_off_image=True, labels="by-pixel", n_unlabelled=3,
        has_repeated_label=True,
    )  # fmt: skip
    folder = write_legacy_st(slide, tmp_path, layout="flat", image_format=None, quirks=quirks)
    n_spots = len(slide.xy)
    header, *rows = read_lines(folder / "S1.csv")
    assert header.startswith('"001x001";"002x001"')
    assert header.endswith("\r\n")
    assert len(header.split(";")) == n_spots - 2
    assert len(rows) == 30
    assert rows[-1].startswith('"COL1A1";')
    assert rows[0].rstrip().endswith(".0")
    spot_header, *spots = read_lines(folder / "alignment_table_S1.csv")
    assert spot_header.strip() == "selected;pixel_y;pixel_x;y;x"
    assert len(spots) == n_spots - 1
    assert any(float(line.split(";")[2]) < 0 for line in spots)
    assert {line[0] for line in spots} == {"0", "1"}
    label_header, *labels = read_lines(folder / "S1_labels.csv")
    assert label_header.strip() == "Row.names;pixel_x;pixel_y;label"
    assert labels[-1] == labels[-2]
    expected = expected_legacy_st(slide, quirks)
    assert (expected.n_spots_without_counts, expected.n_counts_without_spot) == (2, 1)
    assert len(expected.rows) == n_spots - 3
    assert expected.barcodes[0] == "002x001"


@pytest.mark.parametrize("array_axes", ["image", "mirrored", "transposed", "turned"])
def test_array_axes_are_not_image_axes(slide, array_axes):
    expected = expected_legacy_st(slide, LegacyStQuirks(array_axes=array_axes))
    correlation = np.corrcoef(expected.array_xy.T, expected.xy.T)[:2, 2:]
    wanted = {
        "image": [[1, 0], [0, 1]],
        "mirrored": [[-1, 0], [0, 1]],
        "transposed": [[0, 1], [1, 0]],
        "turned": [[0, 1], [-1, 0]],
    }
    np.testing.assert_allclose(correlation, wanted[array_axes], atol=0.3)


def test_measured_names_have_measured_places(slide):
    expected = expected_legacy_st(slide, LegacyStQuirks(spot_names="float"))
    x, y = (float(number) for number in expected.barcodes[0].split("x"))
    assert (round(x), round(y)) == tuple(expected.array_xy[0])
    assert (x, y) == tuple(slide.new_xy[expected.rows[0]])
