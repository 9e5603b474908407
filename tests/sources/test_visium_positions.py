"""Tissue positions and scale factors: every spelling, and what is refused."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.errors import PositionsError
from stformat.sources._positions import COLUMNS, is_positions, read_positions
from stformat.sources._scalefactors import ScaleFactors, is_scalefactors, read_scalefactors
from stformat.sources._visium_grid import fit_grid
from stformat.sources._visium_join import join_barcodes, sections

HEADER = ("barcode", *COLUMNS)
ROWS = [("AAAC-1", 1, 0, 2, 11.5, -3.25), ("AAAG-1", 0, 1, 3, 20, 40)]


def text(rows, *, header=HEADER, end="\n", separator=","):
    lines = [separator.join(map(str, row)) for row in ([header] if header else []) + list(rows)]
    return "".join(line + end for line in lines)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.csv"


def refused(path):
    with pytest.raises(PositionsError) as caught:
        read_positions(path)
    (problem,) = caught.value.problems
    assert problem.where.startswith(path.name)
    return problem


def assert_is_rows(positions):
    assert positions.identifiers[0] == ("AAAC-1", "AAAG-1")
    assert positions.in_tissue.tolist() == [True, False]
    assert positions.array_row.tolist() == [0, 1]
    assert positions.array_col.tolist() == [2, 3]
    np.testing.assert_array_equal(positions.xy, [[-3.25, 11.5], [40, 20]])


@pytest.mark.parametrize(
    "content",
    [
        text(ROWS),
        text(ROWS, header=None),
        text(ROWS, end="\r\n"),
        text(ROWS, header=None, end="\r\n"),
        text(ROWS).rstrip("\n"),
        "\ufeff" + text(ROWS),
        text(ROWS, separator="\t"),
        text(ROWS) + "\n\n",
        text(ROWS, header=("", *COLUMNS)),
        text(ROWS, header=("Barcode", *map(str.upper, COLUMNS))),
        text(ROWS).removeprefix("barcode,"),
        '"barcode"' + text(ROWS).removeprefix("barcode").replace("AAAC-1", '"AAAC-1"'),
        text([(*row, "x") for row in ROWS], header=(*HEADER, "more")),
        text([row[::-1] for row in ROWS], header=HEADER[::-1]),
        text([(f"{row[0]}_S1", *row) for row in ROWS], header=("key", *HEADER)),
    ],
)
@pytest.mark.parametrize("name", ["tissue_positions.csv", "GSM1_whatever.txt", "p.csv.gz"])
def test_text_is_read_by_its_content(tmp_path, content, name):
    path = tmp_path / name
    data = content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert is_positions(path)
    assert_is_rows(read_positions(path))


def test_parquet(tmp_path):
    path = tmp_path / "tissue_positions.csv"
    columns = dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))
    pq.write_table(pa.table(columns | {"more": [None, None]}), path)
    assert is_positions(path)
    assert_is_rows(read_positions(path))


def test_key_that_alone_is_unique_names_the_spots(path):
    rows = [("AAAC-1_S1", "AAAC-1", 1, 0, 0, 1, 1), ("AAAC-1_S2", "AAAC-1", 1, 0, 0, 9, 9)]
    path.write_text(text(rows, header=("key", *HEADER)))
    positions = read_positions(path)
    assert positions.identifiers == (("AAAC-1_S1", "AAAC-1_S2"),)


@pytest.mark.parametrize(
    ("content", "code", "found"),
    [
        (text([]), "positions.empty", "no rows"),
        ("", "positions.columns", "no table"),
        ("x,y\n1,2\n", "positions.columns", "x, y"),
        (text([row[:5] for row in ROWS], header=HEADER[:5]), "positions.columns", "barcode"),
        (text(ROWS, header=("spot", *COLUMNS)), "positions.columns", "no column of barcodes"),
        (text(ROWS, header=(*HEADER[:5], "Barcode")), "positions.columns", "Barcode"),
        (
            text([(*row, 1) for row in ROWS], header=(*HEADER, "barcode")),
            "positions.columns",
            "barcode",
        ),
        (text([ROWS[0], ROWS[0]]), "positions.repeated-spots", "AAAC-1 more than once"),
        (text([("", *ROWS[0][1:])]), "positions.repeated-spots", "an empty one"),
        (text([ROWS[0], ROWS[1][:5]]), "positions.ragged", "5"),
        (text([("AAAC-1", 2, 0, 0, 1, 1)]), "positions.not-a-flag", "'2'"),
        (text([("AAAC-1", 1, 0.5, 0, 1, 1)]), "positions.not-a-number", "0.5"),
        (text([("AAAC-1", 1, 0, 0, "nan", 1)]), "positions.not-a-number", "'nan'"),
        (text([("AAAC-1", 1, 0, 0, "", 1)]), "positions.not-a-number", "''"),
        (text([("AAAC-1", 1, 0, 0, 1, "1e10")]), "positions.not-a-number", "1e10"),
    ],
)
def test_text_that_is_no_such_table(path, content, code, found):
    path.write_text(content)
    problem = refused(path)
    assert problem.code == code
    assert found in problem.found


def test_bytes_that_are_no_text_and_cut_compression(path):
    path.write_bytes(text(ROWS).encode() + b"\xff\xfe\n")
    assert refused(path).code == "positions.encoding"
    whole = gzip.compress(text([(f"A{n}-1", 1, 0, n, n, n) for n in range(9999)]).encode())
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(path).code == "positions.truncated"
    path.write_bytes(whole[:6])
    assert not is_positions(path)
    assert refused(path).code == "positions.truncated"


def test_too_many_rows_and_bytes(path, monkeypatch):
    path.write_text(text(ROWS))
    monkeypatch.setattr("stformat.sources._positions.MAX_SPOTS", 1)
    assert refused(path).code == "positions.size"
    pq.write_table(pa.table(dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))), path)
    assert refused(path).code == "positions.size"
    path.write_text(text(ROWS))
    monkeypatch.setattr("stformat.sources._positions.MAX_BYTES", 10)
    assert refused(path).code == "positions.size"


def test_parquet_that_is_no_such_table(path):
    pq.write_table(pa.table({"barcode": ["AAAC-1"], "in_tissue": [1]}), path)
    assert not is_positions(path)
    problem = refused(path)
    assert (problem.code, problem.found) == ("positions.columns", "barcode, in_tissue")
    columns = dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))
    pq.write_table(pa.table(columns | {"array_row": [0, None]}), path)
    assert refused(path).found == "''"
    path.write_bytes(path.read_bytes()[:-20])
    assert not is_positions(path)
    assert refused(path).code == "positions.damaged"


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n_flips=st.integers(1, 5), is_parquet=st.booleans())
def test_damaged_tables_are_read_or_refused_with_a_problem(seed, n_flips, is_parquet):
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p")
        if is_parquet:
            pq.write_table(pa.table(dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))), path)
        else:
            path.write_text(text(ROWS))
        data = bytearray(path.read_bytes())
        for place in random.integers(0, len(data), n_flips):
            data[place] ^= 1 << random.integers(0, 8)
        path.write_bytes(data)
        is_positions(path)
        try:
            positions = read_positions(path)
        except PositionsError:
            return
    assert np.isfinite(positions.xy).all()


def test_scale_factors_with_any_of_their_members(path):
    path.write_text('{"tissue_hires_scalef": 1.25, "regist_target_img_scalef": 1, "other": null}')
    assert is_scalefactors(path)
    assert read_scalefactors(path) == ScaleFactors(hires_scale=1.25)
    path.write_bytes(gzip.compress(b'{"bin_size_um": 8, "fiducial_diameter_fullres": 144.5}'))
    assert read_scalefactors(path) == ScaleFactors(bin_size_um=8.0, fiducial_diameter_px=144.5)


@pytest.mark.parametrize("value", [0, -1, "0.1", True, [1], 10**400, float("nan"), float("inf")])
def test_scale_factor_that_is_no_positive_number(path, value):
    path.write_text(json.dumps({"tissue_hires_scalef": value}))
    with pytest.raises(PositionsError, match="tissue_hires_scalef: a positive number") as caught:
        read_scalefactors(path)
    assert caught.value.problems[0].code == "scalefactors.value"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "scalefactors.json"),
        (b"[1]", "scalefactors.json"),
        (b"\xff", "scalefactors.encoding"),
        (b"[" * 100_000, "scalefactors.json"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], "scalefactors.truncated"),
        (b" " * ((1 << 20) + 1), "scalefactors.size"),
    ],
)
def test_documents_that_are_none(path, content, code):
    path.write_bytes(content)
    assert not is_scalefactors(path)
    with pytest.raises(PositionsError) as caught:
        read_scalefactors(path)
    assert caught.value.problems[0].code == code


def positions_of(tmp_path, names):
    path = tmp_path / "p.csv"
    path.write_text(text([(name, 1, 0, row, row, row) for row, name in enumerate(names)]))
    return read_positions(path)


def test_suffixes_are_passed_over_only_where_nothing_is_ambiguous(tmp_path):
    bare = positions_of(tmp_path, ["AAAC", "AAAG"])
    joined, notes = join_barcodes(["AAAG-1", "AAAT-1"], bare, where="x")
    assert joined.position_rows.tolist() == [1]
    assert joined.count_rows.tolist() == [0]
    assert {note.code: note.count for note in notes} == {
        "barcodes.suffix": 1, "counts.without-position": 1, "spots.without-counts": 1,
    }  # fmt: skip
    with pytest.raises(PositionsError, match="AAAG-1, AAAG-2 in the counts"):
        join_barcodes(["AAAG-1", "AAAG-2"], bare, where="x")


def test_barcodes_that_join_are_not_joined_again_by_others(tmp_path):
    joined, notes = join_barcodes(
        ["AAAC-1", "AAAG-2"], positions_of(tmp_path, ["AAAC-1", "AAAG-1"]), where="x"
    )
    assert joined.position_rows.tolist() == [0]
    assert "barcodes.suffix" not in {note.code for note in notes}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ACGTACGT-1_S1", "ACGTACGT-1_S2"], ["S1", "S2"]),
        (["ACGTACGT-1_S1", "ACGTACGA-1_S1"], None),
        (["ACGTACGT-1", "ACGTACGT-2"], ["1", "2"]),
        (["ACGTACGT-1", "ACGTACGA-1"], None),
        (["ACGTACGT-1_S1", "spot_S2"], None),
    ],
)
def test_sections_are_what_follows_barcodes(tmp_path, names, expected):
    found = sections(positions_of(tmp_path, names))
    assert (None if found is None else found.tolist()) == expected


def hexagonal(n_rows=6, n_columns=7, pitch=50.0):
    array_xy = np.array([[2 * x + y % 2, y] for y in range(n_rows) for x in range(n_columns)])
    return array_xy, array_xy * [pitch / 2, pitch * np.sqrt(3) / 2]


@pytest.mark.parametrize("turn", [0.0, 17.0, 90.0])
@pytest.mark.parametrize("is_mirrored", [True, False])
def test_pitch_of_a_turned_and_mirrored_array(turn, is_mirrored):
    array_xy, xy = hexagonal()
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    grid = fit_grid(array_xy, xy @ rotation * [1 - 2 * is_mirrored, 1] + 1e4, None)
    assert grid.is_hexagonal
    assert grid.pitch_px == pytest.approx(50.0)
    assert grid.residual == 0


def test_sections_are_fitted_apart_and_must_be_of_one_scale():
    array_xy, xy = hexagonal()
    section = np.repeat(np.array(["a", "b"], dtype=object), len(xy))
    both = np.concatenate([xy, xy[:, ::-1] + 700])
    grid = fit_grid(np.concatenate([array_xy] * 2), both, section)
    assert grid.pitch_px == pytest.approx(50.0)
    assert grid.n_spots == 2 * len(xy)
    assert fit_grid(np.concatenate([array_xy] * 2), both, None) is None
    other = np.concatenate([xy, 2 * xy])
    assert fit_grid(np.concatenate([array_xy] * 2), other, section) is None


def test_grids_that_are_not_hexagonal():
    array_xy, xy = hexagonal()
    assert not fit_grid(array_xy, xy * [1, 1.2], None).is_hexagonal
    square = np.array([[x, y] for y in range(5) for x in range(5)])
    grid = fit_grid(square, square * 30.0, None)
    assert not grid.is_hexagonal
    assert grid.pitch_px == pytest.approx(30.0)
    assert fit_grid(square, np.random.default_rng(0).random((25, 2)), None) is None
    assert fit_grid(array_xy[:2], xy[:2], None) is None
    assert fit_grid(array_xy[:5], xy[:5], None) is None
