"""Stores of many small slides, written from records without source files in between."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from stformat.model import Genes, Image
from stformat.store.commit import replace_store
from stformat.store.reader import Slide, open_slide
from stformat.store.writer import write_slide
from stformat.testing.records import make_counts, make_image, make_record


def _draw_counts(n_obs: int, n_genes: int, seed: int) -> sparse.csr_array:
    random = np.random.default_rng(seed)
    mean = 3.0 * np.exp(random.normal(0.0, 1.2, n_genes))
    rates = random.gamma(0.7, mean[None, :] / 0.7, (n_obs, n_genes))
    return sparse.csr_array(random.poisson(rates).astype(np.int32))


def _genes_of(keys: Any, *, ids: Any = None, names: Any = None, genomes: Any = None) -> Genes:
    nothing = np.full(len(keys), None, dtype=object)

    def column(values: Any) -> Any:
        return nothing if values is None else np.array(values, dtype=object)

    return Genes(
        keys=np.array(keys, dtype=object),
        key_kind="gene_name" if ids is None else "gene_id",
        gene_id=column(ids),
        gene_name=column(keys if names is None and ids is None else names),
        feature_type=np.full(len(keys), "Gene Expression", dtype=object),
        genome=column(genomes),
    )


def _blobs(seed: int, height: int = 300, width: int = 300) -> Image:
    """An image that shows something: a few soft dark blobs on white, different for each seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    dark = np.zeros((height, width))
    for _ in range(8):
        centre_y, centre_x, width_px = random.uniform([0, 0, 0.05], [1, 1, 0.25])
        dark += np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / width_px**2)
    gray = (255 - 200 * np.clip(dark, 0, 1)).astype(np.uint8)
    return make_image(np.stack([gray, gray, gray]))


@pytest.fixture(scope="session")
def draw_counts() -> Callable[..., sparse.csr_array]:
    """Draw overdispersed counts of genes of very different means."""
    return _draw_counts


@pytest.fixture(scope="session")
def genes_of() -> Callable[..., Genes]:
    """Make the genes of a table; of keys alone, names are keys and there are no identifiers."""
    return _genes_of


def _write(
    path: Path,
    slide_id: str,
    counts: sparse.csr_array,
    genes: Genes,
    *,
    xy: Any,
    in_tissue: Any,
    image: Image | None,
    sections: bool,
    descriptors: dict[str, Any],
) -> None:
    record = make_record(n_obs=counts.shape[0], n_vars=counts.shape[1], image_px=None)
    table = record.tables[0]
    spots = table.spots if sections else replace(table.spots, section=None)
    if xy is not None:
        spots = replace(spots, xy=np.asarray(xy, dtype=np.float64))
    if in_tissue is not None:
        spots = replace(spots, in_tissue=in_tissue)
    record = replace(
        record,
        slide_id=slide_id,
        tables=(replace(table, spots=spots, counts=make_counts(counts), genes=genes),),
        image=image,
        sources=record.sources if image is None else (*record.sources, image.source),
        descriptors=replace(record.descriptors, **{"species": "human", **descriptors}),
    )
    with replace_store(path) as directory:
        write_slide(record, directory)


@pytest.fixture(scope="session")
def write_store_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small store into a folder, and return its path; one like it is copied instead."""
    written = tmp_path_factory.mktemp("written")

    def write(
        folder: Path,
        name: str,
        counts: sparse.csr_array | None = None,
        genes: Genes | None = None,
        *,
        slide_id: str | None = None,
        xy: Any = None,
        in_tissue: Any = None,
        image_seed: int | None = None,
        sections: bool = False,
        **descriptors: Any,
    ) -> Path:
        if counts is None:
            counts = _draw_counts(30, 20, seed=sum(name.encode()))
        if genes is None:
            genes = _genes_of([f"G{column}" for column in range(counts.shape[1])])
        slide_id = slide_id or Path(name).stem
        content = (
            slide_id, counts.toarray(), genes, xy, in_tissue, image_seed, sections, descriptors
        )  # fmt: skip
        like = written / f"{hashlib.sha256(pickle.dumps(content)).hexdigest()}.zarr"
        if not like.exists():
            image = None if image_seed is None else _blobs(image_seed)
            _write(
                like, slide_id, counts, genes,
                xy=xy, in_tissue=in_tissue, image=image, sections=sections, descriptors=descriptors,
            )  # fmt: skip
        path = folder / f"{name}.zarr"
        if path.exists():
            shutil.rmtree(path)
        return Path(shutil.copytree(like, path))

    return write


@pytest.fixture
def write_store(write_store_in: Callable[..., Path], fast_path: Path) -> Callable[..., Path]:
    """Write a small store into the folder of this test."""
    return partial(write_store_in, fast_path)


@pytest.fixture
def open_store(write_store: Callable[..., Path]) -> Callable[..., Slide]:
    """Write a small store, and open it."""
    return lambda *arguments, **options: open_slide(write_store(*arguments, **options))
