"""A slide of HER2ST in the layout of HEST-1k, against the same slide as its study published it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tifffile

import stformat as stf
from stformat.errors import UnknownSourceError
from stformat.sources import read_slide


@pytest.fixture(scope="module")
def derived(real_data):
    return read_slide(real_data / "derived_hest_B4")


@pytest.fixture(scope="module")
def published(real_data):
    return read_slide(real_data / "her2st_B4")


def dense(table):
    return np.vstack([block.toarray() for block in table.counts.iter_blocks()])


def test_counts_and_centres_are_those_of_the_study(derived, published):
    one, other = derived.tables[0], published.tables[0]
    # HEST writes 010x014 for 10x14, its array rows are the study's x.
    names = [f"{int(x):03d}x{int(y):03d}" for x, y in (b.split("x") for b in other.spots.barcodes)]
    order = [one.spots.barcodes.tolist().index(name) for name in names]
    assert sorted(order) == list(range(283))
    np.testing.assert_array_equal(one.spots.xy[order], other.spots.xy)
    np.testing.assert_array_equal(one.spots.array_row[order], other.spots.array_col)
    np.testing.assert_array_equal(one.spots.array_col[order], other.spots.array_row)
    column_of = {key: column for column, key in enumerate(one.genes.keys)}
    columns = [column_of[key] for key in other.genes.keys]
    assert sorted(columns) == list(range(15289))
    np.testing.assert_array_equal(dense(one)[order][:, columns], dense(other))


def test_scale_and_description_are_those_of_the_json(derived, published):
    assert derived.mpp.value == 0.6888828977730672
    assert derived.mpp.method == "file"
    assert derived.mpp.value == pytest.approx(published.mpp.value, rel=2e-3)
    assert derived.slide_id == "SPA145"
    assert derived.descriptors.technology == "ST"
    assert derived.descriptors.species == "Homo sapiens"
    assert derived.descriptors.donor == "Patient B"
    spots = derived.tables[0].spots
    assert spots.diameter_um == pytest.approx(100.0)
    assert spots.pitch_um == 200.0


def test_pixels_are_those_that_the_image_decodes_to(real_data, derived):
    decoded = tifffile.imread(real_data / "derived_hest_B4" / "wsis" / "SPA145.tif", key=0)
    top = 0
    for band in derived.image.iter_bands(1024):
        rows = decoded[top : top + band.shape[1]]
        np.testing.assert_array_equal(band, rows.transpose(2, 0, 1))
        top += band.shape[1]
    assert top == 9923


def test_an_anndata_file_of_normalised_values_says_so(real_data, tmp_path):
    source = real_data / "squidpy_h5ad" / "test_data.h5ad"
    anndata = pytest.importorskip("anndata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how an old file is written is not what is tested
        expected = anndata.read_h5ad(source)
    path = stf.convert_slide(source, tmp_path / "slide.zarr")
    with stf.open_slide(path) as slide:
        assert "counts.non-integer" in {note.code for note in slide.metadata.notes}
        order = slide.obs["source_index"].to_numpy()
        np.testing.assert_array_equal(slide.counts[:].toarray(), expected.X.toarray()[order])
        centres = slide.obs[["x", "y"]].to_numpy()
        np.testing.assert_array_equal(centres, expected.obsm["spatial"][order])
        assert slide.obs["leiden"].tolist() == expected.obs["leiden"].iloc[order].tolist()


def test_a_pointer_of_git_lfs_is_no_anndata(real_data):
    path = real_data / "malformed" / "git_lfs_pointers" / "spatial_preprocessed.h5ad"
    with pytest.raises(UnknownSourceError):
        read_slide(path)
