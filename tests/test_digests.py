"""A digest is read once, by whoever is first, and never after it was given up."""

from __future__ import annotations

import hashlib
from threading import Event, Thread

import pytest

from stformat.digests import Digest, digests_ahead

CONTENT = [b"one", b"two"]
EXPECTED = hashlib.sha256(b"".join(CONTENT)).hexdigest()


class Reader:
    """Yields blocks, counts how often it is read, and waits before each block for a permit."""

    def __init__(self, *, error=None):
        self.n_reads = 0
        self.n_closed = 0
        self.error = error
        self.may_go_on = Event()
        self.has_begun = Event()

    def __call__(self):
        self.n_reads += 1
        self.has_begun.set()
        try:
            for block in CONTENT:
                assert self.may_go_on.wait(60)
                yield block
            if self.error is not None:
                raise self.error
        finally:
            self.n_closed += 1


def test_a_digest_is_read_when_it_is_asked_for_and_once():
    reader = Reader()
    reader.may_go_on.set()
    digest = Digest(reader)
    assert (reader.n_reads, digest.is_known, "not read yet" in repr(digest)) == (0, False, True)
    assert [digest.hexdigest(), digest.hexdigest()] == [EXPECTED] * 2
    assert (reader.n_reads, digest.is_known, EXPECTED in repr(digest)) == (1, True, True)


def test_a_digest_ahead_is_waited_for():
    reader = Reader()
    digest = Digest(reader)
    with digests_ahead([Digest.known("0" * 64), digest]):
        assert reader.has_begun.wait(60)
        results = []
        asking = Thread(target=lambda: results.append(digest.hexdigest()))
        asking.start()
        assert not digest.is_known
        reader.may_go_on.set()
        asking.join()
    assert (results, reader.n_reads) == ([EXPECTED], 1)


def test_what_nobody_waited_for_is_given_up_and_can_be_had_later():
    reader = Reader()
    digest = Digest(reader)

    def be_interrupted():
        assert reader.has_begun.wait(60)
        Thread(target=reader.may_go_on.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), digests_ahead([digest]):
        be_interrupted()
    assert reader.n_closed == 1
    known_already = digest.is_known
    assert digest.hexdigest() == EXPECTED
    assert reader.n_reads == 1 + (not known_already)


def test_the_reading_stops_at_the_next_block():
    reader = Reader()
    reader.may_go_on.set()
    digest = Digest(reader)
    given_up = Event()
    given_up.set()
    with pytest.raises(InterruptedError):
        digest.hexdigest(given_up=given_up)
    assert (digest.is_known, reader.n_closed) == (False, 1)


def test_an_error_reaches_whoever_asks():
    reader = Reader(error=OSError(5, "I/O error"))
    reader.may_go_on.set()
    later = Reader()
    digest = Digest(reader)
    with digests_ahead([digest, Digest(later)]), pytest.raises(OSError, match="I/O error"):
        digest.hexdigest()
    assert not digest.is_known
    assert later.n_reads == 0


def test_nothing_is_started_for_digests_that_are_known(monkeypatch):
    monkeypatch.setattr("stformat.digests.threading.Thread", None)
    with digests_ahead([Digest.known("0" * 64)]):
        pass
