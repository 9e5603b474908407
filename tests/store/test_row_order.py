"""Rows of a store stand by cell, Morton code and source, however many there are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stformat.store import layout


def by_definition(xy):
    """Sort tuples, bit by bit as the specification says."""

    def key(row):
        x, y = (int(np.floor(value)) for value in xy[row])
        u, v = x % 4096, y % 4096
        morton = sum(((u >> b & 1) << 2 * b) | ((v >> b & 1) << 2 * b + 1) for b in range(12))
        return y // 4096, x // 4096, morton, row

    return sorted(range(len(xy)), key=key)


COORDINATES = st.one_of(
    st.floats(-20, 20), st.floats(-9000, 9000), st.floats(-1e9, 1e9), st.floats(-4e15, 4e15)
)


@given(xy=st.lists(st.tuples(COORDINATES, COORDINATES), max_size=30), rows=st.integers(1, 9))
def test_order_is_that_of_the_definition(xy, rows):
    points = np.array(xy, dtype=np.float64).reshape(-1, 2)
    before = layout._ROWS_AT_ONCE
    layout._ROWS_AT_ONCE = rows
    try:
        assert layout.spatial_order(points).tolist() == by_definition(points)
    finally:
        layout._ROWS_AT_ONCE = before
