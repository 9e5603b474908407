"""Dataframes of a store, in the encoding of AnnData.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from typing import Any

from anndata.io import read_elem

from stformat.errors import CorruptStoreError, Problem, StoreError, UnsupportedStoreError
from stformat.store.opened import CommittedStore
from stformat.store.read_ahead import one_version
from stformat.store.zarr_bridge import UNREADABLE, open_element

__all__ = ["read_element"]

_ENCODINGS = frozenset(
    {
        "array",
        "categorical",
        "dataframe",
        "nullable-boolean",
        "nullable-integer",
        "nullable-string-array",
        "string-array",
    }
)


def read_element(store: CommittedStore, path: str) -> Any:  # noqa: ANN401 - what is encoded
    """Read a dataframe, or a column of one, in the encoding of AnnData.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    path : str
        Path of the element.

    Returns
    -------
    DataFrame, Categorical or array
        The element.

    Raises
    ------
    CorruptStoreError
        If it is damaged, or not encoded as it says.
    UnsupportedStoreError
        If it is in another encoding than those of dataframes and their columns.
    """
    _check_encodings(store, path)
    with one_version(store.files):
        try:
            return read_elem(open_element(store, path))
        except StoreError:
            raise
        except (*UNREADABLE, KeyError, IndexError, AttributeError) as error:
            raise CorruptStoreError(
                Problem("table.element", path, "an element must be as it was committed", str(error))
            ) from error


def _check_encodings(store: CommittedStore, path: str) -> None:
    document = store.node(path)
    encoding = document.get("attributes", {}).get("encoding-type")
    if encoding not in _ENCODINGS:
        raise UnsupportedStoreError(
            Problem(
                "table.encoding",
                path,
                f"the encoding must be one of {', '.join(sorted(_ENCODINGS))}",
                repr(encoding),
            )
        )
    if document["node_type"] == "group":
        for name in store.children(path):
            _check_encodings(store, f"{path}/{name}")
