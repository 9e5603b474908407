"""What it costs to open a folder of many slides, to choose among them and to compare them.

    uv run python benchmarks/collection.py [--slides 10000] [--runs 5]

Makes a catalogue of so many rows, all of one small slide but for identifiers and fingerprints,
then prints a Markdown table: medians of `--runs` new processes each, wall and processor time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from stformat.collection.catalogue import CATALOGUE_NAME, dump_catalogue
from stformat.collection.catalogue_row import slide_row
from stformat.store.commit import replace_store
from stformat.store.reader import open_slide
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

MEASURE = """
import sys, time
{imports}
def clocks():
    return time.perf_counter(), time.process_time()
{before}
start, start_busy = clocks()
{call}
end, end_busy = clocks()
print(end - start, end_busy - start_busy)
"""
LOADED = "import pandas, pyarrow.parquet\nfrom stformat.collection.opening import open_collection"
OPENED = "slides = open_collection(sys.argv[1])"
CASES = {
    "import and open, new process": (
        "", "", f"from stformat.collection.opening import open_collection\n{OPENED}",
    ),
    "open, dependencies loaded": (LOADED, "", OPENED),
    "`.catalogue`, as pandas": (LOADED, OPENED, "slides.catalogue"),
    "`.where(species=..., n_obs=...)`": (
        LOADED, OPENED, "slides.where(species='human', n_obs=lambda n: n > 10)",
    ),
    "`.duplicates()`": (LOADED, OPENED, "slides.duplicates()"),
    "`.split(by='slide')`": (LOADED, OPENED, "slides.split(by='slide')"),
}  # fmt: skip


def _write_catalogue(folder: Path, n_slides: int) -> Path:
    store = folder / "slide.zarr"
    with replace_store(store) as directory:
        write_slide(make_record(), directory)
    with open_slide(store) as slide:
        row = slide_row(slide, store.name)
    random = np.random.default_rng(0)
    rows = [
        row
        | {
            "slide_id": f"S{number:05d}",
            "path": f"S{number:05d}.zarr",
            "manifest_sha256": random.bytes(32).hex(),
            "fingerprint_rows": random.integers(0, 2**63, 128).tolist(),
            "fingerprint_genes": random.integers(2_000, 200_000, 64).tolist(),
            "fingerprint_image": random.bytes(32),
        }
        for number in range(n_slides)
    ]
    path = folder / CATALOGUE_NAME
    path.write_bytes(dump_catalogue(rows))
    return path


def _measured(imports: str, before: str, call: str, folder: Path) -> tuple[float, float]:
    code = MEASURE.format(imports=imports, before=before, call=call)
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    wall, busy = (float(word) for word in result.stdout.split())
    return wall, busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _write_catalogue(folder, arguments.slides).stat().st_size
        times: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
        for _ in range(arguments.runs):
            for case, code in CASES.items():
                times[case].append(_measured(*code, folder))
    print(f"{arguments.slides} slides, a catalogue of {size / 1e6:.1f} MB, ", end="")
    print(f"median of {arguments.runs} processes\n")
    print("| what | wall | processor |\n|---|---|---|")
    for case, found in times.items():
        wall, busy = (statistics.median(each) for each in zip(*found, strict=True))
        print(f"| {case} | {wall * 1e3:.0f} ms | {busy * 1e3:.0f} ms |")


if __name__ == "__main__":
    main()
