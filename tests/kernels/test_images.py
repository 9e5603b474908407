"""Tiles and pyramid levels: compiled twins against the definition, the definition against hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stformat import coords, kernels
from stformat.kernels import _reference

SAMPLES = st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16)])
# The first example of a type compiles; the rest take microseconds.
compiled = settings(deadline=None, max_examples=60)


@st.composite
def images(draw, max_side=12):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, max_side), st.integers(1, max_side)))
    image = draw(hnp.arrays(draw(SAMPLES), shape))
    if draw(st.booleans()):
        image.flags.writeable = False
    return image


def windows_near(side):
    anywhere = st.integers(-side, 2 * side)
    beyond = st.sampled_from([np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    count = st.integers(0, 6)
    return count.flatmap(lambda n: hnp.arrays(np.int64, (n, 2), elements=anywhere | beyond))


@compiled
@given(images(), windows_near(12), st.integers(1, 20), st.sampled_from([0, 255]))
def test_gather_is_its_definition(kernels, image, windows, tile_px, fill_value):
    expected = np.empty((len(windows), len(image), tile_px, tile_px), image.dtype)
    _reference.gather_tiles(image, windows, fill_value, expected)
    tiles = kernels.gather_tiles(image, windows, tile_px, fill_value=fill_value)
    assert tiles.dtype == image.dtype
    np.testing.assert_array_equal(tiles, expected)


def test_gather_definition_by_hand():
    image = np.arange(1, 7, dtype=np.uint8).reshape(1, 2, 3)
    tiles = np.empty((3, 1, 2, 2), np.uint8)
    _reference.gather_tiles(image, np.array([[1, 0], [2, 1], [-5, 0]]), 9, tiles)
    assert tiles[:, 0].tolist() == [[[2, 3], [5, 6]], [[6, 9], [9, 9]], [[9, 9], [9, 9]]]


def test_gather_takes_any_strides_and_writes_to_out(kernels):
    image = np.random.default_rng(0).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    planar = image.transpose(2, 0, 1)
    windows = np.array([[2, 1], [-1, 8]])
    out = np.empty((2, 3, 4, 4), np.uint8)
    assert kernels.gather_tiles(planar, windows, 4, out=out) is out
    np.testing.assert_array_equal(out[0], planar[:, 1:5, 2:6])
    np.testing.assert_array_equal(
        out, kernels.gather_tiles(np.ascontiguousarray(planar), windows, 4)
    )


@compiled
@given(images(), st.tuples(st.integers(0, 9), st.integers(0, 9)), windows_near(15), st.data())
def test_scatter_is_its_definition(kernels, chunk, corner, windows, data):
    top, left = corner
    n_tiles, tile_px = len(windows) + 1, data.draw(st.integers(1, 9))
    which = np.array(data.draw(st.permutations(range(n_tiles)))[: len(windows)], np.int64)
    expected = np.full((n_tiles, len(chunk), tile_px, tile_px), 77, chunk.dtype)
    tiles = expected.copy()
    _reference.scatter_chunk(chunk, top, left, windows, which, expected)
    kernels.scatter_chunk(chunk, top, left, windows, which, tiles)
    np.testing.assert_array_equal(tiles, expected)


@compiled
@given(images(max_side=20), windows_near(20), st.integers(1, 9), st.integers(1, 7))
def test_chunks_scattered_make_the_tiles_that_are_gathered(
    kernels, image, windows, tile_px, chunk_px
):
    tiles = np.full((len(windows), len(image), tile_px, tile_px), 3, image.dtype)
    every = np.arange(len(windows))
    for top in range(0, image.shape[1], chunk_px):
        for left in range(0, image.shape[2], chunk_px):
            chunk = image[:, top : top + chunk_px, left : left + chunk_px]
            kernels.scatter_chunk(chunk, top, left, windows, every, tiles)
    np.testing.assert_array_equal(
        tiles, kernels.gather_tiles(image, windows, tile_px, fill_value=3)
    )


@compiled
@given(st.lists(images(), min_size=1, max_size=3), st.integers(1, 7), st.data())
def test_windows_of_several_images_are_their_definition(kernels, several, tile_px, data):
    dtype, n_c = several[0].dtype, len(several[0])
    several = [np.resize(each.astype(dtype), (n_c, *each.shape[1:])) for each in several]
    pixels = np.concatenate([each.reshape(-1) for each in several])
    before = np.cumsum([0, *(each.size for each in several)])
    starts, strides, wanted = [], [], []
    for _ in range(data.draw(st.integers(0, 5))):
        number = data.draw(st.integers(0, len(several) - 1))
        _, height, width = several[number].shape
        if min(height, width) < tile_px:
            continue
        top = data.draw(st.integers(0, height - tile_px))
        left = data.draw(st.integers(0, width - tile_px))
        starts.append(int(before[number]) + top * width + left)
        strides.append((height * width, width))
        wanted.append(several[number][:, top : top + tile_px, left : left + tile_px])
    places = np.array(data.draw(st.permutations(range(len(starts) + 2)))[: len(starts)], np.int64)
    arguments = np.array(starts, np.int64), np.array(strides, np.int64).reshape(-1, 2), places
    tiles = np.full((len(starts) + 2, n_c, tile_px, tile_px), 77, dtype)
    expected = tiles.copy()
    _reference.gather_windows(pixels, *arguments, expected)
    kernels.gather_windows(pixels, *arguments, tiles)
    np.testing.assert_array_equal(tiles, expected)
    for place, window in zip(places, wanted, strict=True):
        np.testing.assert_array_equal(tiles[place], window)


def test_windows_of_many_channels_do_not_overflow():
    """The place of the last channel, 2**65, would be 0 in 64 bits."""
    from stformat.kernels import _images

    none = np.broadcast_to(np.uint8(0), (1, 2**41 + 1, 1, 1))
    strides = np.array([[2**24, 0]])
    with pytest.raises(ValueError, match="must lie within"):
        _images._check_spans(np.zeros(1, np.int64), strides, 2**24, none)


def test_many_windows_are_shared_out_to_threads(kernels):
    """More than a block of work holds."""
    image = np.random.default_rng(0).integers(0, 256, (3, 300, 400), dtype=np.uint8)
    left, top = np.random.default_rng(1).integers(0, (176, 76), (40, 2)).T
    starts, strides = top * 400 + left, np.tile([300 * 400, 400], (40, 1))
    places = np.random.default_rng(2).permutation(40)
    tiles = np.empty((40, 3, 224, 224), np.uint8)
    kernels.gather_windows(image.reshape(-1), starts, strides, places, tiles)
    corners = np.column_stack([left, top])
    np.testing.assert_array_equal(tiles[places], kernels.gather_tiles(image, corners, 224))


@compiled
@given(images(max_side=17))
def test_downsample_is_its_definition(kernels, image):
    n_c, height, width = image.shape
    expected = np.empty((n_c, -(-height // 2), -(-width // 2)), image.dtype)
    _reference.downsample_2x2(image, expected)
    halved = kernels.downsample_2x2(image)
    assert halved.dtype == image.dtype
    np.testing.assert_array_equal(halved, expected)


def test_downsample_definition_by_hand():
    image = np.array([[[1, 2, 7], [2, 2, 8], [65535, 65534, 9]]], np.uint16)
    halved = np.empty((1, 2, 2), np.uint16)
    _reference.downsample_2x2(image, halved)
    # 7/4 rounds to 2, 15/2 up to 8, 131069/2 up to 65535, and 9 stands alone.
    assert halved.tolist() == [[[2, 8], [65535, 9]]]


steps_coarser = st.integers(65537, 140_000) | st.integers(65537, 1 << 23)
steps_finer = st.integers(20_000, 65535) | st.integers(1, 65535)


@st.composite
def resampling(draw, steps, max_px):
    tile_px, step = draw(st.integers(1, max_px)), draw(steps)
    edge = coords.TileGrid(tile_px=tile_px, level=0, step=step, ratio=step).source_px
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 2)), edge, edge)
    dtype = draw(SAMPLES)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    low = draw(st.sampled_from([0, np.iinfo(dtype).max - 1]))
    return rng.integers(low, np.iinfo(dtype).max, shape, dtype, endpoint=True), tile_px, step


@compiled
@given(resampling(steps_coarser, 5))
def test_resample_coarser_is_its_definition(kernels, case):
    source, tile_px, step = case
    expected = np.empty((*source.shape[:2], tile_px, tile_px), source.dtype)
    _reference.resample_coarser(source, step, expected)
    tiles = kernels.resample_tiles(source, tile_px=tile_px, step=step)
    assert tiles.dtype == source.dtype
    np.testing.assert_array_equal(tiles, expected)


@compiled
@given(resampling(steps_finer, 12))
def test_resample_finer_is_its_definition(kernels, case):
    source, tile_px, step = case
    expected = np.empty((*source.shape[:2], tile_px, tile_px), source.dtype)
    _reference.resample_finer(source, step, expected)
    tiles = kernels.resample_tiles(source, tile_px=tile_px, step=step)
    assert tiles.dtype == source.dtype
    np.testing.assert_array_equal(tiles, expected)


def exact_mean(pixels, step, row, col):
    """Area mean of one output pixel in Python integers, pixel by pixel."""
    total = 0
    for i, line in enumerate(pixels):
        wy = min((row + 1) * step, (i + 1) * 65536) - max(row * step, i * 65536)
        for j, pixel in enumerate(line):
            wx = min((col + 1) * step, (j + 1) * 65536) - max(col * step, j * 65536)
            total += max(wy, 0) * max(wx, 0) * pixel
    return (total + step * step // 2) // (step * step)


@compiled
@given(resampling(st.integers(65537, 400_000) | st.just(1 << 23), 2))
def test_resample_coarser_equals_unbounded_integers(kernels, case):
    source, tile_px, step = case
    tiles = kernels.resample_tiles(source, tile_px=tile_px, step=step)
    for tile, windows in zip(tiles[:, 0], source[:, 0].tolist(), strict=True):
        assert tile[-1, 0] == exact_mean(windows, step, tile_px - 1, 0)


@compiled
@given(st.integers(65537, 1 << 23) | st.just(14 * 65536) | st.just(1 << 23), st.data())
def test_division_is_exact_where_floats_are_not(step, data):
    from stformat.kernels._numba import images

    area = step * step
    quotients = data.draw(st.lists(st.integers(1, 65535), min_size=1))
    # What rounds up by the least, and what misses it by the least.
    halves = [quotient * area - area // 2 for quotient in quotients]
    totals = [half + shift for half in halves for shift in (-1, 0, 1)]
    divided = np.empty(len(totals), np.uint16)
    images._divide(np.array(totals, np.uint64), area, divided)
    assert divided.tolist() == [(total + area // 2) // area for total in totals]


def test_resample_coarser_rounds_halves_up(kernels):
    # 98 of 196 pixels one higher: mean k + 1/2; one less, and it is below.
    level = np.arange(2000, dtype=np.uint16)
    source = np.repeat(level, 196).reshape(-1, 1, 14, 14)
    source[:, :, :7] += 1
    tiles = kernels.resample_tiles(source, tile_px=1, step=14 * 65536)
    np.testing.assert_array_equal(tiles.ravel(), level + 1)
    source[:, :, 0, 0] -= 1
    tiles = kernels.resample_tiles(source, tile_px=1, step=14 * 65536)
    np.testing.assert_array_equal(tiles.ravel(), level)


def test_resample_coarser_definition_by_hand():
    # Step 1.5: output 0 is pixel 0 and half of pixel 1, on each axis; all over 2.25.
    source = np.array([[[[90, 0, 0], [0, 0, 0], [0, 0, 45]]]], np.uint8)
    tiles = np.empty((1, 1, 2, 2), np.uint8)
    _reference.resample_coarser(source, 98304, tiles)
    assert tiles[0, 0].tolist() == [[40, 0], [0, 20]]


def test_resample_finer_definition_by_hand():
    # Step 1/2: outputs lie at -1/4, 1/4, 3/4, 5/4 from the centre of the pixel after the margin.
    line = np.array([0, 100, 200, 40], np.uint8)
    source = np.broadcast_to(line, (1, 1, 4, 4))
    tiles = np.empty((1, 1, 4, 4), np.uint8)
    _reference.resample_finer(source, 32768, tiles)
    assert tiles[0, 0].tolist() == [[75, 125, 175, 160]] * 4


def test_resample_finer_of_a_constant_is_the_constant(kernels):
    source = np.full((1, 1, 4, 4), 65535, np.uint16)
    tiles = kernels.resample_tiles(source, tile_px=5, step=29_127)
    assert (tiles == 65535).all()


image = np.zeros((1, 4, 4), np.uint8)
windows = np.zeros((1, 2), np.int64)
which = np.zeros(1, np.int64)
tiles = np.zeros((1, 1, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.gather_tiles([[1]], windows, 2), TypeError, "image .* NumPy array.*list"),
        (lambda: kernels.gather_tiles(image.astype(int), windows, 2), TypeError, "uint16.*int64"),
        (lambda: kernels.gather_tiles(image.astype(">u2"), windows, 2), TypeError, ">u2"),
        (lambda: kernels.gather_tiles(image[0], windows, 2), ValueError, "3 dim.*(4, 4)"),
        (lambda: kernels.gather_tiles(image, windows[:, :1], 2), ValueError, "left, top.*(1, 1)"),
        (lambda: kernels.gather_tiles(image, windows * 0.5, 2), TypeError, "int64.*float64"),
        (lambda: kernels.gather_tiles(image, windows, 0), ValueError, "at least 1, got 0"),
        (
            lambda: kernels.gather_tiles(image, windows, 2, fill_value=256),
            ValueError,
            "between 0 and 255, got 256",
        ),
        (
            lambda: kernels.gather_tiles(image, windows, 2, out=tiles[..., :1]),
            ValueError,
            r"\(1, 1, 2, 2\).*\(1, 1, 2, 1\)",
        ),
        (
            lambda: kernels.gather_tiles(image, windows, 2, out=tiles.transpose(0, 1, 3, 2)),
            ValueError,
            "C-contiguous",
        ),
        (lambda: kernels.gather_tiles(image, windows, 2, out=[0]), TypeError, "out .*list"),
        (
            lambda: kernels.scatter_chunk(image, 0, 0, windows, which + 1, tiles),
            ValueError,
            "one of 1 tiles, got 1 at 0",
        ),
        (
            lambda: kernels.scatter_chunk(image, 0, 0, windows, which - 1, tiles),
            ValueError,
            "one of 1 tiles, got -1 at 0",
        ),
        (
            lambda: kernels.scatter_chunk(image, 0, 0, windows, which[:0], tiles),
            ValueError,
            "a tile a window, 1, got 0",
        ),
        (
            lambda: kernels.scatter_chunk(image, 0, -1, windows, which, tiles),
            ValueError,
            "at least 0, got 0 and -1",
        ),
        (
            lambda: kernels.scatter_chunk(image, 0, 0, windows, which, tiles[..., :1]),
            ValueError,
            "tile_px, tile_px.*(1, 1, 2, 1)",
        ),
        (
            lambda: kernels.scatter_chunk(image, 0, 0, windows, which, tiles.astype(np.uint16)),
            TypeError,
            "uint16.*uint8",
        ),
        (
            lambda: kernels.scatter_chunk(image, 0, 0, windows, which, tiles.repeat(2, axis=1)),
            ValueError,
            "2 channels of out, got 1",
        ),
        *(
            (
                lambda start=start, strides=strides: kernels.gather_windows(
                    image.reshape(-1), which + start, windows + strides, which, tiles
                ),
                ValueError,
                f"within 16 pixels, got start {start} and strides .*{strides[1]}.* at 0",
            )
            for start, strides in (
                (11, (16, 4)),
                (-1, (16, 4)),
                (0, (16, 15)),
                (0, (16, -1)),
                (0, (-1, 4)),
                (np.iinfo(np.int64).max, (16, 4)),
                (0, (16, np.iinfo(np.int64).max)),
            )
        ),
        (
            lambda: kernels.gather_windows(image.reshape(-1), which, windows, which + 1, tiles),
            ValueError,
            "one of 1 tiles, got 1 at 0",
        ),
        (
            lambda: kernels.gather_windows(image.reshape(-1), which, windows[:0], which, tiles),
            ValueError,
            r"\(1, 2\) and \(1,\).*\(0, 2\)",
        ),
        (lambda: kernels.gather_windows(image, which, windows, which, tiles), ValueError, "1 dim"),
        (
            lambda: kernels.gather_windows(
                image.reshape(-1).astype(np.uint16), which, windows, which, tiles
            ),
            ValueError,
            "uint16.*uint8",
        ),
        (
            lambda: kernels.resample_tiles(tiles, tile_px=2, step=65536),
            ValueError,
            "not 65536",
        ),
        (
            lambda: kernels.resample_tiles(tiles, tile_px=2, step=(1 << 23) + 1),
            ValueError,
            "8388609",
        ),
        (lambda: kernels.resample_tiles(tiles, tile_px=2, step=0), ValueError, "got 0"),
        (lambda: kernels.resample_tiles(tiles, tile_px=0, step=70000), ValueError, "got 0"),
        (
            lambda: kernels.resample_tiles(tiles, tile_px=2, step=70000),
            ValueError,
            "3 x 3 pixels.*(1, 1, 2, 2)",
        ),
        (lambda: kernels.downsample_2x2(image[0]), ValueError, "3 dim"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_bad_tile_number_writes_nothing():
    untouched = np.full((2, 1, 2, 2), 9, np.uint8)
    with pytest.raises(ValueError, match="which"):
        kernels.scatter_chunk(image, 0, 0, np.zeros((2, 2), np.int64), np.array([0, 2]), untouched)
    assert (untouched == 9).all()


@given(st.integers(1, 300), st.integers(1, 1 << 23).filter(lambda step: step != 65536))
def test_windows_are_as_large_as_coords_places_them(tile_px, step):
    from stformat.kernels import _images

    grid = coords.TileGrid(tile_px=tile_px, level=0, step=step, ratio=step)
    assert _images._source_px(tile_px, step) == grid.source_px
