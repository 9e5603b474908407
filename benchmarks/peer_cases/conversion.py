"""An image file to a store, each conversion in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from peer_cases.case import (
    ChildRun,
    Comparison,
    OutputsDifferError,
    Peer,
    Work,
    at_least,
)
from peer_cases.data import Data

__all__ = ["COMPARISONS"]

_SAMPLED_EVERY_S = 0.01
_MEMORY_LIMIT = 2**30
_COMPARED_ROWS = 2048

# Both sides convert a small image before the clock starts: imports and loading of compiled kernels
# are not timed. Ours syncs what it writes; so must the other side before its clock stops.
_OURS = """
import sys, time
import stformat
source, image, target, first_source, first_image = sys.argv[1:]
stformat.convert_slide(first_source, target + ".first", image=first_image)
start = time.perf_counter()
stformat.convert_slide(source, target, image=image)
print(time.perf_counter() - start)
"""
_SPATIALDATA_IO = """
import os, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import spatialdata
from spatialdata_io.readers.generic import image
_, tiff, target, _, first = sys.argv[1:]

def convert(tiff, target, n_levels):
    pixels = image(
        Path(tiff),
        data_axes=("y", "x", "c"),
        coordinate_system="global",
        chunks={"c": 1, "y": 4096, "x": 4096},
        scale_factors=[2] * n_levels,
    )
    spatialdata.SpatialData(images={"he": pixels}).write(target)
    for path in [Path(target), *Path(target).rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

convert(first, target + ".first", 1)
start = time.perf_counter()
convert(tiff, target, 4)
print(time.perf_counter() - start)
"""


def _converted(
    code: str, source: Path, image: Path, target: Path, first: tuple[Path, Path]
) -> ChildRun:
    """Convert in a new process, whose anonymous memory is watched meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-c", code, source, image, target, *first],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        watched = psutil.Process(process.pid)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous_bytes(watched))
            time.sleep(_SAMPLED_EVERY_S)
        printed = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"the conversion ended with exit code {process.returncode}")
    return ChildRun(seconds=float(printed.split()[-1]), peak_bytes=peak, output=target)


def _anonymous_bytes(process: psutil.Process) -> int:
    """Return the memory of a process that no file backs."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return memory.rss - getattr(memory, "shared", 0)


def _conversion(code: str, name: str, kind: str, data: Data) -> Work:
    source, image = data.spots_to_convert, data.images_to_convert[kind]
    target = data.folder / f"converted-{name}.zarr"

    def clear() -> None:
        for path in (target, target.with_name(f"{target.name}.first")):
            shutil.rmtree(path, ignore_errors=True)

    first = data.first_to_convert
    return Work(run=lambda: _converted(code, source, image, target, first), n_units=1, before=clear)


def _ours(kind: str, data: Data) -> Work:
    return _conversion(_OURS, "ours", kind, data)


def _spatialdata_io(kind: str, data: Data) -> Work:
    if find_spec("spatialdata_io") is None:
        raise ModuleNotFoundError(name="spatialdata_io")
    return _conversion(_SPATIALDATA_IO, "spatialdata-io", kind, data)


def _same_pixels(ours: Path, theirs: Path) -> str:
    """Compare level 0 of two stores, some rows at a time."""
    import zarr

    level, other = (_level_0(zarr.open_group(path, mode="r")) for path in (ours, theirs))
    if level.shape != other.shape:
        raise OutputsDifferError(f"shape {other.shape} instead of {level.shape}")
    for top in range(0, level.shape[1], _COMPARED_ROWS):
        rows = slice(top, top + _COMPARED_ROWS)
        if not np.array_equal(level[:, rows], other[:, rows]):
            raise OutputsDifferError("pixels of level 0 differ")
    return "level 0 equal"


def _level_0(store: object) -> NDArray[np.uint8]:
    image = store["images/he"]
    return image["s0"] if "s0" in image else image["0"]


COMPARISONS = tuple(
    Comparison(
        what=f"converting a TIFF, {kind}",
        unit="image",
        ours=partial(_ours, kind),
        peers=(
            Peer(
                name="spatialdata-io image() and write()",
                prepare=partial(_spatialdata_io, kind),
                target=at_least(4),
                agrees=_same_pixels,
                note="its coarser levels are truncated means, ours rounded",
            ),
        ),
        memory_limit=_MEMORY_LIMIT,
    )
    for kind in ("JPEG in tiles", "deflate in strips", "uncompressed", "uncompressed, large")
)
