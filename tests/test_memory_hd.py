"""Converting bins takes memory for their places and a budget, however many counts they have."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stformat as stf

MPP = 0.27
N_GENES = 18_000

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="anonymous memory is read from Linux's /proc"
)

# The budget, and what is in memory at once, in proportion to the size of the slide.
CONVERT = """
import sys
from stformat import row_order, spill
from stformat.sources import _row_matrix
from stformat.store import counts_writer
budget = int(sys.argv[3])
if budget:
    spill.MEMORY_BYTES = budget
    row_order.BLOCK_NNZ = counts_writer._BAND_NNZ = _row_matrix.BLOCK_NNZ = 1 << 17
    row_order.BUCKET_ROWS = 4096
from stformat import convert_slide
convert_slide(sys.argv[1], sys.argv[2], bins=2)
"""


def _peak_anonymous_kib(source: Path, target: Path, *, budget_bytes: int) -> int:
    process = subprocess.Popen(
        [sys.executable, "-c", CONVERT, str(source), str(target), str(budget_bytes)]
    )
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
    assert process.returncode == 0
    return peak


def _write_bins(folder: Path, *, edge: int, per_row: int) -> Path:
    """Write a square of bins of 2 um with as many counts each, in little memory."""
    bins = folder / "square_002um"
    (bins / "spatial").mkdir(parents=True)
    factors = {"microns_per_pixel": MPP, "bin_size_um": 2.0}
    (bins / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    n_rows = edge * edge
    random = np.random.default_rng(0)
    with h5py.File(bins / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        parts = {
            name: group.create_dataset(
                name,
                (size,),
                dtype,
                chunks=(min(size, 1 << 16),),
                compression="gzip",
                compression_opts=1,
            )
            for name, size, dtype in (
                ("barcodes", n_rows, "S21"),
                ("data", n_rows * per_row, "i4"),
                ("indices", n_rows * per_row, "i4"),
            )
        }
        group["indptr"] = np.arange(n_rows + 1) * per_row
        group["shape"] = [N_GENES, n_rows]
        group["features/id"] = np.array([b"ENSG%011d" % gene for gene in range(N_GENES)])
        group["features/name"] = np.array([b"G%d" % gene for gene in range(N_GENES)])
        path = bins / "spatial" / "tissue_positions.parquet"
        with pq.ParquetWriter(path, _positions(0, 0, edge).schema) as writer:
            step = max(1, 100_000 // edge)
            for row in range(0, edge, step):
                table = _positions(row, min(edge, row + step), edge)
                writer.write_table(table)
                start, stop = row * edge, row * edge + table.num_rows
                parts["barcodes"][start:stop] = table["barcode"].to_numpy().astype("S21")
                share = N_GENES // per_row
                genes = random.integers(0, share, (stop - start, per_row))
                genes += np.arange(per_row) * share
                values = slice(start * per_row, stop * per_row)
                parts["indices"][values] = genes.ravel()
                parts["data"][values] = 1 + genes.ravel() % 5
    return folder


def _positions(start: int, stop: int, edge: int) -> pa.Table:
    rows = np.repeat(np.arange(start, stop, dtype=np.int32), edge)
    cols = np.tile(np.arange(edge, dtype=np.int32), stop - start)
    places = zip(rows.tolist(), cols.tolist(), strict=True)
    return pa.table(
        {
            "barcode": pa.array([f"s_002um_{row:05d}_{col:05d}-1" for row, col in places], "str"),
            "in_tissue": np.ones(len(rows), dtype=np.int32),
            "array_row": rows,
            "array_col": cols,
            "pxl_row_in_fullres": rows * 2 / MPP + 40.3,
            "pxl_col_in_fullres": cols * 2 / MPP + 30.7,
        }
    )


def test_eighteen_million_counts_take_a_budget_of_four_mebibytes(tmp_path):
    """In memory they would take 230 MB, besides places of 90,000 bins."""
    peaks = []
    for name, edge in (("small", 20), ("large", 300)):
        source = _write_bins(tmp_path / name, edge=edge, per_row=200)
        target = tmp_path / f"{name}.zarr"
        peaks.append(_peak_anonymous_kib(source, target, budget_bytes=4 << 20))
    assert peaks[1] - peaks[0] <= 140 << 10
    with stf.open_slide(target) as slide:
        assert slide.n_obs == 300 * 300
        assert slide.metadata.tables[0].nnz == 300 * 300 * 200
    assert not list(tmp_path.glob(".*"))


@pytest.mark.long
def test_ten_million_bins_convert_in_two_gibibytes(tmp_path):
    source = _write_bins(tmp_path / "source", edge=3163, per_row=10)
    peak = _peak_anonymous_kib(source, tmp_path / "slide.zarr", budget_bytes=0)
    assert peak <= 2 << 20
