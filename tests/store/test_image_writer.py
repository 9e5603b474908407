"""The streamed pyramid against its definition in plain NumPy."""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from stformat.errors import ImageError, StoreWriteError
from stformat.kernels import downsample_2x2
from stformat.store import layout
from stformat.store.image_codecs import IMAGE_CODECS
from stformat.store.image_writer import write_pyramid
from stformat.testing.records import make_image

SMALL = {"chunk_px": 4, "shard_px": 8, "smallest_px": 5}


def halved(level):
    """(sum + m // 2) // m over the pixels that exist; the definition, pixel by pixel."""
    n_c, n_y, n_x = level.shape
    result = np.zeros((n_c, -(-n_y // 2), -(-n_x // 2)), level.dtype)
    for c, y, x in np.ndindex(*result.shape):
        window = level[c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(np.int64)
        result[c, y, x] = (window.sum() + window.size // 2) // window.size
    return result


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 41), st.integers(1, 41)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    band_height=st.none() | st.integers(1, 45),
    seed=st.integers(0, 2**32),
)
def test_every_level_is_what_the_definition_says(shape, dtype, band_height, seed):
    pixels = noise(shape, dtype, seed)
    with tempfile.TemporaryDirectory() as folder:
        image = make_image(pixels, band_height=band_height)
        n_levels = write_pyramid(Path(folder), image, **SMALL)
        assert n_levels == len(layout.level_shapes(*shape[1:], smallest_px=5))
        expected = pixels
        for level in range(n_levels):
            path = f"{folder}/s{level}"
            array = zarr.open_array(path, mode="r")
            assert array.metadata.dimension_names == ("c", "y", "x")
            assert array.chunks == (shape[0], 4, 4)
            with zarr.config.set({"array.read_missing_chunks": False}):
                np.testing.assert_array_equal(array[...], expected)
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
            read = tensorstore.open(spec, read=True, open=True).result().read().result()
            np.testing.assert_array_equal(read, expected)
            expected = halved(expected)


def test_real_sizes_and_several_shards(tmp_path):
    pixels = noise((3, 300, 4400))
    assert write_pyramid(tmp_path, make_image(pixels)) == 4
    array = zarr.open_array(str(tmp_path / "s0"), mode="r")
    assert (array.chunks, array.shards) == ((3, 256, 256), (3, 512, 4096))
    np.testing.assert_array_equal(array[...], pixels)
    assert len(list((tmp_path / "s0" / "c").rglob("[0-9]"))) > 2
    level = zarr.open_array(str(tmp_path / "s1"), mode="r")[...]
    wide = pixels.astype(np.int64)
    sums = wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2]
    np.testing.assert_array_equal(level, (sums + 2) // 4)


def test_padding_of_edge_chunks_is_zero(tmp_path):
    write_pyramid(tmp_path, make_image(noise((1, 5, 5)) | 1), **SMALL)
    # With the shape of its shard the array shows what lies beyond its edge.
    document = json.loads((tmp_path / "s0" / "zarr.json").read_bytes())
    (tmp_path / "s0" / "zarr.json").write_text(json.dumps(document | {"shape": [1, 8, 8]}))
    whole = zarr.open_array(str(tmp_path / "s0"), mode="r")[...]
    assert whole.shape == (1, 8, 8)
    assert (whole[:, :5, :5] > 0).all()
    assert (whole[:, 5:] == 0).all()
    assert (whole[:, :, 5:] == 0).all()


@pytest.mark.parametrize("threads", ["1", "4"])
def test_bytes_do_not_depend_on_threads_or_bands(tmp_path, monkeypatch, threads):
    pixels = noise((3, 33, 29))
    write_pyramid(tmp_path / "default", make_image(pixels), **SMALL)
    monkeypatch.setenv("STFORMAT_NUM_THREADS", threads)
    write_pyramid(tmp_path / "other", make_image(pixels, band_height=5), **SMALL)
    assert contents(tmp_path / "default") == contents(tmp_path / "other")


def test_each_band_is_asked_for_once(tmp_path):
    calls = []
    image = make_image(noise((1, 20, 9)))

    def counted(height):
        for number, band in enumerate(image.iter_bands(height)):
            calls.append((height, number))
            yield band

    write_pyramid(tmp_path, dataclasses.replace(image, iter_bands=counted), **SMALL)
    assert calls == [(4, 0), (4, 1), (4, 2), (4, 3), (4, 4)]


def with_bands(*bands):
    """An image that claims (1, 10, 6) uint8 and yields these bands."""
    image = make_image(noise((1, 10, 6)))
    return dataclasses.replace(image, iter_bands=lambda _height: iter(bands))


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ([(1, 4, 6), (1, 4, 6)], "must add up to 10 rows, found 8"),
        ([(1, 10, 6), (1, 1, 6)], "must add up to 10 rows, found at least 11"),
        ([], "found 0"),
        ([(1, 10, 5)], r"uint8 of shape \(1, 10, 5\)"),
        ([(3, 10, 6)], r"uint8 of shape \(3, 10, 6\)"),
        ([(10, 6)], r"uint8 of shape \(10, 6\)"),
        ([(1, 0, 6), (1, 10, 6)], r"uint8 of shape \(1, 0, 6\)"),
    ],
)
def test_bands_that_do_not_fit_are_refused(tmp_path, bands, message):
    image = with_bands(*(np.zeros(shape, np.uint8) for shape in bands))
    with pytest.raises(ImageError, match=message):
        write_pyramid(tmp_path, image, **SMALL)


def test_bands_of_another_type_are_refused(tmp_path):
    with pytest.raises(ImageError, match="found uint16"):
        write_pyramid(tmp_path, with_bands(np.zeros((1, 10, 6), np.uint16)), **SMALL)


def test_an_error_of_the_source_is_passed_on_and_leaves_no_whole_shard(tmp_path):
    released = []

    def broken(_height):
        try:
            yield np.ones((1, 4, 6), np.uint8)
            raise OSError("the source is gone")
        finally:
            released.append(True)

    image = dataclasses.replace(make_image(noise((1, 10, 6))), iter_bands=broken)
    with pytest.raises(OSError, match="the source is gone") as caught:
        write_pyramid(tmp_path, image, **SMALL)
    assert not isinstance(caught.value, StoreWriteError)
    assert released
    assert not list(tmp_path.rglob("zarr.json"))
    with pytest.raises(Exception, match=r"checksum|index|crc"):
        write_document_and_read(tmp_path)


def write_document_and_read(directory):
    """Read the unfinished shards of s0 with the metadata they would have had."""
    other = Path(tempfile.mkdtemp())
    write_pyramid(other, make_image(noise((1, 10, 6))), **SMALL)
    document = (other / "s0" / "zarr.json").read_bytes()
    (directory / "s0" / "zarr.json").write_bytes(document)
    return zarr.open_array(str(directory / "s0"), mode="r")[...]


def test_what_progress_raises_is_passed_on_and_closes_the_source(tmp_path):
    released = []
    image = make_image(noise((1, 40, 6)))

    def bands(height):
        try:
            yield from image.iter_bands(height)
        finally:
            released.append(True)

    def stop(event):
        if event.done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pyramid(
            tmp_path, dataclasses.replace(image, iter_bands=bands), **SMALL, progress=stop
        )
    assert released


def test_progress_counts_pixel_rows(tmp_path):
    events = []
    write_pyramid(tmp_path, make_image(noise((1, 10, 6))), **SMALL, progress=events.append)
    assert {(event.step, event.total, event.unit) for event in events} == {("image", 10, "px rows")}
    assert [event.done for event in events] == [0, 4, 8, 10]


@pytest.mark.parametrize("sizes", [{"chunk_px": 3, "shard_px": 6}, {"chunk_px": 4, "shard_px": 6}])
def test_sizes_that_do_not_halve_or_divide_are_refused(tmp_path, sizes):
    with pytest.raises(ValueError, match="even and divide"):
        write_pyramid(tmp_path, make_image(noise((1, 9, 9))), **sizes)


SMOOTH = gaussian_filter(noise((3, 300, 700), seed=3).astype(float), (0, 9, 9))
SLIDE = (128 + 12 * (SMOOTH - SMOOTH.mean()) / SMOOTH.std()).clip(0, 255).astype(np.uint8)
"""Something like tissue: JPEG is near to it."""


def read_levels(directory, n_levels):
    with zarr.config.set({"array.read_missing_chunks": False}):
        return [zarr.open_array(f"{directory}/s{k}", mode="r")[...] for k in range(n_levels)]


def test_blosc_levels_are_what_the_definition_says(tmp_path):
    pixels = noise((2, 41, 29), np.uint16)
    n_levels = write_pyramid(tmp_path, make_image(pixels), codec=IMAGE_CODECS["blosc"], **SMALL)
    expected = pixels
    for level in read_levels(tmp_path, n_levels):
        np.testing.assert_array_equal(level, expected)
        expected = halved(expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/s0"}}
    read = tensorstore.open(spec, read=True, open=True).result().read().result()
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("n_c", [1, 3])
def test_jpeg_levels_are_encoded_from_halves_of_what_the_level_above_decodes_to(tmp_path, n_c):
    sizes = {"chunk_px": 64, "shard_px": 128, "smallest_px": 100}
    codec = IMAGE_CODECS["jpeg"]
    image = make_image(SLIDE[:n_c])
    levels = read_levels(tmp_path, write_pyramid(tmp_path, image, codec=codec, **sizes))
    assert [level.shape[1:] for level in levels] == [(300, 700), (150, 350), (75, 175), (38, 88)]
    given = SLIDE[:n_c]
    for number, level in enumerate(levels):
        assert 0 < np.abs(level.astype(int) - given).max() < 24
        # Each level again, as the first of a store of its own: the same chunks.
        alone = tmp_path / f"alone{number}"
        write_pyramid(alone, make_image(given), codec=codec, **(sizes | {"smallest_px": 9999}))
        for path in (alone / "s0").rglob("c/*/*/*"):
            assert (
                path.read_bytes()
                == (tmp_path / f"s{number}" / path.relative_to(alone / "s0")).read_bytes()
            )
        given = downsample_2x2(level)


def test_jpeg_bytes_do_not_depend_on_threads_or_bands(tmp_path, monkeypatch):
    options = {"codec": IMAGE_CODECS["jpeg"], **SMALL, "chunk_px": 16, "shard_px": 32}
    write_pyramid(tmp_path / "default", make_image(SLIDE), **options)
    monkeypatch.setenv("STFORMAT_NUM_THREADS", "1")
    write_pyramid(tmp_path / "other", make_image(SLIDE, band_height=5), **options)
    assert contents(tmp_path / "default") == contents(tmp_path / "other")
