"""Of several focal planes one is read where it is named, none where it is not."""

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from typer.testing import CliRunner

from stformat import convert_slide, open_slide
from stformat.cli import app
from stformat.errors import ImageError, InputError
from stformat.sources import read_slide
from stformat.sources._image import open_image
from stformat.store.record_key import record_key
from stformat.testing import make_slide, write_legacy_st

N_FOCAL, N_CHANNELS = 4, 3
OME = (
    '<OME><Image><Pixels DimensionOrder="{order}" SizeX="50" SizeY="40" SizeZ="{z}" SizeC="{c}" '
    'SizeT="{t}">{inner}</Pixels></Image></OME>'
)


def stack(dtype=np.uint8):
    """Axes focal plane, channel, y, x."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (N_FOCAL, N_CHANNELS, 40, 50)).astype(dtype)


def write(path, pages, description, **options):
    with tifffile.TiffWriter(path) as tiff:
        for index, page in enumerate(pages):
            tiff.write(
                page,
                photometric="rgb" if page.ndim == 3 else "minisblack",
                description=description if index == 0 else None,
                metadata=None,
                **options,
            )


def ome(order, inner="", *, z=N_FOCAL, c=N_CHANNELS, t=1):
    return OME.format(order=order, inner=inner, z=z, c=c, t=t)


def read(path, focal_plane, stain="if"):
    image = open_image(path, stain=stain, focal_plane=focal_plane)
    return image, np.concatenate([band.copy() for band in image.iter_bands(9)], axis=1)


def problem_of(path, focal_plane=None, stain="if"):
    with pytest.raises(ImageError) as caught:
        open_image(path, stain=stain, focal_plane=focal_plane)
    return caught.value.problems[0]


def assert_each_is_read(path, pixels):
    for index in range(N_FOCAL):
        image, found = read(path, index)
        np.testing.assert_array_equal(found, pixels[index])
        (note,) = image.notes
        assert note.code == "image.focal-plane"
        assert note.count == N_FOCAL - 1
        assert f"{N_FOCAL} focal planes; number {index}," in note.message


@pytest.mark.parametrize("order", ["XYCZT", "XYZCT", "XYZTC", "XYTCZ"])
@pytest.mark.parametrize("inner", ["", "<TiffData/>"])
def test_ome_in_both_orders(tmp_path, order, inner):
    path = tmp_path / "a.tif"
    pixels = stack()
    is_focus_first = order.index("Z") < order.index("C")
    pages = (pixels.swapaxes(0, 1) if is_focus_first else pixels).reshape(-1, 40, 50)
    write(path, pages, ome(order, inner))
    assert_each_is_read(path, pixels)


@pytest.mark.parametrize("order", ["XYCZT", "XYZCT"])
def test_ome_that_names_every_page(tmp_path, order):
    path = tmp_path / "a.tif"
    pixels = stack()
    places = [(z, c) for z in range(N_FOCAL) for c in range(N_CHANNELS)]
    np.random.default_rng(1).shuffle(places)
    inner = "".join(
        f'<TiffData IFD="{page}" FirstZ="{z}" FirstC="{c}" FirstT="0" PlaneCount="1"/>'
        for page, (z, c) in enumerate(places)
    )
    write(path, [pixels[z, c] for z, c in places], ome(order, inner))
    assert_each_is_read(path, pixels)


def test_ome_with_blocks_of_planes(tmp_path):
    """Blocks go on in the order of dimensions: here from one focal plane into the next."""
    path = tmp_path / "a.tif"
    pixels = stack()
    pages = pixels.reshape(-1, 40, 50)
    inner = (
        '<TiffData IFD="0" FirstZ="1" FirstC="2" PlaneCount="7"/><TiffData IFD="7" PlaneCount="5"/>'
    )
    write(path, np.roll(pages, -5, axis=0), ome("XYCZT", inner))
    assert_each_is_read(path, pixels)


@pytest.mark.parametrize("kind", ["ome", "imagej"])
@pytest.mark.parametrize("stain", ["he", "if"])
def test_focal_planes_of_rgb(tmp_path, kind, stain):
    path = tmp_path / "a.tif"
    pixels = np.moveaxis(stack(), 1, -1)
    if kind == "ome":
        channel = '<Channel SamplesPerPixel="3"/>'
        write(path, pixels, ome("XYCZT", channel), tile=(16, 16), compression="zlib")
    else:
        tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "ZYXS"})
    for index in range(N_FOCAL):
        image, found = read(path, index, stain)
        assert image.channel_names == ("r", "g", "b")
        np.testing.assert_array_equal(np.moveaxis(found, 0, -1), pixels[index])
    assert f"{N_FOCAL} focal planes" in problem_of(path, stain=stain).found


def test_imagej_hyperstack(tmp_path):
    path = tmp_path / "a.tif"
    pixels = stack(np.uint16)
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "ZCYX"})
    assert_each_is_read(path, pixels)


def test_imagej_stack_of_another_size(tmp_path):
    path = tmp_path / "a.tif"
    pages = stack().reshape(-1, 40, 50)
    write(path, pages, "ImageJ=1.54f\nimages=12\nchannels=2\nslices=4\n")
    assert "12 pages" in problem_of(path, 0).found


@pytest.mark.parametrize("stain", ["he", "if"])
def test_without_a_choice_the_error_names_it(tmp_path, stain):
    path = tmp_path / "a.tif"
    write(path, stack()[:, 0], ome("XYCZT", c=1))
    problem = problem_of(path, stain=stain)
    assert problem.code == "image.unsupported"
    assert "several planes" in problem.found
    assert "--focal-plane" in problem.remedy
    assert "maximum projection" in problem.remedy


@pytest.mark.parametrize("chosen", [-1, N_FOCAL, 10**9])
def test_there_is_no_such_focal_plane(tmp_path, chosen):
    path = tmp_path / "a.tif"
    write(path, stack()[:, 0], ome("XYCZT", c=1))
    problem = problem_of(path, chosen)
    assert problem.code == "image.focal-plane"
    assert problem.found == f"focal plane {chosen}"


def test_channels_of_brightfield_are_refused_in_any_focal_plane(tmp_path):
    path = tmp_path / "a.tif"
    write(path, stack().reshape(-1, 40, 50), ome("XYCZT"))
    assert "several planes of the same size: 3" in problem_of(path, 0, "he").found


@pytest.mark.parametrize("description", [ome("XYCZT", t=2), "ImageJ=1.5\nslices=4\nframes=2\n"])
def test_time_points_are_refused_with_any_focal_plane(tmp_path, description):
    path = tmp_path / "a.tif"
    write(path, stack().reshape(-1, 40, 50), description)
    assert "2 time points" in problem_of(path, 0).found


@pytest.mark.parametrize(
    ("z", "found"), [(5, "12 pages"), (3, "not written alike"), (10**9 - 1, "12 pages")]
)
def test_ome_that_promises_other_planes_than_there_are(tmp_path, z, found):
    path = tmp_path / "a.tif"
    write(path, stack().reshape(-1, 40, 50), ome("XYCZT", z=z))
    assert found in problem_of(path, 0).found


@pytest.mark.parametrize("kind", ["tif", "png", "jpg"])
def test_an_image_of_one_focal_plane(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, stack()[0, 0], metadata=None)
    else:
        Pillow.fromarray(stack()[0, 0]).save(path)
    image, _ = read(path, 0)
    assert image.notes == ()
    assert problem_of(path, 1).code == "image.focal-plane"


def test_pages_that_nothing_calls_focal_planes_stay_channels(tmp_path):
    path = tmp_path / "a.tif"
    write(path, stack()[0], None)
    assert read(path, 0)[1].shape == (3, 40, 50)
    assert problem_of(path, 1).code == "image.focal-plane"


@pytest.fixture
def source(tmp_path):
    """A sample, and an image of several focal planes for it."""
    slide = make_slide(height=300, width=300, n_genes=5, pitch_px=60.0, seed=0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (N_FOCAL, 300, 300, 3), np.uint8)
    image = tmp_path / "focus.tif"
    write(image, pixels, ome("XYCZT").replace('SizeX="50" SizeY="40"', 'SizeX="300" SizeY="300"'))
    return write_legacy_st(slide, tmp_path / "source"), image, pixels


def test_a_slide_is_converted_in_one_focal_plane(tmp_path, source):
    folder, image, pixels = source
    path = convert_slide(folder, tmp_path / "slide.zarr", image=image, focal_plane=2)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(np.moveaxis(slide.image.values, 0, -1), pixels[2])
        assert "image.focal-plane" in {note.code for note in slide.metadata.notes}


def test_an_interrupted_conversion_of_another_focal_plane_is_not_continued(source):
    """The digest is what `resume` compares."""
    folder, image, _ = source
    digests = {
        record_key(read_slide(folder, image=image, options={"focal_plane": index})).text()
        for index in range(N_FOCAL)
    }
    assert len(digests) == N_FOCAL


@pytest.mark.parametrize("value", ["2", 1.0, [1]])
def test_a_focal_plane_is_a_whole_number(source, value):
    folder, image, _ = source
    with pytest.raises(InputError) as caught:
        read_slide(folder, image=image, options={"focal_plane": value})
    assert caught.value.problems[0].code == "option.number"


def test_the_command_line_takes_it(tmp_path, source):
    folder, image, _ = source
    arguments = ["convert", folder, tmp_path / "a.zarr", "--image", image, "--focal-plane", "9"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert isinstance(result.exception, ImageError)
    assert result.exception.problems[0].found == "focal plane 9"
    assert not (tmp_path / "a.zarr").exists()
