"""A store is as whole, as resumable and as readable under each codec of its image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import spatialdata
import zarr

from stformat.check.slide import check_store
from stformat.convert import convert_slide
from stformat.errors import (
    CorruptStoreError,
    ImageCodecWarning,
    InputError,
    StoreChangedWarning,
)
from stformat.kernels import downsample_2x2
from stformat.metadata.strict_json import dump_canonical, parse_object
from stformat.metadata.zarr_codecs import blosc_codecs
from stformat.store.commit import add_element, replace_store, seal_store
from stformat.store.image_codecs import IMAGE_CODECS
from stformat.store.image_writer import write_pyramid
from stformat.store.nodes import consolidate, write_document
from stformat.store.reader import open_slide
from stformat.store.verify import verify_store
from stformat.store.writer import resume_slide, write_slide
from stformat.testing.records import make_image, make_record

LOSSLESS = ["zstd", "blosc"]


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".journal.json"
    }


def record():
    return make_record(n_obs=30, image_px=(1100, 1300))


def pixels_of(record):
    return np.concatenate(list(record.image.iter_bands(512)), axis=1)


@pytest.fixture(scope="module", params=list(IMAGE_CODECS))
def codec(request):
    return IMAGE_CODECS[request.param]


@pytest.fixture(scope="module")
def committed(codec, tmp_path_factory):
    """A store; tests only read it."""
    target = tmp_path_factory.mktemp(codec.name) / "slide.zarr"
    with replace_store(target) as directory:
        write_slide(record(), directory, codec=codec)
    return target


@pytest.fixture
def store(committed, tmp_path):
    """A store that a test may change."""
    return Path(shutil.copytree(committed, tmp_path / "slide.zarr"))


def test_it_is_whole(committed):
    assert verify_store(committed, deep=True) == []


def test_every_tool_reads_the_same_pixels(committed, codec):
    pixels = pixels_of(record())
    with open_slide(committed) as slide:
        assert {level.codec for level in slide.levels} == {codec.name}
        for level in slide.levels:
            own = slide.read_region(level.level, 0, 0, level.height, level.width)
            plain = zarr.open_array(committed / f"images/he/s{level.level}", mode="r")
            np.testing.assert_array_equal(own, plain[...])
        top = slide.read_region(0, 0, 0, *pixels.shape[1:])
        below = slide.read_region(1, 0, 0, 550, 650)
        tile = slide.tiles(224, centers_px=np.array([[300.0, 300.0]]))[0]
    if codec.name in LOSSLESS:
        np.testing.assert_array_equal(top, pixels)
        np.testing.assert_array_equal(below, downsample_2x2(top))
    np.testing.assert_array_equal(tile, top[:, 188:412, 188:412])
    image = spatialdata.read_zarr(committed)["he"]["scale0"].image
    np.testing.assert_array_equal(image.values, top)


def test_a_codec_that_loses_is_noted(committed, codec):
    with open_slide(committed) as slide:
        notes = {note.code: note.count for note in slide.metadata.notes}
    expected = {} if codec.name in LOSSLESS else {"image.jpeg-encoded": 1100 * 1300}
    assert notes == {"synthetic": 1} | expected


@pytest.mark.parametrize("done", [256, 700, 1100])
@pytest.mark.parametrize("name", IMAGE_CODECS)
def test_an_interrupted_image_goes_on_to_the_same_bytes(tmp_path, name, done):
    options = {"codec": IMAGE_CODECS[name]}
    small = make_record(n_obs=5, image_px=(4900, 60))
    for directory in ("whole", "part"):
        (tmp_path / directory).mkdir()
    resume_slide(small, tmp_path / "whole", **options)

    def stop(event):
        if event.step == "image" and event.done >= 4 * done:
            raise Interrupted

    with pytest.raises(Interrupted):
        resume_slide(small, tmp_path / "part", progress=stop, **options)
    # The first shard of level 0 is whole at 4,400 rows; those of coarser levels are begun anew.
    shard = tmp_path / "part" / "images" / "he" / "s0" / "c" / "0" / "0" / "0"
    state = shard.stat() if done == 1100 else None
    resume_slide(small, tmp_path / "part", **options)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    if state is not None:
        found = shard.stat()
        assert (found.st_ino, found.st_mtime_ns) == (state.st_ino, state.st_mtime_ns)


def test_nothing_is_kept_under_another_codec(tmp_path):
    small = make_record(n_obs=5, image_px=(40, 60))
    for directory in ("whole", "part"):
        (tmp_path / directory).mkdir()
    write_slide(small, tmp_path / "whole", codec=IMAGE_CODECS["jpeg"])
    resume_slide(small, tmp_path / "part", codec=IMAGE_CODECS["zstd"])
    resume_slide(small, tmp_path / "part", codec=IMAGE_CODECS["jpeg"])
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def flip(path: Path, at: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 4
    path.write_bytes(damaged)


def test_a_flipped_bit_is_found_by_reading_and_by_verifying(store):
    flip(store / "images/he/s0/c/0/0/0", 1000)
    with (
        open_slide(store) as slide,
        pytest.raises(CorruptStoreError, match=r"s0, chunk \(0, 0, 0\)"),
    ):
        slide.read_region(0, 0, 0, 8, 8)
    assert "verify.checksum" in {problem.code for problem in verify_store(store)}


def test_what_is_damaged_is_not_sealed(store, codec):
    path = store / "images/he/s1/c/0/0/0"
    flip(path, 1000)
    with pytest.raises(CorruptStoreError, match=r"s1, chunk \(0, 0, 0\)"):
        seal_store(store)
    flip(path, 1000)
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"]["mine"] = codec.name
    (store / "zarr.json").write_text(json.dumps(document))
    with pytest.warns(StoreChangedWarning):
        open_slide(store).close()
    seal_store(store)
    assert verify_store(store) == []


def test_an_element_is_added(store, codec):
    def write(directory: Path) -> None:
        image = make_image(np.full((3, 300, 300), 90, np.uint8))
        write_pyramid(directory, image, codec=codec)
        write_document(directory, {"zarr_format": 3, "node_type": "group", "attributes": {}})

    add_element(store, "images", "mask", write)
    assert verify_store(store) == []
    added = zarr.open_array(store / "images/mask/s0", mode="r")[...]
    assert np.abs(added.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("options", [{"n_channels": 2}, {"pixel_dtype": np.uint16}])
def test_jpeg_holds_8_bit_images_of_one_or_three_channels(tmp_path, options):
    other = make_record(image_px=(30, 40), **options)
    with pytest.raises(InputError, match=r"8-bit images of 1 or 3 channels.*zstd"):
        write_slide(other, tmp_path, codec=IMAGE_CODECS["jpeg"])
    assert not list(tmp_path.iterdir())


def test_one_channel_of_jpeg(tmp_path):
    target = tmp_path / "slide.zarr"
    with replace_store(target) as directory:
        write_slide(
            make_record(image_px=(300, 270), n_channels=1), directory, codec=IMAGE_CODECS["jpeg"]
        )
    assert verify_store(target) == []
    with open_slide(target) as slide:
        top = slide.read_region(0, 0, 0, 300, 270)
    np.testing.assert_array_equal(zarr.open_array(target / "images/he/s0", mode="r")[...], top)


def problems_with_codecs(target, codec, path, codecs, *, image_px=(30, 40)):
    """Commit a store with one array under other codecs than it was written with."""
    with replace_store(target) as directory:
        write_slide(make_record(n_obs=5, image_px=image_px), directory, codec=codec)
        document = parse_object((directory / path / "zarr.json").read_bytes())
        document["codecs"][0]["configuration"]["codecs"] = codecs
        (directory / path / "zarr.json").write_bytes(dump_canonical(document))
        consolidate(directory)
    return {(problem.code, problem.where) for problem in verify_store(target)}


def test_levels_must_have_the_codecs_of_level_0(tmp_path, codec):
    other = IMAGE_CODECS["blosc" if codec.name != "blosc" else "zstd"].codecs(np.dtype(np.uint8))
    found = problems_with_codecs(
        tmp_path / "slide.zarr", codec, "images/he/s1", other, image_px=(30, 1100)
    )
    assert found == {("verify.attribute", "images/he/s1")}


@pytest.mark.parametrize("path", ["tables/expression/X/indptr", "images/he/s0"])
def test_codecs_that_the_format_does_not_give_an_array_are_found(tmp_path, path):
    dtype = np.dtype(np.uint8 if path == "images/he/s0" else np.int64)
    other = blosc_codecs(dtype, cname="lz4", level=5, shuffle="noshuffle")
    if path == "images/he/s0":
        del other[-1]  # the checksum
    found = problems_with_codecs(tmp_path / "slide.zarr", IMAGE_CODECS["zstd"], path, other)
    assert ("verify.codecs", path) in found


def test_convert_warns_of_jpeg_and_makes_sense(small_source, tmp_path):
    with pytest.warns(ImageCodecWarning, match="imagecodecs_jpeg"):
        path = convert_slide(small_source, tmp_path / "slide.zarr", image_codec="jpeg")
    assert verify_store(path) == []
    assert check_store(path) == []


def test_an_unknown_codec_is_refused(small_source, tmp_path):
    with pytest.raises(InputError, match="one of zstd, blosc, jpeg is needed, found 'webp'"):
        convert_slide(small_source, tmp_path / "slide.zarr", image_codec="webp")
    assert not list(tmp_path.iterdir())
