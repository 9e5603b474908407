"""The commands: arguments in, one line out, and exit codes."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

import stformat as stf
from stformat.cli import main
from stformat.errors import ExportError
from stformat.export.row_names import read_row_names


@pytest.fixture
def run(capsys):
    """Run a command in this process; return its exit code, and what it printed."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_tiles_of_chosen_spots_with_their_expression(store_of, run, tmp_path):
    with stf.open_slide(store_of("ST")) as slide:
        barcodes = list(slide.obs.index[[4, 1]])
    names = tmp_path / "rows.txt"
    names.write_text("\n".join(barcodes))
    code, out, err = run(
        "tiles", store_of("ST"), tmp_path / "out", "--format", "npy", "--tile-px", 32, "--rows",
        names, "--genes", "ERBB2,COL1A1", "--normalize", "log1p", "--mpp", 2, "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["n_tiles"], said["genes"], said["mpp"]) == (2, ["ERBB2", "COL1A1"], 2.0)
    with stf.open_slide(store_of("ST")) as slide:
        rows = slide.rows(barcodes)
        tiles = np.load(tmp_path / "out" / "tiles.npy")
        assert np.array_equal(tiles, slide.tiles(32, mpp=2.0, rows=rows)[:])
        values = slide.expression(rows, ["ERBB2", "COL1A1"], normalize="log1p")
        assert np.array_equal(np.load(tmp_path / "out" / "expression.npy"), values)


def test_export_says_what_it_made(store_of, run, tmp_path):
    out = tmp_path / "hest"
    code, text, err = run("export", store_of("two tables"), out, "--to", "hest", "--patch-px", 16)
    assert code == 0
    assert text == f"{out}: format hest, slide_id synthetic-0, table expression, n_rows 60\n"
    assert "image" in err
    assert run("export", store_of("ST"), tmp_path / "a.zarr.zip", "--to", "zip", "--quiet") == (
        0, "", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["tiles", "STORE", "OUT", "--mpp", "1", "--field", "spot"], 2, "only one of --mpp"),
        (["tiles", "STORE", "OUT", "--format", "gif"], 2, "is not one of"),
        (["tiles", "STORE", "OUT", "--tile-px", "0"], 2, "--tile-px"),
        (["tiles", "STORE", "OUT", "--rows", "nowhere"], 3, "which no row has"),
        (["tiles", "STORE", "OUT", "--rows", ","], 3, "at least one barcode"),
        (["tiles", "STORE", "OUT", "--table", "cells"], 3, "must be one of expression"),
        (["tiles", "NOTHING", "OUT"], 3, "a store is a directory"),
        (["export", "STORE", "OUT"], 2, "--to"),
        (["export", "STORE", "OUT", "--to", "gif"], 2, "is not one of"),
        (["export", "STORE", "OUT", "--to", "h5ad"], 3, "must end in .h5ad"),
        (["export", "STORE", "OUT", "--to", "stimage", "--patch-px", "9"], 3, "no options"),
        (["export", "STORE", "STORE", "--to", "stimage"], 3, "pass --overwrite to replace it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(*, store_of, run, arguments, code, line, tmp_path):
    names = {"STORE": store_of("ST"), "OUT": tmp_path / "out"}
    names["NOTHING"] = tmp_path / "nothing.zarr"
    ended, out, err = run(*[names.get(argument, argument) for argument in arguments], "--quiet")
    assert (ended, out) == (code, "")
    assert line in err
    if code == 3:
        assert err.startswith("stformat: ")
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["tiles", "export"])
def test_help_says_what_the_command_does(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "appears whole or not at all" in " ".join(out.split())


def test_barcodes_come_from_a_file_or_from_the_text(tmp_path):
    file = tmp_path / "rows.txt"
    file.write_bytes("\ufeffa\r\nb c\r\n\r\n".encode())
    assert read_row_names(str(file)) == ["a", "b c"]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ExportError, match="one barcode a line"):
        read_row_names(str(file))
