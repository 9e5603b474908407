"""Stores that the lazy layer's tests read, one of each kind, and what a test may spy on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import numpy as np
import pytest

from stformat.store.arrays import ArrayReader
from stformat.store.commit import replace_store
from stformat.store.reader import Slide, open_slide
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

STORES = {
    # Three shards wide, so that rows lie in several cells.
    "wide": {"image_px": (300, 8500), "n_obs": 40, "n_vars": 30},
    "fluorescence": {"n_channels": 4, "pixel_dtype": np.uint16, "image_px": (300, 400)},
    "no-image": {"image_px": None},
    "unknown-mpp": {"mpp": None},
    "pyramid": {"image_px": (600, 2300)},
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the store of a kind, written on first use; tests only read it."""
    folder = tmp_path_factory.mktemp("lazy")

    def written(kind: str) -> Path:
        # Without the suffix .zarr, so that xarray's own zarr engine does not claim it.
        path = folder / kind
        if not path.exists():
            with replace_store(path) as directory:
                write_slide(make_record(**STORES[kind]), directory)
        return path

    return written


@pytest.fixture(scope="session")
def wide(store) -> Iterator[Slide]:
    with open_slide(store("wide")) as slide:
        yield slide


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What is asked of slides from here on: the method's name and what selects its rows."""
    calls: list[tuple[str, object]] = []
    for name in ("tiles", "expression", "read_region"):
        original = getattr(Slide, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):
            rows = kwargs.get("rows", args)
            # The tiles of no rows are how size and type are asked for.
            if _name != "tiles" or len(rows):
                calls.append((_name, rows))
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Slide, name, spy)
    return calls


@pytest.fixture
def chunks_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """The chunks that are asked for from here on: path of the array, flat numbers."""
    calls: list[tuple[str, list[int]]] = []
    original = ArrayReader.visit_chunks

    def spy(self, chunks, visit):
        calls.append((self.path, chunks.tolist()))
        return original(self, chunks, visit)

    monkeypatch.setattr(ArrayReader, "visit_chunks", spy)
    return calls


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Slide]:
    """The slides that are closed from here on."""
    slides: list[Slide] = []
    original = Slide.close

    @wraps(original)
    def spy(self):
        slides.append(self)
        original(self)

    monkeypatch.setattr(Slide, "close", spy)
    return slides
