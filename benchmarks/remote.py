"""What a store costs over a network: requests, bytes and time, at a stated round trip.

    uv run --group dev python benchmarks/remote.py [--round-trip-ms 50] [--runs 3]

Converts a synthetic slide, serves it on loopback and delays every request by the round trip, each
connection by itself, then prints a Markdown table: the median of `--runs` fresh opens of the
directory, of a URL, of a zip file at a URL, and the same crops by zarr-python over obstore, one at
a time as its users write them. Runs are interleaved. The server is a process of its own; it is
Python's, so rates are those of the reader only where they are far below a disk's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import zarr
from obstore.store import HTTPStore
from zarr.storage import ObjectStore

import stformat as stf
from stformat.testing import make_slide, write_legacy_st

_N_TILES = 64
_TILE_PX = 224


def _serve(
    folder: Path,
    round_trip_s: float,
    n_requests: Synchronized[int],
    n_bytes: Synchronized[int],
    told: Connection,
) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """Send a file, or a range of it, after the round trip."""
            time.sleep(round_trip_s)
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            size = path.stat().st_size
            found = re.fullmatch(r"bytes=(\d*)-(\d+)", self.headers.get("Range", ""))
            start, stop = 0, size
            if found and found[1]:
                start, stop = int(found[1]), min(size, int(found[2]) + 1)
            elif found:
                start = max(0, size - int(found[2]))
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
            self.end_headers()
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(stop - start))
            with n_requests.get_lock(), n_bytes.get_lock():
                n_requests.value += 1
                n_bytes.value += stop - start

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.send(server.server_port)
    server.serve_forever()


class _Meter:
    """A served folder, and what was asked of it."""

    def __init__(self, url: str, n_requests: Synchronized[int], n_bytes: Synchronized[int]) -> None:
        self.url = url
        self._n_requests = n_requests
        self._n_bytes = n_bytes

    def measure(self, call: Callable[[], object]) -> tuple[float, int, float]:
        """Return seconds, requests and megabytes of a call."""
        self._n_requests.value = self._n_bytes.value = 0
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        time.sleep(0.05)  # the last answers are counted after they are read
        return seconds, self._n_requests.value, self._n_bytes.value / 1e6


@contextmanager
def _served(folder: Path, round_trip_s: float) -> Iterator[_Meter]:
    context = multiprocessing.get_context("spawn")
    n_requests, n_bytes = context.Value("q", 0), context.Value("q", 0)
    ours, theirs = context.Pipe()
    server = context.Process(
        target=_serve, args=(folder, round_trip_s, n_requests, n_bytes, theirs), daemon=True
    )
    server.start()
    try:
        yield _Meter(f"http://127.0.0.1:{ours.recv()}", n_requests, n_bytes)
    finally:
        server.terminate()
        server.join()


def _read(meter: _Meter, where: str) -> Iterator[tuple[str, tuple[float, int, float]]]:
    opened: list[stf.Slide] = []
    yield "open", meter.measure(lambda: opened.append(stf.open_slide(where)))
    with opened[0] as slide:
        rows = np.arange(_N_TILES)
        yield f"{_N_TILES} tiles", meter.measure(lambda: slide.tiles(_TILE_PX, rows=rows)[:])
        every = f"all {slide.n_obs} tiles"
        yield every, meter.measure(lambda: slide.tiles(_TILE_PX)[:])
        yield "`obs`", meter.measure(lambda: slide.obs)
        yield "256 rows of counts", meter.measure(lambda: slide.counts[:256])


def _crops(url: str, centers: np.ndarray) -> None:
    store = HTTPStore(f"{url}/slide.zarr/images/he/s0", client_options={"allow_http": True})
    array = zarr.open_array(ObjectStore(store, read_only=True), mode="r")
    for left, top in np.maximum(centers.astype(int) - _TILE_PX // 2, 0):
        assert array[:, top : top + _TILE_PX, left : left + _TILE_PX].size


def _pack(store: Path, path: Path) -> None:
    files = sorted(file for file in store.rglob("*") if file.is_file())
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(files, key=lambda file: file.name == "commit.json"):
            archive.write(file, file.relative_to(store))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--round-trip-ms", type=float, default=50)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        slide = make_slide(height=9000, width=9100, n_genes=2000, seed=7)
        store = stf.convert_slide(write_legacy_st(slide, folder / "source"), folder / "slide.zarr")
        _pack(store, folder / "slide.zarr.zip")
        with stf.open_slide(store) as opened:
            centers = opened.centers_px(slice(_N_TILES))
        found: dict[tuple[str, str], list[tuple[float, int, float]]] = {}
        with _served(folder, options.round_trip_ms / 1000) as meter:
            places = {
                "directory": str(store),
                "URL": f"{meter.url}/slide.zarr",
                "zip file at a URL": f"{meter.url}/slide.zarr.zip",
            }
            for _ in range(options.runs):
                for place, where in places.items():
                    for what, measured in _read(meter, where):
                        found.setdefault((what, place), []).append(measured)
                crops = meter.measure(lambda: _crops(meter.url, centers))
                found.setdefault((f"{_N_TILES} tiles", "zarr-python"), []).append(crops)
    print("| what | from | time | requests | read |\n|---|---|---|---|---|")
    for (what, place), runs in sorted(found.items(), key=lambda item: item[0][0]):
        seconds, n_requests, megabytes = (
            statistics.median(column) for column in zip(*runs, strict=True)
        )
        print(f"| {what} | {place} | {seconds:.3f} s | {n_requests:.0f} | {megabytes:.2f} MB |")


if __name__ == "__main__":
    main()
