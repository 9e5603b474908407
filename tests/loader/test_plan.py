"""An epoch has every row once, in groups that fit, the same ones whoever makes them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.loader.plan import (
    Blocks,
    cut_blocks,
    draw_rows,
    map_runs,
    plan_epoch,
)
from stformat.store.layout import spatial_order


@st.composite
def many_blocks(draw):
    """Blocks of a few slides, those of a slide without gaps."""
    slide, start, stop = [], [], []
    for number in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(1, 9), max_size=6))
        ends = np.cumsum(lengths)
        slide += [number] * len(lengths)
        start += (ends - lengths).tolist()
        stop += ends.tolist()
    n_bytes = draw(st.lists(st.integers(1, 500), min_size=len(slide), max_size=len(slide)))
    parts = (np.array(part, dtype=np.int64) for part in (slide, start, stop, n_bytes))
    return Blocks(**dict(zip(("slide", "start", "stop", "n_bytes"), parts, strict=True)))


arguments = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**40),
        "epoch": st.integers(0, 5),
        "batch_size": st.integers(1, 12),
        "group_bytes": st.integers(1, 2000),
        "is_shuffled": st.booleans(),
        "drops_last": st.booleans(),
    }
)


def rows_of(plan) -> list[list[tuple[int, int]]]:
    """The rows of each batch, in order."""
    batches = []
    for number in range(plan.n_groups):
        group = plan.group(number)
        rows = [(part.slide, row) for part in group.parts for row in range(part.start, part.stop)]
        assert sorted(group.order) == list(range(len(rows)))
        assert group.first_batch == len(batches)
        assert plan.group_of_batch(group.first_batch) == number
        assert plan.group_of_batch(group.first_batch + group.n_batches - 1) == number
        batches += [[rows[k] for k in group.batch(batch)] for batch in range(group.n_batches)]
    assert plan.group_of_batch(len(batches)) == plan.n_groups
    assert len(batches) == plan.n_batches
    return batches


@given(many_blocks(), arguments, st.integers(1, 4))
def test_shares_are_disjoint_and_cover_the_epoch(blocks, given_arguments, world_size):
    size = given_arguments["batch_size"]
    shares = [
        rows_of(plan_epoch(blocks, **given_arguments, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    every = Counter(row for share in shares for batch in share for row in batch)
    assert set(every.values()) <= {1}
    n = int((blocks.stop - blocks.start).sum())
    lengths = [sum(map(len, share)) for share in shares]
    if given_arguments["drops_last"]:
        assert {len(batch) for share in shares for batch in share} <= {size}
        assert set(map(len, shares)) == {n // world_size // size}
    else:
        assert len(every) == n
        assert max(lengths) - min(lengths) <= 1
        for share in shares:
            assert all(len(batch) == size for batch in share[:-1])
            assert all(0 < len(batch) <= size for batch in share)


@given(many_blocks(), arguments)
def test_groups_fit_unless_one_batch_does_not(blocks, given_arguments):
    plan = plan_epoch(blocks, **given_arguments)
    of_row = dict(
        zip(
            zip(blocks.slide.tolist(), blocks.start.tolist(), strict=True),
            zip((blocks.stop - blocks.start).tolist(), blocks.n_bytes.tolist(), strict=True),
            strict=True,
        )
    )
    starts = {slide: sorted(row for s, row in of_row if s == slide) for slide, _ in of_row}
    for number in range(plan.n_groups):
        group = plan.group(number)
        taken = 0.0
        for part in group.parts:
            for row in range(part.start, part.stop):
                first = max(start for start in starts[part.slide] if start <= row)
                length, n_bytes = of_row[part.slide, first]
                taken += n_bytes / length
        # Rows of a block count as equals, rounded down where a group begins or ends within one.
        slack = 2
        assert taken <= given_arguments["group_bytes"] + slack or (
            len(group.order) <= given_arguments["batch_size"]
        )


@given(many_blocks(), arguments)
def test_what_is_not_shuffled_comes_in_turn(blocks, given_arguments):
    plan = plan_epoch(blocks, **given_arguments | {"is_shuffled": False, "drops_last": False})
    rows = [row for batch in rows_of(plan) for row in batch]
    assert rows == sorted(rows)


def even_blocks() -> Blocks:
    start = np.arange(0, 4000, 10)
    return Blocks(
        slide=np.repeat([0, 1, 2, 3], 100),
        start=start % 1000,
        stop=start % 1000 + 10,
        n_bytes=np.full(400, 10),
    )


def test_seed_and_epoch_change_the_order_and_nothing_else_does():
    def order(seed, epoch):
        return rows_of(
            plan_epoch(
                even_blocks(), seed=seed, epoch=epoch, batch_size=16, group_bytes=400,
                is_shuffled=True, drops_last=False,
            )
        )  # fmt: skip

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 1)


def test_a_batch_mixes_the_blocks_of_its_group():
    plan = plan_epoch(
        even_blocks(), seed=0, epoch=0, batch_size=40, group_bytes=400, is_shuffled=True,
        drops_last=False,
    )  # fmt: skip
    n_blocks = [len({(s, row // 10) for s, row in batch}) for batch in rows_of(plan)]
    # 40 of 400 rows of 40 blocks: each block is missed with probability (1 - 1/10)**10 = 0.35.
    assert 20 < np.mean(n_blocks) < 32


# ---- blocks


@st.composite
def ordered_centers(draw):
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    n = draw(st.integers(0, 200))
    xy = rng.uniform(-300, draw(st.sampled_from([700.0, 9000.0])), (n, 2))
    xy = xy[spatial_order(xy)]
    is_kept = rng.random(n) < draw(st.sampled_from([0.3, 1.0]))
    return xy[is_kept]


def area(n_rows, extent_px):
    return np.minimum(100 * n_rows, (extent_px + 20).prod(axis=1).astype(np.int64))


@given(ordered_centers(), st.integers(50, 20_000))
def test_blocks_are_neighbours_that_fit(xy, block_bytes):
    bounds = cut_blocks(xy, area, block_bytes=block_bytes)
    assert bounds[0] == 0
    assert bounds[-1] == len(xy)
    assert (np.diff(bounds) > 0).all()
    taken = map_runs(area, xy, bounds)
    assert ((taken <= block_bytes) | (np.diff(bounds) == 1)).all()
    # Two that fit together would have been joined.
    for start, stop in zip(bounds[:-2], bounds[2:], strict=True):
        assert area(np.array([stop - start]), np.ptp(xy[start:stop], axis=0)[None])[0] > block_bytes


def test_blocks_of_a_lattice_are_squares():
    x, y = np.meshgrid(np.arange(64.0) * 64 + 1, np.arange(64.0) * 64 + 1)
    xy = np.column_stack([x.ravel(), y.ravel()])
    xy = xy[spatial_order(xy)]
    bounds = cut_blocks(xy, lambda n_rows, _: n_rows, block_bytes=256)
    assert np.diff(bounds).tolist() == [256] * 16
    for start, stop in pairwise(bounds):
        assert np.ptp(xy[start:stop], axis=0).tolist() == [960, 960]


# ---- draws


def test_rows_are_drawn_by_their_weights():
    weights = [np.array([1.0, 0.0, 3.0]), np.zeros(2), np.array([4.0])]
    drawn = draw_rows(weights, 8000, seed=1, epoch=0)
    counts = [np.bincount(rows, minlength=len(of)) for rows, of in zip(drawn, weights, strict=True)]
    assert [count.tolist() == sorted(count.tolist()) for count in counts[1:]] == [True, True]
    assert counts[0][1] == counts[1].sum() == 0
    np.testing.assert_allclose(counts[0] / 1000, weights[0], atol=0.2)
    assert abs(counts[2][0] / 1000 - 4) < 0.2
    again = draw_rows(weights, 8000, seed=1, epoch=0)
    assert all(np.array_equal(*pair) for pair in zip(drawn, again, strict=True))
    other = draw_rows(weights, 8000, seed=1, epoch=1)
    assert not all(np.array_equal(*pair) for pair in zip(drawn, other, strict=True))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_as_many_rows_are_drawn_as_asked(n):
    drawn = draw_rows([np.ones(3), np.ones(0), np.ones(2)], n, seed=0, epoch=0)
    assert sum(map(len, drawn)) == n
