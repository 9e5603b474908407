"""What is asked of a data set in HDF5 before any of its values is read."""

from __future__ import annotations

import math

import h5py

from stformat.errors import CountsError, Problem

__all__ = ["check_storage", "refuse_link"]

MAX_RATIO = 1100
"""Most bytes of values for one stored byte: deflate reaches 1032."""

FREE_BYTES = 1 << 20
"""Declared size that needs no stored byte to back it: HDF5 does not store fill values."""

_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}


def refuse_link(where: str, link: object) -> None:
    """Refuse a part of a file that only points somewhere.

    Parameters
    ----------
    where : str
        The part, for messages.
    link : object
        What ``group.get(name, getlink=True)`` returns.

    Raises
    ------
    CountsError
        If it is no hard link.
    """
    if not isinstance(link, h5py.HardLink):
        raise CountsError(
            Problem(
                "counts.h5-link",
                where,
                "every part must lie in the file",
                "nothing" if link is None else f"a link of kind {type(link).__name__}",
                "copy everything into one file",
            )
        )


def check_storage(where: str, data_set: h5py.Dataset) -> None:
    """Refuse values in other files, filters that are not built in, and sizes that cannot be.

    Parameters
    ----------
    where : str
        The data set, for messages.
    data_set : h5py.Dataset
        None of its values is read.

    Raises
    ------
    CountsError
        If it is one of these.
    """
    if data_set.is_virtual or data_set.external:
        raise CountsError(
            Problem(
                "counts.h5-external",
                where,
                "every part must lie in the file",
                "values in another file",
                "copy everything into one file",
            )
        )
    filters = data_set.id.get_create_plist()
    unknown = {filters.get_filter(n)[0] for n in range(filters.get_nfilters())} - _FILTERS
    if unknown:
        raise CountsError(
            Problem(
                "counts.h5-filter",
                where,
                "compression must be gzip or lzf",
                f"the HDF5 filter {min(unknown)}",
                "rewrite the file with h5repack -f GZIP=4",
            )
        )
    stored = data_set.id.get_storage_size()
    if math.prod(data_set.shape) * data_set.dtype.itemsize > max(FREE_BYTES, MAX_RATIO * stored):
        raise CountsError(
            Problem(
                "counts.h5-size",
                where,
                "the file must hold what it declares",
                f"{data_set.shape} values of {data_set.dtype} in {stored} bytes",
            )
        )
