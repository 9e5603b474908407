"""Attributes of the AnnData encoding that stformat writes by itself.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = [
    "EMPTY_MAPPINGS",
    "anndata_attributes",
    "dataframe_attributes",
    "number_attributes",
    "sparse_attributes",
    "text_attributes",
]

EMPTY_MAPPINGS = ("layers", "obsp", "varm", "varp")
"""Mappings of an AnnData object that a table of raw counts leaves empty."""


def anndata_attributes() -> dict[str, Any]:
    """Return the attributes of an AnnData group."""
    return {"encoding-type": "anndata", "encoding-version": "0.1.0"}


def sparse_attributes(
    encoding: Literal["csr_matrix", "csc_matrix"], shape: tuple[int, int]
) -> dict[str, Any]:
    """Return the attributes of a group of ``data``, ``indices`` and ``indptr``.

    Parameters
    ----------
    encoding : {"csr_matrix", "csc_matrix"}
        Which axis `indptr` runs along.
    shape : tuple of int
        ``(n_obs, n_vars)`` for both encodings.

    Examples
    --------
    >>> sparse_attributes("csr_matrix", (3, 2))
    {'encoding-type': 'csr_matrix', 'encoding-version': '0.1.0', 'shape': [3, 2]}
    """
    return {"encoding-type": encoding, "encoding-version": "0.1.0", "shape": list(shape)}


def dataframe_attributes(index: str, columns: list[str]) -> dict[str, Any]:
    """Return the attributes of the group of a dataframe.

    Parameters
    ----------
    index : str
        Name of the array that is its index.
    columns : list of str
        Names of the other arrays, in their order.

    Examples
    --------
    >>> dataframe_attributes("barcode", ["x"])["_index"]
    'barcode'
    """
    return {
        "encoding-type": "dataframe",
        "encoding-version": "0.2.0",
        "_index": index,
        "column-order": columns,
    }


def text_attributes() -> dict[str, Any]:
    """Return the attributes of an array of texts, none of them missing."""
    return {"encoding-type": "string-array", "encoding-version": "0.2.0"}


def number_attributes() -> dict[str, Any]:
    """Return the attributes of an array of numbers."""
    return {"encoding-type": "array", "encoding-version": "0.2.0"}
