"""Random changes depend on the row alone, and are what the amounts say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stformat import kernels
from stformat.loader import Augmentation
from stformat.loader.augment import MOST_CHANGE

EVERYTHING = Augmentation(stain_scale=0.2, stain_shift=0.1, brightness=0.3)
N = 4000


def draw(augmentation=EVERYTHING, *, seed=1, epoch=2, rows=None, slide=0, occurrence=0):
    row = np.arange(N) if rows is None else rows
    return augmentation.draw(
        seed=seed,
        epoch=epoch,
        slide=np.full(len(row), slide),
        row=row,
        occurrence=np.full(len(row), occurrence),
    )


def test_a_row_changes_alike_in_any_company():
    changes = draw()
    some = np.array([17, 3, 3999])
    of_some = draw(rows=some)
    np.testing.assert_array_equal(of_some.flips, changes.flips[some])
    np.testing.assert_array_equal(of_some.turns, changes.turns[some])
    np.testing.assert_array_equal(of_some.stains, changes.stains[some])


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"epoch": 3}, {"slide": 1}, {"occurrence": 1}], ids=str
)
def test_everything_that_names_a_tile_matters(other):
    one, two = draw(), draw(**other)
    # Of independent draws half of the flips agree, a quarter of the turns.
    assert 0.45 < (one.flips == two.flips).mean() < 0.55
    assert 0.20 < (one.turns == two.turns).mean() < 0.30
    assert not (one.stains == two.stains).all(axis=(1, 2)).any()


def test_changes_are_even():
    changes = draw()
    assert (np.abs(changes.flips.mean(axis=0) - 0.5) < 0.04).all()
    assert abs((changes.flips[:, 0] == changes.flips[:, 1]).mean() - 0.5) < 0.04
    np.testing.assert_allclose(np.bincount(changes.turns, minlength=4) / N, 0.25, atol=0.04)


def test_what_is_not_asked_for_does_not_happen():
    still = draw(Augmentation(flips=False, turns=False))
    assert not still.flips.any()
    assert not still.turns.any()
    assert still.stains is None
    assert not Augmentation().changes_colours


def test_brightness_is_the_light():
    changes = draw(Augmentation(brightness=0.25))
    np.testing.assert_allclose(changes.stains[:, :, :3] - np.eye(3), 0, atol=1e-12)
    light = np.exp(-changes.stains[:, :, 3])
    assert np.ptp(light, axis=1).max() < 1e-12
    assert 0.75 <= light.min() < 0.76
    assert 1.24 < light.max() <= 1.25


def test_a_stain_changes_by_its_share():
    """The amount of haematoxylin, measured on its own colour, is scaled by at most the share."""
    density = np.array([0.650, 0.704, 0.286])
    density /= np.linalg.norm(density)
    changes = draw(Augmentation(stain_scale=0.1))
    scaled = changes.stains[:, :, :3] @ density
    share = scaled @ density
    assert 0.9 <= share.min() < 0.91
    assert 1.09 < share.max() <= 1.1
    np.testing.assert_allclose(scaled, share[:, np.newaxis] * density, atol=1e-9)


def test_the_largest_amounts_can_be_computed():
    largest = Augmentation(stain_scale=MOST_CHANGE, stain_shift=MOST_CHANGE, brightness=MOST_CHANGE)
    changes = draw(largest)
    tiles = np.full((N, 3, 1, 1), 100, np.uint8)
    assert kernels.change_stains(tiles, changes.stains).std() > 20


@pytest.mark.parametrize("amount", [-0.1, 0.6, float("nan")])
def test_impossible_amounts_are_refused(amount):
    for name in ("stain_scale", "stain_shift", "brightness"):
        with pytest.raises(ValueError, match=f"{name} must be from 0 to 0.5"):
            replace(EVERYTHING, **{name: amount})


def test_amounts_are_numbers_and_choices_are_not():
    for name in ("stain_scale", "stain_shift", "brightness"):
        for value in (True, np.False_, "0.1", None):
            with pytest.raises(TypeError, match=f"{name} must be a number, got {value!r}"):
                replace(EVERYTHING, **{name: value})
    for name in ("flips", "turns"):
        for value in (1, 0.3, "yes", None):
            with pytest.raises(TypeError, match=f"{name} must be True or False, got {value!r}"):
                replace(EVERYTHING, **{name: value})
    of_numpy = replace(EVERYTHING, flips=np.False_, turns=np.True_, brightness=np.float32(0.25))
    assert not draw(of_numpy).flips.any()
    np.testing.assert_array_equal(draw(of_numpy).turns, draw().turns)
