"""Damaged source folders end in an InputError or in a whole store, and leave nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.counts(200, 1000, 20_000)
def test_damaged_folders_end_well_or_typed(n, tmp_path):
    """Each case in < 512 MiB and < 5 s of processor time, or the process does not survive it."""
    child = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("folder_mutants.py")),
            "0",
            str(n),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    case = tmp_path / "case"
    last = case.read_text() if case.exists() else "none"
    assert child.returncode == 0, f"case {last}\n{child.stderr}"
    report = json.loads(child.stdout)
    assert report["failures"] == []
    assert {"converted", "read", "counts.damaged", "positions.ragged", "scalefactors.json"} <= set(
        report["outcomes"]
    )
