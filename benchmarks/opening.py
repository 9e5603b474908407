"""What it costs before anything is read: importing, the first `--help`, opening a store.

    uv run python benchmarks/opening.py [--runs 7]

Prints a Markdown table: the median of `--runs` new processes each, its target beside it, and the
resident memory that opening adds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import stformat as stf
from stformat.testing import make_slide, write_legacy_st

OPEN = """
import sys, time
import numpy, pydantic  # the dependencies that opening needs
import stformat.store.reader as reader
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
before, start = resident(), time.perf_counter()
slide = reader.open_slide(sys.argv[1])
print(time.perf_counter() - start, resident() - before)
"""

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        source = write_legacy_st(make_slide(height=4500, width=4500, seed=0), Path(folder) / "in")
        store = str(stf.convert_slide(source, Path(folder) / "slide.zarr"))
        rows: dict[str, list[float]] = {"import": [], "help": [], "info": [], "open": [], "rss": []}
        for _ in range(runs):
            rows["import"] += _printed(IMPORT)
            rows["help"].append(_whole_process("-m", "stformat.cli", "--help"))
            rows["info"].append(_whole_process("-m", "stformat.cli", "info", store))
            seconds, resident = _printed(OPEN, store)
            rows["open"].append(seconds)
            rows["rss"].append(resident)
    median = {name: statistics.median(values) for name, values in rows.items()}
    print("| what | median | target |\n|---|---|---|")
    print(f"| `import stformat` | {median['import'] * 1e3:.1f} ms | 100 ms |")
    print(f"| `stformat --help`, whole process | {median['help'] * 1e3:.0f} ms | 300 ms |")
    print(f"| `stformat info`, whole process | {median['info'] * 1e3:.0f} ms | 800 ms |")
    print(f"| open a slide, dependencies loaded | {median['open'] * 1e3:.1f} ms | 50 ms |")
    print(f"| memory that opening adds | {median['rss'] / 1e6:.1f} MB | 40 MB |")


if __name__ == "__main__":
    main()
