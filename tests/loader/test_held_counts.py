from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.loader import held_counts
from stformat.loader.held_counts import HeldCounts
from stformat.loader.memory import Memory

N_VARS = 7


class Counts:
    """Rows of so many values each, all different, of genes in turn."""

    def __init__(self, first, lengths):
        self.indptr = np.append(0, np.cumsum(lengths)).astype(np.int64)
        self.values = first + np.arange(self.indptr[-1], dtype=np.int32)
        self.columns = np.arange(self.indptr[-1]) % N_VARS
        self.n_read = []

    def at(self, rows):
        spans = [np.arange(*self.indptr[row : row + 2]) for row in rows]
        return np.concatenate([np.zeros(0, np.int64), *spans])

    def n_stored_of_rows(self, rows):
        return np.diff(self.indptr)[rows]

    def read_rows(self, rows, empty):
        places = self.at(rows)
        self.n_read.append(len(places))
        data, indices = (make(len(places)) for make in empty)
        data[:], indices[:] = self.values[places], self.columns[places]
        return np.diff(self.indptr)[rows]


@given(
    st.lists(st.lists(st.integers(0, 5000), max_size=3), min_size=1),
    st.integers(0, 20_000),
    st.permutations([-1, -1, -1, 0, 1, 2, 3]) | st.none(),
    st.sampled_from([1, 8 * 4000, 2**25]),
)
def test_rows_follow_one_another_however_many_were_expected_or_wanted(
    slides, expected, target, piece_bytes
):
    map_of_genes = None if target is None else np.array(target)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(held_counts, "_PIECE_BYTES", piece_bytes)
        held = HeldCounts(
            Memory(max_bytes=2**20), np.int32, np.int64,
            n_values=expected, n_genes=N_VARS, has_totals=True,
        )  # fmt: skip
    held.add(Counts(0, []), np.arange(0), map_of_genes, go_on=lambda: None)
    values, columns, lengths, totals = ([np.zeros(0, np.int64)] for _ in range(4))
    for number, of_rows in enumerate(slides):
        counts = Counts(number * 100_000, of_rows)
        rows = np.arange(len(of_rows))[::-1]
        held.add(counts, rows, map_of_genes, go_on=lambda: None)
        for row in rows:
            at = counts.at([row])
            to = counts.columns[at] if target is None else map_of_genes[counts.columns[at]]
            values.append(counts.values[at][to >= 0])
            columns.append(to[to >= 0])
            lengths.append([np.count_nonzero(to >= 0)])
            totals.append([counts.values[at].sum()])
    np.testing.assert_array_equal(held.data, np.concatenate(values))
    np.testing.assert_array_equal(held.indices, np.concatenate(columns))
    np.testing.assert_array_equal(held.indptr, np.append(0, np.cumsum(np.concatenate(lengths))))
    np.testing.assert_array_equal(held.totals, np.concatenate(totals))
    assert (held.data.dtype, held.indices.dtype) == (np.int32, np.int64)


def test_what_is_not_wanted_is_read_some_at_a_time(monkeypatch):
    monkeypatch.setattr(held_counts, "_PIECE_BYTES", 8 * 100)
    counts = Counts(0, [60, 60, 250, 0, 10, 10])
    asked = []
    held = HeldCounts(
        Memory(max_bytes=2**20), np.int32, np.int32, n_values=0, n_genes=1, has_totals=False
    )
    held.add(
        counts, np.arange(6), np.array([0, *[-1] * 6]), go_on=lambda: asked.append(counts.n_read[:])
    )
    assert held.totals is None
    assert sum(counts.n_read) == 390
    assert len(counts.n_read) > 2
    assert max(counts.n_read) < 100 + 250
    assert asked == [counts.n_read[:n] for n in range(len(counts.n_read))]
