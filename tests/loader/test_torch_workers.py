"""Workers of a DataLoader, however they are started: the same batches, the epoch, the end."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import psutil
import pytest

from stformat.collection.panel_rules import gene_panel
from stformat.loader import Augmentation, TileLoader

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more than CPUs
]
torch = pytest.importorskip("torch", reason="needs torch: uv sync --extra torch")
torch_passes = importlib.import_module("stformat.loader.torch_passes")

SMALL = {"tile_px": 40, "batch_size": 16, "buffer_bytes": 400_000, "genes": ["G1", "G2"]}
LIMIT_S = 120
"""How long a script may take before it counts as hanging: many times what it needs."""


def load(sources, **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options)


def load_data(dataset, n_workers, method, **options):
    return torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=n_workers, multiprocessing_context=method, **options
    )


def as_arrays(batch: dict) -> dict:
    return {key: value if isinstance(value, int) else value.numpy() for key, value in batch.items()}


def in_turns(sources, n_workers, epoch, **options) -> list[dict]:
    """A batch of each worker in turn, by the loader alone."""
    loader = load(sources, **options)
    parts = []
    for worker in range(n_workers):
        loader.set_epoch(epoch)
        parts.append(list(loader.iter_share(worker, n_workers)))
    n_most = max(map(len, parts))
    return [part[n] for n in range(n_most) for part in parts if n < len(part)]


def rows_of(batches) -> list[tuple[int, int]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch["slide"].tolist(), batch["row"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(("method", "n_workers"), [("fork", 2), ("fork", 3), ("spawn", 2)])
def test_workers_make_the_batches_of_the_loader_in_turns(
    paths, same, method, n_workers, persistent
):
    """In two epochs, of which the one that is set is no other than that which is read."""
    dataset = load(paths).as_torch()
    data = load_data(dataset, n_workers, method, persistent_workers=persistent)
    for epoch in (4, 2):
        dataset.set_epoch(epoch)
        # Threads of this process before the fork, as a training script has them.
        alone = load(paths)
        alone.set_epoch(epoch)
        whole = {batch["batch_index"]: batch for batch in alone}
        found = [as_arrays(batch) for batch in data]
        expected = in_turns(paths, n_workers, epoch)
        assert len(data) == len(found) == len(whole)
        assert all(map(same, found, expected))
        assert all(same(batch, whole[batch["batch_index"]]) for batch in found)
        assert len(set(rows_of(found))) == len(rows_of(found)) == 380


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_started_anew_know_a_panel(paths, slides, same, method):
    options = {"genes": gene_panel(slides, "union")}
    found = [as_arrays(batch) for batch in load_data(load(paths, **options).as_torch(), 2, method)]
    expected = in_turns(paths, 2, 0, **options)
    assert len(found) == len(expected)
    assert all(map(same, found, expected))
    assert all(batch["measured"].any() for batch in found)


def test_workers_that_persist_go_on_to_the_next_epoch(paths):
    """Also where a pass was left early; an epoch that is set meanwhile is that of the next pass."""
    dataset = load(paths).as_torch()
    data = load_data(dataset, 2, "fork", persistent_workers=True)
    assert next(iter(data))["epoch"] == 0
    assert {batch["epoch"] for batch in data} == {1}
    passing = iter(data)
    dataset.set_epoch(9)
    assert {batch["epoch"] for batch in passing} == {2}
    assert [{batch["epoch"] for batch in data} for _ in range(2)] == [{9}, {10}]


def test_an_epoch_that_is_set_while_workers_start_is_that_of_the_next_pass(paths):
    dataset = load(paths).as_torch()
    data = load_data(dataset, 1, "fork", persistent_workers=True)
    passing = iter(data)
    dataset.set_epoch(5)
    assert {batch["epoch"] for batch in passing} == {0}
    assert {batch["epoch"] for batch in data} == {5}


def test_a_copy_tells_its_own_workers_of_epochs(paths):
    dataset = load(paths).as_torch()
    dataset.set_epoch(2)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own
    both = [load_data(one, 1, "fork", persistent_workers=True) for one in (dataset, copy)]
    assert [{batch["epoch"] for batch in data} for data in both] == [{2}, {2}]
    copy.set_epoch(7)
    dataset.set_epoch(5)
    assert [{batch["epoch"] for batch in data} for data in both] == [{5}, {7}]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_are_started_anew_go_on_to_the_next_epoch(paths, method):
    """Each pass is of one epoch and whole, also after one that was left early."""
    dataset = load(paths, augment=Augmentation()).as_torch()
    data = load_data(dataset, 2, method)
    next(iter(data))
    passes = [list(data) for _ in range(2)]
    dataset.set_epoch(np.int64(7))
    passes += [list(data), list(data)]
    dataset.set_epoch(1)
    passes.append(list(data))
    assert [{batch["epoch"] for batch in batches} for batches in passes] == [
        {1},
        {2},
        {7},
        {8},
        {1},
    ]
    for batches in passes:
        assert len(set(rows_of(batches))) == len(rows_of(batches)) == 380
    first, other, again = (passes[number][0] for number in (0, 1, -1))
    assert torch.equal(first["tile"], again["tile"])
    assert not torch.equal(first["tile"], other["tile"])


def test_passes_with_and_without_workers_are_epochs_in_turn(paths):
    dataset = load(paths).as_torch()
    alone = torch.utils.data.DataLoader(dataset, batch_size=None)
    others = load_data(dataset, 2, "fork")
    seen = [{batch["epoch"] for batch in data} for data in (others, alone, alone, others, alone)]
    assert seen == [{0}, {1}, {2}, {3}, {4}]


def test_two_passes_of_workers_at_once_are_two_whole_epochs(paths):
    dataset = load(paths).as_torch()
    found = [], []
    for both in zip(*(load_data(dataset, 2, "fork") for _ in range(2)), strict=True):
        for batches, batch in zip(found, both, strict=True):
            batches.append(batch)
    assert sorted({batch["epoch"] for batch in batches}.pop() for batches in found) == [0, 1]
    for batches in found:
        assert len({batch["epoch"] for batch in batches}) == 1
        assert len(set(rows_of(batches))) == 380


def test_a_seed_that_is_the_same_for_each_pass_stops_no_epoch(paths):
    data = load_data(load(paths).as_torch(), 2, "fork")
    seen = []
    for _ in range(3):
        torch.manual_seed(5)
        seen.append({batch["epoch"] for batch in data})
    assert seen == [{0}, {1}, {2}]


def test_processes_that_share_a_log_have_passes_of_their_own():
    """As ranks that were forked with the dataset, whose seeds are the same."""
    log = torch_passes.PassLog()
    of_pass = {"n_set": 0, "n_workers": 2, "epoch": 0}
    for epoch in range(600):
        begun = [log.join(owner=owner, seed=epoch // 2, **of_pass) for owner in (1, 2, 2, 1)]
        assert begun == [epoch] * 4
        assert log.next_epoch(owner=2, n_set=0, epoch=0) == epoch + 1
    assert log.next_epoch(owner=3, n_set=0, epoch=0) == 0
    assert log.next_epoch(owner=2, n_set=1, epoch=0) == 0


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_pass_that_stood_without_workers_goes_on_with_them(paths, same, n_workers):
    """And the passes after it are of the epochs after it."""
    dataset = load(paths).as_torch()
    dataset.set_epoch(3)
    passing = iter(torch.utils.data.DataLoader(dataset, batch_size=None))
    taken = [next(passing) for _ in range(4)]
    state = json.loads(json.dumps(dataset.state_dict()))
    rest = [as_arrays(batch) for batch in passing]
    resumed = load(paths).as_torch()
    resumed.load_state_dict(state)
    options = {"multiprocessing_context": "fork"} if n_workers else {}
    data = torch.utils.data.DataLoader(resumed, batch_size=None, num_workers=n_workers, **options)
    found = sorted(map(as_arrays, data), key=lambda batch: batch["batch_index"])
    assert len(taken) == found[0]["batch_index"]
    assert len(found) == len(rest)
    assert all(map(same, found, rest))
    assert [{batch["epoch"] for batch in data} for _ in range(2)] == [{4}, {5}]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:Sparse invariant checks are:UserWarning"
)  # when torch unpickles
def test_workers_hand_over_sparse_expression(paths):
    options = {"expression": "csr", "genes": None}
    found = list(load_data(load(paths, **options).as_torch(), 2, "fork"))
    expected = in_turns(paths, 2, 0, **options)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["expression"].to_dense(), two["expression"].toarray())


SCRIPT = """
    import itertools, signal, sys
    from torch.utils.data import DataLoader
    from stformat.loader import Augmentation, TileLoader

    if __name__ == "__main__":
        # Whoever runs tests in the background hands down that it is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        method, *paths = sys.argv[1:]
        dataset = TileLoader(
            paths, tile_px=40, batch_size=16, buffer_bytes=400_000, genes=["G1", "G2"]
        ).as_torch()
        def batches(persistent):
            return DataLoader(
                dataset, batch_size=None, num_workers=2, multiprocessing_context=method,
                persistent_workers=persistent,
            )
