"""Whether a store holds what its root attribute says: elements, shapes, types. Metadata only.

Specification: spec/stformat-0.1.md, sections 4 to 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from stformat.errors import Problem, StoreError
from stformat.metadata.stformat_v0_1 import ImageAttributes, TableAttributes
from stformat.metadata.zarr_array import ArrayMetadata
from stformat.store.layout import by_gene_path, level_shapes, spots_path
from stformat.store.opened import CommittedStore

__all__ = ["attribute_problems", "own_arrays"]

_VALUES = {"int32", "float32"}
_GENE_VALUES = {"uint8", "uint16", "uint32", "float32"}


def attribute_problems(store: CommittedStore) -> Iterator[Problem]:
    """Yield what contradicts the root attribute.

    Parameters
    ----------
    store : CommittedStore
        The store; only its metadata are read.

    Yields
    ------
    Problem
        One for each element or array that is missing or not as the attribute has it.
    """
    if store.attributes.image is not None:
        yield from _image_problems(store, store.attributes.image)
    for table in store.attributes.tables:
        yield from _table_problems(store, table)


def own_arrays(store: CommittedStore) -> list[str]:
    """Return the path of every array that the format itself lays out, ascending.

    Their chunks are all there, under checksums; arrays of other tools promise neither.
    """
    image = store.attributes.image
    paths = [f"images/{image.element}/s{level}" for level in range(image.n_levels)] if image else []
    for table in store.attributes.tables:
        for group in (f"tables/{table.name}/X", by_gene_path(table.name)):
            paths += [f"{group}/{name}" for name in ("data", "indices", "indptr")]
        paths += [f"{spots_path(table.name)}/{name}" for name in ("radius", "x", "y")]
    return sorted(paths)


def _image_problems(store: CommittedStore, image: ImageAttributes) -> Iterator[Problem]:
    group = f"images/{image.element}"
    yield from _node_problems(store, group, "group")
    top = _metadata(store, f"{group}/s0")
    if isinstance(top, Problem):
        yield top
        return
    if top.data_type not in {"uint8", "uint16"} or len(top.shape) != 3 or 0 in top.shape:
        yield _wrong(f"{group}/s0", "(c, y, x) of uint8 or uint16", _described(top))
        return
    shapes = level_shapes(*top.shape[1:])
    if len(shapes) != image.n_levels:
        yield _wrong(group, f"{len(shapes)} levels", f"{image.n_levels} in the attribute")
    if image.background > np.iinfo(top.data_type).max:
        yield _wrong(group, f"a background within {top.data_type}", str(image.background))
    for level, shape in enumerate(shapes[: image.n_levels]):
        path = f"{group}/s{level}"
        yield from _array_problems(store, path, (top.shape[0], *shape), {top.data_type})
        found = _metadata(store, path)
        if not isinstance(found, Problem) and (found.chunks, found.coding) != (
            top.chunks,
            top.coding,
        ):
            yield _wrong(path, "the inner chunks and codecs of s0", "others")


def _table_problems(store: CommittedStore, table: TableAttributes) -> Iterator[Problem]:
    group, region = f"tables/{table.name}", f"shapes/{table.region}"
    yield from _node_problems(store, group, "group")
    yield from _node_problems(store, region, "group")
    parquet = f"{region}/shapes.parquet"
    if not store.files.exists(parquet):
        yield _wrong(parquet, "a GeoParquet file", "nothing")
    shape = (table.n_obs, table.n_vars)
    yield from _matrix_problems(store, f"{group}/X", "csr_matrix", shape, table.nnz)
    yield from _matrix_problems(store, by_gene_path(table.name), "csc_matrix", shape, table.nnz)
    for name in ("x", "y", "radius"):
        yield from _array_problems(
            store, f"{spots_path(table.name)}/{name}", (table.n_obs,), {"float64"}
        )
    for name in ("x", "y"):
        yield from _array_problems(store, f"{group}/obs/{name}", (table.n_obs,), {"float64"})
    yield from _index_problems(store, f"{group}/obs", table.n_obs)
    yield from _index_problems(store, f"{group}/var", table.n_vars)


def _matrix_problems(
    store: CommittedStore,
    group: str,
    encoding: Literal["csr_matrix", "csc_matrix"],
    shape: tuple[int, int],
    nnz: int,
) -> Iterator[Problem]:
    attributes = _attributes(store, group)
    if isinstance(attributes, Problem):
        yield attributes
        return
    found = attributes.get("encoding-type"), attributes.get("shape")
    if found != (encoding, list(shape)):
        yield _wrong(group, f"a {encoding} of shape {shape}", f"{found[0]} of shape {found[1]}")
    is_by_row = encoding == "csr_matrix"
    n_major = shape[0] if is_by_row else shape[1]
    yield from _array_problems(
        store, f"{group}/data", (nnz,), _VALUES if is_by_row else _GENE_VALUES
    )
    yield from _array_problems(store, f"{group}/indices", (nnz,), {"int32", "int64"})
    yield from _array_problems(store, f"{group}/indptr", (n_major + 1,), {"int32", "int64"})


def _index_problems(store: CommittedStore, group: str, length: int) -> Iterator[Problem]:
    """Check that a data frame has the index it names, of one entry a row."""
    attributes = _attributes(store, group)
    if isinstance(attributes, Problem):
        yield attributes
        return
    index = attributes.get("_index")
    if not isinstance(index, str):
        yield _wrong(group, "the attribute _index", repr(index))
        return
    yield from _array_problems(store, f"{group}/{index}", (length,), None)


def _array_problems(
    store: CommittedStore, path: str, shape: tuple[int, ...], data_types: set[str] | None
) -> Iterator[Problem]:
    metadata = _metadata(store, path)
    if isinstance(metadata, Problem):
        yield metadata
    elif metadata.shape != shape or (data_types and metadata.data_type not in data_types):
        names = " or ".join(sorted(data_types or {"any type"}))
        yield _wrong(path, f"the shape {shape} and {names}", _described(metadata))


def _node_problems(
    store: CommittedStore, path: str, node_type: Literal["group", "array"]
) -> Iterator[Problem]:
    try:
        found = store.node(path)["node_type"]
    except StoreError as error:
        yield error.problems[0]
        return
    if found != node_type:
        yield _wrong(path, f"a Zarr {node_type}", f"a Zarr {found}")


def _metadata(store: CommittedStore, path: str) -> ArrayMetadata | Problem:
    try:
        return store.array(path)
    except StoreError as error:
        return error.problems[0]


def _attributes(store: CommittedStore, path: str) -> dict[str, Any] | Problem:
    try:
        attributes = store.node(path).get("attributes", {})
    except StoreError as error:
        return error.problems[0]
    if not isinstance(attributes, dict):
        return _wrong(path, "attributes that are an object", type(attributes).__name__)
    return attributes


def _described(metadata: ArrayMetadata) -> str:
    return f"{metadata.shape} of {metadata.data_type}"


def _wrong(where: str, expected: str, found: str) -> Problem:
    return Problem(
        "verify.attribute",
        where,
        f"the root attribute asks for {expected}",
        found,
        "convert the slide again",
    )
