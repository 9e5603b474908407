"""Fluorescence: pages, samples and OME-XML become channels in the right order, or are refused."""

import io
import logging
import sys
import threading

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from stformat.errors import ImageError
from stformat.sources import _image_planes
from stformat.sources._image import open_image
from stformat.sources._image_ome import parse_ome
from stformat.sources._image_planes import unique_names
from stformat.sources._image_tiff import _without_log_lines

OME = (
    '<OME UUID="urn:uuid:1"><Image><Pixels DimensionOrder="XYCZT" Type="uint16" SizeX="50" '
    'SizeY="40" SizeZ="{z}" SizeC="{c}" SizeT="{t}">{inner}</Pixels></Image>{more}</OME>'
)


def planes(n, dtype=np.uint16):
    return np.random.default_rng(n).integers(0, 200, (n, 40, 50)).astype(dtype)


def write_pages(path, pixels, description=None, **options):
    """Write one page a plane, without a word of tifffile's own."""
    with tifffile.TiffWriter(path) as tiff:
        for index, plane in enumerate(pixels):
            tiff.write(
                plane,
                photometric="minisblack",
                description=description if index == 0 else None,
                metadata=None,
                **options,
            )


def ome(inner="", *, c=3, z=1, t=1, more=""):
    return OME.format(inner=inner, c=c, z=z, t=t, more=more)


def read(path):
    image = open_image(path, stain="if")
    pixels, whole = (
        np.concatenate([band.copy() for band in image.iter_bands(height)], axis=1)
        for height in (7, 100)
    )
    np.testing.assert_array_equal(pixels, whole)
    return image, pixels


def problem_of(path, stain="if"):
    with pytest.raises(ImageError) as caught:
        open_image(path, stain=stain)
    return caught.value.problems[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib", "tile": (16, 32)}, {"compression": "lzw", "rowsperstrip": 9}],
)
def test_pages_are_channels(tmp_path, dtype, options):
    path = tmp_path / "a.tif"
    pixels = planes(4, dtype)
    write_pages(path, pixels, **options)
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels)
    assert image.dtype == dtype
    assert image.channel_names == ("ch0", "ch1", "ch2", "ch3")
    assert image.background == 0


def test_pages_of_jpeg_have_tables_of_their_own(tmp_path):
    path = tmp_path / "a.tif"
    expected = []
    with tifffile.TiffWriter(path) as tiff:
        for index, (plane, quality) in enumerate(zip(planes(2, np.uint8), (95, 20), strict=True)):
            one = tmp_path / f"{index}.tif"
            Pillow.fromarray(plane).save(one, compression="jpeg", quality=quality)
            expected.append(tifffile.imread(one))
            with tifffile.TiffFile(one) as written:
                page = written.pages.first
                tables = page.jpegtables
                (start,), (length,) = page.dataoffsets, page.databytecounts
            tiff.write(
                iter([one.read_bytes()[start : start + length]]),
                shape=(40, 50), dtype=np.uint8, photometric="minisblack", compression="jpeg",
                jpegtables=tables, metadata=None, rowsperstrip=40,
            )  # fmt: skip
    np.testing.assert_array_equal(read(path)[1], expected)


def test_page_names_are_channel_names(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for plane, name in zip(planes(3), ("DAPI", "", "CD45"), strict=True):
            tags = [(285, "s", 0, name, True)] if name else []
            tiff.write(plane, photometric="minisblack", metadata=None, extratags=tags)
    assert read(path)[0].channel_names == ("DAPI", "ch1", "CD45")


def test_brightfield_asks_for_the_stain(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, planes(3))
    problem = problem_of(path, "he")
    assert problem.code == "image.unsupported"
    assert "--stain if" in problem.remedy
    write_pages(path, planes(3), ome())
    assert "--stain if" in problem_of(path, "he").remedy


def test_ome_tiff_of_tifffile(tmp_path):
    path = tmp_path / "a.ome.tif"
    pixels = planes(3)
    names = ["DAPI", "CD3", "CD45"]
    tifffile.imwrite(
        path,
        pixels,
        photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": names}, "PhysicalSizeX": 0.5},
    )
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels)
    assert image.channel_names == tuple(names)
    assert image.tag_mpp == pytest.approx(0.5)


def test_ome_pyramid_in_sub_ifds_is_read_at_full_resolution(tmp_path):
    path = tmp_path / "a.ome.tif"
    pixels = planes(3)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
        tiff.write(pixels, subifds=1, metadata={"axes": "CYX"}, **options)
        tiff.write(pixels[:, ::2, ::2], subfiletype=1, **options)
    np.testing.assert_array_equal(read(path)[1], pixels)


def test_pyramid_of_pages(tmp_path):
    """As QPTIFF has it: all channels of a level, then those of the next, and a thumbnail."""
    path = tmp_path / "a.tif"
    pixels = planes(3)
    with tifffile.TiffWriter(path) as tiff:
        for level in (pixels, pixels[:, ::2, ::2], pixels[:, ::4, ::4]):
            for plane in level:
                tiff.write(plane, photometric="minisblack", metadata=None)
        tiff.write(np.zeros((10, 10, 3), np.uint8), photometric="rgb", metadata=None)
    np.testing.assert_array_equal(read(path)[1], pixels)


