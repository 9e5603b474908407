"""The loader beside the tile engine, files in a DataLoader, spatialdata and annbatch.

    uv run --group bench python benchmarks/loader.py [--scale small|full] [--only WORD] [--quality]

Makes slides like those of STimage-1K4M from a seed: with `--scale full` 53 slides with 524,520
rows. Outputs are compared first, then all sides take turns; a peer that cannot run is a row that
says why. `--quality` measures instead how well batches are mixed, for buffers of several sizes;
`--data DIR` keeps the slides, for the next run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from loader_cases.comparisons import COMPARISONS
from loader_cases.corpus import FULL, PANEL, SMALL, TINY, Corpus
from loader_cases.quality import quality_table
from peer_cases.measure import Row, compare

import stformat as stf

SCALES = {scale.name: scale for scale in (TINY, SMALL, FULL)}
BUFFERS_MIB = (64, 128, 256, 512, 1024, 2048)
MEMORY_BESIDE = 512 * 2**20


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--only", default="", help="works whose names contain this")
    parser.add_argument("--quality", action="store_true", help="measure how well batches mix")
    parser.add_argument("--data", type=Path, help="keep the data here, and find them next time")
    return parser.parse_args()


def peak_memory(corpus: Corpus) -> str:
    """Return how much anonymous memory an epoch takes, beside what its limit is."""
    process = psutil.Process()

    def anonymous() -> int:
        memory = process.memory_info()
        return memory.rss - getattr(memory, "shared", 0)

    before = peak = anonymous()
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.01):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        buffer_bytes = 2**30
        for _ in stf.TileLoader(corpus.paths, genes=PANEL, buffer_bytes=buffer_bytes):
            pass
    finally:
        is_over.set()
        watcher.join()
    taken, limit = (n / 2**20 for n in (peak - before, buffer_bytes + MEMORY_BESIDE))
    return f"An epoch of tiles and expression takes {taken:.0f} MiB, of {limit:.0f} allowed."


def _line(row: Row) -> str:
    found = row.status if row.ratio is None else f"{row.ratio:.2f} x"
    rate = "" if row.ours is None else f"{1 / row.ours:,.0f} {row.unit}s/s"
    theirs = "" if row.theirs is None else f"{1 / row.theirs:,.0f} {row.unit}s/s"
    reached = {True: "yes", False: "**no**", None: ""}[row.is_reached]
    notes = [note for note in (row.detail, row.note) if note]
    if row.foreign > 0.15:
        notes.append(f"others took {row.foreign:.0%} of a processor")
    cells = (row.what, row.peer, rate, theirs, found, row.target, reached, "; ".join(notes))
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if arguments.data is None else arguments.data
        folder.mkdir(parents=True, exist_ok=True)
        corpus = Corpus(scale=SCALES[arguments.scale], folder=folder)
        start = time.perf_counter()
        print(f"{len(corpus.paths)} slides, made in {time.perf_counter() - start:.0f} s\n")
        if arguments.quality:
            print("\n".join(quality_table(corpus, BUFFERS_MIB)))
            return 0
        print(peak_memory(corpus) + "\n")
        print("| work | other side | ours | theirs | ratio | target | reached | notes |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        statuses = []
        for comparison in COMPARISONS:
            if arguments.only not in comparison.what:
                continue
            for row in compare(comparison, corpus, rounds=arguments.rounds):  # type: ignore[arg-type] # any data that its sides take
                print(_line(row), flush=True)
                statuses.append(row.status)
    return 1 if "differs" in statuses else 0


if __name__ == "__main__":
    sys.exit(main())
