"""Batches made on a GPU, or on a stand-in for it, are those made by the processor."""

from __future__ import annotations

import os
import sys
import threading
from itertools import islice

import numpy as np
import pytest

from stformat.kernels import _cupy
from stformat.loader import Augmentation, TileLoader, stream

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 2_000_000}


@pytest.fixture(scope="module", params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request, use_cupy):
    with use_cupy(request.param) as module:
        yield module


@pytest.fixture(scope="module")
def stand_in(use_cupy):
    with use_cupy("stand-in") as module:
        yield module


def load(sources, device="cuda", **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options, device=device)


def assert_same(cupy, there, here):
    """Hold batches of a GPU, of which some arrays are CuPy's, to those of the processor."""
    assert there.keys() == here.keys()
    assert {name for name, value in there.items() if isinstance(value, cupy.ndarray)} == {
        name for name in ("tile", "expression") if name in here
    }
    for name, value in there.items():
        found = value.get() if isinstance(value, cupy.ndarray) else np.asarray(value)
        assert found.dtype == np.asarray(here[name]).dtype
        np.testing.assert_array_equal(found, here[name])


ALL_CHANGES = Augmentation(brightness=0.2, stain_scale=0.1, stain_shift=0.05)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": False, "batch_size": 7},
        {"buffer_bytes": 1},
        {"mpp": 0.8},
        {"mpp": 0.3, "expression": None},
        {"mpp": 1.0, "dtype": "float32", "augment": ALL_CHANGES},
        {"dtype": "float16", "augment": ALL_CHANGES, "mean": [0.4] * 3, "std": [0.2] * 3},
        {"dtype": "float32"},
        {"augment": Augmentation()},
        {"augment": ALL_CHANGES},
        {"tile_px": None},
        {"tile_px": None, "normalize": "log1p", "target_sum": 50.0},
        {"genes": ["G3", "G1"], "normalize": "log1p"},
        {"weights": [1.0, 0.1, 3.0], "n_draws": 500},
        {"rank": 1, "world_size": 3, "drop_last": True},
    ],
    ids=str,
)
def test_both_devices_make_the_same_batches(cupy, paths, options, workers):
    on_gpu = load(paths, **options, workers=workers)
    on_host = load(paths, "cpu", **options)
    n_batches = 0
    for there, here in zip(on_gpu, on_host, strict=True):
        assert_same(cupy, there, here)
        n_batches += 1
    assert n_batches == len(on_host) > 1


def test_rows_that_are_drawn_twice_are_changed_each_in_its_way(cupy, paths):
    weights = [0.0, 0.0, np.r_[np.ones(3), np.zeros(67)]]
    options = {"augment": ALL_CHANGES, "weights": weights, "n_draws": 40}
    pairs = list(zip(load(paths, **options), load(paths, "cpu", **options), strict=True))
    for there, here in pairs:
        assert_same(cupy, there, here)
    tiles = np.concatenate([here["tile"] for _, here in pairs])
    assert len(np.unique(tiles.reshape(40, -1), axis=0)) > 3


@pytest.mark.parametrize("normalize", [None, "log1p"])
def test_tables_of_several_kinds_in_one_batch(cupy, store, half_panel, normalize):
    """A panel with genes that a slide lacks, in orders and types that differ between slides."""
    sources = [store(kind) for kind in ("spots", "other-genes", "reversed", "fractions")]
    panel = half_panel(("G20", "G3", "G0", "none", "G1"))
    options = {"genes": panel, "normalize": normalize, "buffer_bytes": 2**26}
    n_mixed = 0
    for there, here in zip(load(sources, **options), load(sources, "cpu", **options), strict=True):
        assert_same(cupy, there, here)
        n_mixed += len(np.unique(here["slide"])) == 4
    assert n_mixed > 0


def test_an_epoch_is_resumed_in_its_middle(cupy, paths):
    options = {"augment": Augmentation(), "workers": 2}
    first = load(paths, **options)
    for _ in islice(first, 4):
        pass
    resumed = load(paths, **options)
    resumed.load_state_dict(first.state_dict())
    rest = list(islice(load(paths, "cpu", **options), 4, None))
    for there, here in zip(resumed, rest, strict=True):
        assert_same(cupy, there, here)


