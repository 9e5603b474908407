"""stformat beside its peers: one table of ratios, in benchmarks/results.

    uv run --group bench python benchmarks/peers.py [--scale small|full] [--only tiles,expression]

Makes slides and matrices from a seed, compares every peer's output with ours, lets all sides of a
comparison take turns, and writes peers.md and peers.json. A peer that cannot run is a row that
says why. With --only and --work, other rows stay as an earlier run of the same scale wrote them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from peer_cases import conversion, expression, lookup, resampled, tiles, tiles_in_memory
from peer_cases.data import FULL, SMALL, TINY, Data
from peer_cases.measure import Row, compare
from peer_cases.table import Report, earlier_rows, write

TOPICS = {
    "tiles": tiles.COMPARISONS,
    "tiles_in_memory": tiles_in_memory.COMPARISONS,
    "resampled": resampled.COMPARISONS,
    "expression": expression.COMPARISONS,
    "lookup": lookup.COMPARISONS,
    "conversion": conversion.COMPARISONS,
}
SCALES = {scale.name: scale for scale in (TINY, SMALL, FULL)}
RESULTS = Path(__file__).resolve().parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--only", default=",".join(TOPICS), help=f"of {', '.join(TOPICS)}")
    parser.add_argument("--work", default="", help="only works whose names end like this")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--data", type=Path, help="keep the data here, and find them next time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(TOPICS):
        parser.error(f"--only: no topic {', '.join(sorted(unknown))}")
    return arguments


def _report(arguments: argparse.Namespace, folder: Path) -> Report:
    start = time.perf_counter()
    data = Data(scale=SCALES[arguments.scale], folder=folder)
    rows: list[Row] = []
    earlier = earlier_rows(arguments.results, data.scale)
    for topic, comparisons in TOPICS.items():
        for comparison in comparisons:
            what = comparison.what
            if topic not in arguments.only or not what.endswith(arguments.work):
                # What a work adds to, such as its memory, has a row after a colon.
                rows += [row for row in earlier if row.what.partition(": ")[0] == what]
                continue
            print(f"{time.perf_counter() - start:5.0f} s  {comparison.what}", flush=True)
            measured = compare(comparison, data, rounds=arguments.rounds)
            for row in measured:
                ratio = row.status if row.ratio is None else f"{row.ratio:.2f} x"
                print(f"{'':9}{row.peer}: {ratio} {row.target} {row.detail}", flush=True)
            rows += measured
    return Report(
        rows=tuple(rows),
        scale=data.scale,
        rounds=arguments.rounds,
        seconds=time.perf_counter() - start,
    )


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if arguments.data is None else arguments.data
        folder.mkdir(parents=True, exist_ok=True)
        report = _report(arguments, folder)
    write(report, arguments.results)
    print(f"{arguments.results / 'peers.md'}: {len(report.missed)} targets missed")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
