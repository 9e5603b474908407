"""How time and memory grow: with the image, the spots, the threads, the chunks and the cache.

Run ``python benchmarks/scaling.py --scale small`` (minutes) or ``--scale full``. Figures and
``scaling-<scale>.json`` go to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

RESULTS = Path(__file__).parent / "results"
SIDES = {"small": [2500, 5000, 10_000], "full": [5000, 10_000, 20_000, 40_000, 60_000]}
SPOTS = {"small": [10**3, 10**4, 10**5], "full": [10**3, 10**4, 10**5, 10**6, 3 * 10**6]}
IMAGE_PX = {"small": 4096, "full": 12_288}
CHUNKS_PX = [(256, 4096), (512, 4096), (1024, 4096), (256, 256), (512, 512), (1024, 1024)]
CACHES_MIB = [0, 8, 32, 128]
TILE_PX = 224
REPEATS = 3


def texture(side_px):
    """Noise over slow waves, repeated: it compresses about as well as tissue, in no time."""
    from stformat.model import Image

    rng = np.random.default_rng(0)
    edge = 2048
    wave = 60 * np.sin(np.arange(edge) * 2 * np.pi / edge)
    cell = 150 + wave[:, None] + wave + rng.normal(0, 6, (3, edge, edge))
    cell = np.clip(cell, 0, 255).astype(np.uint8)

    def iter_bands(height):
        for top in range(0, side_px, height):
            rows = cell[:, np.arange(top, min(top + height, side_px)) % edge]
            band = np.empty((3, rows.shape[1], side_px), np.uint8)
            for left in range(0, side_px, edge):
                band[:, :, left : left + edge] = rows[:, :, : side_px - left]
            yield band

    return Image(
        shape=(3, side_px, side_px), dtype=np.dtype(np.uint8), channel_names=("r", "g", "b"),
        background=255, iter_bands=iter_bands, codec="tiff/none",
    )  # fmt: skip


def peak_anonymous_mib(process):
    """Wait for a process; return the most anonymous memory it was seen with."""
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        sizes = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
        peak = max([peak, *map(int, sizes)])
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"a case ended with exit status {process.returncode}")
    return peak / 1024


def in_own_process(case, *arguments, threads=None):
    """Run a case of this file alone; return what it prints, and its peak of memory."""
    environment = os.environ | ({"STFORMAT_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.Popen(
        [sys.executable, __file__, "--case", case, *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    peak = peak_anonymous_mib(process)
    return json.loads(process.stdout.read()) | {"anonymous_mib": peak}


def write_case(side_px):
    """Write a pyramid of an image that is made as it is read."""
    from stformat.kernels import downsample_2x2
    from stformat.store.image_writer import write_pyramid

    downsample_2x2(np.zeros((3, 2, 2), np.uint8))
    image = texture(int(side_px))
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        write_pyramid(Path(directory), image)
        return {"seconds": time.perf_counter() - start}


def engine_of(directory, cache):
    from stformat.metadata.strict_json import parse_object
    from stformat.metadata.zarr_array import parse_array
    from stformat.store.arrays import ArrayReader
    from stformat.store.files import DirectoryFiles
    from stformat.store.tiles import TileEngine

    files = DirectoryFiles(directory)
    store = SimpleNamespace(
        files=files,
        array=lambda path: parse_array(parse_object(files.read(f"{path}/zarr.json")), path),
    )
    return TileEngine([ArrayReader(store, "s0", cache=cache)], background=255)


def tiles_case(directory, n_spots, batch, cache_mib, tile_px):
    """Cut tiles on a square lattice, in spatial order of rows, some in a call."""
    from stformat.store.chunk_cache import ChunkCache
    from stformat.store.layout import spatial_order
    from stformat.store.tile_request import tiles_at_mpp

    cache = ChunkCache(int(cache_mib) << 20)
    engine = engine_of(Path(directory), cache)
    _, side = engine.level_shape(0)
    along = np.linspace(tile_px, side - tile_px, int(np.sqrt(n_spots)))
    y, x = np.meshgrid(along, along, indexing="ij")
    centers = np.column_stack([x.ravel(), y.ravel()])
    centers = centers[spatial_order(centers)]
    tiles = tiles_at_mpp(
        engine, centers, tile_px=tile_px, target_mpp=None, mpp=None, fill_value=255
    )
    tiles[:2]
    seconds = []
    for _ in range(REPEATS):
        cache.clear()
        start = time.perf_counter()
        for first in range(0, len(tiles), batch):
            tiles[first : first + batch]
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "tiles": len(tiles)}


def isolated_case(directory, n_tiles):
    """Cut tiles far from one another, one in a call, with nothing kept."""
    from stformat.store.chunk_cache import ChunkCache

    engine = engine_of(Path(directory), ChunkCache(0))
    _, side = engine.level_shape(0)
    corners = np.random.default_rng(0).integers(0, side - TILE_PX, (int(n_tiles), 2))
    engine.read_region(0, 0, 0, TILE_PX, TILE_PX)
    start = time.perf_counter()
    for top, left in corners.tolist():
        engine.read_region(0, top, left, TILE_PX, TILE_PX)
    return {"seconds": time.perf_counter() - start, "tiles": int(n_tiles)}


def tiles_of(directory, n_spots, *, batch=512, cache_mib=128, tile_px=TILE_PX, threads=None):
    arguments = (directory, n_spots, batch, cache_mib, tile_px)
    return in_own_process("tiles", *arguments, threads=threads)


def measure(scale, scratch):
    from stformat.store.image_writer import write_pyramid

    image = texture(IMAGE_PX[scale])
    write_pyramid(scratch / "warm", texture(300))
    n_threads = len(os.sched_getaffinity(0))
    found = {"scale": scale, "threads": n_threads, "image_px": IMAGE_PX[scale]}
    found["sides"] = [{"side_px": side} | in_own_process("write", side) for side in SIDES[scale]]
    found["writing"] = [
        {"threads": n} | in_own_process("write", IMAGE_PX[scale], threads=n)
        for n in range(1, n_threads + 1)
    ]
    cells = []
    for number, (chunk_px, shard_px) in enumerate(CHUNKS_PX):
        directory = scratch / str(number)
        start = time.perf_counter()
        write_pyramid(directory, image, chunk_px=chunk_px, shard_px=shard_px)
        seconds = time.perf_counter() - start
        files = [path for path in (directory / "s0").rglob("*") if path.is_file()]
        isolated = in_own_process("isolated", directory, 200)
        cells.append({
            "chunk_px": chunk_px, "shard_px": shard_px, "write_seconds": seconds,
            "files": len(files), "bytes": sum(path.stat().st_size for path in files),
            "spot_order": tiles_of(directory, 2500), "isolated": isolated,
        })  # fmt: skip
    found["chunks"] = cells
    store = scratch / "0"
    found["spots"] = [
        {"n_spots": n} | tiles_of(store, n, tile_px=64, batch=4096) for n in SPOTS[scale]
    ]
    found["reading"] = [
        {"threads": n} | tiles_of(store, 2500, threads=n) for n in range(1, n_threads + 1)
    ]
    found["caches"] = [
        {"cache_mib": n} | tiles_of(store, 2500, batch=32, cache_mib=n) for n in CACHES_MIB
    ]
    return found


def draw(found, path):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    draw_sides(axes[0, 0], axes[0, 1], found["sides"])
    cases = found["spots"]
    line(axes[0, 2], [case["tiles"] for case in cases], [case["seconds"] for case in cases])
    axes[0, 2].set(title="Tiles of 64 px, in calls of 4096", xlabel="tiles", ylabel="time (s)")
    axes[0, 2].set(xscale="log", yscale="log")
    for name, key in (("tiles of 224 px", "reading"), ("writing", "writing")):
        cases = found[key]
        speed = [cases[0]["seconds"] / case["seconds"] for case in cases]
        line(axes[1, 0], [case["threads"] for case in cases], speed, label=name)
    axes[1, 0].set(title="Threads", xlabel="threads", ylabel="speed over one thread")
    axes[1, 0].set_xticks([case["threads"] for case in found["reading"]])
    axes[1, 0].set_ylim(0, found["threads"] + 0.2)
    axes[1, 0].legend(frameon=False, loc="lower right")
    bars(axes[1, 1], found["chunks"])
    cases = found["caches"]
    speed = [case["tiles"] / case["seconds"] for case in cases]
    line(axes[1, 2], [case["cache_mib"] for case in cases], speed)
    axes[1, 2].set(title="Cache, tiles of 224 px in calls of 32", xlabel="cache (MiB)")
    axes[1, 2].set(ylabel="tiles per second", ylim=(0, None))
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=110)


def draw_sides(time_axes, memory_axes, cases):
    side = [case["side_px"] for case in cases]
    seconds = [case["seconds"] for case in cases]
    line(time_axes, side, seconds)
    linear = [seconds[-1] * (n / side[-1]) ** 2 for n in side]
    time_axes.plot(side, linear, "--", c="0.6", label="proportional to pixels")
    time_axes.set(title="Writing a pyramid", ylabel="time (s)", yscale="log")
    line(memory_axes, side, [case["anonymous_mib"] for case in cases])
    memory_axes.axhline(1024, ls="--", c="0.6", label="limit, 1 GiB")
    memory_axes.set(title="Memory of writing", ylabel="anonymous memory (MiB)", ylim=(0, 1100))
    for axes in (time_axes, memory_axes):
        axes.set(xlabel="edge of the image (px)", xscale="log")
        axes.set_xticks(side, [f"{n:,}" for n in side])
        axes.minorticks_off()
        axes.legend(frameon=False)


def line(axes, x, y, *, label=None):
    axes.plot(x, y, "o-", label=label)
    axes.grid(alpha=0.3)


def bars(axes, cells):
    names = [
        f"{cell['chunk_px']}\n" + ("loose" if cell["chunk_px"] == cell["shard_px"] else "sharded")
        for cell in cells
    ]
    for shift, key, name in ((-0.2, "spot_order", "spot order"), (0.2, "isolated", "isolated")):
        speed = [cell[key]["tiles"] / cell[key]["seconds"] for cell in cells]
        axes.bar(np.arange(len(cells)) + shift, speed, 0.4, label=name)
    axes.set_xticks(range(len(cells)), names, fontsize=8)
    axes.set(title="Chunks, tiles of 224 px", xlabel="edge of an inner chunk (px)",
             ylabel="tiles per second", yscale="log")  # fmt: skip
    axes.set_ylim(10, axes.get_ylim()[1] * 4)
    axes.legend(frameon=False, ncols=2, loc="upper left")
    axes.grid(axis="y", alpha=0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SIDES), default="small")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        name, first, *rest = options.case
        case = {"write": write_case, "tiles": tiles_case, "isolated": isolated_case}[name]
        print(json.dumps(case(first, *map(int, rest))))
        return
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options.scale, Path(scratch))
    path = RESULTS / f"scaling-{options.scale}"
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, path)
    for key in ("sides", "writing", "chunks", "spots", "reading", "caches"):
        for case in found[key]:
            print(key, json.dumps(case))


if __name__ == "__main__":
    main()
