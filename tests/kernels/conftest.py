"""The kernels to test: compiled for this processor, as CUDA sources in C++, and on a GPU."""

import ctypes
import inspect
import re
import shutil
import subprocess

import numpy as np
import pytest

import stformat.kernels
from stformat.kernels import (
    _arguments,
    _counts,
    _cupy,
    _floats,
    _images,
    _moments,
    _pooling,
    _selection,
    _stains,
)

SHIM = __file__.replace("conftest.py", "cuda_shim.h")
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
CALLERS = (_counts, _floats, _images, _moments, _pooling, _selection, _stains)


class CppDevice:
    """The device that tests have without a GPU: CUDA sources as C++, arrays of NumPy."""

    xp = np

    def __init__(self, folder):
        self._folder = folder
        self._libraries = {}

    def to_host(self, array):
        return array

    def _library(self, source):
        if source not in self._libraries:
            code = preprocessed(_cupy.SOURCES / f"{source}.cu")
            entry = self._folder / f"{source}.cpp"
            names = re.findall(r"void (\w+)\(", "".join(re.findall(r'extern "C".*?\(', code)))
            entry.write_text(
                f'#include "{SHIM}"\n#include "{_cupy.SOURCES / source}.cu"\n'
                + "".join(f"SHIM_ENTRY({name})\n" for name in names)
            )
            library = entry.with_suffix(".so")
            compile_cpp("-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, entry)
            self._libraries[source] = ctypes.CDLL(library)
        return self._libraries[source]

    def launch(self, source, name, grid, block, arguments):
        run = getattr(self._library(source), f"run_{name}")
        held = [self._pointer(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(held))(*(each.ctypes.data for each in held))
        grid_x, grid_y = (*grid, 1)[:2]
        assert run(grid_x, grid_y, block, places, len(held)) == 0, f"{name}: number of arguments"

    @staticmethod
    def _pointer(argument):
        """Return memory that holds the argument itself: a number, or the address of an array."""
        if isinstance(argument, np.ndarray):
            return np.array([argument.ctypes.data], np.uint64)
        assert isinstance(argument, np.generic), "numbers have a type, for the kernel to read"
        return np.array([argument])


def preprocessed(path):
    return compile_cpp("-E", "-include", SHIM, "-x", "c++", path)


def compile_cpp(*arguments):
    # As CUDA has it: no fused multiply-add but where it is asked for, memory read by any type.
    flags = ("-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing")
    result = subprocess.run(
        [COMPILER, *flags, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


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
            back = self._to_host(function(*there, **named))
            for host, device in zip(arguments, there, strict=True):
                if isinstance(host, np.ndarray) and host.flags.writeable:
                    host[...] = device.get()
            if out is None:
                return back
            out[...] = back
            return out

        return call

    def _to_gpu(self, value):
        return self._cupy.asarray(value) if isinstance(value, np.ndarray) else value

    def _to_host(self, value):
        if isinstance(value, tuple):
            return tuple(map(self._to_host, value))
        return value.get() if isinstance(value, self._cupy.ndarray) else value


@pytest.fixture(scope="session")
def cpp_twins(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("CUDA sources are tested as C++: install a compiler, such as g++")
    return _cupy.CudaTwins(CppDevice(tmp_path_factory.mktemp("cuda")))


@pytest.fixture(scope="module", params=["numba", "c++", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request):
    """The public functions, over each kind of twins."""
    if request.param == "gpu":
        cupy = pytest.importorskip("cupy", reason="needs CuPy: uv sync --extra gpu")
        if not cupy.is_available():
            pytest.skip("needs an NVIDIA GPU and its driver: nvidia-smi lists none")
        yield OnGpu(cupy)
        return
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "c++":
            twins = request.getfixturevalue("cpp_twins")
            checked = _arguments.twins_for

            def cpp_twins_for(**arrays):
                checked(**arrays)
                return twins

            for module in CALLERS:
                patched.setattr(module, "twins_for", cpp_twins_for)
        yield stformat.kernels
