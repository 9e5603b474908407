"""Each rank of torch.distributed reads its own share of an epoch."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys

import pytest

from stformat.loader import TileLoader

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more than CPUs
]
torch = pytest.importorskip("torch", reason="needs torch: uv sync --extra torch")

WORLD_SIZE = 2


def load(sources, **options) -> TileLoader:
    given = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 400_000, "genes": ["G1", "G2"]}
    return TileLoader(sources, **given | options)


def rows_of(batches) -> list[tuple[int, int, int]]:
    return [
        (batch["epoch"], slide, row)
        for batch in batches
        for slide, row in zip(batch["slide"].tolist(), batch["row"].tolist(), strict=True)
    ]


def read_as_rank(rank, port, paths, folder):
    """Write which rows a rank reads: by workers, by itself, and by what a worker is given."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    dataset = load(paths).as_torch()  # before there are ranks, as where Lightning makes them
    dataset.set_epoch(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=False)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD_SIZE)
    data = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    by_workers = rows_of(data)
    dataset.set_epoch(1)  # else this process goes on where its workers ended
    given = pickle.dumps(dataset)
    alone = rows_of(dataset)
    n_rows = torch.tensor([len(alone)])
    torch.distributed.all_reduce(n_rows)
    torch.distributed.destroy_process_group()
    found = {
        "by workers": by_workers,
        "alone": alone,
        "as given": rows_of(pickle.loads(given)),  # noqa: S301 - our own
        "of all ranks": n_rows.item(),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))


def test_two_processes_read_disjoint_shares_that_cover_the_epoch(paths, tmp_path):
    server = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=read_as_rank, args=(rank, server.port, paths, tmp_path))
        for rank in range(WORLD_SIZE)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    alive = [process for process in ranks if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive
    assert [process.exitcode for process in ranks] == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD_SIZE)]
    expected = sorted(
        (1, slide, row) for slide, n_rows in enumerate([60, 250, 70]) for row in range(n_rows)
    )
    for way in ("by workers", "alone", "as given"):
        shares = [{tuple(row) for row in one[way]} for one in found]
        assert sorted(tuple(row) for one in found for row in one[way]) == expected
        assert [len(share) for share in shares] == [190, 190]
    assert [one["of all ranks"] for one in found] == [380, 380]
    for rank in range(WORLD_SIZE):
        alone = load(paths).share(rank, WORLD_SIZE)
        alone.set_epoch(1)
        assert [tuple(row) for row in found[rank]["alone"]] == rows_of(alone)


@pytest.fixture
def become_rank(monkeypatch):
    """Let torch say that this process is a rank."""

    def become(rank: int) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: WORLD_SIZE)

    return become


def test_a_loader_with_a_rank_of_its_own_keeps_it(paths, become_rank):
    become_rank(0)
    share = load(paths, rank=2, world_size=3)
    expected = rows_of(share)
    dataset = load(paths, rank=2, world_size=3).as_torch()
    assert rows_of(dataset) == expected
    assert len(dataset) == len(share)


def test_the_state_of_the_whole_is_not_resumed_in_a_share(paths, become_rank):
    dataset = load(paths).as_torch()
    next(iter(dataset))
    state = dataset.state_dict()
    dataset = load(paths).as_torch()
    dataset.load_state_dict(state)
    become_rank(1)
    with pytest.raises(ValueError, match="same order of batches"):
        iter(dataset)