"""


def start(folder, code, *arguments):
    """Start a script in a session of its own."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT) + textwrap.indent(textwrap.dedent(code), "    "))
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process) -> tuple[str, str]:
    """Wait for a script; whatever of its session is left then would be left for ever."""
    with process:
        try:
            texts = process.communicate(timeout=LIMIT_S)
            _, alive = psutil.wait_procs(processes_of(process.pid), timeout=10)
        except subprocess.TimeoutExpired:
            pytest.fail("the script hangs")
        finally:
            for one in processes_of(process.pid):
                one.kill()
    assert not alive
    return texts


def processes_of(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loop_that_is_left_early_leaves_no_process(paths, tmp_path, persistent):
    code = f"""
        kept = batches({persistent})
        for batch in kept:
            break
        print(batch["batch_index"])
    """
    process = start(tmp_path, code, "fork", *paths)
    out, error = finish(process)
    assert (process.returncode, out, error) == (0, "0\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ctrl_c_ends_the_script_and_its_workers(paths, tmp_path, method):
    """Also after an epoch that was left early."""
    code = """
        kept = batches(True)
        next(iter(kept))
        for epoch in itertools.count():
            for batch in kept:
                print(epoch, flush=True)
    """
    process = start(tmp_path, code, method, *paths)
    timer = threading.Timer(LIMIT_S, process.kill)
    timer.start()
    for line in process.stdout:
        if line == "1\n":  # workers are amid a later epoch
            break
    timer.cancel()
    n_workers = len(processes_of(process.pid)) - 1
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = finish(process)
    assert n_workers >= 2
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in error
