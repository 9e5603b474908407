"""Shapes of a slide that are no capture areas: outlines drawn by people, tissue."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import google_crc32c

from stformat.errors import CorruptStoreError, Problem
from stformat.store.opened import CommittedStore
from stformat.store.read_ahead import one_version

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

__all__ = ["Annotations", "read_shapes"]

_SHAPES = "shapes"


class Annotations(Mapping[str, "GeoDataFrame"]):
    """Name to GeoDataFrame, in full-resolution pixels; each is read when it is asked for.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    """

    def __init__(self, store: CommittedStore) -> None:
        self._store = store
        regions = {table.region for table in store.attributes.tables}
        has_shapes = _SHAPES in store.children("")
        names = store.children(_SHAPES) if has_shapes else []
        self._names = tuple(name for name in names if name not in regions)

    def __getitem__(self, name: str) -> GeoDataFrame:
        if name not in self._names:
            raise KeyError(name)
        return read_shapes(self._store, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<Annotations: {', '.join(self._names) or 'none'}>"


def read_shapes(store: CommittedStore, name: str) -> GeoDataFrame:
    """Read a shapes element: a region of a table, or an annotation.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    name : str
        Name of the element.

    Returns
    -------
    GeoDataFrame
        In full-resolution pixels.

    Raises
    ------
    CorruptStoreError
        If it is not what was committed.
    """
    import geopandas  # noqa: PLC0415 - opening a slide must not import geopandas

    path = f"{_SHAPES}/{name}/shapes.parquet"
    with one_version(store.files):
        content = store.files.read(path)
        _verify(store, path, content)
    try:
        return geopandas.read_parquet(io.BytesIO(content))
    except (ValueError, OSError) as error:  # pyarrow's own errors are both
        raise CorruptStoreError(
            Problem("shapes.content", path, "a GeoParquet file is needed", str(error))
        ) from error


def _verify(store: CommittedStore, path: str, content: bytes) -> None:
    """Hold a file to the manifest; one that another tool changed is what that tool made it."""
    if store.is_changed:
        return
    found = f"{google_crc32c.value(content):08x}"
    expected = {entry.path: entry.crc32c for entry in store.manifest.files}.get(path)
    if found != expected:
        raise CorruptStoreError(
            Problem(
                "shapes.checksum",
                path,
                f"the checksum must be the committed {expected}",
                found,
                "run `stformat verify`; convert the slide again or copy it anew",
            )
        )
