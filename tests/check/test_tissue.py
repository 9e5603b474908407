from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.check.tissue import SmallImage, TissueMask, find_tissue, otsu_threshold


def small_image(pixels: np.ndarray, *, downsample: int = 2) -> SmallImage:
    low, high = np.percentile(pixels, [0.1, 99.9], axis=(1, 2))
    _, height, width = pixels.shape
    return SmallImage(
        path="images/he",
        pixels=pixels.astype(np.float32),
        downsample=downsample,
        width=width * downsample,
        height=height * downsample,
        low=low,
        high=high,
    )


def painted(background: tuple[int, ...], tissue: tuple[int, ...]) -> np.ndarray:
    pixels = np.empty((len(background), 80, 100))
    pixels[:] = np.array(background)[:, None, None]
    pixels[:, 10:50, 20:80] = np.array(tissue)[:, None, None]
    return pixels


# Values a few bins wide: the definition below then has one best cut.
@given(st.lists(st.integers(0, 255), min_size=2, max_size=60).filter(lambda v: len(set(v)) > 1))
def test_threshold_parts_values_as_well_as_any_other_could(values):
    levels = np.array(values, dtype=np.float64)

    def within(threshold: float) -> float:
        below, above = levels[levels < threshold], levels[levels >= threshold]
        return sum(part.size * part.var() for part in (below, above) if part.size)

    best = min(within(cut) for cut in np.unique(levels)[1:])
    # Bins round values by up to a 512th of their range.
    slack = len(levels) * np.ptp(levels) ** 2 * 4 / 512
    assert within(otsu_threshold(levels)) <= best + slack


def test_threshold_of_two_narrow_classes_lies_in_the_middle_of_the_gap():
    values = np.array([10.0] * 50 + [90.0] * 3)
    assert otsu_threshold(values) == pytest.approx(50.0, abs=0.5)


def test_threshold_needs_two_values():
    with pytest.raises(ValueError, match="must not all be equal"):
        otsu_threshold(np.full(5, 3.0))


@pytest.mark.parametrize(
    ("background", "tissue"),
    [
        pytest.param((240, 240, 240), (200, 120, 170), id="brightfield"),
        pytest.param((235, 240, 215), (200, 120, 170), id="yellowish-light"),
        pytest.param((240, 240, 240), (130, 130, 130), id="gray"),
        pytest.param((5, 5, 6, 4), (90, 5, 6, 4), id="fluorescence"),
        pytest.param((200,), (1900,), id="one-channel-of-twelve-bits"),
    ],
)
def test_tissue_is_where_it_was_painted(background, tissue):
    mask = find_tissue(small_image(painted(background, tissue)), radius_px=1.0)
    expected = np.zeros((80, 100), dtype=bool)
    expected[10:50, 20:80] = True
    assert np.count_nonzero(mask.is_tissue != expected) <= 2 * 200
    np.testing.assert_allclose(mask.bounds(), [[40, 20], [160, 100]], atol=5)


def test_gray_frame_and_black_dirt_are_no_tissue():
    pixels = painted((240, 240, 240), (200, 120, 170))
    pixels[:, :6] = 20
    pixels[:, 60:65, 60:65] = 0
    mask = find_tissue(small_image(pixels), radius_px=1.0)
    assert not mask.is_tissue[:6].any()
    assert not mask.is_tissue[60:65, 60:65].any()
    assert mask.is_tissue[15:45, 25:75].all()


def test_holes_smaller_than_a_spot_are_tissue():
    pixels = painted((240, 240, 240), (200, 120, 170))
    pixels[:, 30:33, 40:43] = 240
    assert find_tissue(small_image(pixels), radius_px=9.0).is_tissue[31, 41]
    assert not find_tissue(small_image(pixels), radius_px=1.0).is_tissue[31, 41]


def test_there_is_no_tissue_outside_the_image():
    mask = TissueMask(is_tissue=np.ones((10, 20), dtype=bool), downsample=2)
    outside = np.array([[-0.1, 5.0], [5.0, -0.1], [40.0, 5.0], [5.0, 20.0]])
    assert mask.share_on_tissue(outside) == 0
    assert mask.share_on_tissue(np.array([[0.0, 0.0], [39.9, 19.9]])) == 1


def test_stripes_finer_than_a_spot_have_no_mask():
    pixels = np.full((3, 81, 99), 240.0)
    pixels[0, :, 1::3] = 101.3
    assert not small_image(pixels).is_blank
    assert find_tissue(small_image(pixels), radius_px=3.0) is None


def test_a_blank_image_has_no_mask():
    pixels = np.full((3, 80, 100), 240.0)
    pixels[:, 40, 50] = 0
    image = small_image(pixels)
    assert image.is_blank
    assert find_tissue(image, radius_px=5.0) is None
    assert not small_image(painted((240,) * 3, (228, 228, 228))).is_blank
