"""What is exported and converted back is what was there."""

from __future__ import annotations

import json
import zipfile

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

import stformat as stf
from stformat.errors import ExportError, NoImageError
from stformat.export import _pyramid_tiff, _stimage
from stformat.sources._image import open_image
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing import HestQuirks, make_slide, write_hest
from stformat.testing.records import make_record


def pixels_of(slide):
    top = slide.levels[0]
    return slide.read_region(0, 0, 0, top.height, top.width)


def texts(column):
    """Texts, or what there is, with one value for what is missing."""
    return column.astype(object).where(column.notna(), None).tolist()


def assert_same(first, second):
    assert list(first.obs.index) == list(second.obs.index)
    assert np.array_equal(first.centers_px(slice(None)), second.centers_px(slice(None)))
    assert first.counts.dtype == second.counts.dtype
    assert np.array_equal(first.counts[:].toarray(), second.counts[:].toarray())
    assert first.has_image == second.has_image
    if first.has_image:
        assert np.array_equal(pixels_of(first), pixels_of(second))
    if "label" in first.obs:
        assert texts(first.obs["label"]) == texts(second.obs["label"])


def convert_back(folder, kind, tmp_path, **options):
    return stf.convert_slide(folder, tmp_path / "back.zarr", kind=kind, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ST", {}),
        ("Visium", {}),
        ("Visium HD", {}),
        ("fluorescence", {"stain": "if"}),
        ("two tables", {}),
        ("unknown mpp", {}),
        ("no image", {}),
    ],
)
def test_stimage(store_of, name, options, tmp_path):
    out = stf.export_slide(store_of(name), tmp_path / "out", to="stimage")
    back = convert_back(out, "stimage", tmp_path, **options)
    with stf.open_slide(store_of(name)) as slide, stf.open_slide(back) as again:
        assert_same(slide, again)
        assert np.array_equal(slide.radius_px, again.radius_px)
        assert slide.slide_id == again.slide_id
        assert slide.metadata.technology == again.metadata.technology
        assert slide.metadata.species == again.metadata.species
        if slide.has_image:
            assert again.mpp == (slide.mpp and pytest.approx(slide.mpp, rel=0.01))
    folder = {"ST": "ST", "Visium": "Visium", "Visium HD": "VisiumHD"}.get(name, "ST")
    stem = json.loads((out / "export.json").read_text())["slide_id"]
    coord = pd.read_csv(out / folder / "coord" / f"{stem}_coord.csv", index_col=0)
    counts = pd.read_csv(out / folder / "gene_exp" / f"{stem}_count.csv", index_col=0)
    assert list(coord.columns) == ["yaxis", "xaxis", "r"]
    assert list(coord.index) == list(counts.index)
    assert all(spot.startswith(f"{stem}_") for spot in coord.index)


def test_stimage_of_identifiers_has_symbols_for_columns(store_of, tmp_path):
    out = stf.export_slide(store_of("Visium"), tmp_path / "out", to="stimage")
    with stf.open_slide(store_of("Visium")) as slide:
        header = (out / "Visium" / "gene_exp" / "V1_count.csv").read_text().split("\n", 1)[0]
        assert slide.var.index[0].startswith("ENS")
        assert header.split(",")[1:] == list(slide.var["gene_name"])


def test_an_image_that_is_too_large_for_png_is_tiff(store_of, tmp_path, monkeypatch):
    monkeypatch.setattr(_stimage, "MAX_PNG_PIXELS", 1000)
    out = stf.export_slide(store_of("fluorescence"), tmp_path / "out", to="stimage")
    (image,) = (out / "ST" / "image").iterdir()
    assert image.name == "synthetic-0.tif"
    back = convert_back(out, "stimage", tmp_path, stain="if")
    with stf.open_slide(store_of("fluorescence")) as slide, stf.open_slide(back) as again:
        assert np.array_equal(pixels_of(slide), pixels_of(again))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ST", {}),
        ("Visium", {}),
        ("Visium HD", {}),
        ("fluorescence", {"stain": "if"}),
        ("unknown mpp", {}),
        ("no image", {}),
    ],
)
def test_hest(store_of, name, options, tmp_path):
    out = stf.export_slide(store_of(name), tmp_path / "out", to="hest", patch_px=32)
    back = convert_back(out, "hest", tmp_path, **options)
    with stf.open_slide(store_of(name)) as slide, stf.open_slide(back) as again:
        assert_same(slide, again)
        assert np.allclose(slide.radius_px, again.radius_px, rtol=1e-12)
        for column in ("array_row", "array_col", "in_tissue"):
            assert slide.obs[column].equals(again.obs[column])
        assert list(slide.var.index) == list(again.var.index)
        assert slide.mpp == again.mpp
        assert slide.metadata.technology == again.metadata.technology
        assert slide.metadata.species == again.metadata.species


