from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from stformat.check import shapes_file
from stformat.errors import CorruptStoreError
from stformat.store.files import DirectoryFiles

N_SHAPES = 25
CENTRES = np.random.default_rng(0).uniform(0, 1000, (N_SHAPES, 2))
INDICES = {
    "numbers-stored": pd.Index(np.arange(N_SHAPES), name="spot_id"),
    "numbers-implied": pd.RangeIndex(N_SHAPES),
    "numbers-implied-in-steps": pd.RangeIndex(7, 7 + 3 * N_SHAPES, 3),
    "names": pd.Index([f"spot {i}" for i in range(N_SHAPES)], dtype=object),
}


def shapes_of(folder: Path, frame: geopandas.GeoDataFrame, **options: str):
    path = folder / "shapes/spots/shapes.parquet"
    path.parent.mkdir(parents=True)
    frame.to_parquet(path, **options)
    with DirectoryFiles(folder) as files:
        blocks = list(shapes_file.iter_shapes(files, "spots"))
    ids, centres = zip(*blocks, strict=True)
    return len(blocks), np.concatenate(ids), np.concatenate(centres)


@pytest.mark.parametrize("name", INDICES)
def test_shapes_are_read_in_blocks(name, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes_file, "_ROWS_AT_ONCE", 10)
    frame = geopandas.GeoDataFrame(
        {"radius": 1.0}, geometry=shapely.points(CENTRES), index=INDICES[name]
    )
    n_blocks, ids, centres = shapes_of(tmp_path, frame)
    assert n_blocks == 3
    assert ids.tolist() == INDICES[name].tolist()
    np.testing.assert_array_equal(centres, CENTRES)


def test_the_place_of_a_square_is_its_middle(tmp_path):
    squares = shapely.box(*(CENTRES - 4).T, *(CENTRES + 4).T)
    _, _, centres = shapes_of(tmp_path, geopandas.GeoDataFrame(geometry=squares))
    np.testing.assert_allclose(centres, CENTRES)


def test_shapes_without_a_place_have_none(tmp_path):
    geometry = shapely.points(CENTRES)
    geometry[3], geometry[4] = None, shapely.Point()
    _, ids, centres = shapes_of(tmp_path, geopandas.GeoDataFrame(geometry=geometry))
    assert ids.tolist() == list(range(N_SHAPES))
    assert np.flatnonzero(np.isnan(centres).any(axis=1)).tolist() == [3, 4]


def test_another_encoding_than_wkb_is_refused(tmp_path):
    frame = geopandas.GeoDataFrame(geometry=shapely.points(CENTRES))
    with pytest.raises(CorruptStoreError, match=r"shapes/spots/shapes\.parquet: .* WKB"):
        shapes_of(tmp_path, frame, geometry_encoding="geoarrow")