def test_a_loop_that_ends_early_leaves_no_thread_and_the_next_epoch_whole(cupy, paths):
    loader = load(paths, workers=2)
    before = set(threading.enumerate())
    for _ in loader:
        break
    names = [thread.name for thread in set(threading.enumerate()) - before]
    # Threads of the library's own pool stay.
    assert not [name for name in names if "loader" in name or "ahead" in name]
    on_host = load(paths, "cpu")
    on_host.set_epoch(1)
    for there, here in zip(loader, on_host, strict=True):
        assert_same(cupy, there, here)


# ---- devices, streams, memory


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_made_on_the_device_that_is_current_where_a_pass_begins(
    stand_in, paths, workers
):
    options = {"workers": workers, "dtype": "float32", "normalize": "log1p", "mpp": 0.8}
    on_host = load(paths, "cpu", **options)
    loader = load(paths, **options)
    with stand_in.cuda.Device(1):
        batches = iter(loader)
        made = [next(batches)]
    # Whatever is current when later batches are asked for.
    made += batches
    with stand_in.cuda.Device(1):
        for there, here in zip(made, on_host, strict=True):
            assert {there[name].device.id for name in ("tile", "expression")} == {1}
            assert_same(stand_in, there, here)


def test_batches_are_made_in_the_order_of_the_stream_that_is_current(stand_in, paths):
    """Else nothing would keep their user from using them before they are ready."""
    on_host = load(paths, "cpu")
    with stand_in.cuda.Device(1), stand_in.cuda.Stream():
        for there, here in zip(load(paths, workers=2), on_host, strict=True):
            assert_same(stand_in, there, here)


def test_a_default_stream_for_each_thread_needs_one_thread(stand_in, paths):
    with stand_in.cuda.Stream.ptds:
        with pytest.raises(ValueError, match=r"workers must be 0 .* got 2"):
            next(iter(load(paths, workers=2)))
        assert_same(stand_in, next(iter(load(paths, workers=0))), next(iter(load(paths, "cpu"))))


@pytest.mark.parametrize(
    "options",
    [
        {"expression": None, "buffer_bytes": 600_000},
        {"tile_px": None, "normalize": "log1p", "buffer_bytes": 24_000},
    ],
    ids=str,
)
def test_a_gpu_holds_one_group_and_some_batches(stand_in, paths, monkeypatch, options):
    monkeypatch.setattr(stream, "_AT_ONCE_BYTES", 0)
    loader = load(paths, **options, workers=3, batch_size=8)
    assert loader.plan(0).n_groups > 5
    usage, before = stand_in.usage, stand_in.usage.n_bytes
    usage.most_bytes = before
    batch_bytes = 0
    for batch in loader:
        made = batch.pop("tile" if options.get("tile_px", 1) else "expression")
        batch_bytes = max(batch_bytes, made.nbytes)
        del batch, made
    # One in use, one ready, one in the making with what it takes on the way.
    group_bytes = options["buffer_bytes"] / 2 * 17 / 16
    assert group_bytes / 2 < usage.most_bytes - before < group_bytes + 4 * batch_bytes
    assert usage.n_bytes == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_forked_after_a_gpu_was_used_is_told_what_to_do(stand_in, paths):
    loader = load(paths, workers=0)
    next(iter(loader))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            next(iter(loader))
        except stand_in.cuda.runtime.CUDARuntimeError as error:
            os.write(writer, " ".join(error.__notes__).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "start it by 'spawn' or 'forkserver'" in said.read()
    os.waitpid(child, 0)


def test_cupy_that_is_missing_is_named_at_once(paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        load(paths)
    assert "stformat[gpu]" in caught.value.__notes__[0]


def test_kernels_are_compiled_once_for_all_batches(stand_in, paths, monkeypatch):
    made = []
    module = stand_in.RawModule
    monkeypatch.setattr(stand_in, "RawModule", lambda **of: made.append(of["code"]) or module(**of))
    _cupy.cuda_twins.cache_clear()
    for _ in range(2):
        list(load(paths))
    assert made
    assert len(set(made)) == len(made)
