"""Tiles from a store on disk, beside decoding every inner chunk that they touch once.

Run ``pytest benchmarks/test_tiles.py --benchmark-enable --benchmark-group-by=param:layout``;
without ``--benchmark-enable`` each case runs once, as a test against the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from numcodecs.zstd import Zstd

from stformat.kernels import _pool
from stformat.metadata.strict_json import parse_object
from stformat.metadata.zarr_array import parse_array
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache
from stformat.store.files import DirectoryFiles
from stformat.store.image_writer import write_pyramid
from stformat.store.shard import encode_chunk
from stformat.store.tile_request import tiles_at_mpp
from stformat.store.tiles import TileEngine
from stformat.testing import make_slide
from stformat.testing.records import make_image

IMAGE_PX = 3000
CHUNK_PX = 256
MPP = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Tiles that are asked for."""

    name: str
    """What the request resembles."""

    tile_px: int = 224
    """Edge of a tile in pixels."""

    pitch_px: int = 200
    """Distance of neighbouring centres."""

    mpp: float = MPP
    """Microns per pixel of a tile; the image has 0.5."""

    is_shuffled: bool = False
    """Whether the tiles are asked for in no order."""

    at_once: int | None = None
    """Tiles in one call; None is all."""

    has_cache: bool = True
    """Whether decoded chunks are kept between calls."""


REQUESTS = [
    Request(name="spot-order"),
    # The same tiles in one call: the order must not matter.
    Request(name="random-order", is_shuffled=True),
    # Halfway between two levels: decoding and an area mean.
    Request(name="resampled", mpp=0.75),
    # Many small tiles: the cost of a tile is that of finding its chunks.
    Request(name="hd-small", tile_px=64, pitch_px=20),
    # Nothing to share between calls: latency, and the amplification of a window.
    Request(name="isolated", is_shuffled=True, at_once=1, has_cache=False),
]


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    image = make_slide(height=IMAGE_PX, width=IMAGE_PX, n_genes=10, seed=0).image
    directory = tmp_path_factory.mktemp("pyramid")
    write_pyramid(directory, make_image(image))
    return image, directory


def engine(directory, *, cache):
    files = DirectoryFiles(directory)
    store = SimpleNamespace(
        files=files,
        array=lambda path: parse_array(parse_object(files.read(f"{path}/zarr.json")), path),
    )
    levels = sorted(path.name for path in directory.glob("s*"))
    return TileEngine([ArrayReader(store, level, cache=cache) for level in levels], background=255)


def centers(request_):
    margin = request_.tile_px
    along = np.arange(margin, IMAGE_PX - margin, request_.pitch_px) + 0.0
    y, x = np.meshgrid(along, along, indexing="ij")
    found = np.column_stack([x.ravel(), y.ravel()])
    if request_.is_shuffled:
        found = np.random.default_rng(0).permutation(found)
    return found[:40] if request_.at_once == 1 else found


@pytest.mark.parametrize("layout", REQUESTS, ids=lambda request_: request_.name)
@pytest.mark.parametrize("side", ["tiles", "decode-once"])
def test_tiles_against_decoding_once(benchmark, pyramid, layout, side):
    image, directory = pyramid
    points = centers(layout)
    if side == "decode-once":
        frames = touched_frames(image, points, layout)
        chunks = benchmark(_pool.map_chunks, Zstd().decode, frames)
        assert len(chunks) == len(frames)
        return
    cache = ChunkCache() if layout.has_cache else ChunkCache(0)
    reader = engine(directory, cache=cache)
    tiles = tiles_at_mpp(
        reader, points, tile_px=layout.tile_px, target_mpp=layout.mpp, mpp=MPP, fill_value=255
    )
    step = layout.at_once or len(tiles)

    def cut():
        return [tiles[start : start + step] for start in range(0, len(tiles), step)]

    found = benchmark.pedantic(cut, setup=cache.clear, rounds=7, warmup_rounds=1)
    first = found[0][0]
    assert first.shape == (3, layout.tile_px, layout.tile_px)
    if layout.mpp == MPP:
        left, top = (np.floor(points[0] - layout.tile_px / 2 + 0.5)).astype(int)
        expected = image[:, top : top + layout.tile_px, left : left + layout.tile_px]
        np.testing.assert_array_equal(first, expected)


def touched_frames(image, points, layout):
    """Encode each inner chunk of level 0 that a tile touches."""
    half = layout.tile_px * layout.mpp / MPP / 2
    low = np.maximum(0, (points - half) // CHUNK_PX).astype(int)
    high = ((points + half - 1) // CHUNK_PX).astype(int)
    places = {
        (y, x)
        for (x0, y0), (x1, y1) in zip(low, high, strict=True)
        for y in range(y0, y1 + 1)
        for x in range(x0, x1 + 1)
    }
    return [encode_chunk(_chunk(image, y, x)) for y, x in sorted(places)]


def _chunk(image, row, column):
    chunk = np.zeros((3, CHUNK_PX, CHUNK_PX), np.uint8)
    pixels = image[:, row * CHUNK_PX :, column * CHUNK_PX :][:, :CHUNK_PX, :CHUNK_PX]
    chunk[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return chunk
