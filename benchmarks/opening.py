"""What it costs before anything is read: importing, the first `--help`, opening a store.

    uv run python benchmarks/opening.py [--rows 1000000] [--runs 7]

Makes a store of so many rows, then prints a Markdown table: the median of `--runs` new processes
each, its target beside it, the memory that opening adds, and the same for `spatialdata.read_zarr`
of the same store. Runs of the two are interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

MEASURE = """
import sys, time, warnings
{imports}
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
before, start = resident(), time.perf_counter()
kept = {call}(sys.argv[1])
print(time.perf_counter() - start, resident() - before)
"""
# Dependencies are loaded before the clock starts.
OPEN = MEASURE.format(
    imports="import numpy, pydantic, stformat.store.reader as reader", call="reader.open_slide"
)
READ_ZARR = MEASURE.format(
    imports="import spatialdata; spatialdata.read_zarr; import anndata, geopandas, ome_zarr.io",
    call="spatialdata.read_zarr",
)

IMPORT = """
import time
start = time.perf_counter()
import stformat
print(time.perf_counter() - start)
"""


def _printed(code: str, *arguments: str) -> list[float]:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return [float(word) for word in result.stdout.split()]


def _whole_process(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - start


def _write_store(path: Path, n_rows: int) -> None:
    with replace_store(path) as directory:
        write_slide(make_record(n_obs=n_rows, n_vars=50, image_px=(4000, 4000)), directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    columns = ("import", "help", "info", "open", "open_rss", "peer", "peer_rss")
    rows: dict[str, list[float]] = {name: [] for name in columns}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "slide.zarr"
        _write_store(store, arguments.rows)
        for _ in range(arguments.runs):
            rows["import"] += _printed(IMPORT)
            rows["help"].append(_whole_process("-m", "stformat.cli", "--help"))
            rows["info"].append(_whole_process("-m", "stformat.cli", "info", str(store)))
            for name, code in (("open", OPEN), ("peer", READ_ZARR)):
                seconds, resident = _printed(code, str(store))
                rows[name].append(seconds)
                rows[f"{name}_rss"].append(resident)
    median = {name: statistics.median(values) for name, values in rows.items()}
    print(f"{arguments.rows} rows, median of {arguments.runs} processes\n")
    print("| what | stformat | target | spatialdata.read_zarr | ratio |\n|---|---|---|---|---|")
    print(f"| `import stformat` | {median['import'] * 1e3:.1f} ms | 100 ms | | |")
    print(f"| `stformat --help`, whole process | {median['help'] * 1e3:.0f} ms | 300 ms | | |")
    print(f"| `stformat info`, whole process | {median['info'] * 1e3:.0f} ms | 800 ms | | |")
    print(
        f"| open a slide, dependencies loaded | {median['open'] * 1e3:.1f} ms | 50 ms "
        f"| {median['peer'] * 1e3:.0f} ms | {median['peer'] / median['open']:.0f} x |"
    )
    print(
        f"| memory that opening adds | {median['open_rss'] / 1e6:.1f} MB | 40 MB "
        f"| {median['peer_rss'] / 1e6:.0f} MB | |"
    )


if __name__ == "__main__":
    main()
