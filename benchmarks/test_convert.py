"""An image written as a pyramid, from each way that a TIFF lies on disk.

Run ``pytest benchmarks/test_convert.py --benchmark-enable``; without ``--benchmark-enable`` each
case runs once, as a test of level 0. Files are not synced: what is measured is decoding, halving,
encoding and handing to the system. ``encode`` is the least that any writer does.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pytest
import tifffile
import zarr

from stformat.kernels import _pool
from stformat.sources._image import open_image
from stformat.store.image_writer import write_pyramid
from stformat.store.shard import encode_chunk
from stformat.testing import make_slide

IMAGE_PX = 2304
CHUNK_PX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffCut:
    """How a TIFF is cut and compressed."""

    name: str
    """What the layout resembles."""

    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Of `tifffile.imwrite`."""

    is_lossless: bool = True
    """Whether the pixels of the file are those that were saved."""


CUTS = [
    # As scanners write: segments are inner chunks, decoding is dear.
    TiffCut(
        name="jpeg-tiles",
        options={"tile": (256, 256), "compression": "jpeg"},
        is_lossless=False,
    ),
    TiffCut(name="deflate-tiles", options={"tile": (512, 512), "compression": "zlib"}),
    # Segments that reach over the edge of a row of inner chunks are held.
    TiffCut(name="deflate-strips", options={"rowsperstrip": 100, "compression": "zlib"}),
    # Nothing to decode: what is left is the cost of the writer.
    TiffCut(name="raw-strips", options={"rowsperstrip": 16}),
]


@pytest.fixture(scope="module")
def pixels():
    slide = make_slide(height=IMAGE_PX, width=IMAGE_PX, n_genes=10, seed=0)
    return np.ascontiguousarray(np.moveaxis(slide.image, 0, -1))


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_pyramid_from_a_tiff(benchmark, tmp_path, pixels, cut):
    """Every level of an image of 16 MB."""
    benchmark.group = "convert"
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", **cut.options)
    image = open_image(path)
    target = tmp_path / "he"

    def from_nothing():
        shutil.rmtree(target, ignore_errors=True)

    benchmark.pedantic(
        lambda: write_pyramid(target, image), setup=from_nothing, rounds=5, warmup_rounds=1
    )
    found = np.moveaxis(zarr.open_array(str(target / "s0"), mode="r")[...], 0, -1)
    expected = pixels if cut.is_lossless else tifffile.imread(path)
    np.testing.assert_array_equal(found, expected)


def test_encode(benchmark, pixels):
    """The inner chunks of level 0, in memory, encoded alone."""
    benchmark.group = "convert"
    edges = range(0, IMAGE_PX, CHUNK_PX)
    chunks = [
        np.ascontiguousarray(np.moveaxis(pixels[y : y + CHUNK_PX, x : x + CHUNK_PX], -1, 0))
        for y in edges
        for x in edges
    ]
    encoded = benchmark(_pool.map_chunks, encode_chunk, chunks)
    assert len(encoded) == len(chunks)