def test_patches_are_those_that_readers_of_hest_expect(store_of, tmp_path):
    store = store_of("two tables")
    out = stf.export_slide(store, tmp_path / "out", to="hest", patch_px=32, patch_mpp=0.5)
    with stf.open_slide(store) as slide, h5py.File(out / "patches" / "synthetic-0.h5") as file:
        tiles = slide.tiles(32)
        touches = tiles.coverage > 0
        assert np.count_nonzero(~touches) > 0
        assert np.array_equal(file["img"][:], tiles[touches].transpose(0, 2, 3, 1))
        barcodes = file["barcode"].asstr()[:].flatten().tolist()
        assert barcodes == slide.obs.index[touches].tolist()
        left, top = file["coords"][0].tolist()
        image = np.pad(pixels_of(slide), ((0, 0), (64, 64), (64, 64)), constant_values=255)
        window = image[:, top + 64 : top + 96, left + 64 : left + 96]
        assert np.array_equal(file["img"][0], window.transpose(1, 2, 0))
        adata = anndata.read_h5ad(out / "st" / "synthetic-0.h5ad")
        library = adata.uns["spatial"]["ST"]
        shown = library["images"]["downscaled_fullres"]
        scale = library["scalefactors"]["tissue_downscaled_fullres_scalef"]
        assert shown.shape[1] == pytest.approx(slide.levels[0].width * scale)


def test_openslide_reads_every_level_of_the_image_of_hest(store_of, tmp_path):
    openslide = pytest.importorskip("openslide", reason="needs the extra openslide")
    out = stf.export_slide(store_of("ST"), tmp_path / "out", to="hest", patch_px=32)
    with stf.open_slide(store_of("ST")) as slide, openslide.OpenSlide(out / "wsis/S1.tif") as tiff:
        sizes = [(level.width, level.height) for level in slide.levels]
        assert list(tiff.level_dimensions) == sizes
        assert len(sizes) > 1
        for number, (width, height) in enumerate(sizes):
            pixels = np.asarray(tiff.read_region((0, 0), number, (width, height)))
            expected = slide.read_region(number, 0, 0, height, width).transpose(1, 2, 0)
            assert np.array_equal(pixels[..., :3], expected)
        assert float(tiff.properties["tiff.XResolution"]) == pytest.approx(1e4 / slide.mpp)


def test_hest_keeps_outlines_of_tissue_and_cells(tmp_path):
    slide = make_slide(height=400, width=420, n_genes=16, pitch_px=40.0, seed=1, slide_id="H1")
    source = write_hest(slide, tmp_path / "hest", quirks=HestQuirks(cells="parquet"))
    store = stf.convert_slide(source, tmp_path / "slide.zarr")
    out = stf.export_slide(store, tmp_path / "out", to="hest", patch_px=32)
    assert json.loads((out / "export.json").read_text())["left_out"]["shapes"] == []
    back = convert_back(out, "hest", tmp_path)
    with stf.open_slide(store) as first, stf.open_slide(back) as second:
        assert_same(first, second)
        assert set(first.annotations) == set(second.annotations) == {"tissue", "cells"}
        for name in first.annotations:
            left, right = first.annotations[name], second.annotations[name]
            assert left.geometry.geom_equals_exact(right.geometry, 0.0).all()


@pytest.mark.parametrize("name", ["Visium HD", "two tables", "unknown mpp", "no image"])
def test_h5ad(store_of, name, tmp_path):
    out = stf.export_slide(store_of(name), tmp_path / "out.h5ad", to="h5ad")
    adata = anndata.read_h5ad(out)
    with stf.open_slide(store_of(name)) as slide:
        assert adata.X.dtype == slide.counts.dtype
        assert (slide.counts[:] != adata.X).nnz == 0
        assert np.array_equal(adata.obsm["spatial"], slide.centers_px(slice(None)))
        assert list(adata.obs.columns) == list(slide.obs.columns)
        assert list(adata.obs_names) == list(slide.obs.index)
        assert list(adata.var_names) == list(slide.var.index)
        for frame, own in ((adata.obs, slide.obs), (adata.var, slide.var)):
            for column in own.columns:
                assert texts(frame[column]) == texts(own[column]), column
        library = adata.uns["spatial"][slide.slide_id]
        diameter = 2 * np.median(slide.radius_px)
        assert library["scalefactors"]["spot_diameter_fullres"] == diameter
        assert ("hires" in library["images"]) == slide.has_image
    backed = anndata.read_h5ad(out, backed="r")
    assert np.array_equal(backed.X[3:5].toarray(), adata.X[3:5].toarray())
    backed.file.close()


