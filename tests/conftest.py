"""Fixtures of every test: real inputs, small converted slides, processes that are forked.

A test that takes ``n`` and is marked ``counts(a, b, c)`` runs with ``n=a`` every time, with ``b``
under ``-m reliability`` and with ``c`` under ``-m long``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "counts(every, reliability, long): sizes of a test")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("counts")
    if marker is not None:
        every, reliability, long = marker.args
        metafunc.parametrize(
            "n",
            [
                pytest.param(every, id="every-run"),
                pytest.param(reliability, id="reliability", marks=pytest.mark.reliability),
                pytest.param(long, id="long", marks=pytest.mark.long),
            ],
        )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Directory of real inputs, read in place."""
    if not REAL_DATA.is_dir():
        pytest.skip("real inputs are not here: put them in ../shared/data beside the repository")
    return REAL_DATA


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic legacy ST folder of a few dozen spots."""
    from stformat.testing import make_slide, write_legacy_st

    folder = tmp_path_factory.mktemp("small") / "source"
    return write_legacy_st(make_slide(height=900, width=1100, n_genes=120, seed=7), folder)


@pytest.fixture(scope="session")
def small_store(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `small_source`; tests only read it."""
    import stformat as stf

    return stf.convert_slide(small_source, tmp_path_factory.mktemp("store") / "small.zarr")


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """An empty directory in memory where there is one: syncing it to disk costs nothing."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="stformat-") as folder:
        yield Path(folder)


def load_beside(name: str, file: str) -> Any:  # a module
    """Return a module of tests under a name; it is not found by that name afterwards."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def use_cupy(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], AbstractContextManager[ModuleType]]:
    """What lets stformat find CuPy for a while: that of a "gpu", or a "stand-in" for it."""
    from stformat.kernels import _cupy

    @cache
    def stand_in() -> ModuleType:
        cuda_as_cpp = load_beside("cuda_as_cpp", "cuda_as_cpp.py")
        if cuda_as_cpp.COMPILER is None:
            pytest.skip("CUDA sources are tested as C++: install a compiler, such as g++")
        module = load_beside("cupy", "cupy_stand_in.py")
        module.compile_source = cuda_as_cpp.Compiler(tmp_path_factory.mktemp("cuda"))
        return module

    def on_gpu() -> ModuleType:
        module = pytest.importorskip("cupy", reason="needs CuPy: uv sync --extra gpu")
        if not module.is_available():
            pytest.skip("needs an NVIDIA GPU and its driver: nvidia-smi lists none")
        return module

    @contextmanager
    def using(kind: str) -> Iterator[ModuleType]:
        module = on_gpu() if kind == "gpu" else stand_in()
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(sys.modules, "cupy", module)
            _cupy.cuda_twins.cache_clear()
            yield module
        _cupy.cuda_twins.cache_clear()

    return using


class Child:
    """A process that does one task."""

    def __init__(self, server: subprocess.Popen[str], task: str, outcome: Path, **given: Any):
        self._server = server
        self._outcome = outcome
        self.pid = int(self._ask(task=task, arguments=given, outcome=str(outcome)))

    def _ask(self, **request: Any) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()

    def send(self, number: signal.Signals, *, after_s: float = 0.0) -> None:
        """Send a signal at a time of its life."""
        time.sleep(after_s)
        os.kill(self.pid, number)  # it stays a zombie until it is waited for

    def wait(self) -> int:
        """Return its exit code, or minus the signal that ended it."""
        return int(self._ask(wait=self.pid))

    def answer(self) -> dict[str, Any]:
        """Wait; return its result, or its error."""
        self.wait()
        answer: dict[str, Any] = json.loads(self._outcome.read_text())
        return answer


@pytest.fixture(scope="session")
def start_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Child]]:
    folder = tmp_path_factory.mktemp("outcomes")
    numbers = count()
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("child_server.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield lambda task, **given: Child(server, task, folder / f"{next(numbers)}.json", **given)
        server.stdin.close()
