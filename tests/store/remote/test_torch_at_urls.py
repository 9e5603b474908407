"""Workers of a DataLoader read slides at URLs, unless they are forked from who did so."""

from __future__ import annotations

import numpy as np
import pytest

from stformat.errors import StoreReadError
from stformat.loader import TileLoader

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
torch = pytest.importorskip("torch", reason="needs torch: uv sync --extra torch")


def load(source) -> TileLoader:
    return TileLoader([source], tile_px=32, batch_size=8, buffer_bytes=200_000)


def load_data(source, n_workers, method):
    return torch.utils.data.DataLoader(
        load(source).as_torch(),
        batch_size=None,
        num_workers=n_workers,
        multiprocessing_context=method,
        timeout=120,
    )


def test_spawned_workers_read_what_the_local_store_gives(small_store, url):
    found = {batch["batch_index"]: batch for batch in load_data(url, 2, "spawn")}
    expected = {batch["batch_index"]: batch for batch in load(small_store)}
    assert len(expected) > 2
    assert found.keys() == expected.keys()
    for index, batch in expected.items():
        assert found[index].keys() == batch.keys()
        for key, value in batch.items():
            np.testing.assert_array_equal(np.asarray(found[index][key]), value)


def test_a_forked_worker_says_how_to_start_it(url):
    with pytest.raises(StoreReadError, match="'spawn' or 'forkserver'"):
        next(iter(load_data(url, 1, "fork")))
