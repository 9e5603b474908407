"""Names as fixed-width bytes, against Python's own dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat import text_keys
from stformat.text_keys import repeated_row, rows_of

NAMES = st.lists(st.sampled_from([b"a", b"b", b"aa", b"x" * 8, b"x" * 9, b"x" * 17, b"y" * 16]))


def array(names, *, width=0):
    return np.array(names, dtype=f"S{max([1, width, *map(len, names)])}")


@given(wanted=NAMES, names=st.lists(st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b), unique=True), more=NAMES, width=st.integers(1, 30))  # fmt: skip  # noqa: E501 - one strategy an argument
def test_rows_are_those_of_a_dictionary(wanted, names, more, width):
    names = list(dict.fromkeys([*names, *more]))
    expected = {name: row for row, name in enumerate(names)}
    asked = [*wanted, *names[::-1]]
    found = rows_of(array(asked, width=width), array(names))
    assert found.tolist() == [expected.get(name, -1) for name in asked]


@given(names=NAMES)
def test_repeated_row_is_one_that_repeats(names):
    row = repeated_row(array(names))
    if row is None:
        assert len(set(names)) == len(names)
    else:
        assert names[row] in names[:row]


def test_names_of_one_hash_are_told_apart(monkeypatch):
    """The first salts are of no use; the next one is."""
    hashes = text_keys._hashes

    def colliding(names, *, salt):
        found = hashes(names, salt=salt)
        return found if salt > 2 else found & np.uint64(1)

    monkeypatch.setattr(text_keys, "_hashes", colliding)
    names = array([b"n%d" % n for n in range(50)])
    assert rows_of(names[::-1], names).tolist() == list(range(50))[::-1]
    assert repeated_row(names) is None
    with pytest.raises(ValueError, match="unique"):
        rows_of(names, np.concatenate([names, names[:1]]))
