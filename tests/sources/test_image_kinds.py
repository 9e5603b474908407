"""Every kind of image that is read equals an independent decoder's pixels, band by band."""

import io
import struct
import tempfile
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from stformat import scratch
from stformat.errors import ImageError
from stformat.model import SourceFile
from stformat.sources import _image_file, _segments
from stformat.sources._image import open_image
from stformat.sources._image_tiff_segments import TiffSegments

BAND_HEIGHTS = (1, 7, 256, 10**6)


def smooth(height, width, samples, dtype=np.uint8, seed=0):
    """Pixels with structure (so that predictors and JPEG do something) and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    top = int(np.iinfo(dtype).max)
    wave = (np.sin(y / 9 + np.arange(samples)[:, None, None]) + np.cos(x / 7) + 2) / 4.2
    noise = rng.integers(0, max(2, top // 50), (samples, height, width))
    pixels = (wave * top * 0.95).astype(np.int64) + noise
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1).astype(dtype))


def bands(image, height):
    return [band.copy() for band in image.iter_bands(height)]


def assert_bands_equal(path, expected):
    """Compare with `expected`, axes (y, x, c), at every height of bands."""
    image = open_image(path)
    expected = np.moveaxis(expected, -1, 0)
    assert image.shape == expected.shape
    assert image.dtype == expected.dtype
    for height in BAND_HEIGHTS:
        found = bands(image, height)
        assert [band.shape[1] for band in found[:-1]] == [height] * (len(found) - 1)
        assert all(band.shape[1] >= 1 and band.flags.c_contiguous for band in found)
        np.testing.assert_array_equal(np.concatenate(found, axis=1), expected)
    return image


def save(path, pixels, **options):
    squeezed = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    Pillow.fromarray(squeezed).save(path, **options)


def load(path):
    pixels = np.asarray(Pillow.open(path))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (61, 83), (257, 40)])
def test_jpeg_equals_pillow(tmp_path, samples, progressive, size):
    path = tmp_path / "lying.png"
    save(path, smooth(*size, samples), format="jpeg", progressive=progressive, quality=85)
    image = assert_bands_equal(path, load(path))
    assert image.codec == "jpeg"
    assert image.background == 255


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("restart", [0, 2])
def test_jpeg_sampling_and_restarts(tmp_path, subsampling, restart):
    path = tmp_path / "a.jpg"
    options = {"restart_marker_rows": restart} if restart else {}
    save(path, smooth(97, 65, 3), subsampling=subsampling, **options)
    assert_bands_equal(path, load(path))


def test_jpeg_stored_as_rgb(tmp_path):
    path = tmp_path / "a.jpg"
    save(path, smooth(33, 65, 3), keep_rgb=True, quality=90)
    assert_bands_equal(path, load(path))


@pytest.mark.parametrize(("mode", "samples"), [("L", 1), ("RGB", 3), ("LA", 1), ("RGBA", 3)])
def test_png_equals_pillow(tmp_path, mode, samples):
    path = tmp_path / "a.tif"
    picture = Pillow.fromarray(smooth(61, 83, 3)).convert(mode)
    picture.save(path, format="png")
    expected = load(path)[:, :, :samples]
    image = assert_bands_equal(path, expected)
    assert image.codec == "png"
    assert [note.code for note in image.notes] == ["image.alpha-dropped"] * ("A" in mode)


@pytest.mark.parametrize("samples", [1, 3])
def test_png_of_16_bits_stays_16_bits(tmp_path, samples):
    pixels = smooth(40, 31, samples, np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(pixels if samples > 1 else pixels[:, :, 0]))
    image = assert_bands_equal(path, pixels)
    assert image.background == 65535


@pytest.mark.parametrize(("mode", "key"), [("L", 3), ("RGB", (1, 2, 3))])
def test_png_colour_key_counts_as_alpha(tmp_path, mode, key):
    path = tmp_path / "a.png"
    picture = Pillow.fromarray(smooth(20, 30, 3)).convert(mode)
    picture.save(path, transparency=key)
    image = assert_bands_equal(path, load(path))
    assert [note.code for note in image.notes] == ["image.alpha-dropped"]


def test_interlaced_png(tmp_path):
    """Adam7 of a 3 x 2 image: passes of 1 x 1, none, none, 1 x 1, none, 1 x 1, 3 x 1 pixels."""
    passes = [[[10]], [[12]], [[11]], [[20, 21, 22]]]
    raw = b"".join(bytes([0, *row]) for rows in passes for row in rows)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 1))
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )
    assert_bands_equal(path, np.array([[10, 11, 12], [20, 21, 22]], np.uint8)[:, :, None])


COMPRESSIONS = {
    None: "none",
    "zlib": "deflate",
    "lzw": "lzw",
    "zstd": "zstd",
    "packbits": "packbits",
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 5}, {}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_equals_what_was_written(tmp_path, compression, layout, dtype, byteorder):
    pixels = smooth(53, 71, 3, dtype)
    path = tmp_path / "a.jpg"
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        compression=compression,
        byteorder=byteorder,
        bigtiff=dtype is np.uint16,
        **layout,
    )
    image = assert_bands_equal(path, pixels)
    assert image.codec == f"tiff/{COMPRESSIONS[compression]}"
    np.testing.assert_array_equal(tifffile.imread(path), pixels)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("samples", [1, 3])
def test_tiff_with_horizontal_differences(tmp_path, compression, dtype, byteorder, samples):
    pixels = smooth(53, 71, samples, dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        pixels if samples > 1 else pixels[:, :, 0],
        photometric="rgb" if samples > 1 else "minisblack",
        compression=compression,
        predictor=True,
        byteorder=byteorder,
        tile=(32, 16),
    )
    image = assert_bands_equal(path, pixels)
    assert image.channel_names == (("r", "g", "b") if samples > 1 else ("intensity",))


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 8}])
def test_tiff_of_separate_planes(tmp_path, compression, layout):
    pixels = smooth(53, 71, 3)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.moveaxis(pixels, -1, 0),
        photometric="rgb",
        planarconfig="separate",
        compression=compression,
        **layout,
    )
    assert_bands_equal(path, np.moveaxis(tifffile.imread(path), 0, -1))


@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 5}, {}])
@pytest.mark.parametrize("height", BAND_HEIGHTS)
def test_every_segment_is_decoded_once(tmp_path, monkeypatch, layout, height):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(53, 71, 3), photometric="rgb", compression="zlib", **layout)
    decoded = []
    real = TiffSegments.decode

    def decode(self, file, segment, out):
        decoded.append(segment)
        real(self, file, segment, out)

    monkeypatch.setattr(TiffSegments, "decode", decode)
    list(open_image(path).iter_bands(height))
    with tifffile.TiffFile(path) as tiff:
        assert len(decoded) == len(set(decoded)) == len(tiff.pages.first.dataoffsets)


@pytest.mark.parametrize("extrasample", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_alpha_is_dropped_and_noted(tmp_path, extrasample, planar):
    pixels = smooth(40, 50, 4)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        pixels if planar == "contig" else np.moveaxis(pixels, -1, 0),
        photometric="rgb",
        planarconfig=planar,
        extrasamples=[extrasample],
        tile=(16, 16),
    )
    image = assert_bands_equal(path, pixels[:, :, :3])
    assert [note.code for note in image.notes] == ["image.alpha-dropped"]


@pytest.mark.parametrize("compression", ["webp", "jpeg2000"])
@pytest.mark.parametrize("height", [33, 40, 48])
def test_the_last_strip_is_as_high_as_what_is_left(tmp_path, compression, height):
    pixels = smooth(height, 50, 3)
    path = tmp_path / "a.tif"
    options = {"level": 100, "lossless": True} if compression == "webp" else {"level": 0}
    tifffile.imwrite(
        path, pixels, photometric="rgb", rowsperstrip=16, compression=compression,
        compressionargs=options, metadata=None,
    )  # fmt: skip
    assert_bands_equal(path, pixels)


def test_tiff_gray_with_alpha(tmp_path):
    pixels = smooth(40, 50, 2)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", extrasamples=["unassalpha"])
    image = assert_bands_equal(path, pixels[:, :, :1])
    assert image.notes[0].count == 2000


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_layout_of_segments_gives_the_same_pixels(tmp_path_factory, data):
    height, width = data.draw(st.tuples(st.integers(1, 90), st.integers(1, 90)), label="size")
    samples = data.draw(st.sampled_from([1, 3]), label="samples")
    sides = st.integers(1, 4).map(lambda n: 16 * n)
    layout = data.draw(
        st.one_of(
            st.builds(lambda a, b: {"tile": (a, b)}, sides, sides),
            st.integers(1, 100).map(lambda rows: {"rowsperstrip": min(rows, height)}),
        ),
        label="layout",
    )
    compression = data.draw(st.sampled_from(list(COMPRESSIONS)), label="compression")
    band_height = data.draw(st.integers(1, 100), label="band height")
    pixels = smooth(height, width, samples)
    path = tmp_path_factory.mktemp("layout") / "a.tif"
    tifffile.imwrite(
        path,
        pixels if samples > 1 else pixels[:, :, 0],
        photometric="rgb" if samples > 1 else "minisblack",
        compression=compression,
        metadata=None,
        **layout,
    )
    found = np.concatenate(bands(open_image(path), band_height), axis=1)
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1), pixels)


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiles", "strip", "raw strip", "raw wide strip"])
def test_large_pieces_go_through_the_scratch_directory(tmp_path, monkeypatch, kind):
    made = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda **options: made.append(options["dir"]) or real(**options)
    )
    # A row takes 303 bytes.
    limit = 200 if kind == "raw wide strip" else 1000
    monkeypatch.setattr(_image_file, "IN_MEMORY_LIMIT", limit)
    monkeypatch.setattr(scratch.scratch_array, "__kwdefaults__", {"in_memory": limit})
    monkeypatch.setattr(_segments, "_RAW_BLOCK", 400)
    monkeypatch.setattr(_segments, "_HELD_ROW_LIMIT", 1000)
    directory = tmp_path / "scratch"
    directory.mkdir()
    path = tmp_path / "a"
    pixels = smooth(150, 101, 3)
    if kind in {"jpeg", "png"}:
        save(path, pixels, format=kind)
    else:
        options = {"tile": (64, 64)} if kind == "tiles" else {"rowsperstrip": 150}
        compression = None if kind.startswith("raw") else "zlib"
        tifffile.imwrite(
            path, pixels, photometric="rgb", compression=compression, predictor=False, **options
        )
    expected = load(path) if kind == "jpeg" else pixels
    image = open_image(path, scratch=directory)
    for height in (20, 1000):
        found = np.concatenate(bands(image, height), axis=1)
        np.testing.assert_array_equal(np.moveaxis(found, 0, -1), expected)
        assert list(directory.iterdir()) == []
    # Uncompressed rows are read where they are wanted: no buffer for the whole strip.
    assert set(made) == (set() if kind == "raw strip" else {directory})


def test_largest_page_is_read_whatever_its_place(tmp_path):
    path = tmp_path / "a.tif"
    full, half = smooth(64, 80, 3, seed=1), smooth(32, 40, 3, seed=2)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(half, photometric="rgb")
        tiff.write(full, photometric="rgb", subifds=1, tile=(16, 16))
        tiff.write(half, photometric="rgb", subfiletype=1)
        tiff.write(half, photometric="rgb", subfiletype=1)
    assert_bands_equal(path, full)


@pytest.mark.parametrize("metadata", [{"axes": "CYX"}, None])
def test_a_stack_of_planes_is_refused(tmp_path, metadata):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((3, 16, 16), np.uint8), photometric="minisblack", metadata=metadata
    )
    with pytest.raises(ImageError, match="several planes"):
        open_image(path)


def test_an_imagej_stack_behind_one_page_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((16, 16), np.uint8),
        description="ImageJ=1.53t\nimages=5\nslices=5\n",
        metadata=None,
    )
    with pytest.raises(ImageError, match="several planes"):
        open_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_orientation_is_recorded_and_not_applied(tmp_path, orientation, kind):
    path = tmp_path / "a"
    pixels = smooth(10, 20, 3)
    exif = Pillow.Exif()
    exif[274] = orientation
    if kind == "tiff":
        tifffile.imwrite(
            path, pixels, photometric="rgb", extratags=[(274, "H", 1, orientation, True)]
        )
    else:
        save(path, pixels, format=kind, exif=exif)
    image = open_image(path)
    assert image.orientation == orientation
    assert image.shape == (3, 10, 20)


@pytest.mark.parametrize("exif", [b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_a_broken_exif_block_does_not_matter(tmp_path, exif):
    path = tmp_path / "a.jpg"
    save(path, smooth(10, 20, 3), exif=b"Exif\0\0" + exif)
    assert open_image(path).orientation == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "centimeter"}, 0.25),
        ({"resolution": (50_800, 50_800), "resolutionunit": "inch"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "inch"}, None),
        ({"resolution": (98, 106), "resolutionunit": "inch"}, None),
        ({"resolution": (40_000, 20_000), "resolutionunit": "centimeter"}, None),
        ({"resolution": (40_000, 40_000), "resolutionunit": "none"}, None),
        ({"description": "Aperio Image Library v11\r\n20x20 |AppMag = 20|MPP = 0.4990"}, 0.499),
        ({"description": "|MPP = 0.4990"}, None),
        ({"description": "Aperio |MPP = 0.4.9"}, None),
        ({}, None),
    ],
)
def test_tiff_resolution(tmp_path, options, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(20, 30, 3), photometric="rgb", metadata=None, **options)
    assert open_image(path).tag_mpp == (None if expected is None else pytest.approx(expected))


OME_IMAGE = '<Image><Pixels SizeX="{x}" SizeY="20" SizeZ="1" SizeC="3" SizeT="1" {more}/></Image>'


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ('PhysicalSizeX="0.325"', 0.325),
        ("PhysicalSizeX='0.325' PhysicalSizeY='0.325'", 0.325),
        ('PhysicalSizeX="0.325" PhysicalSizeXUnit="&#181;m"', 0.325),
        ('PhysicalSizeX="0.325" PhysicalSizeXUnit="&#x3bc;m"', 0.325),
        ('PhysicalSizeX="0.325" PhysicalSizeY="0.65"', None),
        ('PhysicalSizeX="0.325" PhysicalSizeXUnit="mm"', None),
        ('PhysicalSizeX="wide"', None),
        ("", None),
    ],
)
def test_resolution_by_ome_xml(tmp_path, more, expected):
    """That of the image that is read: an overview beside it has another."""
    path = tmp_path / "a.tif"
    overview = OME_IMAGE.format(x=7, more='PhysicalSizeX="8"')
    tifffile.imwrite(
        path,
        smooth(20, 30, 3),
        photometric="rgb",
        metadata=None,
        description=f"<OME>{overview}{OME_IMAGE.format(x=30, more=more)}</OME>",
    )
    assert open_image(path).tag_mpp == (None if expected is None else pytest.approx(expected))


def test_a_resolution_unit_of_two_numbers_is_none(tmp_path):
    path = tmp_path / "a.tif"
    pixels = smooth(20, 30, 3)
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, resolution=(40_000, 40_000))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags[296].offset
    content[at + 4 : at + 8] = (2).to_bytes(4, "little")
    path.write_bytes(content)
    assert open_image(path).tag_mpp is None
    assert_bands_equal(path, pixels)


@pytest.mark.parametrize(("dpi", "expected"), [(50_800, 0.5), (72, None), (300, None)])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_jpeg_and_png_density(tmp_path, kind, dpi, expected):
    path = tmp_path / "a"
    save(path, smooth(10, 10, 3), format=kind, dpi=(dpi, dpi))
    found = open_image(path).tag_mpp
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-3))


def test_source_and_background(tmp_path):
    path = tmp_path / "nuclei.tif"
    tifffile.imwrite(path, smooth(10, 10, 1)[:, :, 0])
    image = open_image(path, stain="if")
    assert image.background == 0
    assert isinstance(image.source, SourceFile)
    assert image.source.name == "nuclei.tif"
    assert image.source.size == path.stat().st_size


def test_bands_can_be_read_again_and_side_by_side(tmp_path):
    path = tmp_path / "a.tif"
    pixels = smooth(50, 30, 3)
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", rowsperstrip=11)
    image = open_image(path)
    found = [
        (first.copy(), second.copy())
        for first, second in zip(image.iter_bands(7), image.iter_bands(7), strict=True)
    ]
    assert len(found) == 8
    for side in (0, 1):
        joined = np.concatenate([pair[side] for pair in found], axis=1)
        np.testing.assert_array_equal(np.moveaxis(joined, 0, -1), pixels)


@pytest.mark.parametrize("height", [0, -1])
def test_height_of_a_band_must_be_positive(tmp_path, height):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(10, 10, 3), photometric="rgb")
    with pytest.raises(ValueError, match="at least 1"):
        open_image(path).iter_bands(height)


def test_jpeg_with_bytes_after_its_end(tmp_path):
    buffer = io.BytesIO()
    save(buffer, smooth(20, 20, 3), format="jpeg")
    path = tmp_path / "a.jpg"
    path.write_bytes(buffer.getvalue() + b"trailing bytes \xff\xd8\xff")
    assert_bands_equal(path, load(io.BytesIO(buffer.getvalue())))
