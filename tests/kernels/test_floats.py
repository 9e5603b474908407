"""Pixels to floats: compiled twins against the definition, the definition against hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stformat import kernels
from stformat.kernels import _reference

compiled = settings(deadline=None, max_examples=60)


@st.composite
def requests(draw):
    """Tiles with every argument that goes with them."""
    dtype = draw(st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16)]))
    n, n_c, height = (draw(st.integers(*bounds)) for bounds in ((0, 5), (1, 4), (1, 11)))
    is_square = draw(st.booleans())
    width = height if is_square else draw(st.integers(1, 11))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    tiles = rng.integers(0, np.iinfo(dtype).max, (n, n_c, height, width), dtype, endpoint=True)
    numbers = hnp.arrays(np.float64, n_c, elements=st.floats(-1e3, 1e3))
    optional = {
        "mean": numbers,
        "std": hnp.arrays(np.float64, n_c, elements=st.floats(1e-3, 1e3)),
        "scale": st.floats(1e-9, 1e4),
        "flips": hnp.arrays(np.bool_, n) | hnp.arrays(np.bool_, (n, 2)),
        "turns": hnp.arrays(np.int64, n, elements=st.integers(-9, 9)).map(
            lambda turns: turns if is_square else 2 * turns
        ),
    }
    arguments = {name: draw(st.none() | values) for name, values in optional.items()}
    return tiles, arguments | {"dtype": draw(st.sampled_from([np.float32, np.float16]))}


def defined(tiles, *, mean, std, scale, flips, turns, dtype):
    """The sentence of the docstring, tile by tile."""
    n, n_c = tiles.shape[:2]
    scale = 1 / np.iinfo(tiles.dtype).max if scale is None else scale
    std = np.ones(n_c) if std is None else std
    mean = np.zeros(n_c) if mean is None else mean
    both = np.zeros((n, 2), bool)
    if flips is not None and flips.ndim == 1:
        both[:, 0] = flips
    elif flips is not None:
        both = flips
    expected = np.empty(tiles.shape, dtype)
    is_half = dtype == np.float16
    definition = _reference.tiles_to_half if is_half else _reference.tiles_to_float
    definition(
        tiles,
        (scale / std).astype(np.float32),
        ((0 - mean) / std).astype(np.float32),
        both,
        np.zeros(n, int) if turns is None else turns,
        expected.view(np.uint16) if is_half else expected,
    )
    return expected


@compiled
@given(requests())
def test_floats_are_their_definition(kernels, request):
    tiles, arguments = request
    floats = kernels.tiles_to_float(tiles, **arguments)
    expected = defined(tiles, **arguments)
    assert floats.dtype == expected.dtype
    bits = f"u{floats.dtype.itemsize}"
    np.testing.assert_array_equal(floats.view(bits), expected.view(bits))


@compiled
@given(requests())
def test_floats_are_close_to_the_formula(kernels, request):
    tiles, arguments = request
    arguments = arguments | {"flips": None, "turns": None, "dtype": np.float32}
    n_c = tiles.shape[1]
    scale, mean, std = (arguments[name] for name in ("scale", "mean", "std"))
    scale = 1 / np.iinfo(tiles.dtype).max if scale is None else scale
    std = np.ones(n_c) if std is None else std
    mean = np.zeros(n_c) if mean is None else mean
    each = (slice(None), np.newaxis, np.newaxis)
    scaled, shift = tiles * (scale / std)[each], (mean / std)[each]
    error = np.abs(kernels.tiles_to_float(tiles, **arguments) - (scaled - shift))
    bound = 2**-22 * np.maximum(np.abs(scaled), np.abs(shift)) + 1e-44
    assert (error <= bound).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("edge", [1, 4, 7, 32])
def test_every_flip_and_turn_is_its_definition(kernels, edge, dtype):
    rng = np.random.default_rng(3)
    tiles = rng.integers(0, 256, (16, 2, edge, edge), dtype=np.uint8)
    arguments = {
        "mean": None, "std": None, "scale": 1.0, "dtype": dtype,
        "flips": np.array([[code & 1, code & 2] for code in range(16)]) > 0,
        "turns": np.arange(16) // 4,
    }  # fmt: skip
    floats = kernels.tiles_to_float(tiles, **arguments)
    np.testing.assert_array_equal(floats, defined(tiles, **arguments))


def test_floats_definition_by_hand():
    tiles = np.array([[[[0, 51], [102, 255]]]], np.uint8)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    floats = np.empty((1, 1, 2, 2), np.float32)
    for flip, turn, expected in [
        ((False, False), 0, [[0, 51], [102, 255]]),
        ((True, False), 0, [[51, 0], [255, 102]]),
        ((False, True), 0, [[102, 255], [0, 51]]),
        ((False, False), 1, [[51, 255], [0, 102]]),
        ((True, False), 1, [[0, 102], [51, 255]]),
        ((False, False), 3, [[102, 0], [255, 51]]),
    ]:
        _reference.tiles_to_float(tiles, one, zero, np.array([flip]), np.array([turn]), floats)
        assert floats[0, 0].tolist() == expected


def test_every_half_and_every_tie_between_halves(kernels):
    # The exact middle of two neighbouring float16, and its neighbours in float32.
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (half[1:] + half[:-1]) / 2
    values = np.concatenate([half, middle, [65519, 65520, 65535, 1e30]]).astype(np.float32)
    values = np.concatenate([values, np.nextafter(values, np.float32(np.inf))])
    values = np.concatenate([values, -values])
    tiles = np.ones((1, len(values), 1, 1), np.uint8)
    # A channel a value: 0 * scale + value.
    floats = kernels.tiles_to_float(tiles * 0, mean=-values.astype(float), dtype=np.float16)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    # The two zeros are one: 0 + -0 is 0.
    np.testing.assert_array_equal(floats.ravel(), expected)


def test_floats_take_any_strides_and_write_to_out(kernels):
    tiles = np.random.default_rng(0).integers(0, 256, (3, 9, 10, 4), dtype=np.uint8)
    planar = tiles.transpose(0, 3, 1, 2)
    out = np.empty((3, 4, 9, 10), np.float32)
    assert kernels.tiles_to_float(planar, out=out) is out
    np.testing.assert_array_equal(out, kernels.tiles_to_float(np.ascontiguousarray(planar)))


tiles = np.zeros((2, 3, 4, 5), np.uint8)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tiles": tiles[0]}, ValueError, "4 dim"),
        ({"tiles": tiles * 1.0}, TypeError, "uint16, got float64"),
        ({"dtype": np.float64}, TypeError, "float32 or float16, got float64"),
        ({"scale": 0}, ValueError, "positive and finite, got 0.0"),
        ({"mean": [1, 2]}, ValueError, r"mean .*channel, 3, got \(2,\)"),
        ({"mean": [1, 2, np.nan]}, ValueError, "mean must be finite"),
        ({"std": [1, 2, 0]}, ValueError, "std must be positive"),
        ({"flips": np.ones(3, bool)}, ValueError, r"flips .*\(2,\) or \(2, 2\), got \(3,\)"),
        ({"flips": np.ones(2)}, TypeError, "bool, got float64"),
        ({"turns": np.ones(3, int)}, ValueError, r"a tile, 2, got \(3,\)"),
        ({"turns": np.ones(2)}, TypeError, "integers, got float64"),
        ({"turns": np.array([0, -1])}, ValueError, "square .* got 4 x 5"),
        ({"out": np.empty((2, 3, 4, 5))}, ValueError, "float32, got .*float64"),
    ],
)
def test_wrong_arguments_are_named(changes, error, message):
    arguments = {"tiles": tiles} | changes
    with pytest.raises(error, match=message):
        kernels.tiles_to_float(arguments.pop("tiles"), **arguments)
