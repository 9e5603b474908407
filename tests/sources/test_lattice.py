"""The array fitted to pixels, however it lies on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.sources._lattice import (
    fit_lattice,
    hexagonal_pitch,
    lattice_step,
    nearest_distance,
)
from stformat.sources._positions import read_positions
from stformat.sources._visium_grid import fit_grid


def grid(n_columns, n_rows):
    return np.stack(np.meshgrid(np.arange(n_columns), np.arange(n_rows)), axis=-1).reshape(
        -1, 2
    ) + np.array([1.0, 1.0])


@given(
    angle=st.floats(0, 2 * np.pi),
    pitch=st.floats(1, 1000),
    mirror=st.sampled_from([1.0, -1.0]),
    offset=st.floats(-1e4, 1e4),
)
def test_pitch_does_not_depend_on_how_the_array_lies(angle, pitch, mirror, offset):
    array_xy = grid(7, 5)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    pixel_xy = array_xy * [mirror, 1.0] @ turn * pitch + offset
    fitted = fit_lattice(array_xy, pixel_xy, step=1.0)
    assert fitted.pitch_px == pytest.approx(pitch, rel=1e-8)
    assert fitted.residual == pytest.approx(0, abs=1e-6)


def test_residual_is_the_root_mean_square_distance_over_the_pitch():
    array_xy = grid(20, 20)
    rng = np.random.default_rng(0)
    moved = rng.normal(0, 0.05, array_xy.shape)
    fitted = fit_lattice(array_xy, (array_xy + moved) * 80, step=1.0)
    assert fitted.residual == pytest.approx(np.sqrt((moved**2).sum(axis=1).mean()), rel=0.02)


@pytest.mark.parametrize(
    "array_xy",
    [
        np.array([[1.0, 1.0], [2.0, 2.0]]),
        np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]),
        np.array([[1.0, 1.0]] * 5),
    ],
)
def test_no_fit_without_three_spots_off_a_line(array_xy):
    assert fit_lattice(array_xy, array_xy * 10, step=1.0) is None
    assert fit_lattice(grid(2, 2)[: len(array_xy)], array_xy[:4] * 10, step=1.0) is None


def test_step_of_a_full_grid_and_of_a_checkerboard():
    full = grid(9, 9)
    board = full[full.sum(axis=1) % 2 == 0]
    assert lattice_step(full) == 1.0
    assert lattice_step(board) == pytest.approx(np.sqrt(2))
    # A spot that was named wrongly does not make it a full grid.
    assert lattice_step(np.vstack([board, [[4.0, 5.0]]])) == pytest.approx(np.sqrt(2))
    assert lattice_step(full * 2) == 2.0
    assert lattice_step(full + 0.04) == 1.0
    assert lattice_step(full[:1]) == 1.0


def test_nearest_distance():
    assert nearest_distance(grid(3, 3) * 7) == 7.0
    assert nearest_distance(grid(1, 1)) is None
    assert nearest_distance(np.zeros((4, 2))) is None


def test_pitch_is_the_mean_over_both_axes_of_the_array():
    array_xy = grid(6, 5)
    # Sheared: lengths of the images of the array's axes, not of the pixels' axes.
    linear = np.array([[30.0, 40.0], [0.0, 70.0]])
    assert fit_lattice(array_xy, array_xy @ linear, step=1.0).pitch_px == pytest.approx(60.0)


@given(
    angle=st.floats(0, 2 * np.pi),
    pitch=st.floats(5, 1000),
    stretch=st.floats(0.96, 1.04),
    mirror=st.sampled_from([1.0, -1.0]),
    seed=st.integers(0, 99),
)
def test_rows_of_a_hexagonal_array_are_told_without_its_places(angle, pitch, stretch, mirror, seed):
    column, row = np.meshgrid(np.arange(14), np.arange(12))
    points = np.stack([column + row % 2 / 2, row * np.sqrt(3) / 2 * stretch], -1).reshape(-1, 2)
    points = points[np.random.default_rng(seed).random(len(points)) < 0.9]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    found, deviation = hexagonal_pitch(points * [mirror, 1.0] @ turn * pitch)
    assert found == pytest.approx(pitch, rel=1e-6)
    assert deviation == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("points", [grid(9, 9), grid(3, 2), np.zeros((20, 2))])
def test_what_is_no_hexagonal_array_has_no_such_pitch(points):
    assert hexagonal_pitch(points) is None


@pytest.mark.parametrize(
    "folder", ["humanpilot_151673", "visium_cytassist_perik", "visium_11mm_spatialshiny_nocounts"]
)
def test_pitch_of_published_slides_without_their_places(real_data, folder):
    (path,) = (real_data / folder).rglob("*tissue_positions*")
    positions = read_positions(path)
    places = np.stack([positions.array_col, positions.array_row], axis=1)
    fitted = fit_grid(places, positions.xy, None)
    found, deviation = hexagonal_pitch(positions.xy[positions.in_tissue])
    assert found == pytest.approx(fitted.pitch_px, rel=2e-4)
    assert deviation < 0.005
