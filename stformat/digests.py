"""SHA-256 of what is long to read: worked out when it is asked for, or in a thread before that."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager

from stformat.errors import StformatError

__all__ = ["Digest", "digests_ahead"]


class Digest:
    """SHA-256 of some bytes, which are read once and no sooner than needed.

    Parameters
    ----------
    read : callable
        ``read()`` yields the bytes in blocks; each is done with when the next is asked for. It is
        called again where an earlier call failed or was given up.

    Examples
    --------
    >>> digest = Digest(lambda: (block for block in [b"ab", b"c"]))
    >>> digest.is_known
    False
    >>> digest.hexdigest()[:8]
    'ba7816bf'
    >>> digest.is_known
    True
    """

    __slots__ = ("_hexdigest", "_lock", "_read")

    def __init__(self, read: Callable[[], Generator[bytes | memoryview]]) -> None:
        self._read = read
        self._hexdigest: str | None = None
        self._lock = threading.Lock()

    @classmethod
    def known(cls, hexdigest: str) -> Digest:
        """Return a digest that somebody else worked out: 64 lower-case hexadecimal digits."""
        digest = cls(_nothing)
        digest._hexdigest = hexdigest
        return digest

    @property
    def is_known(self) -> bool:
        """Whether `hexdigest` returns at once."""
        return self._hexdigest is not None

    def hexdigest(self, *, given_up: threading.Event | None = None) -> str:
        """Return the digest; read the bytes if nobody has, wait if somebody does.

        Parameters
        ----------
        given_up : threading.Event, optional
            Ends the reading after the block at hand, once it is set.

        Returns
        -------
        str
            64 lower-case hexadecimal digits.

        Raises
        ------
        OSError, StformatError
            If the bytes cannot be read.
        InterruptedError
            If `given_up` was set before the last block.
        """
        with self._lock:
            if self._hexdigest is None:
                sha256 = hashlib.sha256()
                with closing(self._read()) as blocks:
                    for block in blocks:
                        if given_up is not None and given_up.is_set():
                            raise InterruptedError("nobody waits for this digest any more")
                        sha256.update(block)
                self._hexdigest = sha256.hexdigest()
            return self._hexdigest

    def __repr__(self) -> str:
        """Return the digest where it is known; nothing is read for a display."""
        return f"<Digest: {self._hexdigest or 'not read yet'}>"


@contextmanager
def digests_ahead(digests: Iterable[Digest]) -> Iterator[None]:
    """Work out digests in a thread, one after another, while something else is done.

    Parameters
    ----------
    digests : iterable of Digest
        Those that are known cost nothing.

    Yields
    ------
    None
        At once. What is still unknown at the end of the context is given up; what could not be
        read is read again by whoever asks for it, who is told then why it cannot.

    Examples
    --------
    >>> digest = Digest(lambda: (block for block in [b"abc"]))
    >>> with digests_ahead([digest]):
    ...     digest.hexdigest()[:8]
    'ba7816bf'
    """
    unknown = [digest for digest in digests if not digest.is_known]
    given_up = threading.Event()

    def work() -> None:
        for digest in unknown:
            try:
                digest.hexdigest(given_up=given_up)
            except (OSError, StformatError):
                return

    if not unknown:
        yield
        return
    thread = threading.Thread(target=work, name="stformat-digests")
    try:
        thread.start()
        yield
    finally:
        # A thread whose start was interrupted ends by itself: nothing waits for what it reads.
        given_up.set()
        if thread.is_alive():
            thread.join()


def _nothing() -> Generator[bytes]:
    yield from ()
