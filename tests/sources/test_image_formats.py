"""What is no image that is read is called by its name, with something to do about it."""

import io
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from stformat.errors import ImageError
from stformat.sources._image import open_image


@pytest.fixture(autouse=True)
def _no_openslide(monkeypatch):
    """Slides are refused here as they are where OpenSlide is not installed."""
    monkeypatch.setitem(sys.modules, "openslide", None)


def problem_of(path):
    with pytest.raises(ImageError) as caught:
        open_image(path)
    return caught.value.problems[0]


def picture(kind):
    buffer = io.BytesIO()
    Pillow.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("BMP", "a BMP image"),
        ("GIF", "a GIF image"),
        ("WEBP", "a WebP image"),
        ("JPEG2000", "a JPEG 2000 image"),
        ("AVIF", "an AVIF image"),
    ],
)
def test_images_of_other_formats(tmp_path, kind, found):
    path = tmp_path / "slide.png"
    path.write_bytes(picture(kind))
    problem = problem_of(path)
    assert (problem.code, problem.found) == ("image.not-an-image", found)
    assert "TIFF" in problem.remedy


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (b"ZISRAWFILE" + bytes(200), "CZI", "TIFF"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM", "TIFF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "ZVI", "TIFF"),
        (b"[Virtual Microscope Specimen]\r\n", "VMS", "TIFF"),
        (b"\xff\x0a\x00", "JPEG XL", "TIFF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS", "git lfs pull"),
        (b"\x1f\x8b\x08", "gzip", "unpack"),
        (b"<html>404</html>", "HTML", "download"),
    ],
)
def test_what_to_do(tmp_path, content, found, remedy):
    path = tmp_path / "slide.tif"
    path.write_bytes(content)
    problem = problem_of(path)
    assert found in problem.found
    assert remedy in problem.remedy


def test_a_thumbnail_does_not_pass_for_its_slide(tmp_path):
    path = tmp_path / "slide.mrxs"
    path.write_bytes(picture("JPEG"))
    assert open_image(path).shape == (3, 16, 16)
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "Slidedat.ini").write_text("[GENERAL]\n")
    assert "MRXS" in problem_of(path).found


def test_an_overview_does_not_pass_for_its_slide(tmp_path):
    path = tmp_path / "slide.vsi"
    path.write_bytes(picture("TIFF"))
    assert open_image(path).shape == (3, 16, 16)
    (tmp_path / "_slide_" / "stack1").mkdir(parents=True)
    assert "VSI" in problem_of(path).found
