"""Panels of real slides: those of STimage-1K4M by its own steps, and between kinds of names."""

from __future__ import annotations

import csv
import gzip
import shutil

import anndata as ad
import pandas as pd
import pytest
import scanpy as sc

import stformat as stf
from stformat.collection.panel_rules import gene_panel

# Of anndata and scanpy, about their own future.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NAME = "Human_Breast_Andersson_10142021_ST_"
SOURCE_KEYS = {"vocabulary": "source-keys"}


@pytest.fixture(scope="module")
def layout(real_data, tmp_path_factory):
    """A1 with its published coordinates, and B1 in their form, both with the study's counts."""
    tree = tmp_path_factory.mktemp("stimage")
    for folder in ("coord", "gene_exp"):
        (tree / "ST" / folder).mkdir(parents=True)
    (published,) = (real_data / "stimage_example").glob("*_coord.csv")
    assert published.name == f"{NAME}A1_coord.csv"
    shutil.copyfile(published, tree / "ST" / "coord" / published.name)
    (spots,) = (real_data / "her2st_B1").rglob("*_selection.tsv")
    with spots.open() as lines, (tree / f"ST/coord/{NAME}B1_coord.csv").open("w") as file:
        file.write(",yaxis,xaxis,r\n")
        for spot in csv.DictReader(lines, delimiter="\t"):
            name = f"{NAME}B1_{spot['x']}x{spot['y']}"
            file.write(f"{name},{spot['pixel_y']},{spot['pixel_x']},54.3\n")
    for section in ("A1", "B1"):
        source = real_data / f"her2st_{section}" / "ST-cnts" / f"{section}.tsv.gz"
        with (tree / f"ST/coord/{NAME}{section}_coord.csv").open() as file:
            placed = {line.partition(",")[0] for line in file}
        with (
            gzip.open(source, "rt") as counts,
            (tree / f"ST/gene_exp/{NAME}{section}_count.csv").open("w") as file,
        ):
            file.write(next(counts).replace("\t", ","))
            for line in counts:
                name, _, values = line.rstrip("\n").partition("\t")
                if f"{NAME}{section}_{name}" in placed:
                    # As pandas writes floats.
                    texts = f"{values.replace('\t', '.0,')}.0"
                    file.write(f"{NAME}{section}_{name},{texts}\n")
    return tree


@pytest.fixture(scope="module")
def frames(layout):
    """The count tables, read as the scripts of STimage-1K4M read them."""
    return [
        pd.read_csv(layout / f"ST/gene_exp/{NAME}{section}_count.csv", sep=",", index_col=0)
        for section in ("A1", "B1")
    ]


@pytest.fixture(scope="module")
def slides(layout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [
        stf.open_slide(
            stf.convert_slide(
                layout, folder / f"{section}.zarr", slide_id=f"{NAME}{section}", species="human"
            )
        )
        for section in ("A1", "B1")
    ]


def test_slides_are_the_published_tables(slides, frames):
    shapes = [(slide.n_obs, slide.n_vars) for slide in slides]
    assert shapes == [frame.shape for frame in frames]
    assert shapes[0][0] == 346
    for slide, frame in zip(slides, frames, strict=True):
        assert slide.var.index.equals(frame.columns)


@pytest.mark.parametrize("place", [0, 1])
def test_genes_of_one_slide_are_those_of_the_published_script(slides, frames, place):
    """Its code/02: the 128 genes whose Pearson residuals vary most, in that order."""
    data = ad.AnnData(frames[place])
    data.var_names_make_unique()
    sc.pp.filter_cells(data, min_genes=1)
    sc.experimental.pp.highly_variable_genes(data, n_top_genes=128)
    expected = data.var["highly_variable_rank"].sort_values().dropna().index.tolist()
    panel = gene_panel(
        [slides[place]], "variable", flavor="pearson_residuals", n_top=128, **SOURCE_KEYS
    )
    assert list(panel.keys) == expected


def test_genes_that_overlap_are_those_of_the_published_script(slides, frames):
    """Its code/03: 100 variable genes of the rows of several slides, of the genes of all."""
    overlap = frames[0].columns.intersection(frames[1].columns)
    data = ad.AnnData(pd.concat([frame[overlap] for frame in frames]))
    sc.pp.filter_cells(data, min_genes=1)
    sc.pp.filter_genes(data, min_cells=1)
    sc.pp.normalize_total(data)
    sc.pp.log1p(data)
    sc.pp.highly_variable_genes(data, n_top_genes=100)
    panel = gene_panel(slides, "variable", flavor="seurat", n_top=100, **SOURCE_KEYS)
    assert len(overlap) > 10_000
    assert list(panel.keys) == data.var_names[data.var["highly_variable"]].tolist()