def test_ome_xml_says_which_page_is_which_channel(tmp_path):
    path = tmp_path / "a.tif"
    pixels = planes(3)
    blocks = "".join(f'<Channel Name="{name}"/>' for name in ("DAPI", "CD3", "CD45")) + "".join(
        f'<TiffData FirstC="{channel}" IFD="{page}"/>' for channel, page in ((0, 2), (1, 0), (2, 1))
    )
    write_pages(path, pixels, ome(blocks))
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels[[2, 0, 1]])
    assert image.channel_names == ("DAPI", "CD3", "CD45")


@pytest.mark.parametrize(
    ("blocks", "order"),
    [
        ("", [0, 1, 2]),
        ("<TiffData/>", [0, 1, 2]),
        ('<TiffData IFD="0" PlaneCount="3"/>', [0, 1, 2]),
        ('<TiffData FirstC="1" IFD="0" PlaneCount="2"/><TiffData IFD="2"/>', [2, 0, 1]),
        ('<TiffData><UUID FileName="b.tif">urn:uuid:1</UUID></TiffData>', [0, 1, 2]),
    ],
)
def test_ways_to_name_pages(tmp_path, blocks, order):
    path = tmp_path / "a.tif"
    pixels = planes(3)
    write_pages(path, pixels, ome(blocks))
    np.testing.assert_array_equal(read(path)[1], pixels[order])


@pytest.mark.parametrize(
    ("description", "code", "found"),
    [
        (ome(z=3, c=1), "image.unsupported", "3 focal planes"),
        (ome(t=3, c=1), "image.unsupported", "3 time points"),
        (ome('<TiffData IFD="0"/>'), "image.corrupt", "1 of 3 channels"),
        (ome('<TiffData FirstC="5" IFD="0"/>'), "image.corrupt", "plane 5 of 3"),
        (ome('<TiffData FirstC="x" IFD="0"/>'), "image.corrupt", "FirstC='x'"),
        (ome('<TiffData/><TiffData FirstC="0" IFD="2"/>'), "image.corrupt", "two pages"),
        (ome('<TiffData IFD="1" PlaneCount="3"/>'), "image.truncated", "3 pages"),
        (ome(c=5), "image.truncated", "3 pages"),
        (ome(c=2), "image.unsupported", "not written alike"),
        (ome(c=1), "image.unsupported", "not written alike"),
        (ome(c=4000), "image.unsupported", "4000"),
        (ome('<Channel SamplesPerPixel="3"/>'), "image.unsupported", "more than one sample"),
        (
            ome('<TiffData><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>'),
            "image.unsupported",
            "other files",
        ),
        (
            ome(
                '<TiffData FirstC="0" IFD="0"><UUID>urn:uuid:2</UUID></TiffData>'
                '<TiffData FirstC="1" IFD="0"><UUID>urn:uuid:3</UUID></TiffData>'
                '<TiffData FirstC="2" IFD="0"><UUID>urn:uuid:4</UUID></TiffData>'
            ).replace(' UUID="urn:uuid:1"', ""),
            "image.unsupported",
            "other files",
        ),
        (ome('<TiffData IFD="0"/>' * 5000), "image.corrupt", "5000 of them"),
        (ome('<TiffData FirstZ="1" IFD="0"/>'), "image.corrupt", "plane 3 of 3"),
        (
            ome(
                more='<Image><Pixels SizeX="50" SizeY="40" SizeZ="1" SizeC="1" SizeT="1"/></Image>'
            ),
            "image.unsupported",
            "2 images of the same size",
        ),
    ],
)
def test_stacks_that_are_refused(tmp_path, description, code, found):
    path = tmp_path / "a.tif"
    write_pages(path, planes(3), description)
    problem = problem_of(path)
    assert problem.code == code
    assert found in problem.found


@pytest.mark.parametrize(
    "text",
    [
        "<OME",
        "no xml at all OME>",
        "<OME><Image></OME>",
        ome().replace('SizeC="3"', 'SizeC="-1"'),
        ome().replace('SizeC="3"', 'SizeC="1' + "0" * 30 + '"'),
        '<!DOCTYPE OME [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]>' + ome("&b;"),
    ],
)
def test_what_is_no_ome_xml(text):
    assert parse_ome(text) is None


def test_ome_xml_with_prefixes_and_other_names():
    text = ome('<Channel Fluor="Cy5"/><Channel/><Channel Name=" "/>').replace("<", "<OME:")
    (image,) = parse_ome(
        text.replace("<OME:/", "</OME:").replace("<OME:OME ", '<OME:OME xmlns:OME="u" ')
    )
    assert image.channel_names == ["Cy5", "", ""]
    assert image.sizes["SizeC"] == 3


def test_one_page_of_an_ome_tiff_is_an_image_of_any_stain(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, planes(1), ome('<Channel Name="DAPI"/>', c=1))
    assert read(path)[0].channel_names == ("DAPI",)
    assert open_image(path).shape == (1, 40, 50)


