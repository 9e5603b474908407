"""Small stores of each technology, and of what layouts find hard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stformat as stf
from stformat.model import SlideRecord
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing import (
    VisiumHdQuirks,
    make_slide,
    write_legacy_st,
    write_visium,
    write_visium_hd,
)
from stformat.testing.records import make_record


def make(**options) -> SlideRecord:
    record = make_record(**{"image_px": (400, 500), **options})
    return replace(record, descriptors=replace(record.descriptors, species="mouse"))


def fluorescence(n_channels: int) -> SlideRecord:
    """16 bits a sample, names of fluorophores, black around it."""
    record = make(n_channels=n_channels, pixel_dtype=np.uint16, image_px=(1100, 300))
    names = ("DAPI", "Cy3", "Cy5", "FITC", "TRITC")[:n_channels]
    return replace(
        record,
        image=replace(record.image, channel_names=names, background=0),
        descriptors=replace(record.descriptors, stain="if"),
    )


def two_tables() -> SlideRecord:
    """Spots of two sizes, and bins in a table of their own."""
    record = make(n_obs=60)
    bins = make_record(shape="square", n_obs=20, n_vars=9, seed=1).tables[0]
    spots = record.tables[0].spots
    radii = np.where(np.arange(60) % 3 == 0, 9.25, 20.0)
    table = replace(record.tables[0], spots=replace(spots, radius_px=radii))
    return replace(record, tables=(table, replace(bins, name="expression_square_008um")))


def _visium(folder: Path) -> Path:
    slide = make_slide(
        height=900, width=700, n_genes=40, pitch_px=70.0, seed=2, slide_id="V1", lattice="hexagonal"
    )
    source = write_visium(slide, folder / "source")
    return stf.convert_slide(source, folder / "slide.zarr", slide_id="V1")


def _visium_hd(folder: Path) -> Path:
    slide = make_slide(
        height=400, width=420, n_genes=24, pitch_px=10.0, seed=3, jitter=0.0, slide_id="D1"
    )
    source = write_visium_hd(slide, folder / "source", quirks=VisiumHdQuirks(images="full"))
    return stf.convert_slide(source, folder / "slide.zarr", slide_id="D1")


def _legacy_st(folder: Path) -> Path:
    slide = make_slide(height=900, width=1100, n_genes=120, seed=7)
    source = write_legacy_st(slide, folder / "source")
    return stf.convert_slide(source, folder / "slide.zarr", species="human", tissue="breast")


RECORDS: dict[str, Callable[[], SlideRecord]] = {
    "fluorescence": lambda: fluorescence(3),
    "five channels": lambda: fluorescence(5),
    "one channel": lambda: fluorescence(1),
    "two tables": two_tables,
    "unknown mpp": lambda: make(mpp=None, count_dtype=np.float32),
    "no image": lambda: make(image_px=None),
}
SOURCES = {"ST": _legacy_st, "Visium": _visium, "Visium HD": _visium_hd}


@pytest.fixture(scope="package")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the store of a name in `RECORDS` or `SOURCES`, made when first asked for."""
    made: dict[str, Path] = {}

    def store(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            made[name] = SOURCES[name](folder) if name in SOURCES else folder / "slide.zarr"
            if name in RECORDS:
                with replace_store(made[name]) as directory:
                    write_slide(RECORDS[name](), directory)
        return made[name]

    return store


@pytest.fixture(scope="session")
def digest_of() -> Callable[[Path], str]:
    """Return a digest over the names and the bytes of a file, or of all files of a directory."""

    def digest(path: Path) -> str:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        whole = hashlib.sha256()
        for file in files:
            if file.is_file():
                whole.update(f"{file.relative_to(path)}\0".encode())
                whole.update(hashlib.sha256(file.read_bytes()).digest())
        return whole.hexdigest()

    return digest
