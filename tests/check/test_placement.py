from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stformat.check.placement import placement_problems
from stformat.check.tissue import SmallImage, TissueMask

HEIGHT, WIDTH, DOWNSAMPLE = 900, 1200, 4
X, Y = np.meshgrid(100 + 40.0 * np.arange(12), 80 + 40.0 * np.arange(6))
SPOTS = np.stack([X.ravel(), Y.ravel()], axis=1)

# Swap the axes, mirror x, mirror y: what puts the positions right.
SYMMETRIES = {
    "x and y swapped": (True, False, False),
    "positions mirrored left to right": (False, True, False),
    "positions mirrored top to bottom": (False, False, True),
    "positions turned by 180 degrees": (False, True, True),
    "positions turned by 90 degrees clockwise": (True, True, False),
    "positions turned by 90 degrees anticlockwise": (True, False, True),
    "x and y swapped and positions turned by 180 degrees": (True, True, True),
}


def small_image(height: int = HEIGHT, width: int = WIDTH) -> SmallImage:
    return SmallImage(
        path="images/he",
        pixels=np.empty((3, height // DOWNSAMPLE, width // DOWNSAMPLE), dtype=np.float32),
        downsample=DOWNSAMPLE,
        width=width,
        height=height,
        low=np.zeros(3),
        high=np.full(3, 255.0),
    )


def tissue() -> np.ndarray:
    """Off centre and longer than it is high: no symmetry of the image leaves it in place."""
    is_tissue = np.zeros((HEIGHT // DOWNSAMPLE, WIDTH // DOWNSAMPLE), dtype=bool)
    is_tissue[15:75, 20:140] = True
    return is_tissue


def problems_of(
    xy: np.ndarray,
    *,
    in_tissue: np.ndarray | None = None,
    is_tissue: np.ndarray | None = None,
    has_mask: bool = True,
) -> list[tuple[str, str, str]]:
    is_tissue = tissue() if is_tissue is None else is_tissue
    flags = np.ones(len(xy), dtype=bool) if in_tissue is None else in_tissue
    table = SimpleNamespace(xy=xy, in_tissue=flags, n_obs=len(xy), path="tables/expression")
    mask = TissueMask(is_tissue=is_tissue, downsample=DOWNSAMPLE) if has_mask else None
    height, width = np.array(is_tissue.shape) * DOWNSAMPLE
    found = placement_problems(table, small_image(int(height), int(width)), mask)
    return [(problem.code, problem.found, problem.remedy) for problem in found]


@pytest.mark.parametrize("remedy", SYMMETRIES)
def test_positions_of_another_orientation_are_named(remedy):
    is_swapped, is_mirrored, is_upside_down = SYMMETRIES[remedy]
    wrong = np.stack(
        [
            WIDTH - SPOTS[:, 0] if is_mirrored else SPOTS[:, 0],
            HEIGHT - SPOTS[:, 1] if is_upside_down else SPOTS[:, 1],
        ],
        axis=1,
    )
    ((code, found, advice),) = problems_of(wrong[:, ::-1] if is_swapped else wrong)
    assert code == "check.axis-swap"
    assert f"with {remedy}, 100%" in found
    assert ("wrong order" in advice) == (remedy == "x and y swapped")


def test_a_turn_is_named_by_its_direction():
    # The image was turned clockwise: its upper left corner went to the upper right.
    ((code, found, _),) = problems_of(SPOTS, is_tissue=np.rot90(tissue(), k=-1))
    assert code == "check.axis-swap"
    assert "turned by 90 degrees clockwise" in found


@pytest.mark.parametrize(
    ("n_given", "n_mirrored", "is_found"),
    [
        pytest.param(8, 12, True, id="two-thirds"),
        pytest.param(9, 12, False, id="three-quarters-are-well-placed"),
        pytest.param(8, 10, False, id="hardly-better"),
        pytest.param(4, 8, False, id="neither-is-good"),
    ],
)
def test_mirrored_positions_need_evidence(n_given, n_mirrored, is_found):
    # Tissue below some of the 12 columns of spots as they are, and of those mirrored.
    is_tissue = np.zeros_like(tissue())
    is_tissue[15:75, 20 : 20 + 10 * n_given] = True
    is_tissue[15:75, 300 - 20 - 10 * n_mirrored : 300 - 20] = True
    assert bool(problems_of(SPOTS, is_tissue=is_tissue)) == is_found


def test_spots_beside_all_tissue_are_not_explained_by_a_symmetry_that_explains_little():
    is_tissue = np.zeros_like(tissue())
    is_tissue[150:180, 100:240] = True
    assert problems_of(SPOTS, is_tissue=is_tissue) == []


def test_few_spots_say_nothing_of_axes():
    mirrored = [WIDTH, 0.0] + SPOTS * [-1.0, 1.0]
    assert problems_of(mirrored[:9]) == []
    assert problems_of(mirrored[:10])


def test_positions_stretched_one_way_are_outside_and_no_other_resolution():
    ((code, _, _),) = problems_of(SPOTS * [3.0, 20.0], has_mask=False)
    assert code == "check.spots-outside"


@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("factor", [1 / 8, 1 / 4, 3, 20])
def test_positions_of_another_resolution_are_named_with_the_factor(factor, has_mask):
    # Without a mask the image itself is what positions should fill.
    xy = SPOTS if has_mask else (SPOTS - SPOTS.min(axis=0)) * [2.7, 4.4]
    ((code, found, _),) = problems_of(xy * factor, has_mask=has_mask)
    assert code == "check.scale"
    about = float(found.partition("about ")[2].split()[0])
    assert about * factor == pytest.approx(1, rel=0.25)


def test_a_small_array_on_a_large_image_is_no_other_resolution():
    # An array of a few millimetres in the middle, or on tissue in the corner, of a large image.
    assert problems_of(SPOTS / 6 + [500.0, 300.0], has_mask=False) == []
    assert problems_of(SPOTS / 8 + [80.0, 60.0]) == []


def test_one_spot_far_away_is_outside_and_no_other_resolution():
    xy = np.repeat(SPOTS, 3, axis=0)
    xy[0] = [5 * WIDTH, 5 * HEIGHT]
    for has_mask in (True, False):
        ((code, found, _),) = problems_of(xy, has_mask=has_mask)
        assert code == "check.spots-outside"
        assert found == "1 of 216 outside the image of 1200 x 900 px"


def test_centres_on_the_last_edge_are_outside():
    inside = [[0.0, 0.0], [WIDTH - 0.01, HEIGHT - 0.01]]
    assert problems_of(np.array(inside), has_mask=False) == []
    outside = [[-0.01, 0.0], [0.0, -0.01], [WIDTH, 0.0], [0.0, HEIGHT]]
    ((_, found, _),) = problems_of(np.array(inside + outside), has_mask=False)
    assert found.startswith("4 of 6 outside")


def test_spots_off_tissue_may_lie_outside_until_they_are_most():
    off = np.stack([np.full(72, -50.0), np.arange(72.0)], axis=1)
    flags = np.arange(144) < 72
    assert problems_of(np.concatenate([SPOTS, off]), in_tissue=flags) == []
    ((code, found, _),) = problems_of(
        np.concatenate([SPOTS[1:], off]), in_tissue=np.arange(143) < 71
    )
    assert code == "check.spots-outside"
    assert found == "72 of 143 not in tissue and outside the image of 1200 x 900 px"


def test_spots_outside_are_counted_in_tissue_and_beside_it():
    xy = np.concatenate([SPOTS, [[-1.0, 5.0], [-1.0, 6.0], [-1.0, 7.0]]])
    ((_, found, _),) = problems_of(xy, in_tissue=np.arange(75) < 73)
    assert found == (
        "1 of 73 outside the image of 1200 x 900 px (and 2 that are not in tissue, which is normal)"
    )
