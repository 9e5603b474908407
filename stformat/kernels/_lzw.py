"""A look at LZW data before they are decoded.

TIFF 6.0, section 13.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import contiguous, host_twins, read_only

__all__ = ["codes_after_clear_are_bytes"]


def codes_after_clear_are_bytes(data: NDArray[np.uint8]) -> bool:
    """Say whether each first code of an LZW table stands for a byte, as it must.

    Parameters
    ----------
    data : (n,) ndarray of uint8
        A strip or tile of a TIFF.

    Returns
    -------
    bool
        False where a code after a clear code is one of the table, which is still empty then. All
        else that LZW data can have wrong is left to the decoder.

    Raises
    ------
    TypeError
        If `data` is no array of uint8.

    Notes
    -----
    Decoders exist that take the code after a clear code for a byte without a look, and go on from
    memory that they never set where it is none: in the best case to wrong pixels.

    Examples
    --------
    >>> def packed(*codes):
    ...     bits = "".join(format(code, "09b") for code in codes).ljust(40, "0")
    ...     return np.frombuffer(int(bits, 2).to_bytes(5), np.uint8)
    >>> codes_after_clear_are_bytes(packed(256, 65, 258, 257))
    True
    >>> codes_after_clear_are_bytes(packed(256, 258, 65, 257))
    False
    """
    twins = host_twins(data=data)
    data = contiguous(read_only("data", data, n_dims=1, dtypes=(np.uint8,)))
    return bool(twins.codes_after_clear_are_bytes(data))
