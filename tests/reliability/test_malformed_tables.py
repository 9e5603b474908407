"""Malformed HDF5 and parquet files of other projects, in place of a good slide's tables."""

import shutil

import pytest

import stformat as stf
from stformat.errors import InputError
from stformat.testing import VisiumQuirks, make_slide, write_visium

MATRICES = ["compound-dtype-complex.h5", "vlen_string_dset.h5", "vlen_string_s390x.h5"]
POSITIONS = [
    "ARROW-GH-45185.parquet",
    "ARROW-GH-47662.parquet",
    "ARROW-RS-GH-6229-LEVELS.parquet",
    "PARQUET-1481.parquet",
]


@pytest.fixture
def outs(tmp_path):
    slide = make_slide(
        height=300, width=300, n_genes=12, pitch_px=60.0, seed=3, lattice="hexagonal"
    )
    quirks = VisiumQuirks(images="none", positions="parquet")
    return write_visium(slide, tmp_path / "source", quirks=quirks) / "outs"


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_that_is_none_is_refused(name, outs, real_data, tmp_path):
    matrix = outs / "filtered_feature_bc_matrix.h5"
    shutil.copyfile(real_data / "malformed" / "h5_odd_but_valid" / name, matrix)
    with pytest.raises(InputError, match=r"matrix|counts|visium"):
        stf.convert_slide(outs, tmp_path / "slide.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_that_are_none_are_refused(name, outs, real_data, tmp_path):
    positions = outs / "spatial" / "tissue_positions.parquet"
    assert positions.exists()
    shutil.copyfile(real_data / "malformed" / "parquet" / name, positions)
    with pytest.raises(InputError, match="position"):
        stf.convert_slide(outs, tmp_path / "slide.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
