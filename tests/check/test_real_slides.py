"""Slides as studies publish them: nothing is found but what is there."""

from __future__ import annotations

import pytest

import stformat as stf


def test_nothing_is_found_in_a_slide_as_it_is_published(small_store):
    assert stf.check_store(small_store) == []


@pytest.mark.parametrize("name", ["her2st_B4", "her2st_C2", "st_mob1", "visium_cytassist_perik"])
def test_nothing_is_found_in_real_slides(name, real_data, fast_path):
    store = stf.convert_slide(real_data / name, fast_path / "slide.zarr")
    assert stf.check_store(store) == []


def test_a_blank_image_of_a_real_slide_is_found(real_data, fast_path):
    # The fixture of another project: its image was emptied, and its genes cut to a hundred.
    store = stf.convert_slide(real_data / "seurat_visium", fast_path / "slide.zarr")
    assert [problem.code for problem in stf.check_store(store)] == [
        "check.blank-image",
        "check.zero-count-spots",
    ]
