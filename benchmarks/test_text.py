"""Dense text matrices beside pandas.

Run ``pytest benchmarks/test_text.py --benchmark-enable --benchmark-group-by=param``; without
``--benchmark-enable`` a small case runs once, as a test that both sides agree.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stformat.sources._spilled_counts import spill_counts_text

N_COLUMNS = 18_085
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLayout:
    """A dense count matrix as text."""

    name: str
    """What the layout resembles."""

    n_rows: int
    """Rows of `N_COLUMNS` counts, where they are measured."""

    share: float
    """Share of counts that are not 0."""

    suffix: str = ".csv"
    """Of the file: ``".csv"`` or ``".csv.gz"``."""


LAYOUTS = [
    TextLayout(name="visium", n_rows=1000, share=0.15),
    TextLayout(name="visium-hd", n_rows=1000, share=0.02),
    TextLayout(name="visium-gz", n_rows=1000, share=0.15, suffix=".csv.gz"),
]


@pytest.fixture(scope="module", params=LAYOUTS, ids=[layout.name for layout in LAYOUTS])
def matrix(request, tmp_path_factory, pytestconfig) -> Path:
    layout = request.param
    is_measured = pytestconfig.getoption("benchmark_enable")
    random = np.random.default_rng(0)
    lines = ["," + ",".join(f"G{column}" for column in range(N_COLUMNS))]
    for row in range(layout.n_rows if is_measured else 20):
        is_zero = random.random(N_COLUMNS) >= layout.share
        counts = np.where(is_zero, 0, random.geometric(0.4, N_COLUMNS))
        lines.append(f"S_{row}x{row}," + ",".join(f"{count}.0" for count in counts.tolist()))
    text = ("\n".join(lines) + "\n").encode()
    path = tmp_path_factory.mktemp("text") / f"counts{layout.suffix}"
    path.write_bytes(gzip.compress(text, compresslevel=6) if "gz" in layout.suffix else text)
    return path


def dense(path: Path) -> np.ndarray:
    spilled = spill_counts_text(path, scratch=None)
    counts = spilled.rows(np.ones(len(spilled.row_names), dtype=np.bool_))
    return np.vstack([block.toarray() for block in counts.iter_blocks()])


def test_stformat(benchmark, matrix):
    benchmark.extra_info["bytes"] = matrix.stat().st_size
    spilled = benchmark.pedantic(
        spill_counts_text, args=(matrix,), kwargs={"scratch": None}, rounds=ROUNDS, warmup_rounds=1
    )
    assert len(spilled.column_names) == N_COLUMNS


def test_pandas(benchmark, matrix):
    benchmark.extra_info["bytes"] = matrix.stat().st_size
    table = benchmark.pedantic(pd.read_csv, args=(matrix,), kwargs={"index_col": 0}, rounds=ROUNDS)
    if benchmark.disabled:
        np.testing.assert_array_equal(dense(matrix), table.to_numpy())
