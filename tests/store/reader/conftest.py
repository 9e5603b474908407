"""Small stores for the tests of open slides, and what was written to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from stformat.kernels import downsample_2x2
from stformat.model import SlideRecord
from stformat.store.commit import replace_store
from stformat.store.layout import spatial_order
from stformat.store.reader import open_slide
from stformat.store.writer import write_slide
from stformat.testing.records import make_record


def write(record: SlideRecord, path: Path) -> Path:
    with replace_store(path) as directory:
        write_slide(record, directory)
    return path


def two_tables() -> SlideRecord:
    """A slide of spots of two sizes, and of bins in a second table; level 1 exists."""
    record = make_record(image_px=(1100, 700), n_obs=60)
    bins = make_record(shape="square", n_obs=20, n_vars=9, seed=1).tables[0]
    spots = record.tables[0].spots
    radii = np.where(np.arange(60) % 3 == 0, 9.25, 20.0)
    genes = replace(
        record.tables[0].genes,
        gene_name=np.array(["SAME"] * 2 + [f"N{i}" for i in range(28)], dtype=object),
    )
    table = replace(record.tables[0], spots=replace(spots, radius_px=radii), genes=genes)
    return replace(record, tables=(table, replace(bins, name="expression_square_008um")))


class Oracle:
    """What was written, in memory."""

    def __init__(self, record: SlideRecord, table: int = 0) -> None:
        self.table = record.tables[table]
        self.order = spatial_order(self.table.spots.xy)
        self.xy = self.table.spots.xy[self.order]
        self.radius = self.table.spots.radius_px[self.order]
        self.matrix = sparse.vstack(list(self.table.counts.iter_blocks()))[self.order]
        self.keys = list(self.table.genes.keys)
        self.levels = []
        if record.image is not None:
            (pixels,) = record.image.iter_bands(record.image.shape[1])
            self.levels = [pixels, downsample_2x2(pixels)]

    def crop(self, level: int, left: int, top: int, edge: int, fill: int = 255) -> np.ndarray:
        image = self.levels[level]
        wide = np.pad(image, ((0, 0), (edge, edge), (edge, edge)), constant_values=fill)
        left = int(np.clip(left, -edge, image.shape[2])) + edge
        top = int(np.clip(top, -edge, image.shape[1])) + edge
        return wide[:, top : top + edge, left : left + edge]


@pytest.fixture(scope="module")
def record() -> SlideRecord:
    return two_tables()


@pytest.fixture(scope="module")
def oracle(record) -> Oracle:
    return Oracle(record)


@pytest.fixture(scope="module")
def path(record, tmp_path_factory) -> Path:
    return write(record, tmp_path_factory.mktemp("reader") / "slide.zarr")


@pytest.fixture(scope="module")
def slide(path):
    with open_slide(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A slide without image and mpp."""
    return write(make_record(image_px=None, mpp=None), tmp_path_factory.mktemp("bare") / "s")


@pytest.fixture
def write_store():
    """Write a record as a committed store."""
    return write


@pytest.fixture
def oracle_of():
    """What a record holds, in memory."""
    return Oracle
