"""What kernels ask of their arrays, and the choice of the twins that take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "check_gene_map",
    "column_indices",
    "contiguous",
    "csr",
    "csr_rows",
    "host_twins",
    "read_only",
    "result",
    "twins_for",
]

VALUES = (np.uint8, np.uint16, np.uint32, np.int32, np.int64, np.float32, np.float64)
OFFSETS = (np.int64, np.int32)


def twins_for(**arrays: object) -> Any:  # noqa: ANN401 - a module, or what has its functions
    """Return the kernels for this kind of array.

    Raises
    ------
    TypeError
        If an array is of a kind no kernels are made for, or the arrays are of different kinds.
    """
    if all(isinstance(array, np.ndarray) for array in arrays.values()):
        # Importing numba takes longer than many a program that opens a slide and asks its size.
        from stformat.kernels import _numba  # noqa: PLC0415 - on first use, for the reason above

        return _numba
    kinds = {name: type(array).__module__.partition(".")[0] for name, array in arrays.items()}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) and kinds[name] != "cupy":
            raise TypeError(f"{name} must be a CuPy or NumPy array, got {type(array).__name__}")
    if set(kinds.values()) != {"cupy"}:
        raise TypeError(f"{' and '.join(arrays)} must be CuPy arrays all, or NumPy arrays all")
    from stformat.kernels._cupy import cuda_twins  # noqa: PLC0415 - likewise

    return cuda_twins()


def host_twins(**arrays: object) -> Any:  # noqa: ANN401 - a module
    """Return the kernels that read bytes of files, which are in the host's memory.

    Raises
    ------
    TypeError
        If an array is no NumPy array.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array, got {type(array).__name__}")
    return twins_for(**arrays)


def read_only[T: np.generic](
    name: str, array: NDArray[T], *, n_dims: int, dtypes: tuple[type[np.generic], ...]
) -> NDArray[T]:
    """Return a view that cannot be written to, after a check of dimensions and type.

    Kernels are compiled for each kind of array they meet; arrays of decoded bytes are read-only,
    others are not, and one kind is enough.
    """
    # Of a type's own class, for that is quicker than comparing types, and in native byte order.
    if array.dtype.type not in dtypes or not array.dtype.isnative:
        wanted = ", ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"{name} must be of type {wanted}, got {array.dtype}")
    if array.ndim != n_dims:
        raise ValueError(f"{name} must have {n_dims} dimensions, got shape {array.shape}")
    if type(array).__module__.startswith("cupy"):
        return array
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def contiguous[T: np.generic](array: NDArray[T]) -> NDArray[T]:
    """Return the array, or a copy whose values lie side by side."""
    return array if array.flags.c_contiguous else array.copy()


def result(
    out: NDArray[Any] | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    xp: Any,  # noqa: ANN401 - the module of the arrays
) -> NDArray[Any]:
    """Return a new array, or `out` after a check that it can take the result."""
    if out is None:
        return xp.empty(shape, dtype)  # type: ignore[no-any-return] # of a module of either kind
    kind_of_array: type = xp.ndarray
    if not isinstance(out, kind_of_array):
        kind = "NumPy" if xp is np else "CuPy"
        raise TypeError(f"out must be a {kind} array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out must have shape {shape} and type {dtype}, got {out.shape} and {out.dtype}"
        )
    if not (out.flags.c_contiguous and getattr(out.flags, "writeable", True)):
        raise ValueError("out must be C-contiguous and writeable, it is not")
    return out


def csr(data: NDArray[Any], indptr: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Check a matrix's values and offsets; offsets are widened, so that one kernel does."""
    data = _matrix_values(data)
    indptr = read_only("indptr", indptr, n_dims=1, dtypes=OFFSETS)
    if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(data):
        raise ValueError(
            f"indptr must run from 0 to the number of values, {len(data)}, got "
            f"{indptr[:1].tolist()} to {indptr[-1:].tolist()}"
        )
    if (indptr[1:] < indptr[:-1]).any():
        row = int(np.argmax(indptr[1:] < indptr[:-1]))
        raise ValueError(
            f"indptr must not fall, got {indptr[row]} and then {indptr[row + 1]} at row {row}"
        )
    return data, _wide(indptr)


def csr_rows(
    data: NDArray[Any], indptr: NDArray[Any], rows: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Check a matrix's values and where chosen rows start and stop, at a cost of those rows alone.

    What `indptr` says of other rows is not looked at: batches of a few rows are cut from matrices
    of millions.
    """
    data = _matrix_values(data)
    indptr = read_only("indptr", indptr, n_dims=1, dtypes=OFFSETS)
    rows = read_only("rows", rows, n_dims=1, dtypes=(np.int64,))
    n_rows = len(indptr) - 1
    is_row = (rows >= 0) & (rows < n_rows)
    if not is_row.all():
        place = int(np.argmin(is_row))
        raise ValueError(f"rows must be rows of {n_rows}, got {rows[place]} at {place}")
    starts, stops = _wide(indptr[rows]), _wide(indptr[rows + 1])
    is_span = (starts >= 0) & (starts <= stops) & (stops <= len(data))
    if not is_span.all():
        place = int(np.argmin(is_span))
        raise ValueError(
            f"indptr must not fall nor leave the {len(data)} values, got {starts[place]} and then "
            f"{stops[place]} at row {rows[place]}"
        )
    return data, starts, stops


def _matrix_values(data: NDArray[Any]) -> NDArray[Any]:
    """Check the values of a matrix."""
    return contiguous(read_only("data", data, n_dims=1, dtypes=VALUES))


def _wide(offsets: NDArray[Any]) -> NDArray[np.int64]:
    wide = contiguous(offsets).astype(np.int64, copy=False)
    return read_only("indptr", wide, n_dims=1, dtypes=OFFSETS)


def column_indices(indices: NDArray[Any], n_values: int) -> NDArray[Any]:
    """Check that there is a column for each value of a matrix; not yet which columns there are."""
    indices = contiguous(read_only("indices", indices, n_dims=1, dtypes=OFFSETS))
    if len(indices) != n_values:
        raise ValueError(f"indices must have one entry a value, {n_values}, got {len(indices)}")
    return indices


def check_gene_map(gene_map: NDArray[np.int64], n_out: int, misplaced: int) -> None:
    """Check that genes go to different columns of the result, or to none.

    `misplaced` is the first gene that does not, as the twins find it, or -1.
    """
    if n_out > np.iinfo(np.int32).max:
        raise ValueError(f"n_out must be below 2**31, got {n_out}")
    if misplaced < 0:
        return
    target = gene_map[misplaced]
    if -1 <= target < n_out:
        other = int(np.argmax(gene_map == target))
        raise ValueError(
            f"gene_map must map genes to different columns, got {target} for genes {other} and "
            f"{misplaced}"
        )
    raise ValueError(
        f"gene_map must map to -1 or one of {n_out} columns, got {target} for gene {misplaced}"
    )
