"""Tags that share their content cannot make a small file take much memory."""

import io
import os
import struct

import numpy as np
import pytest
import tifffile

from stformat.errors import ImageError
from stformat.sources import _image_tiff_directories as directories
from stformat.sources._image import open_image

FORMATS = [("<", False), (">", False), ("<", True), (">", True)]


def tiff_of(pages, order="<", *, is_big=False):
    """Write directories of (tag, type, count, value) in a chain."""
    n_tags, tag, offset = ("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I")
    magic = b"II" if order == "<" else b"MM"
    head = (
        magic + struct.pack(f"{order}HHH", 43, 8, 0)
        if is_big
        else magic + struct.pack(f"{order}H", 42)
    )
    content = bytearray(head)
    for tags in pages:
        start = len(content) + struct.calcsize(order + offset)
        content += struct.pack(order + offset, start)
        content += struct.pack(order + n_tags, len(tags))
        for entry in tags:
            content += struct.pack(order + tag, *entry)
    return bytes(content + struct.pack(order + offset, 0))


def problem_of(path):
    with pytest.raises(ImageError) as caught:
        open_image(path, stain="if")
    return caught.value.problems[0]


@pytest.mark.parametrize(("order", "is_big"), FORMATS)
@pytest.mark.parametrize(
    ("kind", "found"), [(4, 3 * 2**23), (3, 3 * 2**23), (5, 2 * 2**24), (7, 33 * 2**23)]
)
def test_pages_that_share_a_tag(tmp_path, order, is_big, kind, found):
    count = 2**23
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_of([[(273, kind, count, 8)]] * 900, order, is_big=is_big))
    os.truncate(path, 2**28)
    problem = problem_of(path)
    assert problem.code == "image.too-large"
    assert problem.found == str(found)


def test_one_tag_of_a_sparse_file(tmp_path):
    path = tmp_path / "a.tif"
    with path.open("wb") as stream:
        stream.write(tiff_of([[(273, 4, 2**32 - 1, 8)]]))
        stream.truncate(2**35)
    assert problem_of(path).found == str(2**32 - 1)


def test_tags_of_exif_count(tmp_path):
    path = tmp_path / "a.tif"
    content = tiff_of([[(256, 3, 1, 8), (34665, 4, 1, 100)]]).ljust(100, b"\0")
    path.write_bytes(content + struct.pack("<HHHII", 1, 37500, 4, 2**25, 8) + bytes(4))
    os.truncate(path, 2**28)
    assert problem_of(path).found == str(2**25 + 2)


def test_exif_that_points_to_itself(tmp_path):
    path = tmp_path / "a.tif"
    content = tiff_of([[(34665, 4, 1, 100)]]).ljust(100, b"\0")
    path.write_bytes(content + struct.pack("<HHHII", 1, 34665, 4, 1, 100) + bytes(4))
    assert problem_of(path).code == "image.too-large"


@pytest.mark.parametrize(("order", "is_big"), FORMATS)
def test_what_is_counted(tmp_path, monkeypatch, order, is_big):
    """As many numbers as the parser makes of the same file."""
    path = tmp_path / "a.tif"
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=order, bigtiff=is_big) as tiff:
        for _ in range(3):
            tiff.write(np.zeros((40, 50), np.uint8), rowsperstrip=1, metadata=None)
    path.write_bytes(buffer.getvalue())
    with tifffile.TiffFile(path) as tiff:
        n_numbers = sum(
            tag.count * (2 if tag.dtype in {5, 10} else 1)
            for page in tiff.pages
            for tag in page.tags
            if tag.dtype not in {1, 2, 6, 7}
        )
    monkeypatch.setattr(directories, "_MAX_NUMBERS", n_numbers)
    open_image(path, stain="if")
    monkeypatch.setattr(directories, "_MAX_NUMBERS", n_numbers - 1)
    assert problem_of(path).found == str(n_numbers)
