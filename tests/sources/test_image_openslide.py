"""Slides that only OpenSlide reads: its pixels, or an error that says how to get them."""

import sys

import numpy as np
import pytest
from PIL import Image as PillowImage

from stformat.errors import ImageError
from stformat.sources import _image_openslide
from stformat.sources._image import open_image

INDEX = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=1
NoJpegRows=1
ImageFile=image.jpg
MapFile=map.jpg
PhysicalWidth={width}
PhysicalHeight={height}
SourceLens=20
"""


@pytest.fixture
def slide(tmp_path):
    """A Hamamatsu VMS slide of half a micron per pixel, and its pixels as Pillow decodes them."""
    small = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    pixels = small.repeat(16, axis=0).repeat(16, axis=1)
    options = {"quality": 90, "subsampling": 0}
    # Restart markers divide every row alike: OpenSlide finds its tiles by them.
    PillowImage.fromarray(pixels).save(tmp_path / "image.jpg", restart_marker_blocks=16, **options)
    PillowImage.fromarray(small).save(tmp_path / "map.jpg", restart_marker_rows=1, **options)
    path = tmp_path / "slide.vms"
    path.write_text(INDEX.format(width=1024 * 500, height=640 * 500))
    decoded = np.asarray(PillowImage.open(tmp_path / "image.jpg")).transpose(2, 0, 1)
    return path, decoded


@pytest.mark.parametrize("height", [1, 100, 640, 1000])
def test_pixels_are_those_of_the_slide(slide, monkeypatch, height):
    path, expected = slide
    monkeypatch.setattr(_image_openslide, "_TILE_PX", 300)
    if height == 1:
        expected = expected[:, :3]
    image = open_image(path)
    assert image.shape == (3, 640, 1024)
    assert (image.codec, image.tag_mpp, image.background) == ("openslide/hamamatsu", 0.5, 255)
    bands = []
    for band in image.iter_bands(height):
        bands.append(band.copy())
        if height == 1 and len(bands) == 3:
            break
    np.testing.assert_array_equal(np.concatenate(bands, axis=1), expected)


def test_the_note_says_what_read_it_and_what_was_read(slide):
    path, _ = slide
    [note] = open_image(path).notes
    assert note.code == "image.by-openslide"
    assert "hamamatsu slide, read by OpenSlide 4" in note.message
    PillowImage.new("RGB", (64, 40)).save(path.parent / "map.jpg", restart_marker_rows=1)
    [other] = open_image(path).notes
    assert other.message != note.message


def test_places_that_were_not_scanned_are_white():
    pixels = np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [0, 100, 200, 51]]], np.uint8)
    laid = _image_openslide._on_white(pixels)
    assert laid.tolist() == [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]]
    np.testing.assert_array_equal(_image_openslide._on_white(pixels[:, :1]), pixels[:, :1, :3])


def problem_of(path, **options):
    with pytest.raises(ImageError) as caught:
        for _ in open_image(path, **options).iter_bands(256):
            pass
    [problem] = caught.value.problems
    return problem


def test_without_openslide_the_refusal_names_it(slide, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    problem = problem_of(slide[0])
    assert problem.code == "image.slide-format"
    assert "VMS" in problem.found
    assert "stformat[openslide]" in problem.remedy


def test_what_openslide_does_not_read_is_refused(tmp_path):
    path = tmp_path / "slide.zvi"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(200))
    assert problem_of(path).code == "image.slide-format"


def test_a_damaged_slide_is_refused(slide):
    path, _ = slide
    (path.parent / "image.jpg").unlink()
    problem = problem_of(path)
    assert problem.code == "image.corrupt"
    assert "all the files" in problem.remedy


def test_a_slide_cut_short_is_refused_when_it_is_read(slide):
    path, _ = slide
    image = path.parent / "image.jpg"
    image.write_bytes(image.read_bytes()[:20_000])
    assert problem_of(path).code == "image.corrupt"


def test_limits_hold(slide):
    path, _ = slide
    assert problem_of(path, max_pixels=1000).code == "image.too-large"
    assert problem_of(path, stain="if").code == "image.unsupported"
    assert "focal plane" in str(problem_of(path, focal_plane=1))


def test_plain_images_are_never_given_to_openslide(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = tmp_path / "slide.jpg"
    PillowImage.new("RGB", (16, 16)).save(path)
    assert open_image(path).codec == "jpeg"
