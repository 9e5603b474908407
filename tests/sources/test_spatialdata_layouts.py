"""Images of containers that other tools lay out otherwise: channels last, one chunk, no codec."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import zarr

from stformat.errors import ImageError
from stformat.sources import _spatialdata_image, _zarr_raw, read_slide
from stformat.testing import SpatialDataQuirks, make_slide, write_spatialdata

AXES = {"cyx": (0, 1, 2), "yxc": (1, 2, 0)}


@pytest.fixture(scope="module")
def slide():
    return make_slide(height=150, width=130, n_genes=6, pitch_px=30.0, seed=4)


@pytest.fixture(scope="module")
def written(slide, tmp_path_factory):
    """The slide as a container of either version."""
    folder = tmp_path_factory.mktemp("written")
    return {
        container: write_spatialdata(
            slide, folder / container, quirks=SpatialDataQuirks(container=container)
        )
        for container in ("0.1", "0.2")
    }


@pytest.fixture
def laid_out(written, slide, tmp_path):
    return partial(lay_out, written, slide, tmp_path / "slide.zarr")


def lay_out(
    written, slide, path, axes, *, chunks, container="0.2", dtype="uint8", compressors=None
):
    """Copy a container, and write its image again in another layout."""
    shutil.copytree(written[container], path)
    element = path / "images" / "slide_image"
    name = "zarr.json" if container == "0.2" else ".zattrs"
    document = json.loads((element / name).read_text())
    attributes = document["attributes"] if container == "0.2" else document
    (multiscale,) = attributes.get("ome", attributes)["multiscales"]
    multiscale["axes"] = [multiscale["axes"][axis] for axis in AXES[axes]]
    for one in multiscale["coordinateTransformations"]:
        if "input" in one:
            one["input"]["axes"] = [one["input"]["axes"][axis] for axis in AXES[axes]]
    (element / name).write_text(json.dumps(document))
    level = element / multiscale["datasets"][0]["path"]
    shutil.rmtree(level)
    pixels = slide.image.transpose(AXES[axes])
    array = zarr.create_array(
        str(level), shape=pixels.shape, chunks=chunks, dtype=dtype, compressors=compressors,
        zarr_format=3 if container == "0.2" else 2, overwrite=True,
    )  # fmt: skip
    array[:] = pixels
    return path, level


def bands_of(path, height):
    image = read_slide(path).image
    return np.concatenate([band.copy() for band in image.iter_bands(height)], axis=1)


@pytest.mark.parametrize("container", ["0.1", "0.2"])
@pytest.mark.parametrize(
    "layout",
    [
        ("yxc", (37, 50, 3), "auto"),
        ("yxc", (150, 130, 3), None),
        ("yxc", (160, 140, 4), None),
        ("cyx", (3, 160, 130), None),
        ("cyx", (3, 150, 130), "auto"),
        ("cyx", (1, 150, 130), None),
    ],
)
def test_pixels_are_those_of_the_array(slide, laid_out, layout, container):
    axes, chunks, compressors = layout
    path, _ = laid_out(axes, chunks=chunks, container=container, compressors=compressors)
    for height in (40, 150):
        np.testing.assert_array_equal(bands_of(path, height), slide.image)


@pytest.mark.parametrize(("container", "dtype"), [("0.1", ">u2"), ("0.1", "<u2"), ("0.2", "u2")])
def test_one_chunk_without_codec_is_read_in_part(slide, laid_out, monkeypatch, container, dtype):
    path, _ = laid_out("cyx", chunks=(3, 150, 130), container=container, dtype=dtype)
    monkeypatch.setattr(_spatialdata_image, "_RAW_ROWS", 20)
    monkeypatch.setattr(zarr.Array, "__getitem__", None)
    image = _spatialdata_image.read_raster(path / "images" / "slide_image", "slide_image")
    assert image.chunk_rows == (*range(0, 150, 20), 150)
    np.testing.assert_array_equal(image.read(35, 61), slide.image[:, 35:61])
    assert image.read(0, 1).dtype == np.uint16


def test_a_chunk_that_is_cut_off_is_damage(laid_out):
    path, level = laid_out("cyx", chunks=(3, 150, 130))
    (chunk,) = (one for one in level.rglob("*") if one.is_file() and one.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-7])
    with pytest.raises(ImageError, match="chunks of the image must decode") as caught:
        bands_of(path, 50)
    assert caught.value.problems[0].code == "image.damaged"


def test_arrays_that_are_more_than_their_bytes_are_left_to_zarr(tmp_path):
    for name, options in (
        ("chunks", {"chunks": (4, 3)}),
        ("codec", {"compressors": "auto"}),
        ("sharded", {"shards": (4, 6), "chunks": (4, 6)}),
        ("fortran", {"order": "F", "zarr_format": 2}),
    ):
        given = {"chunks": (4, 6), "compressors": None} | options
        array = zarr.create_array(str(tmp_path / name), shape=(4, 6), dtype="u1", **given)
        array[:] = 1
        assert _zarr_raw.raw_rows(tmp_path / name, name, array, 0) is None
    array = zarr.create_array(
        str(tmp_path / "empty"), shape=(4, 6), chunks=(4, 6), dtype="u1", compressors=None
    )
    assert _zarr_raw.raw_rows(tmp_path / "empty", "empty", array, 0) is None
