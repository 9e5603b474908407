"""The comparison of fingerprints runs, on little data."""

from __future__ import annotations

import fingerprints


def test_copies_are_found_and_other_slides_are_not(capsys):
    fingerprints.main(["--scale", "small"])
    lines = capsys.readouterr().out.splitlines()
    others = [line for line in lines if "another" in line and "another order" not in line]
    assert len(others) == 3
    assert not [line for line in others if line.endswith("| found |")]
    assert [line for line in lines if "half the size" in line and line.endswith("| 3 of 3 |")]
    assert [line for line in lines if "50 % of the rows" in line and line.endswith("| found |")]
