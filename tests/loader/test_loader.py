"""Batches hold what the slides hold, whoever makes them, and every row once."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

import stformat as stf
from stformat import kernels
from stformat.loader import Augmentation, TileLoader, balanced_weights, group_pixels
from stformat.loader.group_pixels import PlacedTiles
from stformat.store.reader import open_slide

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 2_000_000}
N_ROWS = 60 + 250 + 70


def load(sources, **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options)


def rows_of(batches) -> list[tuple[int, int]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch["slide"].tolist(), batch["row"].tolist(), strict=True)
    ]


def equal_all(same, one, other) -> bool:
    return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))


def test_the_public_name_is_this_one():
    assert stf.TileLoader is TileLoader


# ---- what batches hold


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mpp": 0.8},
        {"mpp": 0.3},
        {"mpp": 1.0, "genes": ["G7", "G2"], "normalize": "log1p"},
        {"expression": "csr", "normalize": "log1p", "target_sum": 50.0},
        {"expression": "csr", "genes": ["G7", "G2", "G9"]},
        {"expression": None},
        {"tile_px": None, "normalize": "log1p"},
        {"buffer_bytes": 1, "batch_size": 7},
        {"buffer_bytes": 2**30, "workers": 3},
        {"workers": 0},
        {"shuffle": False},
    ],
    ids=str,
)
def test_batches_hold_what_slides_hold(paths, slides, options):
    loader = load(paths, **options)
    assert len(loader) == -(-N_ROWS // loader.plan(0).batch_size)
    batches = list(loader)
    assert [batch["batch_index"] for batch in batches] == list(range(len(loader)))
    assert sorted(rows_of(batches)) == [
        (slide, row) for slide, n in enumerate((60, 250, 70)) for row in range(n)
    ]
    tile_px = options.get("tile_px", SMALL["tile_px"])
    how = {name: options[name] for name in ("normalize", "target_sum") if name in options}
    for batch in batches:
        assert set(batch) == {"slide", "row", "x", "y", "epoch", "batch_index"} | (
            {"tile"} if tile_px else set()
        ) | ({"expression"} if options.get("expression", "dense") else set())
        for number, slide in enumerate(slides):
            here = batch["slide"] == number
            rows = batch["row"][here]
            xy = np.column_stack([batch["x"], batch["y"]])[here]
            np.testing.assert_array_equal(xy, slide.centers_px(rows))
            if tile_px:
                tiles = slide.tiles(tile_px, mpp=options.get("mpp"), rows=rows)
                np.testing.assert_array_equal(batch["tile"][here], tiles[:])
            if "expression" in batch:
                expression = batch["expression"]
                if options.get("expression") == "csr":
                    expression = expression.toarray()
                wanted = slide.expression(rows, options.get("genes"), **how)
                np.testing.assert_array_equal(expression[here], wanted)


def test_overlapping_tiles_are_cut_from_the_region_that_they_lie_in(paths):
    """Both ways to hold pixels occur, else the test above shows half of what it seems to."""
    loader = load(paths)
    chosen = []
    choose_held = group_pixels.choose_held
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            group_pixels, "choose_held", lambda *of: chosen.append(choose_held(*of)) or chosen[-1]
        )
        list(loader)
    assert any(held.regions for held in chosen)
    assert any(len(held.of_tiles) for held in chosen)


def test_a_batch_is_cut_out_of_a_group_in_one_call(paths, monkeypatch):
    """However many slides and blocks it has rows of; a small buffer holds them apart."""
    calls = []
    gather_windows = kernels.gather_windows
    monkeypatch.setattr(
        kernels, "gather_windows", lambda *of: calls.append(len(of[1])) or gather_windows(*of)
    )
    loader = load(paths, buffer_bytes=2**27)
    # Batches are made side by side, in any order.
    assert sorted(len(batch["row"]) for batch in loader) == sorted(calls)
    calls.clear()
    few = load(paths, buffer_bytes=400_000)
    assert sum(len(batch["row"]) for batch in few) == sum(calls) == N_ROWS
    assert len(calls) > len(few)


@pytest.mark.parametrize(
    "options",
    [{}, {"mpp": 1.0}, {"weights": [1, 5], "n_draws": 300}, {"augment": Augmentation()}],
    ids=str,
)
def test_tiles_that_lie_apart_are_read_to_their_place(store, options, monkeypatch):
    sources = [store("spots"), store("fractions")]
    seen = []
    add = PlacedTiles.add
    monkeypatch.setattr(PlacedTiles, "add", lambda *of, **how: (seen.append(of), add(*of, **how)))
    loader = load(sources, expression=None, **options)
    batches = list(loader)
    plan = loader.plan(0)
    slides_of_groups = [
        {part.slide for part in plan.group(number).parts} for number in range(plan.n_groups)
    ]
    assert len(seen) == sum(map(len, slides_of_groups))
    for number, source in enumerate(sources):
        with open_slide(source) as slide:
            for batch in batches:
                here = batch["slide"] == number
                wanted = slide.tiles(40, mpp=options.get("mpp"), rows=batch["row"][here])[:]
                found = batch["tile"][here]
                if "augment" in options:  # mirrored and turned: the same pixels elsewhere
                    wanted, found = (np.sort(t.reshape(len(t), 3, 1600)) for t in (wanted, found))
                np.testing.assert_array_equal(found, wanted)


def test_counts_that_are_fractions(store):
    path = store("fractions")
    batches = list(load([path], normalize="log1p"))
    with open_slide(path) as slide:
        for batch in batches:
            wanted = slide.expression(batch["row"], normalize="log1p")
            np.testing.assert_array_equal(batch["expression"], wanted)


@pytest.mark.parametrize("expression", ["dense", "csr"])
def test_whole_counts_and_fractions_mix(store, expression):
    sources = [store("spots"), store("fractions")]
    batches = list(load(sources, genes=["G3", "G1"], expression=expression, tile_px=None))
    assert any(len(set(batch["slide"].tolist())) == 2 for batch in batches)
    for number, source in enumerate(sources):
        with open_slide(source) as slide:
            for batch in batches:
                here = batch["slide"] == number
                values = batch["expression"]
                values = values if expression == "dense" else values.toarray()
                wanted = slide.expression(batch["row"][here], ["G3", "G1"])
                np.testing.assert_array_equal(values[here], wanted)


def test_a_panel_says_what_was_measured(store, half_panel):
    sources = [store("bins"), store("other-genes")]
    panel = half_panel(("G3", "G25", "nowhere", "G1"))
    for expression in ("dense", "csr"):
        loader = load(sources, genes=panel, expression=expression)
        assert loader.gene_keys == panel.keys
        for batch in loader:
            values = batch["expression"]
            values = values if expression == "dense" else values.toarray()
            for number, source in enumerate(sources):
                here = batch["slide"] == number
                with open_slide(source) as slide:
                    known = [key in slide.var.index for key in panel.keys]
                    keys = np.array(panel.keys)[known].tolist()
                    wanted = slide.expression(batch["row"][here], keys)
                assert (batch["measured"][here] == known).all()
                np.testing.assert_array_equal(values[here][:, known], wanted)
                assert not values[here][:, ~np.array(known)].any()


@pytest.mark.parametrize("dtype", ["float32", "float16", None])
def test_augmented_tiles_are_their_definition(paths, slides, dtype):
    augment = Augmentation(stain_scale=0.1, stain_shift=0.05, brightness=0.1)
    output = {"dtype": dtype, "mean": [0.7, 0.5, 0.7], "std": [0.2, 0.3, 0.2]} if dtype else {}
    loader = load(paths, augment=augment, expression=None, seed=5, **output)
    loader.set_epoch(3)
    for batch in loader:
        assert batch["epoch"] == 3
        tiles = np.stack(
            [
                slides[slide].tiles(40)[row]
                for slide, row in zip(batch["slide"].tolist(), batch["row"].tolist(), strict=True)
            ]
        )
        changes = augment.draw(
            seed=5, epoch=3, slide=batch["slide"], row=batch["row"],
            occurrence=np.zeros_like(batch["row"]),
        )  # fmt: skip
        tiles = kernels.change_stains(tiles, changes.stains)
        if dtype:
            wanted = kernels.tiles_to_float(
                tiles, flips=changes.flips, turns=changes.turns, **output
            )
        else:
            as_floats = kernels.tiles_to_float(
                tiles, scale=1.0, flips=changes.flips, turns=changes.turns
            )
            wanted = as_floats.astype(np.uint8)
        np.testing.assert_array_equal(batch["tile"], wanted)


def test_fluorescence_of_four_channels(store):
    with open_slide(store("fluorescence")) as slide:
        for batch in load([slide], dtype="float32"):
            tiles = kernels.tiles_to_float(slide.tiles(40, rows=batch["row"])[:])
            np.testing.assert_array_equal(batch["tile"], tiles)


# ---- which rows


def test_rows_of_a_split_are_loaded_and_no_others(paths):
    mask = np.arange(250) % 3 == 0
    loader = load(paths, rows=[[5, 2, 9], mask, None])
    expected = [(0, 2), (0, 5), (0, 9), *((1, row) for row in np.flatnonzero(mask))]
    expected += [(2, row) for row in range(70)]
    assert sorted(rows_of(loader)) == expected
    with pytest.raises(ValueError, match="row 5 several times"):
        load(paths, rows=[[5, 5], None, None])
    with pytest.raises(IndexError, match="60"):
        load(paths, rows=[[60], None, None])


def test_no_rows_make_no_batches(paths):
    loader = load(paths, rows=[[], [], []])
    assert len(loader) == 0
    assert list(loader) == []


def test_every_epoch_has_its_own_order_and_the_seed_decides(paths, same):
    loader = load(paths, seed=1)
    epochs = [list(loader) for _ in range(3)]
    assert loader.epoch == 3
    orders = [rows_of(epoch) for epoch in epochs]
    assert orders[0] != orders[1] != orders[2]
    again = load(paths, seed=1)
    again.set_epoch(1)
    assert equal_all(same, list(again), epochs[1])
    assert rows_of(load(paths, seed=2)) != orders[0]


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_an_epoch(paths, drop_last):
    loaders = [load(paths, rank=rank, world_size=3, drop_last=drop_last) for rank in range(3)]
    shares = [list(loader) for loader in loaders]
    every = Counter(row for share in shares for row in rows_of(share))
    assert set(every.values()) == {1}
    assert [len(share) for share in shares] == [len(loader) for loader in loaders]
    if drop_last:
        assert {len(batch["row"]) for share in shares for batch in share} == {32}
        assert len(set(map(len, shares))) == 1
    else:
        assert len(every) == N_ROWS
    whole = load(paths, drop_last=drop_last)
    assert rows_of(whole.share(1, 3)) == rows_of(shares[1])


def test_drawn_rows_follow_their_weights(paths):
    labels = [["tumour"] * 60, ["stroma"] * 200 + ["tumour"] * 50, [None] * 70]
    loader = load(paths, weights=balanced_weights(labels), n_draws=2000, buffer_bytes=10**8)
    assert loader.n_rows == 2000
    rows = rows_of(loader)
    assert len(rows) == 2000
    drawn = Counter(labels[slide][row] for slide, row in rows)
    assert set(drawn) == {"tumour", "stroma"}
    assert abs(drawn["tumour"] - 1000) < 120
    assert max(Counter(rows).values()) > 5


def test_a_row_drawn_twice_is_the_same_tile_changed_otherwise(paths, slides):
    weights = [np.eye(60)[7], 0, 0]
    loader = load(paths, weights=weights, n_draws=64, augment=Augmentation(), dtype="float32")
    batches = list(loader)
    assert set(rows_of(batches)) == {(0, 7)}
    tile = kernels.tiles_to_float(slides[0].tiles(40)[[7]])[0]
    every = {np.rot90(flipped, turn, axes=(1, 2)).tobytes()
             for flipped in (tile, tile[:, :, ::-1]) for turn in range(4)}  # fmt: skip
    found = {one.tobytes() for batch in batches for one in batch["tile"]}
    assert found == every


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "3 slides"),
        ([np.ones(59), 1, 1], "each of the 60 rows"),
        ([-1.0, 1, 1], "not negative"),
        ([np.nan, 1, 1], "finite"),
        ([0, 0, 0], "not all be zero"),
    ],
)
def test_impossible_weights_are_refused(paths, weights, message):
    with pytest.raises(ValueError, match=message):
        load(paths, weights=weights)


# ---- who makes them


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_threads_do_not_change_batches(paths, same, workers):
    assert equal_all(same, list(load(paths, workers=workers)), list(load(paths)))


@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_make_the_batches_that_one_makes(paths, same, n_processes):
    options = {"buffer_bytes": 300_000}
    expected = list(load(paths, **options))
    found = {}
    for process in range(n_processes):
        made = list(load(paths, **options).iter_share(process, n_processes))
        indices = [batch["batch_index"] for batch in made]
        assert indices == sorted(indices)
        found |= dict(zip(indices, made, strict=True))
    assert equal_all(same, [found[index] for index in sorted(found)], expected)


def test_a_pass_goes_on_after_any_batch(paths, same):
    first, resumed = load(paths), load(paths, workers=0)
    expected = [*first, *first]
    n = len(first)
    for stop in range(n + 1):
        first.set_epoch(0)
        passing = iter(first)
        for _ in range(stop):
            next(passing)
        state = pickle.loads(pickle.dumps(first.state_dict()))  # noqa: S301 - our own
        passing.close()
        resumed.load_state_dict(state)
        assert equal_all(same, list(resumed), expected[stop:n])
    assert equal_all(same, list(resumed), expected[n:])


def test_a_state_of_another_order_is_refused(paths):
    state = load(paths).state_dict()
    with pytest.raises(ValueError, match="same order"):
        load(paths, batch_size=31).load_state_dict(state)


def test_a_pass_that_ends_early_leaves_the_next_epoch(paths):
    loader = load(paths)
    for batch in loader:
        assert batch["epoch"] == 0
        break
    assert {batch["epoch"] for batch in loader} == {1}


def test_a_loader_pickles(paths, same):
    with load(paths) as loader:
        expected = list(loader)
        again = pickle.loads(pickle.dumps(load(paths)))  # noqa: S301 - our own
        assert equal_all(same, list(again), expected)


def test_slides_may_be_given_open_and_closed(paths, same):
    opened = [open_slide(path) for path in paths]
    loader = load(opened, max_open=1)
    for slide in opened:
        slide.close()
    assert equal_all(same, list(loader), list(load(paths)))
