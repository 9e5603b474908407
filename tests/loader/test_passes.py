"""Where passes stand: one that is under way is not changed, and a state is of its own data."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from stformat.loader import TileLoader, balanced_weights

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 400_000}
LIMIT_S = 60


def load(sources, **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options)


def equal_all(same, one, other) -> bool:
    return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))


def test_a_pass_is_of_the_epoch_that_was_next_when_it_was_asked_for(paths):
    loader = load(paths)
    passing = iter(loader)
    loader.set_epoch(5)
    assert next(passing)["epoch"] == 0
    assert {batch["epoch"] for batch in loader} == {5}


def test_two_passes_at_once_are_two_epochs(paths, same):
    loader = load(paths)
    alone = load(paths)
    expected = list(alone), list(alone)
    first, second = iter(loader), iter(loader)
    found = [], []
    for one, two in zip(first, second, strict=True):
        found[0].append(one)
        assert loader.state_dict()["epoch"] == 1
        found[1].append(two)
    assert all(equal_all(same, *pair) for pair in zip(found, expected, strict=True))
    assert loader.epoch == 2


def test_the_state_is_that_of_the_pass_that_yielded_last(paths):
    loader = load(paths)
    first, second = iter(loader), iter(loader)
    for passing, place in ((second, (1, 1)), (first, (0, 1)), (first, (0, 2)), (second, (1, 2))):
        next(passing)
        state = loader.state_dict()
        assert (state["epoch"], state["batch"]) == place


ROWS = [slice(0, 30), None, None]


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ({"rows": ROWS}, {"rows": [slice(30, 60), None, None]}),
        ({"weights": [1, 1, 1]}, {"weights": [1, 2, 3]}),
        ({}, {"weights": [1, 2, 3]}),
        ({}, {"order": [0, 2, 1]}),
        ({"genes": ["G1"]}, {"genes": None, "buffer_bytes": 400_001}),
        ({}, {"batch_size": 31}),
        ({}, {"seed": 1}),
        ({}, {"shuffle": False}),
        ({"world_size": 2}, {"world_size": 2, "rank": 1}),
    ],
    ids=str,
)
def test_a_state_of_other_data_is_refused(paths, saved, loaded):
    one, other = (
        load([paths[number] for number in options.pop("order", [0, 1, 2])], **options)
        for options in (dict(saved), dict(loaded))
    )
    one.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="same order of batches"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 999}, "batch of a state must be from 0 to"),
        ({"batch": -1}, "batch of a state must be from 0 to"),
        ({"epoch": -1}, "epoch must be from 0"),
        ({"order": None}, "same order of batches"),
        ({"order": {}}, "same order of batches"),
    ],
)
def test_a_state_of_no_batch_is_refused(paths, change, message):
    loader = load(paths)
    state = loader.state_dict()
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state | change)
    loader.load_state_dict(state | {"batch": len(loader)})
    assert list(loader) == []
    for name in state:
        with pytest.raises(ValueError, match=f"lacks {name}"):
            loader.load_state_dict({key: state[key] for key in state if key != name})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_forked_child_is_told_that_its_parents_pass_cannot_go_on(paths, same, workers):
    loader = load(paths, workers=workers)
    expected = list(load(paths))
    passing = iter(loader)
    taken = [next(passing)]
    child = os.fork()
    if not child:
        signal.alarm(LIMIT_S)  # a child that hangs ends by it
        code = 1
        try:
            next(passing)
        except RuntimeError:
            code = 0 if len(list(loader)) == len(expected) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert equal_all(same, [*taken, *passing], expected)


# ---- weights


def test_labels_are_balanced_among_the_rows_that_are_loaded(paths):
    labels = [["t"] * 60, ["t"] * 200 + ["s"] * 50, [None] * 70]
    rows = [None, slice(190, 250), []]
    weights = balanced_weights(labels, rows)
    assert [len(values) for values in weights] == [60, 250, 70]
    loader = load(paths, rows=rows, weights=weights, n_draws=4000, tile_px=None)
    drawn = [labels[s][r] for b in loader for s, r in zip(b["slide"], b["row"], strict=True)]
    assert abs(drawn.count("t") - 2000) < 200
    assert drawn.count("s") + drawn.count("t") == 4000
    with pytest.raises(ValueError, match="each of 3 slides"):
        balanced_weights(labels, [None])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e308, 5e-324])
def test_weights_of_any_size_are_shares(paths, scale):
    loader = load(paths, weights=[scale] * 3, n_draws=3000, tile_px=None)
    rows = [(s, r) for b in loader for s, r in zip(b["slide"], b["row"], strict=True)]
    assert len(set(rows)) > 300
    assert np.bincount([s for s, _ in rows]).argmax() == 1  # it has most rows
