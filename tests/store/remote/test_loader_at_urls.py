"""A loader of several slides at URLs, of which it keeps fewer open."""

from __future__ import annotations

import numpy as np
import pytest

from stformat.errors import StoreReadError
from stformat.loader import TileLoader

OPTIONS = {"tile_px": 32, "batch_size": 8, "buffer_bytes": 200_000}


@pytest.fixture
def urls(server, small_store) -> list[str]:
    """Three slides of the server."""
    for name in ("second.zarr", "third.zarr"):
        (server.folder / name).symlink_to(small_store)
    return [f"{server.url}/{name}.zarr" for name in ("slide", "second", "third")]


@pytest.mark.parametrize("workers", [1, 3])
def test_slides_that_are_opened_again_give_what_the_local_store_gives(urls, small_store, workers):
    local = list(TileLoader([small_store] * 3, **OPTIONS))
    with TileLoader(urls, max_open=1, workers=workers, **OPTIONS) as loader:
        found = list(loader)
    assert len(found) == len(local) > 3
    for one, other in zip(found, local, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            np.testing.assert_array_equal(one[key], value)


def test_a_slide_that_is_gone_amid_an_epoch_is_named(urls, server):
    loader = TileLoader(urls, max_open=1, workers=0, shuffle=False, **OPTIONS)
    passing = iter(loader)
    assert set(next(passing)["slide"]) == {0}
    server.fault = lambda path, _nth: 403 if path.startswith("third") else None
    with pytest.raises(StoreReadError) as caught:
        list(passing)
    assert any(note.startswith("while reading slide 2, ") for note in caught.value.__notes__)
    assert any(note.endswith(urls[2]) for note in caught.value.__notes__)
