"""Every way in which a TIFF or PNG stores samples ends in the values that another decoder gives."""

import io
import struct
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
from stformat.sources import _image_tiff, _segments
from stformat.sources._image import open_image
from stformat.sources._image_tiff_samples import YcbcrCoding, ycbcr_to_rgb


def smooth(height, width, samples, dtype=np.uint8):
    rng = np.random.default_rng(samples)
    y, x = np.mgrid[:height, :width]
    wave = (
        np.sin(y / 9)[..., None] + np.cos(x / 7)[..., None] + rng.random((height, width, samples))
    )
    return ((wave + 2) / 5 * np.iinfo(dtype).max).astype(dtype)


def read(path, band_height=7, **options):
    """Read as (y, x, c); equal at two heights of bands."""
    image = open_image(path, **options)
    pixels, whole = (
        np.concatenate([band.copy() for band in image.iter_bands(height)], axis=1)
        for height in (band_height, 1000)
    )
    np.testing.assert_array_equal(pixels, whole)
    return image, np.moveaxis(pixels, 0, -1)


def pillow(path, mode):
    with Pillow.open(path) as picture:
        return np.asarray(picture.convert(mode))


def codes(image):
    return [note.code for note in image.notes]


def refusal(path, **options):
    with pytest.raises(ImageError) as caught:
        list(open_image(path, **options).iter_bands(16))
    return caught.value.problems[0]


