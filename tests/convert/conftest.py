"""A corpus of small slides of every kind, and the stores that one conversion a slide makes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import stformat as stf
from stformat.testing import (
    SpatialDataQuirks,
    make_slide,
    write_hest,
    write_legacy_st,
    write_spatialdata,
    write_stimage,
    write_visium,
    write_visium_hd,
)


def write_corpus(tree: Path, n_each: int) -> Path:
    """Write so many slides of each kind; HEST-1k and STimage-1K4M have theirs in one folder."""
    small = {"height": 320, "width": 340, "n_genes": 16, "pitch_px": 40.0}
    # The image covers the array: of an image of few bins of 16 um too many would lie outside.
    bins = {"height": 400, "width": 400, "n_genes": 16, "pitch_px": 10.0, "jitter": 0.0}
    for seed in range(n_each):
        study = tree / f"study{seed % 3}"
        write_legacy_st(make_slide(**small, seed=seed, slide_id=f"L{seed}"), study / f"st{seed}")
        spots = make_slide(**small, seed=seed, slide_id=f"V{seed}", lattice="hexagonal")
        write_visium(spots, study / "visium" / f"V{seed}")
        write_visium_hd(make_slide(**bins, seed=seed, slide_id=f"D{seed}"), study / f"D{seed}")
        write_hest(make_slide(**small, seed=seed, slide_id=f"H{seed}"), tree / "hest")
        write_stimage(make_slide(**small, seed=seed, slide_id=f"I{seed}"), tree / "stimage")
    return tree


def write_containers(tree: Path, n_slides: int) -> None:
    """Write so many SpatialData containers, some of them as version 2 of Zarr."""
    small = {"height": 320, "width": 340, "n_genes": 16, "pitch_px": 40.0}
    for seed in range(n_slides):
        slide = make_slide(**small, seed=seed, slide_id=f"S{seed}")
        quirks = SpatialDataQuirks(container=("0.1", "0.2")[seed % 2])
        write_spatialdata(slide, tree / "containers" / f"S{seed}.zarr", quirks=quirks)


def digests(out: Path) -> dict[str, str]:
    """Return a digest of each store, over the names and the bytes of all of its files."""
    return {store.name: _digest(store) for store in sorted(out.iterdir())}


def _digest(store: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(store)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), 1)


@pytest.fixture(scope="package")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the stores of `corpus`, each converted by itself."""
    out = tmp_path_factory.mktemp("alone")
    for source, name in (
        (corpus / "study0" / "st0", "L0"),
        (corpus / "study0" / "visium" / "V0", "V0"),
        (corpus / "study0" / "D0", "D0"),
        (corpus / "hest", "H0"),
        (corpus / "stimage", "I0"),
    ):
        stf.convert_slide(source, out / f"{name}.zarr")
    return digests(out)


@pytest.fixture(scope="package")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples of legacy ST in folders of their own."""
    tree = tmp_path_factory.mktemp("samples")
    for seed, name in enumerate(["A", "B"]):
        slide = make_slide(
            height=320, width=340, n_genes=16, pitch_px=40.0, seed=seed, slide_id=name
        )
        write_legacy_st(slide, tree / name)
    return tree
