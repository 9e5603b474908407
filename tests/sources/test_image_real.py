"""Real files: pixels as Pillow or tifffile decode them, or the error that each one is known for."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageCms

from stformat.errors import ImageError
from stformat.sources._image import open_image

# Every file of the directories below, with the code of its error or None where it is read.
KNOWN = {
    "wsi/CMU-1-Small-Region.svs": None,
    "wsi/hubmap_test_image.ome.tiff": None,
    "wsi/largeimage_grey10kx5k.tif": None,
    "wsi/largeimage_rgba_geotiff.tiff": None,
    "wsi/largeimage_small_la.tiff": None,
    "wsi/largeimage_test_orient1.tif": None,
    "wsi/largeimage_test_orient6.tif": None,
    "wsi/libvips_1bit.tif": None,
    "wsi/libvips_multi-channel-z-series.ome.tif": "image.unsupported",  # see STACKS
    "wsi/libvips_subsampled.tif": None,
    "wsi/openslide_boxes.tiff": None,
    "wsi/openslide_small.svs": None,
    "wsi/vitessce_test.ome.tif": "image.unsupported",  # see STACKS
    "imgquirks/16bit.MM.cropped.tif": None,
    "imgquirks/exif_imagemagick_orientation.png": None,
    "imgquirks/g4_orientation_6.tif": None,
    "imgquirks/hopper.Lab.tif": None,
    "imgquirks/hopper_bad_exif.jpg": None,
    "imgquirks/hopper_bigtiff.tif": None,
    "imgquirks/hopper_jpg.tif": None,
    "imgquirks/hopper_orientation_6.jpg": None,
    "imgquirks/hopper_orientation_8.jpg": None,
    "imgquirks/old-style-jpeg-compression.tif": None,
    "imgquirks/orientation_rectangle.jpg": None,
    "imgquirks/separate_planar_extra_samples.tiff": None,
    "imgquirks/tiff_16bit_RGB.tiff": None,
    "imgquirks/tiff_16bit_RGBa.tiff": None,
    "wsi_bad/openslide_unopenable.tiff": "image.unsupported",
    "wsi_bad/openslide_unreadable.svs": "image.corrupt",
    "malformed/tiff_jpeg_png/bad_palette_entry.gpl": "image.not-an-image",
    "malformed/tiff_jpeg_png/broken.png": "image.truncated",
    "malformed/tiff_jpeg_png/broken_data_stream.png": "image.corrupt",
    "malformed/tiff_jpeg_png/broken_exif_dpi.jpg": None,
    **{
        f"malformed/tiff_jpeg_png/crash-{digest}": code
        for digest, code in {
            "0da013a13571cc8eb457a39fee8db18f8a3c7127.tif": "image.corrupt",
            "1185209cf7655b5aed8ae5e77784dfdd18ab59e9.tif": "image.truncated",
            "4fb027452e6988530aa5dabee76eecacb3b79f8a.j2k": "image.not-an-image",
            "63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif": "image.corrupt",
            "74d2a78403a5a59db1fb0a2b8735ac068a75f6e3.tif": "image.corrupt",
            "ccca68ff40171fdae983d924e127a721cab2bd50.j2k": "image.not-an-image",
            "f46f5b2f43c370fe65706c11449f567ecc345e74.tif": "image.truncated",
        }.items()
    },
    "malformed/tiff_jpeg_png/libtiff_segfault.tif": "image.unsupported",
    "malformed/tiff_jpeg_png/multipage_multiple_frame_loop.tiff": "image.corrupt",
    "malformed/tiff_jpeg_png/seek_too_large.tif": "image.corrupt",
    "malformed/tiff_jpeg_png/truncated_end_chunk.png": "image.truncated",
    "her2st_B4/ST-imgs/B/B4/BT10737_D2_HE.jpg": None,
    "her2st_C2/ST-imgs/C/C2/5714_HE_BT_C2.jpg": None,
    "st_mob1/MOB1.jpg": None,
}
# Read only with options: a brightfield image has one plane, one of several focal planes is named.
STACKS = {
    "vitessce_test.ome.tif": [({}, np.s_[:])],
    "libvips_multi-channel-z-series.ome.tif": [({"focal_plane": z}, np.s_[:, z]) for z in range(5)],
}
FOLDERS = ("wsi", "imgquirks", "wsi_bad", "malformed/tiff_jpeg_png")


# tifffile does not decode these, or not the way a page is seen: black is 0, pixels are whole.
PILLOW_KNOWS = {
    "libvips_1bit.tif", "libvips_subsampled.tif", "g4_orientation_6.tif", "hopper.Lab.tif",
}  # fmt: skip


def pillow_srgb(picture):
    """Convert L*a*b* with the profiles that any file could hold, and without a coarse grid."""
    lab, srgb = (
        ImageCms.ImageCmsProfile(
            io.BytesIO(ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes())
        )
        for name in ("LAB", "sRGB")
    )
    transform = ImageCms.buildTransform(
        lab,
        srgb,
        "LAB",
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.NOOPTIMIZE,
    )
    return np.asarray(ImageCms.applyTransform(picture, transform))


def oracle(path, image):
    """Decode with tifffile where Pillow turns pixels, halves their bits or drops levels."""
    if image.codec.startswith("tiff") and path.name not in PILLOW_KNOWS:
        with tifffile.TiffFile(path) as tiff:
            pixels = tiff.pages.first.asarray()
            if tiff.pages.first.planarconfig == 2:
                pixels = np.moveaxis(pixels, 0, -1)
        if pixels.dtype.kind == "i":
            pixels = (pixels.astype(np.int64) + 2 ** (8 * pixels.itemsize - 1)).astype(np.uint8)
    elif path.name == "hopper.Lab.tif":
        with Pillow.open(path) as picture:
            pixels = pillow_srgb(picture)
    else:
        picture = Pillow.open(path)
        pixels = np.asarray(picture if picture.mode != "1" else picture.convert("L"))
        if path.name == "g4_orientation_6.tif":
            pixels = np.rot90(pixels)  # Pillow has turned it as its tag asks
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return np.moveaxis(pixels[:, :, : image.shape[0]], -1, 0)


@pytest.mark.parametrize("name", KNOWN)
def test_real_file(real_data, name, monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", None)
    path = real_data / name
    code = KNOWN[name]
    if code is not None:
        with pytest.raises(ImageError) as caught:
            list(open_image(path).iter_bands(256))
        assert caught.value.problems[0].code == code
        return
    image = open_image(path)
    expected = oracle(path, image)
    assert image.shape == expected.shape
    top = 0
    for band in image.iter_bands(1000):
        assert np.array_equal(band, expected[:, top : top + band.shape[1]])
        top += band.shape[1]
    assert top == image.shape[1]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_real_file_does_worse_than_an_image_error(real_data, folder):
    """Also those whose names are digests, and those that are added later."""
    paths = sorted(path for path in (real_data / folder).iterdir() if path.is_file())
    assert paths
    codes = []
    for path in paths:
        known = KNOWN.get(f"{folder}/{path.name}", "image.")
        try:
            list(open_image(path).iter_bands(256))
        except ImageError as error:
            codes.append((path.name, error.problems[0].code, known))
    assert all(known is not None and code.startswith(known) for _, code, known in codes), codes


@pytest.mark.parametrize("name", STACKS)
def test_real_stacks_as_fluorescence(real_data, name):
    """Both hold int8 with values below zero, the second one five focal planes of each channel."""
    path = real_data / "wsi" / name
    stack = tifffile.imread(path)
    assert stack.dtype == np.int8
    assert stack.min() < 0
    for options, chosen in STACKS[name]:
        image = open_image(path, stain="if", **options)
        pixels = np.concatenate([band.copy() for band in image.iter_bands(100)], axis=1)
        np.testing.assert_array_equal(pixels, stack[chosen].astype(np.int16) + 128)
        assert image.background == 128
        codes = [note.code for note in image.notes]
        assert codes == ["image.signed-samples", *["image.focal-plane"] * bool(options)]


def test_a_real_stack_without_a_choice_names_the_option(real_data):
    path = real_data / "wsi/libvips_multi-channel-z-series.ome.tif"
    with pytest.raises(ImageError) as caught:
        open_image(path, stain="if")
    assert "5 focal planes" in caught.value.problems[0].found
    assert "--focal-plane" in caught.value.problems[0].remedy


def test_damaged_tags_are_not_remarked_on(real_data, capfd):
    """tifffile logs hundreds of lines about this one, which nobody listens to: to stderr."""
    with pytest.raises(ImageError):
        open_image(
            real_data / "malformed/tiff_jpeg_png/crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif"
        )
    assert capfd.readouterr() == ("", "")


def test_what_real_tags_say(real_data):
    svs = open_image(real_data / "wsi/CMU-1-Small-Region.svs")
    assert svs.tag_mpp == pytest.approx(0.499)
    assert open_image(real_data / "imgquirks/hopper_orientation_6.jpg").orientation == 6
    assert open_image(real_data / "wsi/largeimage_test_orient6.tif").orientation == 6
