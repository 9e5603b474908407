from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from stformat.errors import CorruptStoreError
from stformat.store.commit import replace_store
from stformat.store.files import DirectoryFiles
from stformat.store.reader import open_slide
from stformat.store.writer import write_slide
from stformat.testing.records import make_record


@pytest.fixture
def write(tmp_path):
    def written(record):
        path = tmp_path / "slide"
        with replace_store(path) as directory:
            write_slide(record, directory)
        return path

    return written


def cells(html):
    """Rows of the inner table: name and text."""
    table = ET.fromstring(html).find(".//table")  # noqa: S314 - made here
    return [tuple("".join(cell.itertext()) for cell in row) for row in table.iter("tr")]


def picture(html):
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return imagecodecs.png_decode(base64.b64decode(data))


def test_a_notebook_shows_what_a_slide_is(write):
    record = make_record(image_px=(1500, 1101), n_obs=40, n_vars=30)
    other = replace(record.tables[0], name="antibody_capture")
    with open_slide(write(replace(record, tables=(record.tables[0], other)))) as slide:
        html = slide._repr_html_()
        shown = cells(html)
        assert ("Slide", "synthetic-0") in shown
        assert ("Image", "1101 x 1500 px; uint8; 2 levels; zstd; r, g, b") in shown
        assert ("Resolution", "mpp 0.5") in shown
        assert ("Table", "antibody_capture: 40 circles x 30 features") in shown
        assert "<b>expression:" in html
        assert "<b>antibody" in slide.table("antibody_capture")._repr_html_()
        np.testing.assert_array_equal(picture(html), slide.thumbnail(160).transpose(1, 2, 0))


def test_channels_of_fluorescence_are_shown_by_their_brightest(write):
    record = make_record(n_channels=4, pixel_dtype=np.uint16, image_px=(90, 80), mpp=None)
    with open_slide(write(record)) as slide:
        html = slide._repr_html_()
        assert ("Resolution", "mpp unknown") in cells(html)
        shown, brightest = picture(html), slide.thumbnail(160).max(axis=0)
        assert shown.max() == 255
        np.testing.assert_allclose(shown, brightest * (255 / brightest.max()), atol=0.5)


def test_text_of_the_source_is_text_in_html(write):
    record = replace(make_record(image_px=None), slide_id="<script>alert(1)</script>")
    with open_slide(write(record)) as slide:
        html = slide._repr_html_()
        assert "<script" not in html
        assert "<img" not in html
        assert ("Slide", "<script>alert(1)</script>") in cells(html)


def test_text_reads_nothing_but_metadata(write, monkeypatch):
    path = write(make_record())
    read = []
    for name in [name for name in vars(DirectoryFiles) if name.startswith("read")]:
        original = getattr(DirectoryFiles, name)

        def spy(self, path, *args, _original=original, **kwargs):
            read.append(path)
            return _original(self, path, *args, **kwargs)

        monkeypatch.setattr(DirectoryFiles, name, spy)
    with open_slide(path) as slide:
        assert "*expression" in repr(slide)
    assert all(file.endswith(".json") for file in read)


def test_a_damaged_image_is_said_and_not_hidden(write):
    path = write(make_record())
    shard = path / "images/he/s0/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with open_slide(path) as slide:
        assert "700" in repr(slide)
        with pytest.raises(CorruptStoreError):
            slide._repr_html_()
