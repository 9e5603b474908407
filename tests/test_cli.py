from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import stformat as stf
from stformat import cli


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "stformat.cli", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_convert_info_verify_seal(small_source, tmp_path):
    store = tmp_path / "slide.zarr"
    converted = run("convert", small_source, store, "--species", "human", "--json")
    assert converted.returncode == 0, converted.stderr
    summary = json.loads(converted.stdout)
    assert summary["species"] == "human"
    assert summary["tables"][0]["n_vars"] == 120
    assert json.loads(run("info", store, "--json").stdout) == summary
    assert "120" in run("info", store).stdout
    verified = run("verify", store)
    assert (verified.returncode, verified.stdout.strip()) == (0, f"{store}: whole")
    assert run("seal", store, "--quiet").returncode == 0
    assert json.loads(run("verify", store, "--json").stdout)["problems"] == []


def test_convert_says_that_jpeg_needs_a_codec_and_info_shows_it(small_source, tmp_path):
    store = tmp_path / "slide.zarr"
    converted = run("convert", small_source, store, "--image-codec", "jpeg")
    assert converted.returncode == 0
    (warning,) = [line for line in converted.stderr.splitlines() if "warning" in line]
    assert warning.startswith("stformat: warning: pixels are stored as JPEG")
    assert "1100 x 900 px, 2 levels, jpeg" in run("info", store).stdout
    shown = json.loads(run("info", store, "--json").stdout)
    assert shown["image_codec"] == "jpeg"
    assert "image.jpeg-encoded" in {note["code"] for note in shown["notes"]}


def test_verify_finds_problems_with_exit_code_1(small_store, tmp_path):
    store = Path(shutil.copytree(small_store, tmp_path / "slide.zarr"))
    shard = next((store / "images").rglob("c/0/0/0"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    result = run("verify", store)
    assert result.returncode == 1
    assert "images/he/s" in result.stdout


def test_check_finds_what_verify_cannot_see(small_source, small_store, tmp_path):
    healthy = run("check", small_store)
    assert (healthy.returncode, healthy.stdout.strip()) == (0, f"{small_store}: nothing found")
    store = stf.convert_slide(small_source, tmp_path / "slide.zarr", mpp=3)
    assert run("verify", store, "--quiet").returncode == 0
    found = run("check", store)
    assert found.returncode == 1
    assert found.stdout.startswith("tables/expression: microns per pixel must agree")
    assert len(found.stdout.splitlines()) == 1
    machine = run("check", store, "--json")
    assert machine.returncode == 1
    (problem,) = json.loads(machine.stdout)["problems"]
    assert problem["code"] == "check.mpp-contradiction"


def test_existing_target_is_bad_input_in_one_line(small_source, tmp_path):
    target = tmp_path / "taken.zarr"
    target.mkdir()
    result = run("convert", small_source, target)
    assert result.returncode == 3
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("stformat: ")
    assert "Traceback" not in result.stderr


def test_unrecognised_source_says_what_was_seen(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("nothing here\n")
    result = run("convert", tmp_path / "source", tmp_path / "slide.zarr")
    assert result.returncode == 3
    assert "notes.txt" in result.stderr
    assert "legacy_st" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_wrong_usage_is_exit_code_2(tmp_path):
    assert run("convert", tmp_path).returncode == 2
    assert run("frobnicate").returncode == 2


@pytest.mark.parametrize(
    "command", ["convert", "info", "verify", "check", "seal", "demo", "warmup"]
)
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


def test_warmup_says_what_it_compiled():
    result = run("warmup")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^gather_tiles +[0-9.]+ s  uint8, uint16$", result.stdout, re.MULTILINE)
    assert run("warmup", "--quiet").stdout == ""


def test_progress_is_plain_lines_where_there_is_no_terminal(small_source, tmp_path):
    result = run("convert", small_source, tmp_path / "slide.zarr")
    assert result.returncode == 0
    assert "image" in result.stderr
    assert "\x1b" not in result.stderr
    quiet = ["convert", str(small_source), str(tmp_path / "quiet.zarr"), "--quiet"]
    told = CliRunner().invoke(cli.app, quiet)
    assert (told.exit_code, told.output) == (0, "")


@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_leave_nothing_behind(signal_number, exit_code, small_source, tmp_path):
    # The progress of the first image rows says that writing is under way.
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "stformat.cli", "convert", str(small_source),
         str(tmp_path / "slide.zarr")],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()
    os.kill(process.pid, signal_number)
    process.communicate()
    left = list(tmp_path.iterdir())
    # The signal may come after the last step: then the store is whole.
    assert (process.returncode, left) == (exit_code, []) or (
        process.returncode == 0 and run("verify", tmp_path / "slide.zarr").returncode == 0
    )


def test_demo_makes_a_picture_and_a_whole_store(tmp_path):
    result = run("demo", "first", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "first" / "demo.png").stat().st_size > 50_000
    assert run("verify", tmp_path / "first" / "demo.zarr").returncode == 0
    assert re.search(r"tiles +\(64, 3, 224, 224\) uint8", result.stdout)
    again = run("demo", "first", cwd=tmp_path)
    assert again.returncode == 3
    assert "new or empty directory" in again.stderr
