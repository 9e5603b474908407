"""How every twin is compiled: serial, without the GIL, cached on disk, without fastmath."""

from __future__ import annotations

from typing import Any

import numba
from numpy.typing import NDArray

__all__ = ["Array", "compiled", "inlined"]

type Array = NDArray[Any]

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
inlined = numba.njit(nogil=True, error_model="numpy", inline="always")
