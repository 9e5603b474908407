"""Large images are read in little anonymous memory, whatever the size of their strips and tiles."""

import json
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

SIDE = 8_000
LIMIT_MIB = 90
NAMES = ("strips", "strip", "z_strip", "z_tiles", "palette")

# Runs alone: the memory of the test process would hide the reader's.
MEASURE = """
import json, sys, threading
from pathlib import Path
from stformat.sources._image import open_image

def anonymous_kib():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous_kib())

report = {}
for path in map(Path, sys.argv[2:]):
    baseline = peak = anonymous_kib()
    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    image = open_image(path, scratch=Path(sys.argv[1]))
    n_rows = sum(band.shape[1] for band in image.iter_bands(256) if band[0, 0, 0] == 7)
    done.set()
    watcher.join()
    report[path.stem] = [n_rows, (peak - baseline) / 1024]
print(json.dumps(report))
"""


def write_raw(path, **layout):
    """An uncompressed image of 192 MB whose first pixel of each 256 rows is 7."""
    pixels = tifffile.memmap(
        path, shape=(SIDE, SIDE, 3), dtype=np.uint8, photometric="rgb", **layout
    )
    pixels[::256, 0] = 7


def write_deflate(path, rows, columns):
    """A compressed image of sevens, every segment the same bytes."""
    segment = bytes(imagecodecs.deflate_encode(np.full(rows * columns * 3, 7, np.uint8), level=1))
    n_segments = -(-SIDE // rows) * -(-SIDE // columns)
    is_tiled = columns < SIDE
    tifffile.imwrite(
        path,
        iter([segment] * n_segments),
        shape=(SIDE, SIDE, 3),
        dtype=np.uint8,
        photometric="rgb",
        compression="zlib",
        **({"tile": (rows, columns)} if is_tiled else {"rowsperstrip": rows}),
    )


def write_palette(path):
    """An image of one compressed strip, all of it the first of 256 colours: sevens."""
    colours = np.full((3, 256), 7 * 257, np.uint16)
    segment = bytes(imagecodecs.deflate_encode(np.zeros(SIDE * SIDE, np.uint8), level=1))
    tifffile.imwrite(
        path, iter([segment]), shape=(SIDE, SIDE), dtype=np.uint8, photometric="palette",
        colormap=colours, compression="zlib", rowsperstrip=SIDE,
    )  # fmt: skip


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="measures anonymous memory in /proc"
)
def test_anonymous_memory_is_bounded(tmp_path):
    paths = [tmp_path / f"{name}.tif" for name in NAMES]
    write_raw(paths[0], rowsperstrip=50)
    write_raw(paths[1], rowsperstrip=SIDE)
    write_deflate(paths[2], SIDE, SIDE)
    write_deflate(paths[3], 1024, 1024)
    write_palette(paths[4])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(scratch), *map(str, paths)],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(result.stdout)
    assert {name: rows for name, (rows, _) in report.items()} == dict.fromkeys(
        (path.stem for path in paths), SIDE
    )
    used = {name: mib for name, (_, mib) in report.items()}
    assert max(used.values()) < LIMIT_MIB, used
    assert list(scratch.iterdir()) == []
