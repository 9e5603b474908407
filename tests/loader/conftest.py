"""Small slides that a loader mixes: spots apart, bins that overlap, other genes, other channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stformat.store.commit import replace_store
from stformat.store.reader import Slide, open_slide
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

KINDS = {
    # Tiles of 40 px lie apart here, and are held as tiles;
    "spots": {"image_px": (1500, 2200), "n_obs": 60, "seed": 1},
    # here they overlap, and the region they lie in is held.
    "bins": {"image_px": (200, 250), "n_obs": 250, "seed": 2},
    "wide": {"image_px": (300, 8500), "n_obs": 70, "seed": 3},
    "fluorescence": {"n_channels": 4, "pixel_dtype": np.uint16, "image_px": (300, 400)},
    "no-image": {"image_px": None},
    "unknown-mpp": {"mpp": None},
    "fractions": {"image_px": (500, 600), "count_dtype": np.float32, "seed": 4},
    "other-genes": {"image_px": (500, 600), "n_vars": 21, "seed": 5},
    "reversed": {"image_px": (500, 600), "seed": 6},
    "other-names": {"image_px": (500, 600), "seed": 7},
}


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Return the store of a kind, written on first use; tests only read it."""
    folder = tmp_path_factory.mktemp("loader")

    def written(kind: str) -> Path:
        path = folder / kind
        if not path.exists():
            record = replace(make_record(**KINDS[kind]), slide_id=kind)
            if kind == "reversed":
                table = record.tables[0]
                keys = replace(table.genes, keys=table.genes.keys[::-1].copy())
                record = replace(record, tables=(replace(table, genes=keys),))
            if kind == "other-names":
                table = record.tables[0]
                names = np.array([f"{name} too" for name in table.genes.keys], dtype=object)
                genes = replace(table.genes, gene_name=names)
                record = replace(record, tables=(replace(table, genes=genes),))
            with replace_store(path) as directory:
                write_slide(record, directory)
        return path

    return written


@pytest.fixture(scope="session")
def paths(store) -> list[Path]:
    """Three slides of the same genes."""
    return [store(kind) for kind in ("spots", "bins", "wide")]


@pytest.fixture(scope="session")
def slides(paths) -> list[Slide]:
    """The same, open."""
    return [open_slide(path) for path in paths]


class HalfPanel:
    """Genes of which a slide may lack some, by their keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys

    def columns_in(self, slide: Slide) -> np.ndarray:
        known = {key: column for column, key in enumerate(slide.var.index)}
        return np.array([known.get(key, -1) for key in self.keys])


@pytest.fixture(scope="session")
def half_panel():
    return HalfPanel


def equal_batches(one: dict, other: dict) -> bool:
    """Whether two batches have the same keys and values."""

    def plain(value):
        return value.toarray() if hasattr(value, "toarray") else np.asarray(value)

    return one.keys() == other.keys() and all(
        np.array_equal(plain(one[key]), plain(other[key])) for key in one
    )


@pytest.fixture(scope="session")
def same():
    return equal_batches
