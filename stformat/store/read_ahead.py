"""Reads of a store: by whoever decodes, or ahead of it where each read waits for a network.

Reading and decoding then take place at the same time: requests wait in threads of their own, more
of them than there are processors, and the bytes that were read and not decoded yet are bounded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, Self

from stformat.errors import CorruptStoreError
from stformat.store.files import StoreFiles
from stformat.store.read_costs import ReadCosts

__all__ = [
    "BYTES_IN_FLIGHT",
    "N_IN_FLIGHT",
    "Run",
    "RunReader",
    "map_reads",
    "map_visits",
    "one_version",
]

N_IN_FLIGHT = 16
"""Reads of one process that wait for a network at once."""

BYTES_IN_FLIGHT = 64 * 2**20
"""Bytes of one request for chunks that are read, or being read, and not decoded yet; one read may
be larger if a single chunk is."""


class Run(Protocol):
    """Some bytes of a file of a store."""

    @property
    def key(self) -> str:
        """Path of the file from the root of the store."""

    @property
    def start(self) -> int:
        """First byte."""

    @property
    def n_bytes(self) -> int:
        """Number of bytes."""


class _Waiter(threading.local):
    """Whether this thread is one that waits for reads."""

    is_active = False


class _Waiters:
    """The threads of this process that wait for reads, made on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def submit[Result](self, read: Callable[[], Result]) -> Future[Result]:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    N_IN_FLIGHT, thread_name_prefix="stformat-read", initializer=_mark_waiter
                )
            return self._executor.submit(read)


_waiter = _Waiter()
_waiters = _Waiters()


def _mark_waiter() -> None:
    _waiter.is_active = True


def _forget_waiters() -> None:
    global _waiters  # noqa: PLW0603 - one set of threads a process is the point
    _waiters = _Waiters()
    _waiter.is_active = False


# Threads do not live on in a forked child, and the lock may be held by one of them.
os.register_at_fork(after_in_child=_forget_waiters)


def map_reads[Item, Result](
    read: Callable[[Item], Result], items: Iterable[Item], costs: ReadCosts
) -> list[Result]:
    """Apply a function that reads one thing to every item, as many at once as `costs` says.

    Parameters
    ----------
    read : callable
        Called once an item.
    items : iterable
        What to read.
    costs : ReadCosts
        Of the files that `read` reads.

    Returns
    -------
    list
        Results in the order of `items`.

    Raises
    ------
    BaseException
        The first exception that `read` raised, in the order of `items`; reads that had not begun
        never will.

    Examples
    --------
    >>> map_reads(len, ["a", "bcd"], ReadCosts(n_in_flight=2))
    [1, 3]
    """
    listed = list(items)
    # A thread that waits must not wait for another: there might be none left.
    if len(listed) <= 1 or not costs.n_in_flight or _waiter.is_active:
        return [read(item) for item in listed]
    futures = [_waiters.submit(partial(read, item)) for item in listed]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


def map_visits[Item, Result](
    visit: Callable[[Item], Result], items: Sequence[Item], costs: ReadCosts
) -> list[Result]:
    """Apply a function that reads and decodes to a few items, at once where reads wait.

    Parameters
    ----------
    visit : callable
        Called once an item; it may wait for reads of `map_reads` and `RunReader`.
    items : sequence
        A few: each has a thread of its own where reads wait for a network.
    costs : ReadCosts
        Of the files that `visit` reads.

    Returns
    -------
    list
        Results in the order of `items`.

    Examples
    --------
    >>> map_visits(len, ["a", "bcd"], ReadCosts(n_in_flight=2))
    [1, 3]
    """
    if not costs.n_in_flight:
        return [visit(item) for item in items]
    with ThreadPoolExecutor(len(items), thread_name_prefix="stformat-visit") as threads:
        return list(threads.map(visit, items))


@contextmanager
def one_version(files: StoreFiles) -> Iterator[None]:
    """Say that a store was replaced, where it was while it was read: it then may look damaged.

    Raises
    ------
    StoreReplaced
        If it was.
    """
    try:
        yield
    except CorruptStoreError:
        files.check_version()
        raise
    files.check_version()


@dataclass(slots=True, kw_only=True)
class _Request:
    """One range of a file that holds the bytes of some runs."""

    key: str
    start: int
    stop: int
    runs: list[int] = field(default_factory=list)
    n_open: int = 0
    """Runs that were not given back yet."""
    future: Future[bytes] | None = None

    @property
    def n_bytes(self) -> int:
        return self.stop - self.start


