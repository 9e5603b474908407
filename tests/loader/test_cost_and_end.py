"""What an epoch costs in memory and in decoded chunks, and how a loop over it ends."""

from __future__ import annotations

import resource
import shutil
import threading
from collections import Counter

import numpy as np
import pytest

from stformat.errors import CorruptStoreError, StoreError, StoreReadError, StoreReplaced
from stformat.loader import DecodeCounts, TileLoader
from stformat.loader.group import Group
from stformat.loader.group_pixels import HeldPixels
from stformat.store.arrays import ArrayReader
from stformat.store.reader import open_slide

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 2_000_000}
N_ROWS = 60 + 250 + 70


def load(sources, **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options)


@pytest.mark.parametrize("n_draws", [3, 60, 3000])
def test_draws_take_no_more_memory_than_was_planned(store, monkeypatch, n_draws):
    """Few rows of a block take their tiles, not a share of its region; many, the region once."""
    sizes = []
    allocate = HeldPixels._allocate
    monkeypatch.setattr(
        HeldPixels, "_allocate", lambda self, n: sizes.append(n) or allocate(self, n)
    )
    loader = load([store("bins")], tile_px=64, weights=[1.0], n_draws=n_draws, expression=None,
                  buffer_bytes=2**27)  # fmt: skip
    assert sum(len(batch["row"]) for batch in loader) == n_draws
    inventory = loader._inventory
    planned = inventory.blocks_of([np.array([0, n_draws])]).n_bytes.tolist()
    assert len(planned) == 1
    of_row = inventory.tiles[0].tile_bytes + inventory.row_bytes[0]
    assert sum(sizes) <= planned[0] <= n_draws * of_row


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_before_an_error_are_not_lost(paths, monkeypatch, workers):
    loader = load(paths, workers=workers, shuffle=False)
    batch = Group.batch

    def fails(self, number, output):
        if self.plan.first_batch + number == 3:
            raise MemoryError
        return batch(self, number, output)

    monkeypatch.setattr(Group, "batch", fails)
    seen = []

    def take_all():
        for each in loader:
            seen.append(each["batch_index"])  # noqa: PERF401 - for what comes before an error

    with pytest.raises(MemoryError):
        take_all()
    assert seen == [0, 1, 2]


def test_a_chunk_is_decoded_once_for_a_block(paths, monkeypatch):
    """With a buffer for everything each slide is one block, so each chunk comes once an epoch."""
    loader = load(paths[1:], buffer_bytes=2**30, expression=None)
    decoded = Counter()
    original = ArrayReader.visit_chunks

    def spy(self, chunks, visit):
        if self.path.startswith("images"):
            decoded.update((self.path, id(self), chunk) for chunk in chunks.tolist())
        original(self, chunks, visit)

    monkeypatch.setattr(ArrayReader, "visit_chunks", spy)
    list(loader)
    assert set(decoded.values()) == {1}
    assert len(decoded) > 10
    assert loader.count_decodes() == DecodeCounts(n_decoded=len(decoded), n_chunks=len(decoded))


@pytest.mark.parametrize("options", [{}, {"weights": [1, 1, 9]}, {"rank": 1, "world_size": 2}])
def test_chunks_that_blocks_share_are_counted(paths, monkeypatch, options):
    loader = load(paths, buffer_bytes=500_000, expression=None, **options)
    decoded = Counter()
    original = ArrayReader.visit_chunks

    def spy(self, chunks, visit):
        if self.path.startswith("images"):
            decoded.update((self.grid, int(chunk)) for chunk in chunks)
        original(self, chunks, visit)

    monkeypatch.setattr(ArrayReader, "visit_chunks", spy)
    list(loader)
    counts = loader.count_decodes()
    assert counts == DecodeCounts(n_decoded=decoded.total(), n_chunks=len(decoded))
    assert counts.ratio > 1.1
    assert load(paths, tile_px=None).count_decodes() == DecodeCounts(n_decoded=0, n_chunks=0)


def test_a_block_of_bins_is_cut_where_it_has_too_many_rows(paths, monkeypatch):
    monkeypatch.setattr("stformat.loader.inventory._ROWS_OF_BLOCK", 16)
    loader = load(paths, buffer_bytes=2**30)
    lengths = [
        part.stop - part.start
        for number in range(loader.plan(0).n_groups)
        for part in loader.plan(0).group(number).parts
    ]
    assert max(lengths) <= 16 < N_ROWS / len(lengths) * 2
    assert sum(lengths) == N_ROWS


def loader_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("stformat-loader", "stformat-ahead"))]


def test_an_early_end_leaves_no_thread(paths):
    for _ in load(paths, buffer_bytes=100_000, workers=2):
        assert loader_threads()
        break
    assert not loader_threads()
    passing = iter(load(paths, buffer_bytes=100_000))
    next(passing)
    with pytest.raises(KeyboardInterrupt):
        passing.throw(KeyboardInterrupt)
    assert not loader_threads()


def test_what_goes_wrong_names_its_slide(paths, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(paths[1], copy)
    shard = copy / "images/he/s0/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[10] ^= 0x10
    shard.write_bytes(content)
    for workers in (0, 2):
        loader = load([paths[0], copy], workers=workers)
        with pytest.raises(CorruptStoreError) as caught:
            list(loader)
        assert caught.value.__notes__ == [f"while reading slide 1, bins at {copy}"]
        assert not loader_threads()


@pytest.mark.parametrize("given_open", [False, True])
def test_a_store_that_is_deleted_amid_an_epoch_is_named(paths, tmp_path, given_open):
    copies = [shutil.copytree(path, tmp_path / path.name) for path in paths]
    sources = [open_slide(copy) for copy in copies] if given_open else copies
    loader = load(sources, max_open=1, workers=0, shuffle=False, buffer_bytes=400_000)
    passing = iter(loader)
    assert set(next(passing)["slide"]) == {0}
    shutil.rmtree(copies[2])
    with pytest.raises(StoreError) as caught:
        list(passing)
    where = "" if given_open else f" at {copies[2]}"
    assert caught.value.__notes__ == [f"while reading slide 2, wide{where}"]
    assert loader.state_dict()["epoch"] == 0


def test_too_many_open_files_say_what_to_do(paths):
    loader = load(paths, workers=0)
    loader.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # no more than stdin, out, error
    try:
        with pytest.raises(StoreReadError) as caught:
            list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (note,) = [note for note in caught.value.__notes__ if "max_open" in note]
    assert "ulimit -n" in note


def test_a_store_that_is_replaced_is_not_mixed_with_its_successor(paths, store, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(paths[0], copy)
    loader = load([copy])
    loader.close()
    shutil.rmtree(copy)
    shutil.copytree(store("bins"), copy)
    with pytest.raises(StoreReplaced):
        list(loader)