def test_another_table_as_h5ad(store_of, tmp_path):
    table = "expression_square_008um"
    out = stf.export_slide(store_of("two tables"), tmp_path / "a.h5ad", to="h5ad", table=table)
    with stf.open_slide(store_of("two tables"), table=table) as slide:
        assert anndata.read_h5ad(out).shape == (slide.n_obs, slide.n_vars) == (20, 9)


@pytest.mark.parametrize("name", ["ST", "fluorescence", "five channels", "one channel"])
def test_ome_tiff(store_of, name, tmp_path):
    out = stf.export_slide(store_of(name), tmp_path / "out.ome.tif", to="ome-tiff")
    with stf.open_slide(store_of(name)) as slide, tifffile.TiffFile(out) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert len(series.levels) == len(slide.levels)
        for level, written in zip(slide.levels, series.levels, strict=True):
            pixels = slide.read_region(level.level, 0, 0, level.height, level.width)
            array = written.asarray()
            if series.axes == "YXS":
                array = array.transpose(2, 0, 1)
            assert np.array_equal(array.reshape(pixels.shape), pixels)
        assert f'PhysicalSizeX="{slide.mpp}" PhysicalSizeXUnit="µm"' in tiff.ome_metadata
        image = open_image(out, scratch=tmp_path, stain=slide.metadata.stain)
        (whole,) = image.iter_bands(slide.levels[0].height)
        assert np.array_equal(whole, pixels_of(slide))
        assert image.channel_names == slide.channel_names
        assert image.tag_mpp == pytest.approx(slide.mpp)


def test_an_image_of_many_bands_and_tiles_is_written_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(_pyramid_tiff, "_TILE_PX", 64)
    monkeypatch.setitem(_pyramid_tiff._CODING, "tile", (64, 64))
    with replace_store(tmp_path / "slide.zarr") as directory:
        write_slide(make_record(image_px=(333, 470), n_channels=2), directory)
    out = stf.export_slide(tmp_path / "slide.zarr", tmp_path / "a.ome.tif", to="ome-tiff")
    with stf.open_slide(tmp_path / "slide.zarr") as slide:
        assert np.array_equal(tifffile.imread(out), pixels_of(slide))


def test_zip_holds_the_very_files_of_the_store(store_of, tmp_path):
    store = store_of("two tables")
    out = stf.export_slide(store, tmp_path / "slide.zarr.zip", to="zip")
    with zipfile.ZipFile(out) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        assert names[0] == "zarr.json"
        assert names[-2:] == ["stformat/manifest.json", "stformat/commit.json"]
        assert names[1:-2] == sorted(names[1:-2])
        files = {p.relative_to(store).as_posix(): p for p in store.rglob("*") if p.is_file()}
        assert set(names) == set(files)
        assert all(archive.read(name) == path.read_bytes() for name, path in files.items())
        assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
        assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert stf.verify_store(out) == []
    with stf.open_slide(store) as slide, stf.open_slide(out) as zipped:
        assert_same(slide, zipped)
        again = stf.export_slide(zipped, tmp_path / "again.zip", to="zip")
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("stimage", "a"),
        ("hest", "a"),
        ("h5ad", "a.h5ad"),
        ("ome-tiff", "a.ome.tif"),
        ("zip", "a.zip"),
    ],
)
def test_the_same_slide_gives_the_same_bytes(store_of, to, name, tmp_path, digest_of):
    made = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        made.append(stf.export_slide(store_of("two tables"), folder / name, to=to))
    first, second = map(digest_of, made)
    assert first == second


@pytest.mark.parametrize(
    ("name", "to", "target", "options", "message"),
    [
        ("five channels", "stimage", "a", {}, "1 or 3 channels, found 5; export it as ome-tiff"),
        ("five channels", "hest", "a", {}, "1 or 3 channels"),
        ("ST", "stimage", "a", {"patch_px": 8}, "stimage has no options"),
        ("ST", "zip", "a.zip", {"table": "expression"}, "of the whole slide"),
        ("ST", "h5ad", "a.h5", {}, r"must end in \.h5ad"),
        ("ST", "ome-tiff", "a.tif", {}, r"must end in \.ome\.tif or \.ome\.tiff"),
        ("ST", "gif", "a", {}, "one of stimage, hest"),
        ("unknown mpp", "hest", "a", {"patch_mpp": 0.5}, "own mpp is known"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    *, store_of, name, to, target, options, message, tmp_path
):
    with pytest.raises(ExportError, match=message):
        stf.export_slide(store_of(name), tmp_path / target, to=to, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_image_of_a_slide_without_one(store_of, tmp_path):
    with pytest.raises(NoImageError):
        stf.export_slide(store_of("no image"), tmp_path / "a.ome.tif", to="ome-tiff")
    assert list(tmp_path.iterdir()) == []
