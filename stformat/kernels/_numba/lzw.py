"""Compiled twin of the walk over LZW data in `_reference`."""

from __future__ import annotations

import numpy as np

from stformat.kernels._numba._compile import Array, compiled

_CLEAR, _END = 256, 257
_LONGEST_CODE = 12


@compiled
def codes_after_clear_are_bytes(data: Array) -> bool:
    """Walk over the codes; their lengths depend on how many came since the last clear code."""
    at, length, n_entries = 0, 9, 258
    is_table_empty = True
    while at + length <= 8 * data.size:
        first = at >> 3
        window = np.int64(0)
        for byte in range(first, first + 3):
            window <<= 8
            if byte < data.size:
                window |= np.int64(data[byte])
        code = window >> (24 - (at & 7) - length) & ((1 << length) - 1)
        at += length
        if code == _CLEAR:
            length, n_entries = 9, 258
            is_table_empty = True
        elif code == _END:
            return True
        elif is_table_empty:
            if code > _END:
                return False
            is_table_empty = False
        else:
            n_entries += 1
            # A code gets longer one entry before the table could need it.
            if n_entries + 1 == 1 << length and length < _LONGEST_CODE:
                length += 1
    return True
