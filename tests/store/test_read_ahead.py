"""Reading ahead changes when things are read, never what comes or in which order."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.store.read_ahead import read_ahead


@given(st.lists(st.integers()), st.integers(0, 5))
def test_it_is_a_map(items, n_ahead):
    assert list(read_ahead(str, items, n_ahead=n_ahead)) == [str(item) for item in items]


def test_the_next_is_read_while_the_caller_works():
    begun = [threading.Event() for _ in range(4)]
    results = read_ahead(lambda i: begun[i].set(), range(4), n_ahead=1)
    next(results)
    assert begun[1].wait(timeout=10)
    # One ahead, not two: memory is bounded by what waits.
    assert not begun[2].wait(timeout=0.05)
    list(results)


def test_an_error_comes_in_its_turn():
    results = read_ahead(lambda i: 1 // i, [1, 0, 1], n_ahead=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_loop_that_ends_early_leaves_no_thread_and_reads_no_more():
    read = []
    results = read_ahead(read.append, range(100), n_ahead=2)
    next(results)
    results.close()
    assert len(read) <= 4
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("stformat-read-ahead")]
