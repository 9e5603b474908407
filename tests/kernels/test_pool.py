"""The thread pool, and the kernels under threads and fork."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stformat import kernels
from stformat.kernels import _pool


@pytest.fixture
def use_threads(monkeypatch):
    """Give the process a pool of another size for the length of a test."""

    def use(count):
        monkeypatch.setenv("STFORMAT_NUM_THREADS", str(count))
        _pool._forget_pool()

    yield use
    monkeypatch.undo()
    _pool._forget_pool()


def test_thread_count_is_the_variable_or_what_the_process_may_use(monkeypatch):
    monkeypatch.setenv("STFORMAT_NUM_THREADS", " 3 ")
    assert _pool.thread_count() == 3
    monkeypatch.setenv("STFORMAT_NUM_THREADS", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 7, 9}, raising=False)
    assert _pool.thread_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert _pool.thread_count() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert _pool.thread_count() == 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_a_bad_variable_is_named(monkeypatch, text):
    monkeypatch.setenv("STFORMAT_NUM_THREADS", text)
    with pytest.raises(ValueError, match=f"STFORMAT_NUM_THREADS .*{text}"):
        _pool.thread_count()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_keep_the_order_of_items(use_threads, count):
    use_threads(count)
    assert _pool.map_chunks(lambda x: x * x, iter(range(50))) == [x * x for x in range(50)]
    assert _pool.map_chunks(str, []) == []


@pytest.mark.parametrize(("n_items", "block"), [(0, 3), (1, 3), (3, 3), (10, 3), (5, 1)])
def test_blocks_cover_the_range_once(use_threads, n_items, block):
    use_threads(4)
    seen = []
    _pool.run_blocks(lambda start, stop: seen.append((start, stop)), n_items, block=block)
    assert all(stop - start <= block for start, stop in seen)
    assert [k for start, stop in sorted(seen) for k in range(start, stop)] == list(range(n_items))


def test_threads_work_at_the_same_time(use_threads):
    use_threads(3)
    meeting = threading.Barrier(3)
    # Each call waits for the two others: serial work would never get past the first.
    assert len(set(_pool.map_chunks(meeting.wait, [10.0] * 3))) == 3


def test_n_threads_bounds_a_call(use_threads):
    use_threads(4)
    names = _pool.map_chunks(lambda _: threading.current_thread().name, range(20), n_threads=1)
    assert set(names) == {threading.current_thread().name}
    with pytest.raises(ValueError, match="n_threads must be at least 1, got 0"):
        _pool.map_chunks(str, [1], n_threads=0)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        _pool.run_blocks(print, 1, block=0)


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_exception_ends_the_call(use_threads, count):
    use_threads(count)
    running = threading.Semaphore(0)
    begun = []

    def work(item):
        begun.append(item)
        if item == 0:
            raise LookupError(item)
        running.acquire(timeout=0.05)

    with pytest.raises(LookupError):
        _pool.map_chunks(work, range(1000))
    settled = len(begun)
    assert settled < 1000
    # Nothing of the call goes on after it: the next one sees a quiet pool.
    assert _pool.map_chunks(str, range(9)) == [str(k) for k in range(9)]
    assert len(begun) == settled


def test_an_exception_in_the_pool_reaches_the_caller(use_threads):
    use_threads(2)
    caller = threading.current_thread()
    pool_has_failed = threading.Event()

    def work(_):
        if threading.current_thread() is caller:
            assert pool_has_failed.wait(10)
            return
        pool_has_failed.set()
        raise LookupError("in the pool")

    with pytest.raises(LookupError, match="in the pool"):
        _pool.map_chunks(work, range(2))


def test_no_call_of_a_failed_call_outlives_it(use_threads):
    use_threads(2)
    caller = threading.current_thread()
    pool_has_begun, caller_has_failed, finished = threading.Event(), threading.Event(), []

    def work(item):
        if threading.current_thread() is caller:
            assert pool_has_begun.wait(10)
            caller_has_failed.set()
            raise LookupError(item)
        pool_has_begun.set()
        assert caller_has_failed.wait(10)
        threading.Event().wait(0.1)  # dawdle, so that a caller who does not wait is seen
        finished.append(item)

    with pytest.raises(LookupError):
        _pool.map_chunks(work, range(2))
    assert len(finished) == 1


def test_an_interrupt_while_work_is_handed_out_ends_it(use_threads, monkeypatch):
    use_threads(3)
    executor = _pool._pool.executor()
    submit, done, submitted = executor.submit, [], []
    release = threading.Event()

    def interrupt(*of):
        submitted.append(submit(*of))
        raise KeyboardInterrupt  # the future is lost to the caller

    def work(number):
        release.wait(30)
        done.append(number)

    monkeypatch.setattr(executor, "submit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _pool.map_chunks(work, range(20))
    release.set()
    submitted[0].result(30)
    assert len(done) <= 1


def test_a_call_from_inside_the_pool_runs_in_its_own_thread(use_threads, monkeypatch):
    use_threads(2)
    executor = _pool._pool.executor()
    submit, submitters = executor.submit, []

    def recorded(*arguments):
        submitters.append(threading.current_thread())
        return submit(*arguments)

    monkeypatch.setattr(executor, "submit", recorded)
    meeting = threading.Barrier(2)

    def outer(_):
        meeting.wait(10)  # one item each for the caller and a thread of the pool
        return _pool.map_chunks(str, range(4))

    assert _pool.map_chunks(outer, range(2)) == [["0", "1", "2", "3"]] * 2
    assert set(submitters) == {threading.current_thread()}


def test_calls_end_while_the_pool_is_busy(use_threads):
    use_threads(2)
    release = threading.Event()
    blockers = [_pool._pool.executor().submit(release.wait, 30) for _ in range(2)]
    try:
        assert _pool.map_chunks(str, range(3)) == ["0", "1", "2"]
    finally:
        release.set()
    assert all(blocker.result() for blocker in blockers)


def workload():
    """Results of every kernel that uses the pool, on data of several blocks, as bytes."""
    rng = np.random.default_rng(11)
    image = rng.integers(0, 256, (3, 701, 900), dtype=np.uint8)
    windows = rng.integers(-60, 900, (64, 2))
    lengths = rng.poisson(600, 800)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = rng.geometric(0.5, indptr[-1]).astype(np.int32)
    fractions = (data * rng.random(len(data))).astype(np.float32)
    indices = np.concatenate([np.arange(length) for length in lengths])
    gene_map = np.where(np.arange(1000) % 3 == 0, np.arange(1000) // 3, -1)
    in_place = fractions.copy()
    kernels.normalize_log1p_inplace(in_place, indptr, target_sum=1e4)
    densify = {"gene_map": gene_map, "n_out": 334, "target_sum": 1e4}
    results = [
        kernels.gather_tiles(image, windows, 224),
        kernels.resample_tiles(kernels.gather_tiles(image, windows, 113), tile_px=90, step=82000),
        kernels.resample_tiles(kernels.gather_tiles(image, windows, 112), tile_px=140, step=51800),
        kernels.downsample_2x2(np.tile(image, (1, 2, 2))),
        kernels.row_sums(fractions, indptr),
        kernels.normalize_log1p(data, indptr, target_sum=1e4),
        in_place,
        kernels.densify(data, indices, indptr, **densify, log1p=True),
        kernels.densify(fractions, indices, indptr, **densify),
    ]
    return b"".join(result.tobytes() for result in results)


def test_bits_do_not_depend_on_the_number_of_threads(use_threads):
    use_threads(1)
    expected = workload()
    for count in (2, 5):
        use_threads(count)
        assert workload() == expected


def test_threads_may_call_kernels_at_the_same_time():
    expected = workload()
    with ThreadPoolExecutor(4) as callers:
        assert all(result == expected for result in callers.map(lambda _: workload(), range(4)))


# The pool's threads are alive: the child must do without them, which is what is tested.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_call_kernels(use_threads):
    use_threads(2)
    expected = workload()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def in_child():
        meeting = threading.Barrier(2)
        assert sorted(_pool.map_chunks(meeting.wait, [30.0] * 2)) == [0, 1]
        sender.send_bytes(workload()[-1_000_000:])

    child = context.Process(target=in_child)
    child.start()
    sender.close()
    assert receiver.poll(60)
    assert receiver.recv_bytes() == expected[-1_000_000:]
    child.join(60)
    assert child.exitcode == 0


def test_importing_kernels_leaves_numba_for_the_first_call():
    code = (
        "import sys, numpy as np, stformat.kernels as kernels\n"
        "assert 'numba' not in sys.modules\n"
        "kernels.row_sums(np.ones(1), np.array([0, 1]))\n"
        "assert 'numba' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def numbers(stop, made, closed):
    try:
        for number in range(stop):
            made.append(number)
            yield number
    finally:
        closed.append(True)


@pytest.mark.parametrize("count", [1, 3])
def test_reading_ahead_is_one_item_ahead_and_keeps_the_order(use_threads, count):
    use_threads(count)
    made, closed, taken = [], [], []
    for number in _pool.read_ahead(numbers(20, made, closed)):
        taken.append(number)
        assert len(made) <= len(taken) + (count > 1)
    assert taken == list(range(20))
    assert closed


@pytest.mark.parametrize("count", [1, 3])
def test_reading_ahead_passes_errors_on_after_the_items_before(use_threads, count):
    use_threads(count)
    taken = []

    def broken():
        yield 1
        yield 2
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        taken.extend(_pool.read_ahead(broken()))
    items = _pool.read_ahead(broken())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="gone"):
        next(items)


@pytest.mark.parametrize("n_taken", [0, 1, 2])
def test_closing_a_reader_ends_its_thread_and_its_source(use_threads, n_taken):
    use_threads(2)
    before = set(threading.enumerate())
    made, closed = [], []
    items = _pool.read_ahead(numbers(20, made, closed))
    for _ in range(n_taken):
        next(items)
    items.close()
    assert set(threading.enumerate()) <= before  # one of another test may have ended
    assert bool(closed) == (n_taken > 0)
    assert len(made) <= n_taken + 1


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ends_by", ["reading all", "closing", "an error"])
def test_the_end_is_told_before_the_item_that_is_being_made_is_waited_for(
    use_threads, count, ends_by
):
    use_threads(count)
    is_over = threading.Event()
    told = []

    def items():
        yield 1
        if ends_by == "an error":
            raise KeyError("gone")
        if ends_by == "closing":
            assert is_over.wait(20)
        yield 2

    def end():
        told.append(True)
        is_over.set()

    reader = _pool.read_ahead(items(), on_end=end)
    assert next(reader) == 1
    assert not told
    if ends_by == "an error":
        with pytest.raises(KeyError, match="gone"):
            next(reader)
    elif ends_by == "reading all":
        assert list(reader) == [2]
    reader.close()
    assert told == [True]


def test_the_next_item_is_made_while_the_caller_works(use_threads):
    use_threads(2)
    is_made = threading.Event()

    def items():
        yield 1
        is_made.set()
        yield 2

    reader = _pool.read_ahead(items())
    next(reader)
    assert is_made.wait(timeout=20)
    assert list(reader) == [2]
