"""Colours changed in optical density: twins against the definition, the definition by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stformat.kernels import _reference, _stains

compiled = settings(deadline=None, max_examples=60)
NOTHING = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1)


@st.composite
def requests(draw):
    n, height, width = (draw(st.integers(*bounds)) for bounds in ((0, 4), (1, 9), (1, 11)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    tiles = rng.integers(0, 256, (n, 3, height, width), np.uint8)
    changes = draw(hnp.arrays(np.float64, (n, 3, 4), elements=st.floats(-7, 7)))
    return tiles, changes


@compiled
@given(requests(), st.booleans())
def test_colours_are_their_definition(kernels, request, in_place):
    tiles, changes = request
    expected = np.empty_like(tiles)
    _reference.change_stains(
        tiles, np.rint(changes * 4096).astype(np.int32), *_stains._tables(), expected
    )
    given_tiles = tiles.copy()
    out = given_tiles if in_place else None
    changed = kernels.change_stains(given_tiles, changes=changes, out=out)
    np.testing.assert_array_equal(changed, expected)
    if in_place:
        assert changed is given_tiles


@compiled
@given(requests())
def test_colours_are_close_to_the_formula(kernels, request):
    tiles, changes = request
    changes = changes / 7
    changed = kernels.change_stains(tiles, changes=changes)
    density = np.log(256 / (tiles + 1.0))
    wanted = np.einsum("nck,nkyx->ncyx", changes[:, :, :3], density)
    wanted += changes[:, :, 3, np.newaxis, np.newaxis]
    exact = 256 * np.exp(-np.clip(wanted, 0, np.log(256))) - 1
    assert (np.abs(changed - exact) < 1.2).all()


def test_the_map_that_changes_nothing_returns_every_sample(kernels):
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    np.testing.assert_array_equal(kernels.change_stains(every, changes=NOTHING[np.newaxis]), every)


def test_white_stays_white_and_darkness_has_an_end(kernels):
    tiles = np.array([255, 1, 0], np.uint8).reshape(1, 1, 1, 3).repeat(3, axis=1)
    darker = kernels.change_stains(tiles, changes=3 * NOTHING[np.newaxis])
    assert darker[0, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("tiles", "changes", "message"),
    [
        (np.zeros((1, 4, 2, 2), np.uint8), np.zeros((1, 3, 4)), "three channels"),
        (np.zeros((1, 3, 2, 2), np.uint8), np.zeros((2, 3, 4)), r"\(1, 3, 4\)"),
        (np.zeros((1, 3, 2, 2), np.uint8), np.full((1, 3, 4), np.nan), "finite"),
        (np.zeros((1, 3, 2, 2), np.uint8), np.full((1, 3, 4), 7.1), "between"),
    ],
)
def test_what_cannot_be_changed_is_refused(tiles, changes, message):
    with pytest.raises(ValueError, match=message):
        _stains.change_stains(tiles, changes)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        _stains.change_stains(np.zeros((1, 3, 2, 2), np.uint16), np.zeros((1, 3, 4)))
    with pytest.raises(TypeError, match="float64"):
        _stains.change_stains(np.zeros((1, 3, 2, 2), np.uint8), np.zeros((1, 3, 4), np.float32))
