"""OME-NGFF tools accept the strict view on ``images/``, and tensorstore reads its arrays."""

import numpy as np
import pytest
import tensorstore
import zarr
from ome_zarr_models.v05.image import Image

from stformat.store import layout
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

SIZE = (1500, 1101)


@pytest.fixture(scope="module", params=[0.6889, None], ids=["mpp", "no mpp"])
def slide(request, tmp_path_factory):
    record = make_record(image_px=SIZE, mpp=request.param)
    path = tmp_path_factory.mktemp("ome") / "slide.zarr"
    path.mkdir()
    write_slide(record, path)
    return record, path


def test_ome_zarr_models_accepts_the_view(slide):
    record, path = slide
    image = Image.from_zarr(zarr.open_group(str(path / "images"), mode="r"))
    (multiscale,) = image.ome_attributes.multiscales
    assert [dataset.path for dataset in multiscale.datasets] == ["he/s0", "he/s1"]
    scale = multiscale.datasets[1].coordinateTransformations[0].scale
    step = record.mpp.value or 1.0
    assert scale == [1.0, 2 * step, 2 * step]


def test_ngff_zarr_accepts_the_view(slide):
    ngff_zarr = pytest.importorskip("ngff_zarr")
    record, path = slide
    multiscales = ngff_zarr.from_ngff_zarr(str(path / "images"), validate=True)
    sizes = [image.data.shape for image in multiscales.images]
    assert sizes == [(3, *size) for size in layout.level_shapes(*SIZE)]
    assert multiscales.images[0].scale["x"] == (record.mpp.value or 1.0)


def test_ome_zarr_info_accepts_the_view(slide, capsys):
    utils = pytest.importorskip("ome_zarr.utils")
    _, path = slide
    list(utils.info(str(path / "images")))
    shown = capsys.readouterr().out
    assert "(3, 1500, 1101)" in shown
    assert "(3, 750, 551)" in shown


def test_tensorstore_reads_every_level(slide):
    record, path = slide
    (expected,) = record.image.iter_bands(SIZE[0])
    for level in range(2):
        kvstore = {"driver": "file", "path": str(path / "images" / "he" / f"s{level}")}
        array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
        assert array.domain.labels == ("c", "y", "x")
        np.testing.assert_array_equal(array.read().result(), expected)
        padded = np.pad(expected, ((0, 0), (0, -SIZE[0] % 2), (0, -SIZE[1] % 2)), mode="edge")
        sums = padded.reshape(3, SIZE[0] // 2, 2, -1, 2).sum(axis=(2, 4), dtype=np.int64)
        # Twice the same pixel over four is the pixel over two: an odd edge is its own mean.
        expected = (sums + 2) // 4