def test_planes_in_other_files_are_missed(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, planes(1), ome(c=3))
    assert "--stain if" in problem_of(path, "he").remedy
    assert problem_of(path).code == "image.truncated"


@pytest.mark.parametrize("axes", ["CYX", "ZYX", "TYX"])
def test_imagej(tmp_path, axes):
    path = tmp_path / "a.tif"
    pixels = planes(3)
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": axes})
    if axes == "CYX":
        np.testing.assert_array_equal(read(path)[1], pixels)
    else:
        assert "several planes" in problem_of(path).found


def test_planes_behind_one_page(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, planes(1), "ImageJ=1.53t\nimages=5\nchannels=5\n")
    assert "4 of them without a page" in problem_of(path).found


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (16, 16)}])
def test_samples_of_gray_are_channels(tmp_path, planar, options):
    path = tmp_path / "a.tif"
    pixels = planes(5)
    tifffile.imwrite(
        path,
        pixels if planar == "separate" else np.moveaxis(pixels, 0, -1),
        photometric="minisblack",
        planarconfig=planar,
        metadata=None,
        **options,
    )
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels)
    assert image.channel_names == ("ch0", "ch1", "ch2", "ch3", "ch4")
    assert "--stain if" in problem_of(path, "he").remedy


def test_opacity_is_no_channel(tmp_path):
    path = tmp_path / "a.tif"
    pixels = planes(3)
    kinds = ["unspecified", "unassalpha"]
    tifffile.imwrite(
        path, pixels, photometric="minisblack", planarconfig="separate", extrasamples=kinds,
        metadata=None,
    )  # fmt: skip
    image, found = read(path)
    np.testing.assert_array_equal(found, pixels[:2])
    assert [note.code for note in image.notes] == ["image.alpha-dropped"]
    tifffile.imwrite(
        path, pixels, photometric="minisblack", planarconfig="separate", extrasamples=kinds[::-1],
        metadata=None,
    )  # fmt: skip
    assert "opacity" in problem_of(path).found


def test_too_many_channels(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    write_pages(path, planes(3))
    monkeypatch.setattr(_image_planes, "MAX_CHANNELS", 2)
    assert problem_of(path).code == "image.unsupported"


def test_pages_of_rgb_are_no_channels(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(2):
            tiff.write(np.zeros((40, 50, 3), np.uint8), photometric="rgb", metadata=None)
    assert "several planes" in problem_of(path).found


def test_pages_that_go_in_a_circle(tmp_path):
    buffer = io.BytesIO()
    write_pages(buffer, planes(2))
    content = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        first, second = (page.offset for page in tiff.pages)
        n_tags = len(tiff.pages[1].tags)
    end = second + 2 + 12 * n_tags
    content[end : end + 4] = first.to_bytes(4, "little")
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert "circle" in problem_of(path).found


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("DAPI", "CD3"), ("DAPI", "CD3")),
        (("", ""), ("ch0", "ch1")),
        (("a", "a"), ("a (0)", "a (1)")),
        (("ch1", ""), ("ch1 (0)", "ch1 (1)")),
        (("DAPI\0\n", "x" * 500), ("DAPI", "x" * 100)),
        (("only one",), ("ch0", "ch1")),
        (("a", "a", "a (0)"), ("a (0)", "a (1)", "a (0) (2)")),
        (("a (1)", "a", "a"), ("a (1) (0)", "a (1)", "a (2)")),
    ],
)
def test_names_are_unique_and_printable(names, expected):
    assert unique_names(names, max(2, len(names))) == expected


@given(st.lists(st.sampled_from(["", "a", "b", "ch0", "ch1", "a (0)", "a (1)", "a (0) (1)"])))
def test_no_two_channels_have_one_name(names):
    assert len(set(unique_names(tuple(names), len(names)))) == len(names)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([(65420, "I", 1, 1, True), (271, "s", 0, "Hamamatsu", True)], "NDPI"),
        ([(700, "B", 4, b"<iSc", True), (305, "s", 0, "ScanOutputManager 1", True)], "BIF"),
    ],
)
def test_slides_that_look_like_tiff(tmp_path, monkeypatch, tags, found):
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((16, 16), np.uint8), metadata=None, software=False, extratags=tags
    )
    problem = problem_of(path)
    assert found in problem.found
    assert problem.code == "image.slide-format"
    assert "vips" in problem.remedy


def test_only_remarks_of_this_call_are_kept_quiet(caplog):
    """Another thread that reads TIFF meanwhile has its records, and so has the time after."""
    logger = logging.getLogger("tifffile")
    before = list(logger.filters)
    with caplog.at_level(logging.WARNING, "tifffile"):
        with _without_log_lines():
            logger.warning("ours")
            other = threading.Thread(target=logger.warning, args=("theirs",))
            other.start()
            other.join()
        logger.warning("later")
    assert [record.message for record in caplog.records] == ["theirs", "later"]
    assert logger.filters == before
