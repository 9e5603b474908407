"""Arrays appended to .npy files as they come.

Written as files, not through a memory map: on a full disk a write to a map ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["npy_file"]


@contextmanager
def npy_file(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Make a .npy file of a known shape.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    shape : tuple of int
        Shape of the whole array.
    dtype : dtype
        Type of its values.

    Yields
    ------
    callable
        Takes what comes next along the first axis; all of it must come within the block.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)

        def add(values: NDArray[Any]) -> None:
            file.write(np.ascontiguousarray(values, dtype=dtype).data)

        yield add
