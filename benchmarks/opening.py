"""What it costs before anything is read: importing, the first `--help`, opening a store.

    uv run python benchmarks/opening.py [--rows 10000000] [--peer-rows 1000000] [--runs 7]

Makes a store of so many bins, then prints a Markdown table: the median of `--runs` new processes
each, its target beside it, the memory that opening adds, and the same for `spatialdata.read_zarr`,
which reads the whole store and is given one of `--peer-rows` bins. Runs of the two are interleaved.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import sparse

from stformat.model import Counts, Descriptors, Genes, Mpp, SlideRecord, Spots, Table
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing.records import make_image

_N_GENES = 18_085
_COUNTS_A_BIN = 4
_ROWS_AT_ONCE = 1 << 17
_BIN_PX = 8.0
_IMAGE_PX = 4000

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


def _write_store(path: Path, n_rows: int) -> Path:
    """Write a square of bins with a few counts each, and an image of a part of it."""
    rng = np.random.default_rng(0)
    image = make_image(rng.integers(0, 255, (3, _IMAGE_PX, _IMAGE_PX), np.uint8))
    table = Table(
        name="expression_square_002um",
        spots=_bins(n_rows),
        genes=_genes(),
        counts=Counts(
            shape=(n_rows, _N_GENES),
            dtype=np.dtype(np.int32),
            iter_blocks=lambda: _iter_counts(n_rows),
        ),
    )
    record = SlideRecord(
        slide_id="bins",
        descriptors=Descriptors(technology="Visium HD"),
        tables=(table,),
        default_table=table.name,
        image=image,
        mpp=Mpp(value=0.25, method="given"),
        sources=() if image.source is None else (image.source,),
    )
    with replace_store(path) as directory:
        write_slide(record, directory)
    return path


def _bins(n_rows: int) -> Spots:
    row, col = np.divmod(np.arange(n_rows), int(np.ceil(np.sqrt(n_rows))))
    names = np.empty(n_rows, dtype="S21")
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        places = zip(row[block].tolist(), col[block].tolist(), strict=True)
        names[block] = [b"s_002um_%05d_%05d-1" % place for place in places]
    return Spots(
        region="square_002um",
        shape="square",
        barcodes=names,
        xy=np.column_stack([col + 0.5, row + 0.5]) * _BIN_PX,
        radius_px=np.full(n_rows, _BIN_PX / 2),
        array_row=row,
        array_col=col,
        in_tissue=np.full(n_rows, fill_value=True),
        pitch_px=_BIN_PX,
        pitch_um=2.0,
        diameter_um=2.0,
    )


def _genes() -> Genes:
    keys = np.array([f"G{gene}" for gene in range(_N_GENES)], dtype=object)
    nothing = np.full(_N_GENES, None, dtype=object)
    return Genes(
        keys=keys,
        key_kind="gene_name",
        gene_id=nothing,
        gene_name=keys,
        feature_type=np.full(_N_GENES, "Gene Expression", dtype=object),
        genome=nothing,
    )


def _iter_counts(n_rows: int) -> Iterator[sparse.csr_array]:
    share = _N_GENES // _COUNTS_A_BIN
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        n = min(_ROWS_AT_ONCE, n_rows - start)
        genes = np.random.default_rng(start).integers(0, share, (n, _COUNTS_A_BIN), np.int32)
        genes += np.arange(_COUNTS_A_BIN, dtype=np.int32) * share
        indptr = np.arange(n + 1) * _COUNTS_A_BIN
        yield sparse.csr_array((1 + genes.ravel() % 5, genes.ravel(), indptr), (n, _N_GENES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=1_000_000, help="of spatialdata's store")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    columns = ("import", "help", "info", "open", "open_rss", "peer", "peer_rss")
    rows: dict[str, list[float]] = {name: [] for name in columns}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = _write_store(Path(folder) / "slide.zarr", arguments.rows)
        written = time.perf_counter() - start
        peer_rows = min(arguments.peer_rows, arguments.rows)
        of_peer = store
        if peer_rows < arguments.rows:
            of_peer = _write_store(Path(folder) / "peer.zarr", peer_rows)
        for _ in range(arguments.runs):
            rows["import"] += _printed(IMPORT)
            rows["help"].append(_whole_process("-m", "stformat.cli", "--help"))
            rows["info"].append(_whole_process("-m", "stformat.cli", "info", str(store)))
            for name, code, path in (("open", OPEN, store), ("peer", READ_ZARR, of_peer)):
                seconds, resident = _printed(code, str(path))
                rows[name].append(seconds)
                rows[f"{name}_rss"].append(resident)
    median = {name: statistics.median(values) for name, values in rows.items()}
    print(
        f"{arguments.rows} rows, written in {written:.0f} s with "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB of memory; "
        f"spatialdata: {peer_rows} rows; medians of {arguments.runs} processes\n"
    )
    print("| what | stformat | target | `spatialdata.read_zarr` | ratio |\n|---|---|---|---|---|")
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