class RunReader:
    """Gives the bytes of runs to those who decode them; safe for threads.

    Where reads cost nothing but their bytes, each run is read when it is asked for. Else runs that
    are near one another are joined to one read, and reads are made ahead of need, in the order of
    the runs.

    Parameters
    ----------
    files : StoreFiles
        Files of the store; `StoreFiles.costs` says how they are read.
    runs : sequence of Run
        What will be asked for, in about this order, each once; those of one file together and
        ascending. A run of 0 bytes is never read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from types import SimpleNamespace
    >>> from stformat.store.files import DirectoryFiles
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "c").write_bytes(b"abcdef")
    >>> run = SimpleNamespace(key="c", start=1, n_bytes=3)
    >>> with DirectoryFiles(folder) as files, RunReader(files, [run]) as reader:
    ...     with reader.read(0) as data:
    ...         bytes(data)
    b'bcd'
    """

    def __init__(self, files: StoreFiles, runs: Sequence[Run]) -> None:
        self._files = files
        self._runs = runs
        self._lock = threading.Lock()
        self._requests = _joined(runs, files.costs)
        self._request_of = {run: request for request in self._requests for run in request.runs}
        self._n_begun = 0
        self._n_bytes = 0
        self._check: Future[None] | None = None

    def __enter__(self) -> Self:
        if not self._requests:
            self._files.check_version()
            return self
        # What was read to find the runs may already be of another version: that is asked while
        # they are read.
        self._check = _waiters.submit(self._files.check_version)
        with self._lock:
            self._begin_next()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        for request in self._requests:
            if request.future is not None:
                request.future.cancel()
        # Chunks of another version look damaged.
        if self._check is not None and (kind is None or issubclass(kind, CorruptStoreError)):
            self._check.result()

    @property
    def n_bytes_in_flight(self) -> int:
        """Bytes that are read, or being read, and not given back."""
        return self._n_bytes

    @contextmanager
    def read(self, number: int) -> Iterator[memoryview]:
        """Hold the bytes of the run of a number; they count as in flight until the block ends.

        Raises
        ------
        StoreError
            If they cannot be read.
        """
        run = self._runs[number]
        request = self._request_of.get(number)
        if request is None:
            n_bytes = run.n_bytes
            yield memoryview(
                self._files.read_range(run.key, run.start, n_bytes) if n_bytes else b""
            )
            return
        data = memoryview(self._future_of(request).result())
        try:
            yield data[run.start - request.start :][: run.n_bytes]
        finally:
            self._give_back(request)

    def _future_of(self, request: _Request) -> Future[bytes]:
        with self._lock:
            self._begin_next()
            while request.future is None:  # it is needed now, whatever else is in flight
                self._begin(self._requests[self._n_begun])
            return request.future

    def _give_back(self, request: _Request) -> None:
        with self._lock:
            request.n_open -= 1
            if not request.n_open:
                request.future = None
                self._n_bytes -= request.n_bytes
                self._begin_next()

    def _begin_next(self) -> None:
        """Begin requests as long as their bytes fit; the lock is held."""
        while self._n_begun < len(self._requests):
            request = self._requests[self._n_begun]
            if self._n_bytes and self._n_bytes + request.n_bytes > BYTES_IN_FLIGHT:
                return
            self._begin(request)

    def _begin(self, request: _Request) -> None:
        request.future = _waiters.submit(
            partial(self._files.read_range, request.key, request.start, request.n_bytes)
        )
        self._n_begun += 1
        self._n_bytes += request.n_bytes


def _joined(runs: Sequence[Run], costs: ReadCosts) -> list[_Request]:
    """Join runs to the requests that bring them; none where each is read when it is needed."""
    requests: list[_Request] = []
    if not costs.n_in_flight:
        return requests
    for number, run in enumerate(runs):
        if not run.n_bytes:
            continue
        stop = run.start + run.n_bytes
        last = requests[-1] if requests else None
        if (
            last is None
            or run.key != last.key
            or not 0 <= run.start - last.stop <= costs.gap_bytes
            or stop - last.start > costs.request_bytes
        ):
            last = _Request(key=run.key, start=run.start, stop=stop)
            requests.append(last)
        last.stop = stop
        last.runs.append(number)
        last.n_open += 1
    return requests
