"""Real slides, end to end: what the converted store must say, to the last pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stformat as stf

TILE_PX = 224


@dataclass(frozen=True)
class Her2st:
    sample: str
    image: str
    size: tuple[int, int] | None
    shape: tuple[int, int]
    mpp: float


SLIDES = [
    Her2st("B4", "ST-imgs/B/B4/BT10737_D2_HE.jpg", (9272, 9923), (283, 15289), 0.6889),
    Her2st("C2", "ST-imgs/C/C2/5714_HE_BT_C2.jpg", None, (187, 15706), 0.6961),
]


@pytest.fixture(scope="module", params=SLIDES, ids=lambda slide: slide.sample)
def her2st(request, real_data, tmp_path_factory):
    expected = request.param
    source = real_data / f"her2st_{expected.sample}"
    store = tmp_path_factory.mktemp("real") / f"{expected.sample}.zarr"
    stf.convert_slide(source, store)
    return expected, source, store


def _counts_as_published(source: Path, sample: str) -> pd.DataFrame:
    return pd.read_csv(source / "ST-cnts" / f"{sample}.tsv.gz", sep="\t", index_col=0)


def test_image_counts_and_resolution(her2st, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    expected, source, store = her2st
    published = _counts_as_published(source, expected.sample)
    with Image.open(source / expected.image) as picture:
        size = picture.size
    with stf.open_slide(store) as slide:
        level = slide.levels[0]
        assert (level.width, level.height) == size
        assert expected.size is None or size == expected.size
        assert (slide.n_obs, slide.n_vars) == expected.shape
        kept = published.loc[slide.obs.index]
        np.testing.assert_array_equal(slide.counts[:].toarray(), kept.to_numpy())
        assert slide.metadata.tables[0].total == kept.to_numpy().sum()
        assert slide.mpp == pytest.approx(expected.mpp, rel=0.03)
        assert list(slide.var.index) == list(published.columns)


def test_positions_are_those_of_the_spot_file(her2st):
    expected, source, store = her2st
    spots = pd.read_csv(source / "ST-spotfiles" / f"{expected.sample}_selection.tsv", sep="\t")
    spots.index = pd.Index([f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)])
    with stf.open_slide(store) as slide:
        spots = spots.loc[slide.obs.index]
        np.testing.assert_array_equal(slide.obs["x"], spots["pixel_x"])
        np.testing.assert_array_equal(slide.obs["y"], spots["pixel_y"])


def test_every_native_tile_equals_the_crop_of_the_jpeg(her2st, monkeypatch):
    expected, source, store = her2st
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(source / expected.image) as picture, stf.open_slide(store) as slide:
        picture.load()
        tiles = slide.tiles(TILE_PX)
        assert len(tiles) == expected.shape[0]
        for row, (x, y) in enumerate(slide.obs[["x", "y"]].to_numpy()):
            left = int(np.floor(x - TILE_PX / 2 + 0.5))
            top = int(np.floor(y - TILE_PX / 2 + 0.5))
            crop = np.asarray(picture.crop((left, top, left + TILE_PX, top + TILE_PX)))
            inside = tiles.coverage[row] == 1
            # Pillow pads with black, a store with its background: compare where pixels exist.
            assert inside, "every spot of these slides lies well inside its image"
            np.testing.assert_array_equal(tiles[row], crop.transpose(2, 0, 1))


def test_real_store_is_whole(her2st):
    assert stf.verify_store(her2st[2]) == []


def test_olfactory_bulb_keeps_379_selected_spots(real_data, tmp_path):
    store = stf.convert_slide(real_data / "st_mob1", tmp_path / "mob1.zarr")
    alignment = pd.read_csv(real_data / "st_mob1" / "alignment_table_MOB1.tsv", sep="\t")
    with stf.open_slide(store) as slide:
        assert slide.obs["in_tissue"].sum() == 379 == (alignment["selected"] == 1).sum()
        assert (slide.levels[0].height, slide.levels[0].width) == (1905, 1905)
        assert slide.n_vars == 1000
        assert slide.mpp is None


def test_pathologist_labels_join_on_rounded_positions(real_data, tmp_path):
    labels_file = real_data / "her2st_labels" / "A1_labeled_coordinates.tsv"
    labels = pd.read_csv(labels_file, sep="\t").dropna(subset=["x", "y"])
    store = stf.convert_slide(real_data / "her2st_A1", tmp_path / "A1.zarr", labels=labels_file)
    with stf.open_slide(store) as slide:
        assert not slide.has_image
        assert slide.n_obs == 346
        stored = slide.obs["label"]
        by_place = {
            (round(x), round(y)): label
            for x, y, label in zip(labels["x"], labels["y"], labels["label"], strict=True)
        }
        places = zip(slide.obs["array_col"], slide.obs["array_row"], strict=True)
        for place, label in zip(places, stored, strict=True):
            if place in by_place:
                assert label == by_place[place]
        assert stored.notna().sum() > 300


def test_published_coordinates_of_stimage_are_equal(real_data, tmp_path):
    store = stf.convert_slide(real_data / "her2st_A1", tmp_path / "A1.zarr")
    table = next((real_data / "stimage_example").glob("*_coord.csv"))
    published = pd.read_csv(table, index_col=0)
    published.index = published.index.str.rsplit("_", n=1).str[-1]
    with stf.open_slide(store) as slide:
        published = published.loc[slide.obs.index]
        assert len(published) == 346
        np.testing.assert_array_equal(published["xaxis"], slide.obs["x"])
        np.testing.assert_array_equal(published["yaxis"], slide.obs["y"])
