"""Damaged images end in an ImageError or in an image of the right shape, and in nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BATCH = 5000


@pytest.mark.counts(250, 2000, 100_000)
def test_damaged_images_end_well_or_typed(n, tmp_path):
    """Each case in < 512 MiB and < 5 s of processor time, or the process does not survive it."""
    outcomes = set()
    for first in range(0, n, BATCH):
        directory = tmp_path / str(first)
        directory.mkdir()
        child = subprocess.run(
            [
                sys.executable,
                str(Path(__file__).with_name("image_mutants.py")),
                str(first),
                str(min(BATCH, n - first)),
                str(directory),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        case = directory / "case"
        last = case.read_text() if case.exists() else "none"
        assert child.returncode == 0, f"case {last}\n{child.stderr}"
        report = json.loads(child.stdout)
        assert report["failures"] == []
        outcomes |= set(report["outcomes"])
    # Damage was done, and not all of it to magic numbers.
    assert {"read", "image.corrupt", "image.truncated", "image.unsupported"} <= outcomes
