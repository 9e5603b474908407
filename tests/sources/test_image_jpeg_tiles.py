"""JPEG tiles of a TIFF that are kept as chunks decode to the pixels of the TIFF, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Pillow

from stformat.errors import ImageError
from stformat.sources._image import open_image
from stformat.store.commit import replace_store
from stformat.store.image_codecs import IMAGE_CODECS
from stformat.store.reader import open_slide
from stformat.store.verify import verify_store
from stformat.store.writer import resume_slide, write_slide
from stformat.testing.records import make_record

JPEG = IMAGE_CODECS["jpeg"]


def smooth(height, width, samples):
    rng = np.random.default_rng(samples)
    y, x = np.mgrid[:height, :width]
    wave = np.sin(y / 9)[..., None] + np.cos(x[..., None] / np.arange(7, 7 + samples))
    return ((wave + 2 + rng.random((height, width, samples)) / 4) / 5 * 255).astype(np.uint8)


def write_tiff(path, pixels, edge, *, colours="ycbcr", subsampling=(1, 1), **options):
    tifffile.imwrite(
        path,
        pixels[:, :, 0] if pixels.shape[2] == 1 else pixels,
        photometric="minisblack" if pixels.shape[2] == 1 else "rgb",
        compression="jpeg",
        compressionargs={"level": 85} | ({"outcolorspace": colours} if pixels.shape[2] > 1 else {}),
        subsampling=subsampling,
        tile=(edge, edge),
        **options,
    )


def store_of(path, target, **options):
    record = make_record(n_obs=10, image_px=(30, 30))
    image = open_image(path)
    sources = (record.sources[0], image.source)
    record = replace(record, image=image, sources=sources)
    with replace_store(target) as directory:
        write_slide(record, directory, codec=JPEG, **options)
    assert verify_store(target) == []
    return record


def level_0(store):
    return np.moveaxis(zarr.open_array(store / "images/he/s0", mode="r")[...], 0, -1)


@pytest.mark.parametrize("edge", [256, 512])
@pytest.mark.parametrize(
    ("n_c", "options"),
    [
        (1, {}),
        (3, {}),
        (3, {"subsampling": (2, 2)}),
        (3, {"subsampling": (2, 1)}),
        (3, {"colours": "rgb"}),
    ],
)
def test_tiles_are_kept_undecoded(tmp_path, edge, n_c, options):
    path = tmp_path / "a.tif"
    write_tiff(path, smooth(600, 1200, n_c), edge, **options)
    store_of(path, tmp_path / "slide.zarr")
    expected = tifffile.imread(path).reshape(600, 1200, n_c)
    np.testing.assert_array_equal(level_0(tmp_path / "slide.zarr"), expected)
    with open_slide(tmp_path / "slide.zarr") as slide:
        assert "image.jpeg-kept" in {note.code for note in slide.metadata.notes}
        found = slide.read_region(0, 0, 0, 600, 1200)
        tile = slide.tiles(224, centers_px=np.array([[500.0, 300.0]]))[0]
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1), expected)
    np.testing.assert_array_equal(tile, found[:, 188:412, 388:612])
    arrays = [zarr.open_array(tmp_path / f"slide.zarr/images/he/s{k}", mode="r") for k in (0, 1)]
    assert {array.chunks for array in arrays} == {(n_c, edge, edge)}
    shard = (tmp_path / "slide.zarr/images/he/s0/c/0/0/0").read_bytes()
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        page = tiff.pages.first
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(start)
            data = file.read(length)
            assert data[data.index(b"\xff\xda") :].rstrip(b"\0") in shard


def test_tables_that_tiles_share_are_put_in(tmp_path):
    path = tmp_path / "a.tif"
    pixels = smooth(256, 256, 3)
    # Pillow writes strips; one of 256 x 256 pixels lies as a tile would.
    Pillow.fromarray(pixels).save(path, compression="jpeg", quality=80, strip_size=2**20)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.jpegtables is not None
        assert len(tiff.pages.first.dataoffsets) == 1
    image = open_image(path)
    stream = image.jpeg_tiles.read(0, 0)
    with Pillow.open(path) as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(stream), expected)
    # The decoder knows the usual tables by heart; others need them.
    headers = stream[: stream.index(b"\xff\xda")]
    assert b"\xff\xdb" in headers
    assert b"\xff\xc4" in headers


def nameless_rgb(pixels):
    """A stream of RGB that says so nowhere, as Aperio writes its tiles."""
    stream = bytearray(
        imagecodecs.jpeg8_encode(pixels, level=90, colorspace="rgb", outcolorspace="rgb")
    )
    frame, scan = stream.index(b"\xff\xc0") + 10, stream.index(b"\xff\xda") + 5
    stream[frame : frame + 9 : 3] = stream[scan : scan + 6 : 2] = b"\1\2\3"
    assert bytes(stream[2:4]) == b"\xff\xee"
    del stream[2:18]
    return bytes(stream)


@pytest.mark.parametrize("adobe", [None, 0, 1, "jfif"])
def test_rgb_that_only_the_page_tells_is_told_in_the_stream(tmp_path, adobe):
    pixels = smooth(256, 256, 3)
    stream = nameless_rgb(pixels)
    if adobe == "jfif":  # is YCbCr whatever the page tells
        stream, adobe = imagecodecs.jpeg8_encode(pixels, level=90), None
    if adobe is not None:
        said = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([adobe])
        stream = stream[:2] + said + stream[2:]
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        iter([stream]),
        shape=(256, 256, 3),
        dtype=np.uint8,
        photometric="rgb",
        compression="jpeg",
        compressionargs={"outcolorspace": "rgb"},
        tile=(256, 256),
    )
    image = open_image(path)
    (band,) = image.iter_bands(256)
    assert np.abs(np.moveaxis(band, 0, -1).astype(int) - pixels).mean() < 8
    kept = image.jpeg_tiles.read(0, 0)
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(kept), np.moveaxis(band, 0, -1))
    with Pillow.open(BytesIO(kept)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.moveaxis(band, 0, -1))


def with_stream(path, stream, shape=(256, 256, 3)):
    tifffile.imwrite(
        path,
        iter([stream]),
        shape=shape,
        dtype=np.uint8,
        photometric="ycbcr",
        compression="jpeg",
        tile=(256, 256),
        subsampling=(2, 2),
    )
    return path


def test_a_tile_of_another_kind_is_encoded(tmp_path):
    """Progressive, as no chunk may be: its pixels are near, and the level below is made of them."""
    buffer = BytesIO()
    Pillow.fromarray(smooth(256, 256, 3)).save(buffer, "JPEG", quality=80, progressive=True)
    path = with_stream(tmp_path / "a.tif", buffer.getvalue())
    image = open_image(path)
    assert image.jpeg_tiles.read(0, 0) is None
    store_of(path, tmp_path / "slide.zarr")
    (band,) = image.iter_bands(256)
    difference = level_0(tmp_path / "slide.zarr").astype(int) - np.moveaxis(band, 0, -1)
    assert 0 < np.abs(difference).max() < 16


def test_a_tile_as_small_as_its_visible_part_is_encoded(tmp_path):
    pixels = smooth(200, 100, 3)
    stream = imagecodecs.jpeg8_encode(pixels, level=90, subsampling="420")
    path = with_stream(tmp_path / "a.tif", stream, shape=(200, 100, 3))
    assert open_image(path).jpeg_tiles.read(0, 0) is None


def test_a_tile_of_more_segments_than_a_reader_takes_is_encoded(tmp_path):
    stream = imagecodecs.jpeg8_encode(smooth(256, 256, 3), level=90, subsampling="420")
    for n_segments, is_kept in ((50, True), (2000, False)):
        long = stream[:2] + n_segments * b"\xff\xfe\x00\x03." + stream[2:]
        path = with_stream(tmp_path / f"{n_segments}.tif", long)
        assert (open_image(path).jpeg_tiles.read(0, 0) is not None) == is_kept


@pytest.mark.parametrize(
    "options", [{"tile": (256, 240)}, {"rowsperstrip": 64}, {"photometric": "miniswhite"}]
)
def test_images_without_such_tiles_have_none(tmp_path, options):
    arguments = {"tile": (256, 256), "photometric": "minisblack"} | options
    if "rowsperstrip" in options:
        del arguments["tile"]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(256, 256, 1)[:, :, 0], compression="jpeg", **arguments)
    assert open_image(path).jpeg_tiles is None


def test_tiles_of_other_sizes_are_not_kept(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, smooth(300, 300, 3), 240)
    assert open_image(path).jpeg_tiles.edge_px == 240
    record = store_of(path, tmp_path / "slide.zarr")
    assert "image.jpeg-kept" not in {note.code for note in record.notes}
    assert zarr.open_array(tmp_path / "slide.zarr/images/he/s0", mode="r").chunks == (3, 256, 256)


def test_a_file_that_changes_is_told(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, smooth(256, 256, 3), 256)
    tiles = open_image(path).jpeg_tiles
    assert tiles.read(0, 0)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ImageError, match="stay as it is"):
        tiles.read(0, 0)


def test_what_is_kept_goes_on_after_an_interrupt(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, smooth(4400, 300, 3), 256, subsampling=(2, 2))
    record = replace(make_record(n_obs=5, image_px=(30, 30)), image=open_image(path))
    record = replace(record, sources=(record.sources[0], record.image.source))

    class Interrupted(BaseException):
        pass

    def stop(event):
        if event.step == "image" and event.done > 4096:
            raise Interrupted

    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    resume_slide(record, tmp_path / "whole", codec=JPEG)
    with pytest.raises(Interrupted):
        resume_slide(record, tmp_path / "part", codec=JPEG, progress=stop)
    shard = tmp_path / "part/images/he/s0/c/0/0/0"
    before = shard.stat().st_ino
    resume_slide(record, tmp_path / "part", codec=JPEG)
    assert shard.stat().st_ino == before
    for file in (tmp_path / "whole").rglob("*"):
        if file.is_file() and file.name != ".journal.json":
            other = tmp_path / "part" / file.relative_to(tmp_path / "whole")
            assert other.read_bytes() == file.read_bytes()


def test_real_tiles_are_kept(real_data):
    path = real_data / "derived_hest_B4/wsis/SPA145.tif"
    image = open_image(path)
    with tifffile.TiffFile(path) as tiff:
        expected = tiff.pages.first.asarray()
    rng = np.random.default_rng(0)
    for row, column in zip(rng.integers(0, 19, 12), rng.integers(0, 18, 12), strict=True):
        pixels = imagecodecs.jpeg8_decode(image.jpeg_tiles.read(row, column))
        there = expected[512 * row : 512 * (row + 1), 512 * column : 512 * (column + 1)]
        np.testing.assert_array_equal(pixels[: there.shape[0], : there.shape[1]], there)


def test_real_aperio_tiles_decode_alone(real_data):
    image = open_image(real_data / "wsi/CMU-1-Small-Region.svs")
    (band,) = image.iter_bands(10_000)
    assert image.jpeg_tiles.edge_px == 240
    for row, column in ((0, 0), (5, 3), (12, 9)):
        pixels = imagecodecs.jpeg8_decode(image.jpeg_tiles.read(row, column))
        there = band[:, 240 * row : 240 * (row + 1), 240 * column : 240 * (column + 1)]
        _, height, width = there.shape
        np.testing.assert_array_equal(np.moveaxis(pixels, -1, 0)[:, :height, :width], there)
