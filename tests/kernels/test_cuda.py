"""CUDA sources: they compile for the GPUs that are promised, and come with the package."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stformat import kernels as public
from stformat.kernels import _arguments, _cupy, _numba

NVCC = shutil.which("nvcc")
SOURCES = sorted(path.stem for path in _cupy.SOURCES.glob("*.cu"))


@pytest.mark.skipif(NVCC is None, reason="compiling CUDA needs nvcc: install the CUDA toolkit")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_sources_compile_for_gpus(source, architecture, tmp_path):
    binary = tmp_path / "kernels.cubin"
    result = subprocess.run(
        [NVCC, *_cupy.OPTIONS, "-cubin", f"-arch={architecture}", "-Xptxas=-v", "-Werror",
         "all-warnings", "-o", str(binary), str(_cupy.SOURCES / f"{source}.cu")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert binary.stat().st_size > 0
    # Registers that spill would cost more than the arithmetic.
    assert set(re.findall(r"(\d+) bytes spill", result.stderr)) == {"0"}


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


def test_arrays_of_two_kinds_are_refused():
    on_gpu = type("ndarray", (), {"__module__": "cupy"})()
    with pytest.raises(TypeError, match="image and windows must be CuPy arrays all, or NumPy"):
        _arguments.twins_for(image=on_gpu, windows=np.zeros((1, 2), np.int64))


def test_many_vectors_in_a_plane_are_shared_out(cpp_twins):
    """More blocks along an axis of the grid than there may be: threads take several items."""
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 64), dtype=np.uint8)
    halved = np.empty((1, 20, 32), np.uint8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_cupy, "MAX_BLOCKS_ALONG_Y", 2)
        patched.setattr(_cupy, "THREADS", 8)
        cpp_twins.downsample_2x2(image, 0, 20, halved)
    np.testing.assert_array_equal(halved, public.downsample_2x2(image))
    counts = np.arange(1000, dtype=np.int32), np.arange(1000) % 7
    sums, squares = np.zeros(7, np.int64), np.zeros((2, 7), np.uint64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_cupy, "MAX_BLOCKS", 1)
        assert cpp_twins.count_moments(*counts, sums, *squares) == -1
    np.testing.assert_array_equal(sums, np.bincount(counts[1], counts[0]).astype(int))


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
