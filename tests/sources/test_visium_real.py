"""Real Space Ranger outputs: published numbers, and geometry without counts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import io, sparse

import stformat as stf
from stformat.errors import (
    CountsError,
    GeneLookupError,
    ImageError,
    PositionsError,
)
from stformat.sources import read_slide
from stformat.sources._barcode_labels import read_barcode_labels
from stformat.sources._positions import COLUMNS, read_positions
from stformat.sources._scalefactors import read_scalefactors
from stformat.sources._visium_grid import fit_grid
from stformat.sources._visium_join import sections

PERIK = "visium_cytassist_perik"
MPP = 105 / 22.447317950810124

# Folder, file of positions, file of scale factors, spots, spots on tissue.
GEOMETRIES = [
    (f"{PERIK}/outs/spatial", "tissue_positions.csv", 4992, 2898),
    ("visium_tmu_A1_nomtx/outs/spatial", "tissue_positions_list.csv", 4992, None),
    ("visium_11mm_spatialshiny_nocounts/outs/spatial", "tissue_positions.csv", 14336, 6965),
    ("humanpilot_151673", "tissue_positions_list.txt", 4992, 3639),
    ("scanpy_visium/1.0.0/spatial", "tissue_positions_list.csv", 4992, None),
    ("seurat_visium/outs/spatial", "tissue_positions_list.csv", 4992, None),
    ("sfe_sample01/outs/spatial", "tissue_positions.csv", 12, 12),
]

# Folder: rows, columns, nnz, sum, image.
CONVERTED = {
    "scanpy_visium/1.0.0": (100, 100, 656, 932, "tissue_hires_image.png"),
    "squidpy_visium": (100, 100, 656, 932, "tissue_hires_image.png"),
    "seurat_visium": (2695, 100, 50355, 132231, "tissue_hires_image.png"),
    "visiumio/10xVisium/section1": (50, 49, 344, 607, "tissue_lowres_image.png"),
    "visiumio/10xVisium/section2": (49, 49, 281, 418, "tissue_lowres_image.png"),
    "xfuse/visium": (64, 10, 640, 14909, "image.jpg"),
}

REFUSED = [
    ("visium_tmu_A1_nomtx", CountsError, "counts.missing"),
    ("visium_11mm_spatialshiny_nocounts", CountsError, "counts.missing"),
    ("visium_stitched_Br2719", CountsError, "counts.missing"),
    ("humanpilot_151673", CountsError, "counts.missing"),
    ("scanpy_visium/2.1.0", PositionsError, "positions.missing"),
    ("scanpy_10x/1.2.0", PositionsError, "positions.missing"),
    ("scanpy_10x/3.0.0", PositionsError, "positions.missing"),
    ("scanpy_10x/int-ids", PositionsError, "positions.missing"),
    ("sfe_sample01", ImageError, "image.contradicts-positions"),
    ("malformed/git_lfs_pointers", CountsError, "counts.lfs-pointer"),
]


@pytest.fixture(scope="module")
def perik(real_data):
    return read_slide(real_data / PERIK, options={"species": "mouse"})


def test_cytassist_equals_the_published_matrix(real_data, perik):
    outs = real_data / PERIK / "outs"
    folder = outs / "filtered_feature_bc_matrix"
    published = sparse.csr_array(io.mmread(folder / "matrix.mtx.gz", spmatrix=False).T)
    barcodes = pd.read_csv(folder / "barcodes.tsv.gz", header=None)[0].to_numpy()
    (table,) = perik.tables
    stored = sparse.vstack(list(table.counts.iter_blocks()), format="csr")
    assert (stored != published).nnz == 0
    assert stored.shape == (2898, 19465)
    assert (stored.nnz, stored.sum()) == (1_069_459, 3_085_005)
    assert table.spots.barcodes.tolist() == barcodes.tolist()
    places = pd.read_csv(outs / "spatial" / "tissue_positions.csv", index_col=0).loc[barcodes]
    assert places.index.tolist() != sorted(places.index, reverse=True)
    np.testing.assert_array_equal(table.spots.xy[:, 0], places["pxl_col_in_fullres"] * 0.2)
    np.testing.assert_array_equal(table.spots.xy[:, 1], places["pxl_row_in_fullres"] * 0.2)
    np.testing.assert_array_equal(table.spots.array_row, places["array_row"])
    np.testing.assert_array_equal(table.spots.array_col, places["array_col"])
    assert table.spots.in_tissue.all()


def test_cytassist_resolution_by_two_methods(perik):
    assert perik.mpp.value == pytest.approx(MPP / 0.2, rel=1e-3)
    notes = {note.code: note for note in perik.notes}
    assert "mpp.agreement" in notes
    assert "mpp.contradiction" not in notes
    assert notes["spots.without-counts"].count == 4992 - 2898
    assert "tissue_lowres_image.png" in notes["image.lowres-fallback"].message
    spots = perik.tables[0].spots
    np.testing.assert_allclose(2 * spots.radius_px * perik.mpp.value, 55)


def test_cytassist_duplicate_symbols_are_kept_and_addressed(real_data, tmp_path):
    store = stf.convert_slide(real_data / PERIK, tmp_path / "perik.zarr")
    assert stf.verify_store(store) == []
    with stf.open_slide(store) as slide:
        names = slide.var["gene_name"].astype(str)
        repeated = names[names.duplicated(keep=False)]
        assert names.duplicated().sum() == 11
        assert slide.var.index.is_unique
        for name in repeated.unique():
            keys = repeated.index[repeated == name].tolist()
            with pytest.raises(GeneLookupError, match=keys[0]):
                slide.counts.genes([name])
            assert slide.counts.genes(keys).shape == (2898, len(keys))


@pytest.mark.parametrize(("folder", "name", "n_spots", "n_tissue"), GEOMETRIES)
def test_fiducial_and_lattice_agree_on_every_array(real_data, folder, name, n_spots, n_tissue):
    positions = read_positions(real_data / folder / name)
    factors = read_scalefactors(real_data / folder / "scalefactors_json.json")
    assert len(positions.xy) == n_spots
    assert n_tissue is None or positions.in_tissue.sum() == n_tissue
    table = pd.read_csv(real_data / folder / name, header=None, names=["barcode", *COLUMNS])
    table = table.iloc[-n_spots:]
    assert positions.identifiers[0] == tuple(table["barcode"])
    np.testing.assert_array_equal(
        positions.xy, table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].astype(float)
    )
    array_xy = np.stack([positions.array_col, positions.array_row], axis=1)
    grid = fit_grid(array_xy, positions.xy, sections(positions))
    assert grid.is_hexagonal
    assert 100 / grid.pitch_px == pytest.approx(105 / factors.fiducial_diameter_px, rel=1e-3)


def test_spots_of_the_11_mm_array_outside_the_image_are_kept(real_data):
    folder = real_data / "visium_11mm_spatialshiny_nocounts" / "outs" / "spatial"
    positions = read_positions(folder / "tissue_positions.csv")
    factors = read_scalefactors(folder / "scalefactors_json.json")
    with Image.open(folder / "tissue_hires_image.png") as picture:
        green = np.asarray(picture)[..., 1]
    xy = positions.xy * factors.hires_scale
    is_outside = ((xy < 0) | (xy >= green.shape[::-1])).any(axis=1)
    assert is_outside.sum() == 1829
    assert (is_outside & positions.in_tissue).sum() == 20
    assert (positions.xy < 0).any()
    # Stain is where the file says that tissue is; with the axes swapped under four fifths of it.
    columns, rows = xy[positions.in_tissue & ~is_outside].astype(int).T
    assert np.mean(green[rows, columns] < 200) > 0.95


def test_stitched_slide_has_three_sections_of_one_scale(real_data):
    positions = read_positions(real_data / "visium_stitched_Br2719" / "tissue_positions.csv")
    section = sections(positions)
    names, n_spots = np.unique(section.astype(str), return_counts=True)
    assert len(names) == 3
    assert n_spots.tolist() == [4992] * 3
    assert names[0].startswith("V13B23-283_")
    array_xy = np.stack([positions.array_col, positions.array_row], axis=1)
    assert fit_grid(array_xy, positions.xy, None) is None
    grid = fit_grid(array_xy, positions.xy, section)
    assert grid.is_hexagonal
    # Space Ranger's spot of 65 um is the only other size in these files.
    assert 100 / grid.pitch_px == pytest.approx(65 / 180.14903, rel=2e-3)


def test_layers_of_one_of_twelve_samples(real_data):
    path = real_data / "humanpilot_labels" / "barcode_level_layer_map.tsv"
    table = pd.read_csv(path, sep="\t", header=None, names=["barcode", "sample", "layer"])
    expected = table[table["sample"] == 151673].set_index("barcode")["layer"]
    positions = read_positions(real_data / "humanpilot_151673" / "tissue_positions_list.txt")
    barcodes = np.array(positions.identifiers[0])[positions.in_tissue]
    annotations, notes = read_barcode_labels(path, barcodes, slide_id="humanpilot_151673")
    assert list(annotations) == ["label"]
    found = pd.Series(annotations["label"], index=barcodes).dropna()
    assert found.to_dict() == expected.to_dict()
    assert {note.code: note.count for note in notes} == {
        "spots.without-label": len(barcodes) - len(expected)
    }


@pytest.mark.parametrize("folder", CONVERTED)
def test_small_folders_convert(real_data, tmp_path, folder):
    n_obs, n_vars, nnz, total, image = CONVERTED[folder]
    store = stf.convert_slide(real_data / folder, tmp_path / "slide.zarr")
    assert stf.verify_store(store) == []
    with stf.open_slide(store) as slide:
        (table,) = slide.metadata.tables
        assert (table.n_obs, table.n_vars, table.nnz, table.total) == (n_obs, n_vars, nnz, total)
        assert slide.metadata.image.source == image
        assert slide.metadata.mpp.method == ("unknown" if folder.startswith("xfuse") else "lattice")


@pytest.mark.parametrize(("folder", "error", "code"), REFUSED)
def test_folders_that_lack_something_say_what(real_data, folder, error, code):
    with pytest.raises(error) as caught:
        read_slide(real_data / folder)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_notes_are_sentences(perik):
    for note in perik.notes:
        assert note.message.endswith(".")
    assert all(first.name <= second.name for first, second in pairwise(perik.sources))
