"""CUDA sources and their launches: every kernel is launched with what it takes, and packaged."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from stformat import kernels as public
from stformat.kernels import _cupy, _numba

SOURCES = sorted(path.stem for path in _cupy.SOURCES.glob("*.cu"))


def test_every_kernel_of_the_sources_is_launched_and_no_other(launched, use_cupy):
    with use_cupy("stand-in") as cupy:
        modules = {
            source: cupy.RawModule(code=_cupy.source_code(source), options=_cupy.OPTIONS)
            for source in SOURCES
        }
        assert launched == {source: module.names for source, module in modules.items()}


def test_code_holds_what_it_includes(tmp_path, monkeypatch):
    """CuPy keeps compiled code under a name that is made of the code given to it alone."""
    folder = tmp_path / "cuda"
    shutil.copytree(_cupy.SOURCES, folder)
    codes = []
    for text in ("", "// changed"):
        with (folder / "scalars.cuh").open("a") as header:
            header.write(text)
        monkeypatch.setattr(_cupy, "SOURCES", folder)
        _cupy.source_code.cache_clear()
        codes.append([_cupy.source_code(source) for source in SOURCES])
    _cupy.source_code.cache_clear()
    for before, after in zip(*codes, strict=True):
        assert "#include" not in before
        assert "typedef unsigned char u8;" in before
        assert "// changed" in after


def test_every_twin_has_its_cuda_twin():
    own = {"run_blocks", "to_host", "xp"}
    # They read bytes of files, in the host's memory.
    own |= {"codes_after_clear_are_bytes", "parse_count_rows"}
    twins = set(_numba.__all__) - own
    assert twins <= {name for name in vars(_cupy.CudaTwins) if not name.startswith("_")}


def test_sources_are_as_plain_as_their_tests_need():
    for source in _cupy.SOURCES.glob("*.cu*"):
        code = re.sub(r"//.*", "", source.read_text())
        assert not re.search(r"__sync|__shfl|__ballot|__shared__|cooperative", code)


def test_arrays_of_two_kinds_are_refused(use_cupy):
    windows = np.zeros((1, 2), np.int64)
    with use_cupy("stand-in") as cupy:
        image = cupy.zeros((1, 4, 4), np.uint8)
        with pytest.raises(TypeError, match="image and windows must be CuPy arrays all, or NumPy"):
            public.gather_tiles(image, windows, 2)
        with pytest.raises(TypeError, match="out must be a CuPy array, got ndarray"):
            public.gather_tiles(image, cupy.asarray(windows), 2, out=np.empty((1, 1, 2, 2)))


def test_results_on_a_gpu_go_to_whole_arrays(use_cupy):
    with use_cupy("stand-in") as cupy:
        image, windows = cupy.zeros((1, 4, 4), np.uint8), cupy.zeros((1, 2), np.int64)
        out = cupy.empty((1, 1, 2, 4), np.uint8)[..., :2]
        with pytest.raises(ValueError, match="out must be C-contiguous"):
            public.gather_tiles(image, windows, 2, out=out)


def test_many_vectors_in_a_plane_are_shared_out(kernels):
    """More blocks along an axis of the grid than there may be: threads take several items."""
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 64), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_cupy, "MAX_BLOCKS_ALONG_Y", 2)
        patched.setattr(_cupy, "THREADS", 8)
        halved = kernels.downsample_2x2(image)
    np.testing.assert_array_equal(halved, public.downsample_2x2(image))
    indptr = np.array([0, 1000])
    counts = np.arange(1000, dtype=np.int32), np.arange(1000) % 7, indptr
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_cupy, "MAX_BLOCKS", 1)
        moments = kernels.gene_moments(*counts, 7)
    np.testing.assert_array_equal(moments.sums, np.bincount(counts[1], counts[0]).astype(int))


def test_kernels_run_on_the_device_that_is_current(use_cupy):
    """One object serves all devices: CuPy keeps what it compiled for each."""
    counts, indptr = np.array([1, 2, 3], np.int32), np.array([0, 1, 3])
    with use_cupy("stand-in") as cupy:
        for device in (1, 0):
            with cupy.cuda.Device(device):
                sums = public.row_sums(cupy.asarray(counts), cupy.asarray(indptr))
                assert sums.device.id == device
                assert sums.get().tolist() == [1.0, 5.0]


@pytest.mark.parametrize("tile_px", [16, 32, 48, 50, 224])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_of_whole_vectors(kernels, tile_px, dtype):
    """Windows at every offset from the words of memory, and tiles whose rows are vectors or not."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, np.iinfo(dtype).max, (2, 61, 83), dtype)
    corners = rng.integers(-30, 90, (40, 2))
    tiles = kernels.gather_tiles(image[:, 1:, 3:], corners, tile_px, fill_value=7)
    padded = np.full((2, 1000, 1000), 7, dtype)
    padded[:, 400:460, 400:480] = image[:, 1:, 3:]
    for tile, (left, top) in zip(tiles, corners + 400, strict=True):
        np.testing.assert_array_equal(tile, padded[:, top : top + tile_px, left : left + tile_px])
    starts = (corners + 400) @ np.array([1, 1000])
    strides, places = np.tile([1_000_000, 1000], (40, 1)), rng.permutation(40)
    # Beside one sample, so that the others are aligned in another way.
    pixels = np.concatenate([np.zeros(1, dtype), padded.reshape(-1)])
    for shift, source in ((0, padded.reshape(-1)), (1, pixels)):
        again = np.empty_like(tiles)
        kernels.gather_windows(source, starts + shift, strides, places, again)
        np.testing.assert_array_equal(again[places], tiles)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_of_whole_vectors(kernels, dtype):
    rng = np.random.default_rng(1)
    image = rng.integers(0, np.iinfo(dtype).max, (2, 37, 131), dtype)
    for width in (64, 65, 128, 131):
        part = image[:, :, :width]
        halved = kernels.downsample_2x2(part)
        padded = np.pad(part, ((0, 0), (0, 1), (0, width % 2)), mode="edge").astype(int)
        sums = padded[:, ::2] + padded[:, 1::2]
        np.testing.assert_array_equal(halved, (sums[:, :, ::2] + sums[:, :, 1::2] + 2) >> 2)


def test_every_source_is_in_the_package():
    assert SOURCES == ["counts", "floats", "stains", "sums", "tiles"]
    assert Path(_cupy.__file__).parent in _cupy.SOURCES.parents
