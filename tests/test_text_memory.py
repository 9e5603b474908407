"""Dense text is read and converted in memory by its threads and a budget, not by its length."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

N_COLUMNS = 18_085
N_BODIES = 50
COUNT_SHARE = 0.05

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="anonymous memory is read from Linux's /proc"
)


# Counts are read twice: once parsed, they are to be had as often as they are asked for.
READ = """
import sys
from stformat.sources import read_slide

counts = read_slide(sys.argv[1]).tables[0].counts
for _ in range(2):
    total = sum(int(block.sum()) for block in counts.iter_blocks())
print(counts.shape[0], total)
"""


CONVERT = """
import sys
from stformat import convert_slide, open_slide

with open_slide(convert_slide(sys.argv[1], sys.argv[1] + ".zarr")) as slide:
    print(slide.n_obs, int(slide.metadata.tables[0].total))
"""


def _run(code: str, source: Path) -> tuple[int, int, int]:
    """Rows, sum of all counts, and the most anonymous memory in MiB while a process found them."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(source)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"STFORMAT_NUM_THREADS": "2"},
    )
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
    assert process.returncode == 0
    assert process.stdout is not None
    n_rows, total = process.stdout.read().split()
    process.stdout.close()
    return int(n_rows), int(total), peak >> 10


def _write_slide(folder: Path, n_bytes: int) -> tuple[Path, int, list[int]]:
    """Write a Visium slide whose counts have so many bytes; how many rows, and sums of bodies."""
    random = np.random.default_rng(0)
    bodies, sums = [], []
    for _ in range(N_BODIES):
        is_zero = random.random(N_COLUMNS) >= COUNT_SHARE
        counts = np.where(is_zero, 0, random.geometric(0.4, N_COLUMNS))
        bodies.append("," + ",".join(f"{count}.0" for count in counts.tolist()) + "\n")
        sums.append(int(counts.sum()))
    n_rows = n_bytes // len(bodies[0])
    edge = int(np.ceil(np.sqrt(n_rows)))
    (folder / "Visium/gene_exp").mkdir(parents=True)
    (folder / "Visium/coord").mkdir()
    names = ["".join("ACGT"[row >> 2 * place & 3] for place in range(16)) for row in range(n_rows)]
    with (folder / "Visium/gene_exp/S_count.csv").open("w") as file:
        file.write("," + ",".join(f"G{column}" for column in range(N_COLUMNS)) + "\n")
        for row, name in enumerate(names):
            file.write(f"S_{name}-1{bodies[row % N_BODIES]}")
    with (folder / "Visium/coord/S_coord.csv").open("w") as file:
        file.write(",yaxis,xaxis,r\n")
        for row, name in enumerate(names):
            y, x = divmod(row, edge)
            file.write(f"S_{name}-1,{y * 86.6:.2f},{x * 100 + y % 2 * 50},30.0\n")
    return folder, n_rows, sums


@pytest.mark.parametrize(
    ("code", "n_bytes", "limit_mib"),
    [
        pytest.param(READ, 150 * 10**6, 256, id="150-MB"),
        pytest.param(READ, 2 * 10**9, 512, id="2-GB", marks=pytest.mark.long),
        pytest.param(CONVERT, 2 * 10**9, 400, id="2-GB-converted", marks=pytest.mark.long),
    ],
)
def test_counts_are_never_in_memory_as_text(tmp_path, code, n_bytes, limit_mib):
    source, n_rows, sums = _write_slide(tmp_path / "tree", n_bytes)
    found_rows, total, peak_mib = _run(code, source)
    assert peak_mib <= limit_mib
    assert found_rows == n_rows
    assert total == int(np.resize(sums, n_rows).sum())
