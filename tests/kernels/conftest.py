"""The kernels to test: compiled for this processor, as CUDA sources in C++, and on a GPU."""

import inspect
from itertools import product

import numpy as np
import pytest

import stformat.kernels
from stformat.kernels import _arguments, _cupy, _floats, _images


class OnGpu:
    """The public functions: NumPy arrays go to the GPU, results come back."""

    def __init__(self, cupy):
        self._cupy = cupy

    def __getattr__(self, name):
        function = getattr(stformat.kernels, name)
        if not inspect.isfunction(function):
            return function

        def call(*arguments, out=None, **named):
            there = [self._to_gpu(argument) for argument in arguments]
            hosts = {"mean", "std", "scale", "flips", "turns", "changes"}
            named = {k: v if k in hosts else self._to_gpu(v) for k, v in named.items()}
            if out is not None:
                named["out"] = self._to_gpu(out)
            found = function(*there, **named)
            for host, device in zip(arguments, there, strict=True):
                if isinstance(host, np.ndarray) and host.flags.writeable:
                    host[...] = device.get()
            if out is None:
                return self._to_host(found)
            assert found is named["out"]
            out[...] = found.get()
            return out

        return call

    def _to_gpu(self, value):
        return self._cupy.asarray(value) if isinstance(value, np.ndarray) else value

    def _to_host(self, value):
        if isinstance(value, tuple):
            return tuple(map(self._to_host, value))
        return value.get() if isinstance(value, self._cupy.ndarray) else value


@pytest.fixture(scope="module", params=["numba", "c++", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request, use_cupy):
    """The public functions, over each kind of twins."""
    if request.param == "numba":
        yield stformat.kernels
        return
    with use_cupy("gpu" if request.param == "gpu" else "stand-in") as cupy:
        yield OnGpu(cupy)


@pytest.fixture(scope="session")
def launched(use_cupy):
    """The kernels of each source that calls of every public function with every type launch."""
    names = {}
    launch = _cupy.CudaTwins._launch

    def noted(twins, source, name, *of):
        names.setdefault(source, set()).add(name)
        launch(twins, source, name, *of)

    with use_cupy("stand-in") as cupy, pytest.MonkeyPatch.context() as patched:
        patched.setattr(_cupy.CudaTwins, "_launch", noted)
        on_gpu = OnGpu(cupy)
        for dtype in _images.SAMPLES:
            call_with_samples(on_gpu, dtype)
        for types in product(_arguments.VALUES, _arguments.OFFSETS):
            call_with_counts(on_gpu, *types)
    return names


def call_with_samples(kernels, dtype):
    tiles = np.zeros((1, 3, 8, 8), dtype)
    image, windows, first = tiles[0], np.zeros((1, 2), int), np.zeros(1, int)
    kernels.gather_tiles(image, windows, 4)
    kernels.gather_windows(image.reshape(-1), first, np.array([[64, 8]]), first, tiles.copy())
    kernels.scatter_chunk(image, 0, 0, windows, first, tiles.copy())
    kernels.resample_tiles(tiles, tile_px=4, step=2 * _images.UNIT_STEP)
    kernels.resample_tiles(tiles, tile_px=12, step=_images.UNIT_STEP // 2)
    kernels.downsample_2x2(image)
    for floats in _floats.FLOATS:
        kernels.tiles_to_float(tiles, dtype=floats)
    if dtype == np.uint8:
        kernels.change_stains(tiles, changes=np.zeros((1, 3, 4)))


def call_with_counts(kernels, dtype, index_type):
    data, indices, indptr = np.ones(2, dtype), np.array([0, 1], index_type), np.array([0, 2])
    kernels.row_sums(data, indptr)
    kernels.normalize_log1p(data, indptr, target_sum=1.0)
    kernels.densify(data, indices, indptr, gene_map=np.arange(2), n_out=2, target_sum=1.0)
    kernels.gene_moments(data, indices, indptr, 2)
    kernels.pool_bins(data, indices, indptr, np.zeros(1, int), 1)
