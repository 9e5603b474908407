"""Arrays beyond a budget: the same on disk as in memory, and nothing left behind."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.errors import StoreWriteError
from stformat.spill import Spill


@settings(deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=20),
    memory_bytes=st.integers(0, 200),
)
def test_piles_hold_what_was_put_on_them(lengths, memory_bytes):
    arrays = [np.arange(n, dtype=("u1", "<i4", "<f8")[pile]) + pile for pile, n in lengths]
    with Spill(None, memory_bytes=memory_bytes) as spill:
        piles = [spill.pile() for _ in range(3)]
        for (pile, _), array in zip(lengths, arrays, strict=True):
            piles[pile].append(array)
        assert spill.is_on_disk == (sum(array.nbytes for array in arrays) > memory_bytes)
        for number, pile in enumerate(piles):
            expected = [
                array for (at, _), array in zip(lengths, arrays, strict=True) if at == number
            ]
            found = pile.pieces()
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
            if expected:
                joined = pile.joined(expected[0].dtype)
                np.testing.assert_array_equal(joined, np.concatenate(expected))
            pile.clear()
            assert pile.pieces() == []


def test_files_have_no_name_and_memory_is_given_back(tmp_path):
    with Spill(tmp_path, memory_bytes=100) as spill:
        pile, other = spill.pile(), spill.pile()
        pile.append(np.zeros(90, np.uint8))
        pile.clear()
        other.append(np.zeros(90, np.uint8))
        assert not spill.is_on_disk
        other.append(np.zeros(90, np.uint8))
        assert spill.is_on_disk
        assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with Spill(tmp_path, memory_bytes=10) as spill:
        spill.expect(10)
        spill.expect(1000)
        with pytest.raises(StoreWriteError) as caught:
            spill.expect(1001)
    assert caught.value.problems[0].code == "scratch.space"


def test_a_folder_that_refuses_is_a_typed_error(tmp_path):
    with Spill(tmp_path / "none", memory_bytes=1) as spill:
        with pytest.raises(StoreWriteError):
            spill.expect(2)
        with pytest.raises(StoreWriteError):
            spill.pile().append(np.zeros(5))