def with_entry(path, tag, value, *, kind="<H"):
    """Overwrite a tag of one number in place."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(io.BytesIO(content)) as parsed:
        entry = parsed.pages.first.tags[tag]
    struct.pack_into(kind, content, entry.offset + 8, value)
    path.write_bytes(content)


def write_tiff(path, tags, data):
    """Write one strip with tags that tifffile would not write; `tags` is (code, type, values)."""
    tags = [*tags, (273, 4, [8]), (279, 4, [len(data)])]
    start = 8 + len(data) + len(data) % 2
    later = start + 2 + 12 * len(tags) + 4
    entries, rest = b"", b""
    for code, kind, values in sorted(tags):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        count = len(values) // 2 if kind == 5 else len(values)
        if len(packed) > 4:
            packed, rest = struct.pack("<I", later + len(rest)), rest + packed
        entries += struct.pack("<HHI", code, kind, count) + packed.ljust(4, b"\0")
    head = struct.pack("<4sI", b"II*\0", start) + data + bytes(len(data) % 2)
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4) + rest)


def page_tags(height, width, *, bits, compression, photometric, samples=1):
    return [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [compression]),
        (262, 3, [photometric]), (277, 3, [samples]), (278, 4, [height]),
    ]  # fmt: skip


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "group3", "group4"])
@pytest.mark.parametrize("size", [(1, 1), (61, 83), (40, 128)])
def test_bilevel_tiff_equals_pillow(tmp_path, compression, size):
    path = tmp_path / "a.tif"
    picture = Pillow.fromarray(smooth(*size, 1)[:, :, 0] > 120)
    picture.save(path, compression=compression)
    image, pixels = read(path)
    np.testing.assert_array_equal(pixels[:, :, 0], pillow(path, "L"))
    np.testing.assert_array_equal(pixels[:, :, 0], np.asarray(picture.convert("L")))
    assert codes(image) == ["image.scaled-to-8-bits"]
    assert image.dtype == np.uint8


def test_a_fax_whose_white_is_zero(tmp_path):
    """As faxes are: white runs are zeros, and zero is white."""
    path = tmp_path / "a.tif"
    is_black = smooth(61, 83, 1)[:, :, 0] > 200
    Pillow.fromarray(is_black).save(path, compression="group4")
    with_entry(path, 262, 0)
    image, pixels = read(path)
    np.testing.assert_array_equal(pixels[:, :, 0], np.where(is_black, 0, 255))
    np.testing.assert_array_equal(pixels[:, :, 0], pillow(path, "L"))
    assert codes(image) == ["image.scaled-to-8-bits", "image.inverted"]


@pytest.mark.parametrize("compression", ["group3", "group4", "packbits"])
def test_bits_from_the_least_significant_on(tmp_path, compression):
    path = tmp_path / "a.tif"
    is_white = smooth(61, 83, 1)[:, :, 0] > 120
    Pillow.fromarray(is_white).save(path, compression=compression, tiffinfo={266: 2})
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.fillorder == 2
    np.testing.assert_array_equal(read(path)[1][:, :, 0], is_white * np.uint8(255))


def test_uncompressed_bits_from_the_least_significant_on(tmp_path):
    path = tmp_path / "a.tif"
    is_white = smooth(61, 83, 1)[:, :, 0] > 120
    tags = page_tags(61, 83, bits=1, compression=1, photometric=1)
    packed = np.packbits(is_white, axis=1, bitorder="little").tobytes()
    write_tiff(path, [*tags, (266, 3, [2])], packed)
    np.testing.assert_array_equal(read(path)[1][:, :, 0], is_white * np.uint8(255))
    np.testing.assert_array_equal(pillow(path, "L"), is_white * np.uint8(255))


def test_too_much_fax(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    Pillow.fromarray(smooth(61, 83, 1)[:, :, 0] > 120).save(path, compression="group4")
    monkeypatch.setattr(_image_tiff, "_MAX_CCITT_BYTES", 100)
    problem = refusal(path)
    assert problem.code == "image.too-large"
    assert "tiffcp" in problem.remedy
    monkeypatch.undo()
    monkeypatch.setattr(_image_tiff, "_MAX_CCITT_PIXELS", 100)
    assert refusal(path).code == "image.too-large"


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_gray_of_few_bits_is_scaled_exactly(tmp_path, bits, photometric):
    values = np.random.default_rng(bits).integers(0, 2**bits, (13, 21), np.uint8)
    spread = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - bits :].reshape(13, -1)
    path = tmp_path / "a.tif"
    tags = page_tags(13, 21, bits=bits, compression=1, photometric=photometric)
    write_tiff(path, tags, np.packbits(spread, axis=1).tobytes())
    image, pixels = read(path)
    scaled = np.round(values * 255.0 / (2**bits - 1)).astype(np.uint8)
    expected = scaled if photometric == 1 else 255 - scaled
    np.testing.assert_array_equal(pixels[:, :, 0], expected)
    np.testing.assert_array_equal(pixels[:, :, 0], pillow(path, "L"))
    assert codes(image)[0] == "image.scaled-to-8-bits"


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [(np.uint8, None), (np.uint8, "zlib"), (np.uint8, "jpeg"), (np.uint16, None),
     (np.uint16, "zlib")],
)  # fmt: skip
def test_min_is_white_is_inverted(tmp_path, dtype, compression):
    path = tmp_path / "a.tif"
    stored = smooth(40, 50, 1, dtype)[:, :, 0]
    tifffile.imwrite(path, stored, photometric="miniswhite", compression=compression, tile=(16, 32))
    image, pixels = read(path)
    np.testing.assert_array_equal(pixels[:, :, 0], np.invert(tifffile.imread(path)))
    assert codes(image) == ["image.inverted"]


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_equal_pillow(tmp_path, kind, bits):
    path = tmp_path / "a"
    picture = Pillow.fromarray(smooth(61, 83, 3)).quantize(2**bits)
    if kind == "png":
        picture.save(path, format="png", bits=bits)
    else:
        values = np.asarray(picture)
        spread = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - bits :].reshape(61, -1)
        colours = np.array(picture.getpalette()).reshape(-1, 3)
        colours = np.pad(colours, ((0, 2**bits - len(colours)), (0, 0)))[: 2**bits]
        tags = page_tags(61, 83, bits=bits, compression=1, photometric=3)
        write_tiff(
            path,
            [*tags, (320, 3, [int(value) * 257 for value in colours.T.ravel()])],
            np.packbits(spread, axis=1).tobytes(),
        )
    image, pixels = read(path)
    np.testing.assert_array_equal(pixels, np.asarray(picture.convert("RGB")))
    np.testing.assert_array_equal(pixels, pillow(path, "RGB"))
    assert image.channel_names == ("r", "g", "b")
    assert codes(image) == ["image.palette-applied"]


def test_a_colour_map_of_8_bit_colours(tmp_path):
    """Some writers forget that its values have 16 bits; black throughout is not what they mean."""
    path = tmp_path / "a.tif"
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    values = smooth(20, 30, 1)[:, :, 0]
    tags = page_tags(20, 30, bits=8, compression=1, photometric=3)
    write_tiff(path, [*tags, (320, 3, colours.T.ravel().tolist())], values.tobytes())
    image, pixels = read(path)
    np.testing.assert_array_equal(pixels, colours[values])
    assert "8-bit colours" in image.notes[0].message


def test_a_colour_map_that_is_too_short(tmp_path):
    path = tmp_path / "a.tif"
    tags = page_tags(20, 30, bits=8, compression=1, photometric=3)
    write_tiff(path, [*tags, (320, 3, [0] * 48)], bytes(600))
    assert refusal(path).code == "image.corrupt"


def test_a_transparent_palette_png(tmp_path):
    path = tmp_path / "a.png"
    picture = Pillow.fromarray(smooth(20, 30, 3)).quantize(16)
    picture.save(path, transparency=3)
    image, pixels = read(path)
    np.testing.assert_array_equal(pixels, np.asarray(picture.convert("RGB")))
    assert codes(image) == ["image.palette-applied", "image.alpha-dropped"]


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1))  # fmt: skip


def write_interlaced_png(path, pixels, bits, colour, *chunks):
    """Write the seven passes, for which no encoder at hand has an option."""
    height, width, samples = pixels.shape
    rows = b""
    for top, left, down, across in ADAM7:
        for row in pixels[top::down, left::across]:
            spread = np.unpackbits(row.reshape(-1, 1).view(np.uint8), axis=1)[:, -bits:]
            line = row.astype(">u2").tobytes() if bits == 16 else np.packbits(spread).tobytes()
            rows += b"\0" * bool(line) + line
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 1)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)
    assert samples == {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]


@pytest.mark.parametrize(
    ("bits", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (8, 6)]
)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (37, 29)])
def test_interlaced_png(tmp_path, bits, colour, size):
    path = tmp_path / "a.png"
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    dtype = np.uint16 if bits == 16 else np.uint8
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (*size, samples), dtype)
    write_interlaced_png(path, pixels, bits, colour)
    scaled = pixels * (255 // (2**bits - 1)) if bits < 8 else pixels
    np.testing.assert_array_equal(read(path)[1], scaled[:, :, : 1 if samples < 3 else 3])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_interlaced_png_with_a_palette(tmp_path, bits):
    path = tmp_path / "a.png"
    rng = np.random.default_rng(bits)
    colours = rng.integers(0, 256, (2**bits, 3), np.uint8)
    indices = rng.integers(0, 2**bits, (37, 29, 1), np.uint8)
    write_interlaced_png(path, indices, bits, 3, (b"PLTE", colours.tobytes()))
    np.testing.assert_array_equal(read(path)[1], colours[indices[:, :, 0]])


@pytest.mark.parametrize(("bits", "colour"), [(4, 2), (2, 4), (16, 3), (3, 0), (8, 5)])
def test_png_of_bits_and_colours_that_do_not_go_together(tmp_path, bits, colour):
    path = tmp_path / "a.png"
    pixels = np.zeros((5, 5, {2: 3, 4: 2}.get(colour, 1)), np.uint16 if bits == 16 else np.uint8)
    header = {5: 0}.get(colour, colour)
    write_interlaced_png(path, pixels, bits, header)
    content = bytearray(path.read_bytes())
    content[25] = colour
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    assert refusal(path).code == "image.corrupt"


def test_a_band_too_large_for_memory_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    pixels = smooth(60, 80, 3)
    tifffile.imwrite(path, pixels, photometric="rgb")
    monkeypatch.setattr(_segments, "_BAND_LIMIT", 1000)
    made = []
    real = scratch._reserve
    monkeypatch.setattr(scratch, "_reserve", lambda fd, n: made.append(n) or real(fd, n))
    np.testing.assert_array_equal(read(path, scratch=tmp_path)[1], pixels)
    assert made == [7 * 80 * 3, 60 * 80 * 3]


def ycbcr_blocks(ycbcr, across, down):
    """Store YCbCr as blocks, each with the differences of its first pixel."""
    height, width, _ = ycbcr.shape
    padded = np.pad(ycbcr, ((0, -height % down), (0, -width % across), (0, 0)), "edge")
    rows, columns = padded.shape[0] // down, padded.shape[1] // across
    blocks = padded.reshape(rows, down, columns, across, 3).transpose(0, 2, 1, 3, 4)
    lumas = blocks[..., 0].reshape(rows, columns, -1)
    return np.concatenate([lumas, blocks[:, :, 0, 0, 1:]], axis=2).tobytes()


@pytest.mark.parametrize(
    ("blocks", "size"),
    [((1, 1), (61, 83)), ((2, 1), (61, 83)), ((2, 2), (61, 83)), ((4, 2), (62, 83)),
     ((4, 4), (32, 64))],
)  # fmt: skip
def test_ycbcr_without_jpeg_equals_libtiff(tmp_path, blocks, size):
    path = tmp_path / "a.tif"
    ycbcr = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    data = ycbcr_blocks(ycbcr, *blocks)
    tags = page_tags(*size, bits=8, compression=5, photometric=6, samples=3)
    write_tiff(path, [*tags, (530, 3, list(blocks))], bytes(imagecodecs.lzw_encode(data)))
    image, pixels = read(path)
    np.testing.assert_array_equal(pixels, pillow(path, "RGB"))
    assert image.channel_names == ("r", "g", "b")
    tags = page_tags(*size, bits=8, compression=1, photometric=6, samples=3)
    write_tiff(path, [*tags, (530, 3, list(blocks))], data)
    np.testing.assert_array_equal(read(path)[1], pixels)


@pytest.mark.parametrize(
    ("coefficients", "reference"),
    [
        ([299, 1000, 587, 1000, 114, 1000], [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]),
        ([2126, 10000, 7152, 10000, 722, 10000], [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]),
        ([299, 1000, 587, 1000, 114, 1000], [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1]),
        ([299, 1000, 587, 1000, 114, 1000], [33, 2, 235, 1, 257, 2, 240, 1, 255, 2, 481, 2]),
    ],
)
def test_tags_of_ycbcr_are_heeded_as_libtiff_does(tmp_path, coefficients, reference):
    path = tmp_path / "a.tif"
    ycbcr = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    tags = page_tags(64, 64, bits=8, compression=5, photometric=6, samples=3)
    tags += [(529, 5, coefficients), (530, 3, [1, 1]), (532, 5, reference)]
    # Pillow leaves to libtiff what is compressed, and converts what is not by tables of its own.
    write_tiff(path, tags, bytes(imagecodecs.lzw_encode(ycbcr.tobytes())))
    np.testing.assert_array_equal(read(path)[1], pillow(path, "RGB"))


@pytest.mark.parametrize(
    "tag",
    [
        (529, 5, [299, 1000, 0, 1, 114, 1000]),
        (529, 5, [299, 0, 587, 1000, 114, 1000]),
        (530, 3, [3, 2]),
        (532, 5, [255, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]),
    ],
)
def test_tags_of_ycbcr_that_make_no_sense(tmp_path, tag):
    path = tmp_path / "a.tif"
    tags = page_tags(16, 16, bits=8, compression=1, photometric=6, samples=3)
    write_tiff(path, [*tags, tag], bytes(16 * 16 * 3))
    assert refusal(path).code == "image.corrupt"


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_ycbcr_is_within_rounding_of_the_formula(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    ycbcr = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    y, cb, cr = np.moveaxis(ycbcr.astype(float), -1, 0)
    exact = np.stack(
        [
            y + 1.402 * (cr - 128),
            y - 0.344136286 * (cb - 128) - 0.714136286 * (cr - 128),
            y + 1.772 * (cb - 128),
        ],
        axis=-1,
    )
    out = np.empty_like(ycbcr)
    ycbcr_to_rgb(ycbcr, YcbcrCoding(), out=out)
    assert np.abs(out - np.clip(exact, 0, 255)).max() < 0.51
    ycbcr_to_rgb(ycbcr, YcbcrCoding(), out=ycbcr)
    np.testing.assert_array_equal(out, ycbcr)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("kinds", "note"),
    [
        (["unassalpha"], "image.alpha-dropped"),
        (["assocalpha"], "image.alpha-dropped"),
        (["unspecified"], "image.samples-dropped"),
        (["unspecified", "unassalpha"], "image.samples-dropped"),
        (["unspecified"] * 3, "image.samples-dropped"),
    ],
)
def test_further_samples_than_rgb_are_dropped_and_noted(tmp_path, planar, kinds, note):
    path = tmp_path / "a.tif"
    pixels = smooth(40, 50, 3 + len(kinds))
    tifffile.imwrite(
        path,
        pixels if planar == "contig" else np.moveaxis(pixels, -1, 0),
        photometric="rgb",
        planarconfig=planar,
        extrasamples=kinds,
        compression="zlib",
        metadata=None,
    )
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels[:, :, :3])
    assert codes(image) == [note]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_second_sample_of_gray_is_dropped_and_noted(tmp_path, planar):
    path = tmp_path / "a.tif"
    pixels = smooth(40, 50, 2)
    tifffile.imwrite(
        path,
        pixels if planar == "contig" else np.moveaxis(pixels, -1, 0),
        photometric="minisblack",
        planarconfig=planar,
        tile=(16, 16),
        metadata=None,
    )
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels[:, :, :1])
    assert codes(image) == ["image.samples-dropped"]


def test_old_style_jpeg_that_is_a_stream(tmp_path):
    path = tmp_path / "a.tif"
    pixels = smooth(48, 64, 3)
    stream = imagecodecs.jpeg8_encode(pixels, level=90)
    tags = page_tags(48, 64, bits=8, compression=6, photometric=6, samples=3)
    write_tiff(path, [*tags, (513, 4, [8])], bytes(stream))
    image, found = read(path)
    np.testing.assert_array_equal(found, np.asarray(Pillow.open(io.BytesIO(stream))))
    np.testing.assert_array_equal(found, tifffile.imread(path))
    assert image.codec == "tiff/jpeg"


def test_old_style_jpeg_whose_tables_lie_elsewhere(tmp_path):
    path = tmp_path / "a.tif"
    tags = page_tags(48, 64, bits=8, compression=6, photometric=6, samples=3)
    write_tiff(path, tags, b"\x12\x34" * 2000)
    problem = refusal(path)
    assert problem.code == "image.unsupported"
    assert "tables" in problem.found


@pytest.mark.parametrize("is_lossless", [False, True])
def test_webp_equals_tifffile(tmp_path, is_lossless):
    path = tmp_path / "a.tif"
    pixels = smooth(75, 101, 3)
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        compression="webp",
        compressionargs={"lossless": is_lossless},
        tile=(32, 48),
    )
    image, found = read(path)
    np.testing.assert_array_equal(found, tifffile.imread(path))
    assert np.array_equal(found, pixels) == is_lossless
    assert image.codec == "tiff/webp"


@pytest.mark.parametrize("compression", ["webp", "jpeg2000"])
def test_rgb_with_opacity_by_coders_that_know_pixels(tmp_path, compression):
    path = tmp_path / "a.tif"
    pixels = smooth(40, 50, 4)
    options = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        extrasamples=["unassalpha"],
        compression=compression,
        tile=(32, 48),
        **options,
    )
    image, found = read(path)
    np.testing.assert_array_equal(found, tifffile.imread(path)[:, :, :3])
    assert codes(image) == ["image.alpha-dropped"]
