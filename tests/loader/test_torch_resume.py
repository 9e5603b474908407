"""torchdata's StatefulDataLoader goes on within an epoch with the batches that were left."""

from __future__ import annotations

import multiprocessing
import pickle
from itertools import islice

import numpy as np
import pytest

from stformat.loader import Augmentation, TileLoader

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:'set_vital' is deprecated:UserWarning"
    ),  # torchdata calls it
]
pytest.importorskip("torch", reason="needs torch: uv sync --extra torch")
stateful = pytest.importorskip(
    "torchdata.stateful_dataloader", reason="needs torchdata: uv pip install torchdata"
)


def load(sources) -> TileLoader:
    return TileLoader(
        sources,
        tile_px=40,
        genes=["G1", "G2"],
        batch_size=16,
        buffer_bytes=1_100_000,  # three groups of some batches, and three batches of floats
        seed=3,
        dtype="float16",
        augment=Augmentation(),
    )


def stateful_data(sources, n_workers, **options):
    dataset = load(sources).as_torch()
    if n_workers:
        options = {"multiprocessing_context": "fork"} | options
    data = stateful.StatefulDataLoader(dataset, batch_size=None, num_workers=n_workers, **options)
    return dataset, data


def as_arrays(batches) -> list[dict]:
    return [{key: np.asarray(value) for key, value in batch.items()} for batch in batches]


def parts_of(sources, n_workers, epoch) -> list[list[dict]]:
    """What each worker makes of an epoch, by the loader alone."""
    loader = load(sources)
    parts = []
    for worker in range(n_workers):
        loader.set_epoch(epoch)
        parts.append(list(loader.iter_share(worker, n_workers)))
    return parts


def in_turns(parts) -> list[dict]:
    n_most = max(map(len, parts))
    return [part[n] for n in range(n_most) for part in parts if n < len(part)]


def uneven_epoch(sources) -> int:
    """An epoch in which one of two workers is done some batches before the other."""
    for epoch in range(100):
        plan = load(sources).plan(epoch)
        n_of_groups = [plan.group(group).n_batches for group in range(plan.n_groups)]
        if abs(sum(n_of_groups[::2]) - sum(n_of_groups[1::2])) >= 2:
            return epoch
    raise AssertionError


def assert_same(found, expected, same):
    indices = [[int(batch["batch_index"]) for batch in batches] for batches in (found, expected)]
    assert indices[0] == indices[1]
    assert all(map(same, found, expected))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_what_was_left_of_an_epoch_comes_and_then_the_next(paths, same, n_workers):
    """A worker that is done while another is not must not begin the next epoch when resumed."""
    epoch = uneven_epoch(paths)
    expected = in_turns(parts_of(paths, max(1, n_workers), epoch))
    after = in_turns(parts_of(paths, max(1, n_workers), epoch + 1))
    n = len(expected)
    for n_taken in (0, 1, n // 2, n - 1, n):
        dataset, data = stateful_data(paths, n_workers)
        dataset.set_epoch(epoch)
        passing = iter(data)
        taken = as_arrays(islice(passing, n_taken))
        state = pickle.loads(pickle.dumps(data.state_dict()))  # noqa: S301 - our own
        del passing
        dataset, data = stateful_data(paths, n_workers)
        data.load_state_dict(state)
        assert_same(taken + as_arrays(data), expected, same)
    dataset.set_epoch(epoch + 1)
    assert_same(as_arrays(data), after, same)


def test_the_state_of_an_epoch_that_is_over_begins_the_next(paths, same):
    _, data = stateful_data(paths, 0)
    list(data)
    state = data.state_dict()
    _, data = stateful_data(paths, 0)
    data.load_state_dict(state)
    assert_same(as_arrays(data), in_turns(parts_of(paths, 1, 1)), same)


@pytest.mark.parametrize("n_before", [1, None])
def test_workers_that_persist_keep_the_state_of_their_next_epoch(paths, same, n_before):
    """The one before was left after a batch, or read to its end."""
    expected = in_turns(parts_of(paths, 2, 1))
    _, data = stateful_data(paths, 2, persistent_workers=True)
    list(islice(data, n_before))
    passing = iter(data)
    taken = as_arrays(islice(passing, 1))
    state = data.state_dict()
    del passing, data
    dataset, data = stateful_data(paths, 2, persistent_workers=True)
    data.load_state_dict(state)
    assert_same(taken + as_arrays(data), expected, same)
    dataset.set_epoch(7)
    assert_same(as_arrays(data), in_turns(parts_of(paths, 2, 7)), same)


def test_workers_that_share_no_memory_resume_between_snapshots(paths, same):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stformat.loader.torch_dataset"])
    options = {"multiprocessing_context": context, "snapshot_every_n_steps": 3}
    _, data = stateful_data(paths, 2, **options)
    taken = as_arrays(islice(data, 5))
    state = data.state_dict()
    _, data = stateful_data(paths, 2, **options)
    data.load_state_dict(state)
    assert_same(taken + as_arrays(data), in_turns(parts_of(paths, 2, 0)), same)


def test_a_state_of_other_batches_is_refused(paths):
    _, data = stateful_data(paths, 0)
    state = data.state_dict()
    other = TileLoader(paths, tile_px=40, genes=["G1", "G2"], batch_size=17).as_torch()
    data = stateful.StatefulDataLoader(other, batch_size=None)
    data.load_state_dict(state)
    with pytest.raises(ValueError, match="same order of batches"):
        iter(data)
