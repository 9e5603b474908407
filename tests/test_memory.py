"""Converting a large image takes bounded anonymous memory, however the file is cut."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

import stformat as stf
from stformat.testing import make_slide, write_legacy_st

PANEL_SHAPE = (40, 400, 20_000)
LIMIT_KIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="anonymous memory is read from Linux's /proc"
)


def _peak_anonymous_kib(arguments: list[str]) -> int:
    process = subprocess.Popen([sys.executable, "-m", "stformat.cli", *arguments])
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
    assert process.returncode == 0
    return peak


def _write_tiff(path: Path, layout: str, height: int, width: int) -> None:
    """Write an RGB TIFF from one repeated segment, in little memory."""
    if layout == "tiled":
        tile = np.broadcast_to(_ramp(512)[:, None, None], (512, 512, 3))
        n_tiles = -(-height // 512) * -(-width // 512)
        segments, cut = (tile for _ in range(n_tiles)), {"tile": (512, 512)}
    else:
        strip = np.ascontiguousarray(np.broadcast_to(_ramp(width)[None, :, None], (100, width, 3)))
        rows = [min(100, height - top) for top in range(0, height, 100)]
        segments, cut = (strip[:n] for n in rows), {"rowsperstrip": 100}
    tifffile.imwrite(
        path, segments, shape=(height, width, 3), dtype=np.uint8, photometric="rgb",
        bigtiff=True, compression="zlib" if layout == "tiled" else None, **cut,
    )  # fmt: skip


def _ramp(n: int) -> np.ndarray:
    return (np.arange(n) // 120 % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("layout", "height", "width"),
    [
        ("striped", 16_000, 30_000),
        ("tiled", 16_000, 30_000),
        pytest.param("striped", 30_000, 30_000, marks=pytest.mark.reliability),
        pytest.param("tiled", 30_000, 30_000, marks=pytest.mark.reliability),
        pytest.param("striped", 46_371, 36_587, marks=pytest.mark.long),
        pytest.param("tiled", 80_000, 100_000, marks=pytest.mark.long),
    ],
)
def test_a_large_image_converts_in_one_gibibyte(layout, height, width, tmp_path):
    slide = make_slide(height=900, width=900, n_genes=50, seed=1)
    source = write_legacy_st(slide, tmp_path / "source", layout="flat", image_format=None)
    image = tmp_path / "large.tif"
    _write_tiff(image, layout, height, width)
    target = tmp_path / "slide.zarr"
    peak = _peak_anonymous_kib(
        ["convert", str(source), str(target), "--image", str(image), "--quiet"]
    )
    sys.stdout.write(f"{peak >> 10} MiB")  # shown by pytest -rP
    assert peak <= LIMIT_KIB
    with stf.open_slide(target) as opened:
        assert (opened.levels[0].height, opened.levels[0].width) == (height, width)
        row = opened.read_region(0, 15_000, 15_000, 1, 600)[0, 0]
        expected = _ramp(width)[15_000:15_600] if layout == "striped" else _ramp(512)[15_000 % 512]
        np.testing.assert_array_equal(row, np.broadcast_to(expected, 600))


def test_a_wide_panel_of_forty_channels_converts_in_one_gibibyte(tmp_path):
    """A row of inner chunks of it takes 410 MB; the strips do not fit the bands."""
    slide = make_slide(height=900, width=900, n_genes=50, seed=1)
    source = write_legacy_st(slide, tmp_path / "source", layout="flat", image_format=None)
    n_channels, height, width = PANEL_SHAPE
    ramp = np.broadcast_to(np.arange(width, dtype=np.uint16), (height, width))
    image = tmp_path / "panel.tif"
    tifffile.imwrite(
        image, (ramp + np.uint16(channel) for channel in range(n_channels)), shape=PANEL_SHAPE,
        dtype=np.uint16, photometric="minisblack", bigtiff=True, rowsperstrip=100,
        compression="zlib", compressionargs={"level": 1},
    )  # fmt: skip
    target = tmp_path / "slide.zarr"
    peak = _peak_anonymous_kib(
        ["convert", str(source), str(target), "--image", str(image), "--stain", "if", "--quiet"]
    )
    sys.stdout.write(f"{peak >> 10} MiB")
    assert peak <= LIMIT_KIB
    with stf.open_slide(target) as opened:
        for channel, top in ((0, 0), (39, 399)):
            row = opened.read_region(0, top, 19_000, 1, 1000)[channel, 0]
            np.testing.assert_array_equal(row, np.arange(19_000, 20_000) + channel)
