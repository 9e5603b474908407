"""What is published of a real slide, from an export of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

import stformat as stf


def spots_of(table):
    """Index a table of coordinates by what stands behind the name of the slide."""
    return table.set_axis([name.rpartition("_")[2] for name in table.index]).sort_index()


def test_coordinates_are_those_that_stimage_1k4m_published(real_data, tmp_path):
    (published,) = (real_data / "stimage_example").rglob("*coord*.csv")
    store = stf.convert_slide(real_data / "her2st_A1", tmp_path / "A1.zarr", kind="legacy_st")
    out = stf.export_slide(store, tmp_path / "out", to="stimage")
    ours = spots_of(pd.read_csv(out / "ST" / "coord" / "A1_coord.csv", index_col=0))
    theirs = spots_of(pd.read_csv(published, index_col=0))
    assert len(ours) == 346
    assert ours.index.equals(theirs.index)
    assert ours[["yaxis", "xaxis"]].equals(theirs[["yaxis", "xaxis"]])
    # A quarter of the pitch, which each fits by itself.
    assert np.allclose(ours["r"], theirs["r"], rtol=0.01)
