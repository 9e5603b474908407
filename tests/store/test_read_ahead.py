"""Runs of bytes are read in few requests, ahead of need, and within bounds."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.errors import CorruptStoreError, Problem, StoreReplaced
from stformat.store import read_ahead
from stformat.store.read_ahead import RunReader, map_reads
from stformat.store.read_costs import ReadCosts

DATA = np.random.default_rng(0).bytes(5000)
FAR = ReadCosts(n_in_flight=16, gap_bytes=20, request_bytes=200)


@dataclass(frozen=True)
class Run:
    key: str
    start: int
    n_bytes: int


class Files:
    """Two files of the same bytes behind a network; counts what is read."""

    def __init__(self, costs=FAR, *, latency_s=0.0, bad=()):
        self.costs = costs
        self.latency_s = latency_s
        self.bad = bad
        self.reads = []
        self.n_checks = 0
        self.is_replaced = False
        self.lock = threading.Lock()
        self.n_now = self.most_at_once = 0

    def read_range(self, key, start, length):
        with self.lock:
            self.reads.append((key, start, length))
            self.n_now += 1
            self.most_at_once = max(self.most_at_once, self.n_now)
        time.sleep(self.latency_s)
        with self.lock:
            self.n_now -= 1
        if start in self.bad:
            raise CorruptStoreError(Problem("test", key, "good bytes", "bad ones"))
        return DATA[start : start + length]

    def check_version(self):
        self.n_checks += 1
        if self.is_replaced:
            raise StoreReplaced(Problem("test", "store", "one version", "another"))


@st.composite
def run_lists(draw):
    runs = []
    for key in "ab":
        end = 0
        for _ in range(draw(st.integers(0, 12))):
            start = end + draw(st.integers(0, 40))
            end = start + draw(st.integers(0, 300))
            runs.append(Run(key, start, end - start))
    return runs


@settings(deadline=None)
@given(run_lists(), st.booleans(), st.integers(1, 400))
def test_every_run_gets_its_bytes_by_requests_that_are_bounded(runs, is_far, budget):
    files = Files(FAR if is_far else ReadCosts())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_ahead, "BYTES_IN_FLIGHT", budget)
        with RunReader(files, runs) as reader:
            for number, run in enumerate(runs):
                with reader.read(number) as data:
                    assert bytes(data) == DATA[run.start : run.start + run.n_bytes]
                    # A request is made for what is wanted now, however large it is.
                    largest = max(FAR.request_bytes, *(run.n_bytes for run in runs), 0)
                    assert reader.n_bytes_in_flight <= max(budget, largest)
    wanted = sum(run.n_bytes > 0 for run in runs)
    if not is_far:
        assert len(files.reads) == wanted
        return
    assert len(files.reads) <= wanted
    for key, start, length in files.reads:
        inside = [
            run
            for run in runs
            if run.key == key and run.n_bytes and start <= run.start < start + length
        ]
        assert length <= FAR.request_bytes or len(inside) == 1
        used = sum(run.n_bytes for run in inside)
        assert length - used <= FAR.gap_bytes * (len(inside) - 1)
    for (key, start, length), (next_key, next_start, next_length) in zip(
        sorted(files.reads), sorted(files.reads)[1:], strict=False
    ):
        # Neighbours are apart for a reason: the gap, or the size that they had together.
        assert (
            key != next_key
            or next_start - start - length > FAR.gap_bytes
            or next_start + next_length - start > FAR.request_bytes
        )


def test_reads_wait_together_while_one_thread_decodes():
    runs = [Run("a", 100 * number, 10) for number in range(40)]
    files = Files(latency_s=0.1)
    with RunReader(files, runs) as reader:
        for number in range(40):
            with reader.read(number):
                pass
    assert 8 < files.most_at_once <= 16


def test_runs_may_be_taken_by_several_threads_in_any_order():
    runs = [Run("a", 100 * number, 30) for number in range(40)]
    order = np.random.default_rng(0).permutation(40).tolist()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(read_ahead, "BYTES_IN_FLIGHT", 100)
        with RunReader(Files(), runs) as reader:

            def take(number):
                with reader.read(number) as data:
                    return bytes(data)

            found = list(pool.map(take, order))
    assert found == [DATA[100 * number :][:30] for number in order]


def test_what_cannot_be_read_is_raised_and_the_rest_not_begun():
    runs = [Run("a", 100 * number, 10) for number in range(45)]
    files = Files(latency_s=0.2, bad={0})
    with pytest.raises(CorruptStoreError), RunReader(files, runs) as reader, reader.read(0):
        pass
    assert len(files.reads) < 45


def test_a_version_is_asked_for_once_a_request_and_told_before_damage():
    runs = [Run("a", 0, 10), Run("a", 400, 10)]
    files = Files()
    with RunReader(files, runs) as reader, reader.read(0), reader.read(1):
        pass
    assert files.n_checks == 1
    files = Files(bad={0})
    files.is_replaced = True
    with pytest.raises(StoreReplaced), RunReader(files, runs) as reader, reader.read(0):
        pass
    with pytest.raises(StoreReplaced), RunReader(files, []):
        pass


def test_reads_are_mapped_in_order_and_may_map_others():
    def read(number):
        return sum(map_reads(lambda inner: inner + number, range(3), FAR))

    assert map_reads(read, range(40), FAR) == [3 * number + 3 for number in range(40)]
    assert map_reads(read, range(3), ReadCosts()) == [3, 6, 9]


def test_the_first_failure_of_several_reads_is_raised():
    def read(number):
        if number % 2:
            raise ValueError(str(number))

    with pytest.raises(ValueError, match="1"):
        map_reads(read, range(9), FAR)
