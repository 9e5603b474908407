"""What a loop asks for next, read while it still works on what it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["read_ahead"]


def read_ahead[Item, Result](
    read: Callable[[Item], Result], items: Iterable[Item], *, n_ahead: int
) -> Iterator[Result]:
    """Yield ``read(item)`` for each item in turn, the next ones being read meanwhile.

    Parameters
    ----------
    read : callable
        Called once an item, in order, in a thread of its own.
    items : iterable
        Asked for its next item only when that is to be read.
    n_ahead : int
        Most results that wait while the caller works on one, at least 0; with 0 everything runs in
        the calling thread.

    Yields
    ------
    object
        What `read` returned, in the order of `items`.

    Raises
    ------
    BaseException
        What `read` or `items` raised, in its turn: after the results of the items before it.

    Notes
    -----
    A loop that ends early waits for the one read that has begun; the others never begin.

    Examples
    --------
    >>> list(read_ahead(len, ["a", "bcd", ""], n_ahead=1))
    [1, 3, 0]
    """
    if n_ahead == 0:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="stformat-read-ahead") as thread:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(thread.submit(read, item))
                if len(pending) > n_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
