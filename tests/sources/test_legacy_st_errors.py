"""What a legacy ST sample must be, one refusal a way of not being it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.errors import CountsError, ImageError, InputError, PositionsError, UnknownSourceError
from stformat.sources import read_slide
from stformat.testing import LegacyStQuirks, make_slide, write_legacy_st

COUNTS = "\tERBB2\tKRT8\n1x1\t3\t0\n2x1\t0\t4\n1x2\t5\t6\n"
SPOTS = "x\ty\tpixel_x\tpixel_y\n1\t1\t10\t10\n2\t1\t20\t10\n1\t2\t10\t20\n"
LABELS = "x\ty\tpixel_x\tpixel_y\tlabel\n1\t1\t10\t10\tfat\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "S.tsv").write_text(COUNTS)
    (tmp_path / "S_spots.tsv").write_text(SPOTS)
    return tmp_path


def problem(error, folder, **arguments):
    with pytest.raises(error) as caught:
        read_slide(folder, **arguments)
    (found,) = caught.value.problems
    return found


def test_the_plain_sample_is_read(folder):
    assert read_slide(folder).tables[0].counts.shape == (3, 2)


@pytest.mark.parametrize(
    ("spots", "code", "said"),
    [
        (SPOTS.replace("20\t10", "20\tnan"), "positions.not-a-number", "S_spots.tsv, line 3"),
        (SPOTS.replace("20\t10", "20\t1e999"), "positions.not-a-number", "line 3, column pixel_y"),
        (SPOTS.replace("2\t1\t", "1e300\t1\t"), "positions.not-a-number", "line 3, column x"),
        (SPOTS.replace("2\t1\t", "two\t1\t"), "positions.not-a-number", "'two'"),
        (SPOTS.replace("2\t1\t20\t10", "2\t1\t20"), "positions.ragged", "S_spots.tsv, line 3"),
        (SPOTS.replace("2\t1\t20", "1\t1\t20"), "positions.repeated-spots", "1x1"),
        (SPOTS.splitlines()[0] + "\n", "positions.empty", "at least one spot"),
        (SPOTS.replace("pixel_y\n", "pixel_y\tx\n"), "positions.columns", "must differ"),
        (SPOTS.replace("1\t1\t", "8\t8\t").replace("2\t1\t", "9\t8\t").replace("1\t2\t", "9\t9\t"),
         "positions.no-join", "1x1, 2x1, 1x2 in the counts, 8x8, 9x8, 9x9 in the spot file"),
    ],
)  # fmt: skip
def test_spot_file(folder, spots, code, said):
    (folder / "S_spots.tsv").write_text(spots)
    found = problem(PositionsError, folder)
    assert found.code == code
    assert said in str(found)


def test_selected_must_be_a_flag(folder):
    lines = SPOTS.splitlines()
    rows = [
        f"{line}\t{flag}" for line, flag in zip(lines, ["selected", "1", "0", "2"], strict=True)
    ]
    (folder / "S_spots.tsv").write_text("\n".join(rows))
    assert "line 4, column selected" in str(problem(PositionsError, folder))


def test_damaged_spot_file(folder):
    (folder / "S_spots.tsv").write_bytes(SPOTS.encode() + b"\xff\xfe\t1\t2\t3\n")
    assert problem(PositionsError, folder).code == "positions.encoding"


def test_no_spot_file(folder):
    (folder / "S_spots.tsv").unlink()
    found = problem(PositionsError, folder)
    assert found.code == "positions.spot-file"
    assert "x, y, pixel_x, pixel_y" in found.expected


def test_several_spot_files_of_one_sample(folder):
    (folder / "S_other.tsv").write_text(SPOTS)
    assert "S_other.tsv, S_spots.tsv" in str(problem(PositionsError, folder))


def test_no_count_matrix(folder):
    (folder / "S.tsv").unlink()
    found = problem(InputError, folder)
    assert found.code == "counts.missing"
    assert "S_spots.tsv" in found.found


@pytest.mark.parametrize(
    ("counts", "code", "said"),
    [
        (COUNTS.replace("2x1", "1x1"), "counts.repeated-spots", "1x1"),
        (COUNTS.replace("2x1", "01x1"), "counts.repeated-spots", "1x1, 01x1"),
        (COUNTS.replace("2x1", "total"), "counts.spot-names", "'total'"),
        (COUNTS.replace("KRT8", ""), "counts.gene-names", "none for gene 2"),
        (COUNTS.replace("ERBB2\tKRT8", "5x5\t6x6"), "counts.orientation", "both have names"),
        (COUNTS.replace("\t4", "\t-4"), "counts.negative", "row '2x1', column 'KRT8'"),
    ],
)
def test_count_matrix(folder, counts, code, said):
    (folder / "S.tsv").write_text(counts)
    found = problem(CountsError, folder)
    assert found.code == code
    assert said in str(found)


def test_file_that_is_no_count_matrix(folder):
    found = problem(InputError, folder / "S_spots.tsv", kind="legacy_st")
    assert found.code == "counts.not-a-matrix"


def test_several_samples_are_listed(folder):
    (folder / "T.tsv").write_text(COUNTS)
    found = problem(InputError, folder)
    assert found.code == "source.samples"
    assert "S.tsv, T.tsv" in found.found
    assert "slide_id" in found.remedy
    assert "'U'" in problem(InputError, folder, slide_id="U").expected


def test_two_files_of_one_sample_name(folder):
    (folder / "S.csv").write_text(COUNTS)
    assert "S.csv, S.tsv" in problem(InputError, folder, slide_id="S").found


def test_several_images(folder):
    for name in ("scan.jpg", "mask.png"):
        (folder / name).write_bytes(b"\xff\xd8\xff")
    found = problem(ImageError, folder)
    assert found.code == "image.several"
    assert "mask.png, scan.jpg" in found.found
    assert "image=" in found.remedy


def test_image_that_is_none_is_an_error_and_not_a_slide_without_image(folder):
    (folder / "S.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ImageError):
        read_slide(folder)


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (LABELS + "1\t1\t10\t10\tbone\n", "labels.contradiction"),
        (LABELS.replace("1\t1\t10\t10", "7\t7\t70\t70"), "labels.no-join"),
        (LABELS.replace("1\t1\t10", "one\t1\t10"), "positions.not-a-number"),
        ("name\tlabel\n1x1\tfat\n", "labels.columns"),
        (SPOTS, "positions.columns"),
    ],
)
def test_label_file(folder, labels, code):
    path = folder / "labels"
    path.write_text(labels)
    assert problem(PositionsError, folder, options={"labels": path}).code == code


def test_several_label_files(folder):
    for name in ("S_first.tsv", "S_second.tsv"):
        (folder / name).write_text(LABELS)
    assert problem(PositionsError, folder).code == "labels.several"


def test_single_spot_has_no_pitch(folder):
    (folder / "S.tsv").write_text("\tERBB2\tKRT8\n1x1\t3\t0\n")
    (folder / "S_spots.tsv").write_text("x\ty\tpixel_x\tpixel_y\n1\t1\t10\t10\n")
    for arguments in ({}, {"mpp": 0.5}, {"options": {"pitch_um": 200}}):
        found = problem(PositionsError, folder, **arguments)
        assert found.code == "positions.pitch"
        assert "pitch_um and mpp" in found.remedy


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"options": {"pitch": 1}}, "pitch_um, labels"),
        ({"options": {"pitch_um": "wide"}}, "'wide'"),
        ({"options": {"pitch_um": -1}}, "positive"),
        ({"options": {"labels": "nowhere.tsv"}}, "nowhere.tsv"),
        ({"options": {"species": 9606}}, "9606"),
        ({"options": {"stain": "blue"}}, "'blue'"),
        ({"mpp": 0.0}, "positive"),
        ({"mpp": float("nan")}, "positive"),
    ],
)
def test_arguments(folder, arguments, said):
    assert said in str(problem(InputError, folder, **arguments))


def test_nothing_recognisable(tmp_path):
    for name in "abcdefghij":
        (tmp_path / name).write_text("nothing\n")
    (tmp_path / "sub").mkdir()
    found = problem(UnknownSourceError, tmp_path)
    assert "legacy_st" in found.expected
    assert found.found == "a, b, c, d, e, f, g, h and 3 more"
    assert "an empty folder" in str(problem(UnknownSourceError, tmp_path / "sub"))
    assert "8 bytes" in str(problem(UnknownSourceError, tmp_path / "a"))
    assert "neither" in str(problem(UnknownSourceError, tmp_path / "absent"))
    assert "legacy_st" in str(problem(UnknownSourceError, tmp_path, kind="no-such-kind"))


def test_every_cut_of_a_compressed_count_matrix_is_found(tmp_path):
    slide = make_slide(height=220, width=220, n_genes=12, pitch_px=40.0, seed=0)
    folder = write_legacy_st(slide, tmp_path, image_format=None, layout="flat")
    counts = folder / "S1.tsv.gz"
    whole = counts.read_bytes()
    for length in np.linspace(20, len(whole) - 1, 12).astype(int):
        counts.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            read_slide(counts, kind="legacy_st")
        # Where even the first lines are lost, the file is no matrix at all.
        assert caught.value.problems[0].code in {"counts.truncated", "counts.not-a-matrix"}
    assert caught.value.problems[0].code == "counts.truncated"


def test_quirks_that_leave_no_spot_are_refused(tmp_path):
    slide = make_slide(height=220, width=220, n_genes=12, pitch_px=40.0, seed=0)
    with pytest.raises(ValueError, match="leave none"):
        write_legacy_st(slide, tmp_path, quirks=LegacyStQuirks(n_spots_without_counts=99))


@settings(max_examples=150, deadline=None)
@given(
    which=st.sampled_from(["S.tsv", "S_spots.tsv", "S_labels.tsv"]),
    place=st.integers(0, 200),
    change=st.sampled_from(["flip", "cut", "drop", "repeat", "insert"]),
    filler=st.binary(min_size=1, max_size=6),
)
def test_damaged_text_is_read_or_refused(which, place, change, filler):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "S.tsv").write_text(COUNTS)
        (folder / "S_spots.tsv").write_text(SPOTS)
        (folder / "S_labels.tsv").write_text(LABELS)
        data = (folder / which).read_bytes()
        place %= len(data)
        damaged = {
            "flip": data[:place] + bytes([data[place] ^ filler[0]]) + data[place + 1 :],
            "cut": data[:place],
            "drop": data[:place] + data[place + len(filler) :],
            "repeat": data[: place + 9] + data[place:],
            "insert": data[:place] + filler + data[place:],
        }
        (folder / which).write_bytes(damaged[change])
        try:
            record = read_slide(folder)
        except InputError:
            return
        spots = record.tables[0].spots
        assert np.isfinite(spots.xy).all()
        assert len(set(spots.barcodes)) == spots.n_obs > 0
        assert record.tables[0].counts.shape[0] == spots.n_obs
