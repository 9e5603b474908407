"""The published layout with real slides: the same slide by another road."""

from __future__ import annotations

import csv
import gzip
import shutil

import numpy as np
import pytest

from stformat.sources import read_slide
from stformat.sources._spot_table import read_spots
from stformat.sources._stimage_coords import read_coords, read_spot_names

SLIDE = "Human_Breast_Andersson_10142021_ST_C2"


@pytest.fixture(scope="module")
def layout(real_data, tmp_path_factory):
    """HER2ST's C2 in the layout of STimage-1K4M, made line by line."""
    folder = real_data / "her2st_C2"
    tree = tmp_path_factory.mktemp("stimage")
    for name in ("coord", "gene_exp", "image"):
        (tree / "ST" / name).mkdir(parents=True)
    (image,) = (folder / "ST-imgs").rglob("*.jpg")
    shutil.copyfile(image, tree / f"ST/image/{SLIDE}.png")
    with (folder / "ST-spotfiles/C2_selection.tsv").open() as file:
        spots = list(csv.DictReader(file, delimiter="\t"))
    with (tree / f"ST/coord/{SLIDE}_coord.csv").open("w") as file:
        file.write(",yaxis,xaxis,r\n")
        for spot in spots:
            name = f"{SLIDE}_{spot['x']}x{spot['y']}"
            file.write(f"{name},{spot['pixel_y']},{spot['pixel_x']},71.8\n")
    with (
        gzip.open(folder / "ST-cnts/C2.tsv.gz", "rt") as counts,
        (tree / f"ST/gene_exp/{SLIDE}_count.csv").open("w") as file,
    ):
        file.write(next(counts).replace("\t", ","))
        for line in counts:
            name, *values = line.rstrip("\n").split("\t")
            file.write(",".join([f"{SLIDE}_{name}", *(str(float(value)) for value in values)]))
            file.write("\n")
    return tree


def rows(record):
    return np.vstack([block.toarray() for block in record.tables[0].counts.iter_blocks()])


def test_c2_in_this_layout_is_c2(real_data, layout):
    found, direct = read_slide(layout), read_slide(real_data / "her2st_C2")
    spots, expected = found.tables[0].spots, direct.tables[0].spots
    assert spots.barcodes.tolist() == expected.barcodes.tolist()
    np.testing.assert_array_equal(spots.xy, expected.xy)
    np.testing.assert_array_equal(spots.array_row, expected.array_row)
    np.testing.assert_array_equal(spots.array_col, expected.array_col)
    np.testing.assert_array_equal(rows(found), rows(direct))
    genes, expected_genes = found.tables[0].genes, direct.tables[0].genes
    assert genes.keys.tolist() == expected_genes.keys.tolist()
    assert found.image is not None
    assert direct.image is not None
    assert found.image.codec == "jpeg"
    assert found.image.shape == direct.image.shape
    for ours, theirs in zip(found.image.iter_bands(512), direct.image.iter_bands(512), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.mpp.method == "lattice"
    assert found.mpp.value == pytest.approx(direct.mpp.value, rel=1e-2)


def test_published_coordinates_are_those_of_the_study(real_data):
    (path,) = (real_data / "stimage_example").glob("*_coord.csv")
    coords = read_coords(path)
    names = read_spot_names(coords.names, slide_id=path.name.removesuffix("_coord.csv"))
    assert names.kind == "array"
    (selection,) = (real_data / "her2st_A1").rglob("*_selection.tsv")
    spots = read_spots(selection)
    place_of = {f"{x:.0f}x{y:.0f}": row for row, (x, y) in enumerate(spots.array_xy)}
    matched = [place_of[name] for name in names.short if name in place_of]
    assert len(matched) == 346
    is_matched = np.array([name in place_of for name in names.short])
    np.testing.assert_array_equal(coords.xy[is_matched], spots.pixel_xy[matched])
