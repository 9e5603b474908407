"""CUDA sources compile by NVRTC as CuPy has it compile them, for the GPUs that are promised."""

from __future__ import annotations

import ctypes
import re
from importlib import metadata

import pytest

from stformat.kernels import _cupy

pytestmark = pytest.mark.nvrtc
SOURCES = sorted(path.stem for path in _cupy.SOURCES.glob("*.cu"))
# What CuPy 13 and 14 add, in cupy/cuda/compiler.py, whatever they are asked for.
ADDED_BY_CUPY = ("-ftz=true", "--device-as-default-execution-space")


class Nvrtc:
    """What CuPy calls of the library."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def _call(self, name, *arguments):
        assert getattr(self._library, f"nvrtc{name}")(*arguments) == 0, name

    def architectures(self):
        n = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(n))
        numbers = (ctypes.c_int * n.value)()
        self._call("GetSupportedArchs", numbers)
        return list(numbers)

    def compile(self, source, *options, to):
        """Return what a source is compiled to, CUBIN or PTX, and what the compiler says."""
        program = ctypes.c_void_p()
        code = _cupy.source_code(source).encode()
        self._call("CreateProgram", ctypes.byref(program), code, b"kernels.cu", 0, None, None)
        given = [option.encode() for option in (*_cupy.OPTIONS, *ADDED_BY_CUPY, *options)]
        failed = self._library.nvrtcCompileProgram(
            program, len(given), (ctypes.c_char_p * len(given))(*given)
        )
        log = self._result("ProgramLog", program).decode().rstrip("\0")
        assert not failed, log
        compiled = self._result(to, program)
        self._call("DestroyProgram", ctypes.byref(program))
        return compiled, log

    def _result(self, name, program):
        size = ctypes.c_size_t()
        self._call(f"Get{name}Size", program, ctypes.byref(size))
        result = ctypes.create_string_buffer(size.value)
        self._call(f"Get{name}", program, result)
        return result.raw


@pytest.fixture(scope="module")
def nvrtc():
    try:
        files = metadata.files("nvidia-cuda-nvrtc") or []
    except metadata.PackageNotFoundError:
        pytest.skip("compiling CUDA needs NVRTC, no GPU: uv sync --group cuda-tests")
    (library,) = (file for file in files if re.fullmatch(r"libnvrtc\.so\.\d+", file.name))
    return Nvrtc(library.locate())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("architecture", [80, 90, "newest"])
def test_sources_compile_for_gpus(nvrtc, launched, source, architecture):
    number = nvrtc.architectures()[-1] if architecture == "newest" else architecture
    binary, log = nvrtc.compile(source, f"-arch=sm_{number}", "--ptxas-options=-v", to="CUBIN")
    # A function has a section of its own.
    names = {name.decode() for name in re.findall(rb"\0\.text\.(\w+)\0", binary)}
    assert names == launched[source]
    assert "warning" not in log
    # Registers that spill would cost more than the arithmetic.
    spills = re.findall(r"(\d+) bytes spill", log)
    assert len(spills) == 2 * len(names)
    assert set(spills) == {"0"}


@pytest.mark.parametrize("source", SOURCES)
def test_arithmetic_is_that_of_processors(nvrtc, source):
    """Numbers below 2**-126 are no zeros, though CuPy asks for that, and products are rounded."""
    assembly, _ = nvrtc.compile(source, "-arch=compute_80", to="PTX")
    instructions = set(re.findall(rb"^\s*(?:@\S+\s+)?(\w+\.\S+)\s", assembly, re.MULTILINE))
    assert len(instructions) > 10
    assert {each for each in instructions if b".ftz" in each} == set()
    fused = {each for each in instructions if each.startswith(b"fma")}
    # The polynomial of the logarithm.
    assert fused == ({b"fma.rn.f64"} if source == "counts" else set())
