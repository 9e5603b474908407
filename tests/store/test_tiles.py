"""Tiles equal plain crops of the level, however they are asked for."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, ZstdCodec

from stformat import coords
from stformat.errors import UnsupportedStoreError
from stformat.kernels import _reference, downsample_2x2, tiles_to_float
from stformat.kernels._pool import thread_count
from stformat.store import chunk_source, tiles
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache
from stformat.store.regions import read_regions, region_chunks
from stformat.store.tiles import TileEngine, Tiles

N_LEVELS = 3
BACKGROUND = 255


def plain_crop(level: np.ndarray, left: int, top: int, edge: int, fill: int) -> np.ndarray:
    """One window of a level, padded, a pixel at a time."""
    out = np.full((level.shape[0], edge, edge), fill, level.dtype)
    for row in range(max(0, -top), min(edge, level.shape[1] - top)):
        for col in range(max(0, -left), min(edge, level.shape[2] - left)):
            out[:, row, col] = level[:, top + row, left + col]
    return out


def write_pyramid(path: Path, image: np.ndarray, *, chunk: int = 16, **options) -> list[np.ndarray]:
    levels = [image]
    for _ in range(N_LEVELS - 1):
        levels.append(downsample_2x2(levels[-1]))
    options = {"compressors": (ZstdCodec(level=1, checksum=True),), **options}
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for number, level in enumerate(levels):
            array = root.create_array(
                f"s{number}",
                shape=level.shape,
                dtype=level.dtype,
                chunks=(len(level), chunk, chunk),
                shards=(len(level), 2 * chunk, 2 * chunk),
                **options,
            )
            array[...] = level
    return levels


@pytest.fixture(scope="module", params=["uint8", "uint16", "blosc"])
def pyramid(request, tmp_path_factory, open_loose):
    """Levels in memory, and an engine over the same levels on disk."""
    path = tmp_path_factory.mktemp("pyramid")
    dtype = "uint16" if request.param == "uint16" else "uint8"
    image = np.random.default_rng(0).integers(0, 256, (3, 83, 61)).astype(dtype)
    options = {"compressors": (BloscCodec(),)} if request.param == "blosc" else {}
    write_pyramid(path, image, **options)
    levels = [zarr.open_array(str(path), path=f"s{k}", mode="r")[...] for k in range(N_LEVELS)]
    return levels, open_engine(path, open_loose)


def open_engine(path: Path, open_loose, cache: ChunkCache | None = None) -> TileEngine:
    store = open_loose(path)
    readers = [ArrayReader(store, f"s{k}", cache=cache) for k in range(N_LEVELS)]
    return TileEngine(readers, background=BACKGROUND)


centers = st.lists(
    st.tuples(st.floats(-60, 130), st.floats(-60, 150)), min_size=0, max_size=12
).map(lambda points: np.array(points, dtype=np.float64).reshape(-1, 2))


def make_tiles(engine: TileEngine, xy: np.ndarray, grid: coords.TileGrid, fill: int = 7) -> Tiles:
    return Tiles(
        engine,
        xy,
        grids=[grid],
        grid_of_tile=np.zeros(len(xy), dtype=np.int64),
        fill_value=fill,
        mpp=0.5,
    )


@settings(deadline=None)
@given(xy=centers, tile_px=st.integers(1, 50), level=st.integers(0, N_LEVELS - 1))
def test_copied_tiles_are_plain_crops(pyramid, xy, tile_px, level):
    levels, engine = pyramid
    grid = coords.grid_for_mpp(tile_px, target_mpp=2.0**level, mpp=1.0, n_levels=N_LEVELS)
    assert grid.is_copy
    found = make_tiles(engine, xy, grid)
    windows = coords.tile_windows(xy, grid)
    expected = [plain_crop(levels[level], x, y, tile_px, 7) for x, y in windows.tolist()]
    for tile, crop in zip(found[:], expected, strict=True):
        np.testing.assert_array_equal(tile, crop)
    assert found[:].shape == found.shape
    assert found[:].dtype == found.dtype


@settings(deadline=None)
@given(xy=centers, tile_px=st.integers(1, 20), mpp=st.floats(0.3, 9.0))
def test_resampled_tiles_are_the_definition_on_padded_crops(pyramid, xy, tile_px, mpp):
    levels, engine = pyramid
    grid = coords.grid_for_mpp(tile_px, target_mpp=mpp, mpp=1.0, n_levels=N_LEVELS)
    windows = coords.tile_windows(xy, grid).tolist()
    source = np.empty((len(windows), 3, grid.source_px, grid.source_px), engine.dtype)
    for number, (left, top) in enumerate(windows):
        source[number] = plain_crop(levels[grid.level], left, top, grid.source_px, 7)
    if grid.is_copy:
        expected = source
    elif len(windows):
        expected = reference_resample(source, grid)
    else:
        expected = np.empty((0, 3, tile_px, tile_px), engine.dtype)
    np.testing.assert_array_equal(make_tiles(engine, xy, grid)[:], expected)


@settings(deadline=None)
@given(xy=centers, mpp=st.sampled_from([1.0, 1.37, 2.0]), seed=st.integers(0, 99))
def test_tiles_go_to_their_places_and_nowhere_else(pyramid, xy, mpp, seed):
    _, engine = pyramid
    grid = coords.grid_for_mpp(9, target_mpp=mpp, mpp=1.0, n_levels=N_LEVELS)
    windows = coords.tile_windows(xy, grid)
    places = np.random.default_rng(seed).permutation(len(xy) + 3)[: len(xy)]
    out = np.full((len(xy) + 3, 3, 9, 9), 77, engine.dtype)
    expected = out.copy()
    expected[places] = engine.cut(windows, grid, fill_value=7)
    assert engine.cut(windows, grid, fill_value=7, out=out, places=places) is out
    np.testing.assert_array_equal(out, expected)


def reference_resample(source: np.ndarray, grid: coords.TileGrid) -> np.ndarray:
    out = np.empty((*source.shape[:2], grid.tile_px, grid.tile_px), source.dtype)
    coarser = grid.step > coords.UNIT_STEP
    twin = _reference.resample_coarser if coarser else _reference.resample_finer
    twin(source, grid.step, out)
    return out


def test_batches_of_resampled_tiles_do_not_show(pyramid, monkeypatch):
    _, engine = pyramid
    xy = np.random.default_rng(2).uniform(-20, 90, (40, 2))
    grid = coords.grid_for_mpp(9, target_mpp=1.37, mpp=1.0, n_levels=N_LEVELS)
    whole = make_tiles(engine, xy, grid)[:]
    monkeypatch.setattr(tiles, "_BATCH_BYTES", 3 * 3 * grid.source_px**2)
    np.testing.assert_array_equal(make_tiles(engine, xy, grid)[:], whole)


@pytest.fixture
def some_tiles(pyramid):
    _, engine = pyramid
    xy = np.random.default_rng(3).uniform(-10, 90, (30, 2))
    grid = coords.grid_for_mpp(13, target_mpp=None, mpp=None, n_levels=N_LEVELS)
    found = make_tiles(engine, xy, grid)
    return found, found[:]


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(4, id="int"),
        pytest.param(-1, id="from the end"),
        pytest.param(np.int64(3), id="numpy int"),
        pytest.param(slice(3, 9), id="slice"),
        pytest.param(slice(None, None, -7), id="backwards"),
        pytest.param(np.array([5, 1, 5, -2]), id="any order, repeated"),
        pytest.param([2, 0], id="list"),
        pytest.param(np.empty(0, int), id="empty"),
        pytest.param(np.arange(30) % 4 == 0, id="mask"),
        pytest.param(np.array([1, 2], dtype=np.uint8), id="unsigned"),
    ],
)
def test_indexing_is_that_of_the_array_of_all_tiles(some_tiles, index):
    found, whole = some_tiles
    np.testing.assert_array_equal(found[index], whole[index])


@pytest.mark.parametrize("index", [30, -31, [0, 30], np.ones(29, bool), 1.5, "a", [[0]]])
def test_wrong_indices_are_refused(some_tiles, index):
    with pytest.raises(IndexError):
        some_tiles[0][index]


def test_batches_and_iteration_follow_the_order(some_tiles):
    found, whole = some_tiles
    batches = list(found.iter_batches(7))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate(batches), whole)
    np.testing.assert_array_equal(np.stack(list(found)), whole)
    with pytest.raises(ValueError, match="at least 1"):
        next(found.iter_batches(0))


def test_batches_of_floats_are_those_of_the_kernel(some_tiles):
    found, whole = some_tiles
    mean, std = [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]
    batches = list(found.iter_batches(7, dtype="float16", mean=mean, std=std))
    expected = tiles_to_float(whole, mean=mean, std=std, dtype=np.float16)
    np.testing.assert_array_equal(np.concatenate(batches), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mean": [0.5] * 3}, ValueError, "dtype of float32 or float16"),
        ({"dtype": np.int32}, TypeError, "float32 or float16, got int32"),
        ({"dtype": np.float32, "std": [1.0]}, ValueError, "channel"),
    ],
)
def test_wrong_batches_are_refused(some_tiles, options, error, message):
    with pytest.raises(error, match=message):
        next(some_tiles[0].iter_batches(7, **options))


def test_a_loop_that_ends_early_leaves_no_thread(some_tiles):
    for _ in some_tiles[0].iter_batches(7):
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("stformat-ahead")]


def test_taken_tiles_go_where_they_are_asked_to(some_tiles):
    found, whole = some_tiles
    index = np.array([5, 1, 5, -2])
    out = np.full((4, *found.shape[1:]), 7, found.dtype)
    assert found.take(index, out=out) is out
    np.testing.assert_array_equal(out, whole[index])
    np.testing.assert_array_equal(found.take(3), whole[[3]])


@pytest.mark.parametrize("wrong", ["shape", "dtype", "order", "read-only"])
def test_an_array_that_cannot_take_tiles_is_refused(some_tiles, wrong):
    found, _ = some_tiles
    shape = (3 if wrong == "shape" else 2, *found.shape[1:])
    dtype = np.float32 if wrong == "dtype" else found.dtype
    out = np.zeros(shape, dtype, order="F" if wrong == "order" else "C")
    out.flags.writeable = wrong != "read-only"
    with pytest.raises(ValueError, match="out must be C-contiguous"):
        found.take([0, 1], out=out)
    assert not out.any()


def test_coverage_is_the_share_inside_the_level(some_tiles):
    found, _ = some_tiles
    levels_shape = (83, 61)
    inside = [
        (plain_crop(np.ones((1, *levels_shape), np.uint8), x, y, 13, 0)).mean()
        for x, y in coords.tile_windows(found._centers, found._grids[0]).tolist()
    ]
    np.testing.assert_allclose(found.coverage, inside, atol=1e-12)


def test_the_repr_says_size_level_and_mpp(pyramid):
    _, engine = pyramid
    grid = coords.grid_for_mpp(13, target_mpp=1.0, mpp=0.5, n_levels=N_LEVELS)
    text = repr(make_tiles(engine, np.zeros((2, 2)), grid))
    assert text == f"<Tiles: 2 of 3 x 13 x 13 px {engine.dtype}, level 1, mpp 1>"


def test_tiles_of_several_grids(pyramid):
    levels, engine = pyramid
    rng = np.random.default_rng(4)
    xy = rng.uniform(0, 80, (20, 2))
    grids = [coords.grid_for_side(8, side_px=side, n_levels=N_LEVELS) for side in (8.0, 16.0, 11.0)]
    which = rng.integers(0, 3, 20)
    mixed = Tiles(engine, xy, grids=grids, grid_of_tile=which, fill_value=0, mpp=None)
    order = rng.permutation(20)
    found = mixed[order]
    for number, grid in enumerate(grids):
        here = which[order] == number
        alone = make_tiles(engine, xy[order][here], grid, fill=0)
        np.testing.assert_array_equal(found[here], alone[:])
        np.testing.assert_array_equal(mixed.coverage[order][here], alone.coverage)
    assert "levels" not in repr(mixed)
    assert "level 0 to 1, resampled, mpp unknown" in repr(mixed)
    np.testing.assert_array_equal(
        mixed[int(np.flatnonzero(which == 1)[0])],
        plain_crop(levels[1], *coords.tile_windows(xy[which == 1], grids[1])[0].tolist(), 8, 0),
    )


@settings(deadline=None)
@given(
    level=st.integers(0, N_LEVELS - 1),
    top=st.integers(-40, 100),
    left=st.integers(-40, 100),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
)
def test_a_region_is_a_padded_crop(pyramid, *, level, top, left, height, width):
    levels, engine = pyramid
    edge = max(height, width)
    expected = plain_crop(levels[level], left, top, edge, BACKGROUND)[:, :height, :width]
    np.testing.assert_array_equal(engine.read_region(level, top, left, height, width), expected)


def cut_all(engine, go_on):
    _, height, width = engine.level(0).shape
    grid = coords.grid_for_mpp(8, target_mpp=None, mpp=None, n_levels=N_LEVELS)
    windows = np.argwhere(np.ones((width - 8, height - 8)))[::5]
    engine.cut(windows, grid, fill_value=0, go_on=go_on)


def read_all(engine, go_on):
    level = engine.level(0)
    out = np.empty(level.shape, level.dtype)
    read_regions(level, [(0, 0)], [out], background=0, go_on=go_on)


@pytest.mark.parametrize("read", [cut_all, read_all])
def test_a_request_ends_where_it_may_not_go_on(pyramid, read):
    _, engine = pyramid
    calls = []

    def go_on():
        calls.append(None)
        if len(calls) >= 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        read(engine, go_on)
    # Each thread may be at a chunk of its own.
    assert 3 <= len(calls) < 3 + thread_count()
    assert math.prod(engine.level(0).grid) > 3 + thread_count()


@settings(deadline=None, max_examples=40)
@given(
    boxes=st.lists(
        st.tuples(st.integers(-40, 100), st.integers(-40, 100), st.integers(1, 90),
                  st.integers(1, 90)),
        max_size=4,
    )
)  # fmt: skip
def test_regions_read_together_are_those_read_alone_each_chunk_once(pyramid, boxes):
    _, engine = pyramid
    level = engine.level(0)
    several = [np.empty((engine.n_c, *size), engine.dtype) for _, _, *size in boxes]
    visited = []
    visit_chunks = ArrayReader.visit_chunks

    def spy(self, chunks, visit):
        visited.extend(chunks.tolist())
        visit_chunks(self, chunks, visit)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ArrayReader, "visit_chunks", spy)
        read_regions(level, [box[:2] for box in boxes], several, background=BACKGROUND)
    for box, pixels in zip(boxes, several, strict=True):
        np.testing.assert_array_equal(pixels, engine.read_region(0, *box))
    touched = [region_chunks(level, *box).tolist() for box in boxes]
    assert sorted(visited) == sorted(set().union(*touched))


def test_wrong_regions_are_refused(pyramid):
    _, engine = pyramid
    with pytest.raises(ValueError, match="levels 0 to 2"):
        engine.read_region(3, 0, 0, 1, 1)
    with pytest.raises(ValueError, match="at least 1"):
        engine.read_region(0, 0, 0, 0, 1)


@pytest.mark.parametrize("mpp", [None, 1.0, 1.3])
def test_a_request_decodes_each_chunk_once_and_only_those_it_touches(
    tmp_path, open_loose, monkeypatch, mpp
):
    image = np.random.default_rng(0).integers(0, 256, (3, 80, 80)).astype(np.uint8)
    write_pyramid(tmp_path, image)
    engine = open_engine(tmp_path, open_loose)
    decoded: list[int] = []
    plain = chunk_source.decode_into
    monkeypatch.setattr(
        chunk_source, "decode_into", lambda *a, **k: (decoded.append(1), plain(*a, **k))
    )
    grid = coords.grid_for_mpp(20, target_mpp=mpp, mpp=1.0, n_levels=1)
    xy = np.random.default_rng(1).uniform(-5, 40, (50, 2))
    make_tiles(engine, xy, grid)[:]
    needed = {
        (row // 16, col // 16)
        for left, top in coords.tile_windows(xy, grid).tolist()
        for row in range(max(top, 0), min(top + grid.source_px, 80))
        for col in range(max(left, 0), min(left + grid.source_px, 80))
    }
    assert 0 < len(needed) < 25
    assert len(decoded) == len(needed)


def test_order_does_not_matter(pyramid):
    _, engine = pyramid
    rng = np.random.default_rng(5)
    xy = rng.uniform(-10, 90, (60, 2))
    for mpp in (1.0, 1.7):
        grid = coords.grid_for_mpp(11, target_mpp=mpp, mpp=1.0, n_levels=N_LEVELS)
        found = make_tiles(engine, xy, grid)
        order = rng.permutation(60)
        np.testing.assert_array_equal(found[order], found[:][order])


@pytest.mark.parametrize(
    ("shape", "chunks", "dtype"),
    [
        ((3, 8, 8), (1, 8, 8), "uint8"),
        ((8, 8), (8, 8), "uint8"),
        ((3, 8, 8), (3, 8, 8), "int16"),
    ],
)
def test_levels_that_are_no_images_are_refused(tmp_path, open_loose, shape, chunks, dtype):
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    root.create_array("s0", shape=shape, chunks=chunks, dtype=dtype)
    with pytest.raises(UnsupportedStoreError, match="level"):
        TileEngine([ArrayReader(open_loose(tmp_path), "s0")], background=0)
