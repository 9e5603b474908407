"""Groups and batches made ahead of whoever takes them, by threads that end with the loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice, takewhile
from typing import Any

import numpy as np

from stformat.kernels._pool import map_chunks, read_ahead
from stformat.loader.group import Batch, Group, Output

__all__ = ["stream_batches"]

_AT_ONCE_BYTES = 8 * 2**20
"""Small batches are handed on so many bytes at a time: to wake a thread takes as long as to make
one."""

type IsStopped = Callable[[], bool]


def stream_batches(
    groups: Sequence[int],
    read: Callable[[int, IsStopped], Group],
    output: Output,
    *,
    first_batch: int,
    n_readers: int,
) -> Generator[Batch]:
    """Yield the batches of some groups in turn.

    Parameters
    ----------
    groups : sequence of int
        Numbers of groups, ascending.
    read : callable
        Reads a group, and gives up where its second argument, asked now and then, is true.
    output : Output
        What batches are made of.
    first_batch : int
        Place in the epoch of the first batch that is wanted.
    n_readers : int
        Threads that read groups, each one ahead of the group that batches are cut from; 0 makes
        everything in the calling thread.

    Yields
    ------
    dict
        The batches. With readers the next one is being made meanwhile.

    Raises
    ------
    BaseException
        What `read` raises, after every batch before has been yielded.
    """
    if n_readers == 0:
        in_turn = (read(number, _never) for number in groups)
        with closing(_batches(in_turn, output, first_batch, at_once_bytes=0)) as batches:
            for some in batches:
                yield some.popleft()
        return
    stop = threading.Event()
    made = _batches(
        _groups_ahead(groups, read, n_readers, stop),
        output,
        first_batch,
        at_once_bytes=_AT_ONCE_BYTES,
    )
    # Whoever ends the loop, by an interrupt while it waits too, does not wait for whole groups.
    with closing(read_ahead(made, on_end=stop.set)) as batches:
        for some in batches:
            while some:
                yield some.popleft()


def _batches(
    groups: Generator[Group], output: Output, first_batch: int, *, at_once_bytes: int
) -> Generator[deque[Batch]]:
    """Yield batches of one group, so many bytes at a time; before an error, those that are made."""
    with closing(groups):
        for group in groups:
            first = max(0, first_batch - group.plan.first_batch)
            n_at_once = 1
            while first < group.plan.n_batches:
                numbers = range(first, min(first + n_at_once, group.plan.n_batches))
                some: deque[Batch] = deque()
                try:
                    with output.on_device():
                        _make(group, numbers, output, some)
                except Exception:
                    if some:
                        yield some
                    raise
                n_bytes = sum(map(_n_bytes, some[0].values()))
                n_at_once = max(1, at_once_bytes // max(1, n_bytes))
                first = numbers.stop
                if first == group.plan.n_batches:
                    # They are used while the next group is drawn from and the one after it is read.
                    some = deque(group.apart(batch, output) for batch in some)
                yield some
            # Else this group stays in memory while the next is waited for.
            del group


def _make(group: Group, numbers: range, output: Output, into: deque[Batch]) -> None:
    """Make batches side by side; where one cannot be made, `into` has those before it."""
    made: list[Batch | None] = [None] * len(numbers)

    def make(place: int) -> None:
        made[place] = group.batch(numbers[place], output)

    try:
        # Threads that share a small batch would wait for one another longer than they work.
        map_chunks(make, range(len(numbers)), n_threads=None if output.xp is np else 1)
    finally:
        into.extend(batch for batch in takewhile(lambda batch: batch is not None, made) if batch)


def _n_bytes(value: Any) -> int:  # noqa: ANN401 - an array, a matrix or a number
    """Return what a value of a batch takes in memory."""
    parts = (value.data, value.indices, value.indptr) if hasattr(value, "indptr") else (value,)
    return sum(getattr(part, "nbytes", 0) for part in parts)


def _groups_ahead(
    numbers: Sequence[int],
    read: Callable[[int, IsStopped], Group],
    n_readers: int,
    stop: threading.Event,
) -> Generator[Group]:
    """Yield groups in turn; each reader is at most one group ahead, and gives up at `stop`."""
    left = iter(numbers)
    pending: deque[Future[Group]] = deque()
    with ThreadPoolExecutor(n_readers, thread_name_prefix="stformat-loader") as readers:
        try:
            for number in islice(left, n_readers):
                pending.append(readers.submit(read, number, stop.is_set))
            while pending:
                group = pending.popleft().result()
                for number in islice(left, 1):
                    pending.append(readers.submit(read, number, stop.is_set))
                yield group
                del group
        finally:
            # After an error of one group, nobody wants the others.
            stop.set()
            for group_ahead in pending:
                group_ahead.cancel()


def _never() -> bool:
    return False
