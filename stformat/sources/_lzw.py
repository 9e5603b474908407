"""A look at LZW data before they are decoded.

TIFF 6.0, section 13.

The decoder in use takes the code after a clear code for a byte without a look, and goes on from
memory that it never set where it is none: in the best case to wrong pixels.
"""

from __future__ import annotations

from mmap import mmap

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["codes_after_clear_are_bytes"]

_CLEAR, _END = 256, 257
_LONGEST_CODE = 12


def codes_after_clear_are_bytes(data: bytearray | mmap) -> bool:
    """Say whether each first code of a table stands for a byte, as it must.

    Parameters
    ----------
    data : bytearray or mmap
        A strip or tile.

    Returns
    -------
    bool
        False where a code after a clear code is one of the table, which is still empty then. All
        else that LZW data can have wrong is left to the decoder.

    Examples
    --------
    >>> def packed(*codes):
    ...     bits = "".join(format(code, "09b") for code in codes).ljust(40, "0")
    ...     return bytearray(int(bits, 2).to_bytes(5))
    >>> codes_after_clear_are_bytes(packed(256, 65, 258, 257))
    True
    >>> codes_after_clear_are_bytes(packed(256, 258, 65, 257))
    False
    """
    return bool(_scan(np.frombuffer(data, np.uint8)))


@numba.njit(cache=True, nogil=True)
def _scan(data: NDArray[np.uint8]) -> bool:
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
