"""How well batches are mixed, beside a true shuffle of all rows, for buffers of several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

import stformat as stf
from loader_cases.corpus import Corpus

__all__ = ["quality_table"]

_BATCH = 256
_N_BATCHES = 200
_NEAR_PX = 448.0


def quality_table(corpus: Corpus, buffers_mib: Sequence[int]) -> list[str]:
    """Return a Markdown table, one line a buffer."""
    lines = [
        "| buffer | rows of a group | blocks | slides of a batch | spread | neighbours | decoded |",
        "|---|---|---|---|---|---|---|",
    ]
    centers = []
    for path in corpus.paths:
        with stf.open_slide(path) as slide:
            centers.append(slide.centers_px(slice(None)))
    truth = _mixing(_truly_shuffled([len(each) for each in centers]), centers)
    for mib in buffers_mib:
        loader = stf.TileLoader(
            corpus.paths, batch_size=_BATCH, expression=None, buffer_bytes=mib * 2**20
        )
        plan = loader.plan(0)
        n_rows, n_parts = np.mean(
            [
                (len(group.order), len(group.parts))
                for group in map(plan.group, range(plan.n_groups))
            ],
            axis=0,
        )
        n_slides, spread, near = _mixing(_batches(loader), centers)
        lines.append(
            f"| {mib} MiB | {n_rows:.0f} | {n_parts:.0f} | {n_slides:.1f} ({truth[0]:.1f}) "
            f"| {spread / truth[1]:.2f} x | {near / truth[2]:.1f} x "
            f"| {loader.count_decodes().ratio:.2f} x |"
        )
    return lines


type Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


def _batches(loader: stf.TileLoader) -> Iterator[Batch]:
    """Yield slides and rows of batches, from the plan alone."""
    plan = loader.plan(0)
    for number in range(plan.n_groups):
        group = plan.group(number)
        slide = np.repeat(
            [part.slide for part in group.parts], [part.stop - part.start for part in group.parts]
        )
        row = np.concatenate([np.arange(part.start, part.stop) for part in group.parts])
        for batch in range(group.n_batches):
            chosen = group.batch(batch)
            yield slide[chosen], row[chosen]


def _truly_shuffled(lengths: Sequence[int]) -> Iterator[Batch]:
    slide = np.repeat(np.arange(len(lengths)), lengths)
    row = np.concatenate([np.arange(length) for length in lengths])
    order = np.random.default_rng(0).permutation(len(slide))
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        yield slide[chosen], row[chosen]


def _mixing(
    batches: Iterator[Batch], centers: Sequence[NDArray[np.float64]]
) -> tuple[float, float, float]:
    """Return means over batches: slides, distance to the epoch's slides, share of neighbours."""
    lengths = np.array([len(each) for each in centers])
    share = lengths / lengths.sum()
    listed = list(batches)
    step = max(1, len(listed) // _N_BATCHES)
    measured = []
    for slide, row in listed[::step]:
        histogram = np.bincount(slide, minlength=len(centers)) / len(slide)
        xy = np.array([centers[s][r] for s, r in zip(slide.tolist(), row.tolist(), strict=True)])
        apart = np.abs(xy[:, np.newaxis] - xy).max(axis=2)
        is_near = (apart < _NEAR_PX) & (slide[:, np.newaxis] == slide)
        n_pairs = max(1, len(slide) * (len(slide) - 1))
        measured.append(
            (
                len(np.unique(slide)),
                np.abs(histogram - share).sum() / 2,
                (is_near.sum() - len(slide)) / n_pairs,
            )
        )
    n_slides, spread, near = np.mean(measured, axis=0)
    return float(n_slides), float(spread), float(near)
