"""CUDA sources compiled as C++, for machines without a GPU."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from pathlib import Path

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
SHIM = Path(__file__).parent / "kernels" / "cuda_shim.h"
# As CUDA has it: memory may be read by any type.
FLAGS = ("-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-fno-strict-aliasing")
SAME_OPTIONS = {"--std=c++17": "-std=c++17", "--fmad=false": "-ffp-contract=off"}


class Compiler:
    """Compiles each source once, in a folder of its own."""

    def __init__(self, folder):
        self._folder = folder
        self._libraries = {}
        self._lock = threading.Lock()

    def __call__(self, code, options):
        """Return a library with a function ``run_*`` for each kernel, as the shim has it."""
        with self._lock:
            key = code, options
            if key not in self._libraries:
                folder = self._folder / str(len(self._libraries))
                folder.mkdir()
                self._libraries[key] = compiled(code, [SAME_OPTIONS[o] for o in options], folder)
            return self._libraries[key]


def compiled(code, options, folder):
    entry = folder / "kernels.cpp"
    entry.write_text(f'#include "{SHIM}"\n{code}')
    # Macros make most of the kernels.
    whole = run_compiler(*options, "-E", entry)
    names = re.findall(r'extern "C"[^(;{]*?\bvoid (\w+)\(', whole)
    with entry.open("a") as file:
        file.writelines(f"SHIM_ENTRY({name})\n" for name in names)
    library = entry.with_suffix(".so")
    run_compiler(*FLAGS, *options, "-o", library, entry)
    loaded = ctypes.CDLL(str(library))
    loaded.names = frozenset(names)
    return loaded


def run_compiler(*arguments):
    result = subprocess.run(
        [COMPILER, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout
