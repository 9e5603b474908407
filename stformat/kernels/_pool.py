"""The library's own thread pool: compiled kernels and decoders release the GIL inside it.

numba's parallel layers are not used: its workqueue aborts the process when two threads enter it,
and its OpenMP layer kills or hangs a process that forked.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import cast

__all__ = ["map_chunks", "read_ahead", "run_blocks", "thread_count"]

THREADS_VARIABLE = "STFORMAT_NUM_THREADS"


class _Worker(threading.local):
    """Whether this thread is working for the pool."""

    is_active = False


class _Pool:
    """The executor of this process, made on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(thread_count(), thread_name_prefix="stformat")
            return self._executor


_worker = _Worker()
_pool = _Pool()


def _forget_pool() -> None:
    """Start over: the threads of a pool do not live on in a forked child, and its lock may."""
    global _pool  # noqa: PLW0603 - one pool a process is the point
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def thread_count() -> int:
    """Return how many threads a call may use.

    Returns
    -------
    int
        The environment variable ``STFORMAT_NUM_THREADS`` where it is set, else the number of
        processors this process may run on. The pool itself is sized when it is first used.

    Raises
    ------
    ValueError
        If ``STFORMAT_NUM_THREADS`` is no whole number of at least 1.

    Examples
    --------
    >>> thread_count() >= 1
    True
    """
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if text:
        if not (text.isascii() and text.isdigit() and int(text) >= 1):
            raise ValueError(
                f"{THREADS_VARIABLE} must be a whole number of at least 1, got {text!r}"
            )
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_chunks[Item, Result](
    function: Callable[[Item], Result], items: Iterable[Item], *, n_threads: int | None = None
) -> list[Result]:
    """Apply a function to every item, several at a time.

    Parameters
    ----------
    function : callable
        Called once an item, from the calling thread and from threads of the pool.
    items : iterable
        Read to its end before the first call.
    n_threads : int, optional
        Most threads to use, the calling one included; default: `thread_count`.

    Returns
    -------
    list
        Results in the order of `items`.

    Raises
    ------
    BaseException
        The first exception that `function` raised. By then no call is running any more, and
        items that had not begun never will.

    Notes
    -----
    The calling thread takes part, so a call ends even where the pool is busy. A call from inside
    the pool runs serially in its own thread.

    Examples
    --------
    >>> map_chunks(len, ["a", "bcd", ""])
    [1, 3, 0]
    """
    listed = list(items)
    results: list[Result | None] = [None] * len(listed)

    def work(index: int) -> None:
        results[index] = function(listed[index])

    _run(work, len(listed), n_threads)
    return cast("list[Result]", results)


def run_blocks(
    function: Callable[[int, int], object],
    n_items: int,
    *,
    block: int,
    n_threads: int | None = None,
) -> None:
    """Call ``function(start, stop)`` on consecutive blocks of ``range(n_items)``.

    Parameters
    ----------
    function : callable
        Called once a block; blocks are disjoint and cover the range.
    n_items : int
        Length of the range; 0 calls nothing.
    block : int
        Items in a block, at least 1; the last one has what remains.
    n_threads : int, optional
        Most threads to use, as for `map_chunks`, whose notes hold here too.

    Raises
    ------
    ValueError
        If `block` or `n_threads` is below 1.

    Examples
    --------
    >>> done = []
    >>> run_blocks(lambda start, stop: done.append((start, stop)), 5, block=2, n_threads=1)
    >>> done
    [(0, 2), (2, 4), (4, 5)]
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    starts = range(0, n_items, block)

    def work(index: int) -> None:
        function(starts[index], min(starts[index] + block, n_items))

    _run(work, len(starts), n_threads)


def read_ahead[Item](
    items: Generator[Item], *, on_end: Callable[[], object] | None = None
) -> Generator[Item]:
    """Yield items while a thread makes the next one.

    Parameters
    ----------
    items : generator
        Never more than one item ahead of the caller; what it calls of this module runs several at
        a time. It is closed in the end.
    on_end : callable, optional
        Called once in the end, however it comes, an interrupt while the next item is waited for
        included: before the item that is being made is waited for, so that it can be given up.

    Yields
    ------
    Item
        The items in their order.

    Raises
    ------
    BaseException
        What `items` raises, after every item before has been yielded.

    Notes
    -----
    Closing the generator, which a caller that may raise has to do, ends the thread: it waits for
    the item that is being made. Where `thread_count` is 1 the calling thread makes the items.

    Examples
    --------
    >>> list(read_ahead(letter for letter in "ab"))
    ['a', 'b']
    """
    with closing(items):
        if thread_count() == 1:
            try:
                yield from items
            finally:
                _call(on_end)
            return
        end = object()
        with ThreadPoolExecutor(1, thread_name_prefix="stformat-ahead") as reader:
            try:
                upcoming = reader.submit(next, items, end)
                while (item := upcoming.result()) is not end:
                    upcoming = reader.submit(next, items, end)
                    yield cast("Item", item)
            finally:
                # Within the block: its end waits for the thread.
                _call(on_end)


def _call(function: Callable[[], object] | None) -> None:
    if function is not None:
        function()


def _run(work: Callable[[int], None], n: int, n_threads: int | None) -> None:
    """Call ``work(index)`` once for every index below `n`."""
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, got {n_threads}")
    n_threads = min(n, thread_count() if n_threads is None else n_threads)
    if n_threads <= 1 or _worker.is_active:
        for index in range(n):
            work(index)
        return
    pending = deque(range(n))
    submit = _pool.executor().submit
    others: list[Future[None]] = []
    try:
        others.extend(submit(_drain_in_pool, work, pending) for _ in range(n_threads - 1))
        _drain(work, pending)
    finally:
        # An interrupt while work is handed out ends it too.
        pending.clear()
        # One that has not begun is not needed; the others must not outlive the call.
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()


def _drain_in_pool(work: Callable[[int], None], pending: deque[int]) -> None:
    _worker.is_active = True
    try:
        _drain(work, pending)
    finally:
        _worker.is_active = False


def _drain(work: Callable[[int], None], pending: deque[int]) -> None:
    """Work on what is pending until nothing is; after an exception nobody takes any more."""
    try:
        while pending:
            try:
                index = pending.popleft()
            except IndexError:  # another thread took the last one
                return
            work(index)
    finally:
        pending.clear()
