"""Fixtures of every test: where the real inputs are, and small converted slides."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
