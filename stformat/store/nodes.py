"""Groups, documents and consolidated metadata of a store that is being written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import Any

from stformat.errors import refusals_of
from stformat.metadata import strict_json

__all__ = ["consolidate", "refusals_of", "uninterrupted", "write_document", "write_group"]


def write_document(directory: Path, document: Mapping[str, Any]) -> None:
    """Write ``zarr.json`` into `directory`, which is made where it is missing.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    path = directory / "zarr.json"
    with refusals_of(path):
        directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(strict_json.dump_canonical(document))


def write_group(directory: Path, attributes: Mapping[str, Any] | None = None) -> None:
    """Make `directory` a Zarr v3 group with these attributes.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    write_document(
        directory, {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}
    )


def uninterrupted[T](write: Callable[[], T]) -> T:
    """Let zarr write, to its end even if the caller is interrupted meanwhile.

    zarr writes in threads of its own. An interrupt ends the wait for them, not them: they would
    go on to write into a directory that is being removed.

    Parameters
    ----------
    write : callable
        Called once, in a thread that signals do not reach.

    Returns
    -------
    object
        What `write` returned.

    Raises
    ------
    BaseException
        What `write` raised, or the interrupt, once `write` has ended.
    """
    written: Future[T] = Future()

    def run() -> None:
        if not written.set_running_or_notify_cancel():
            return
        try:
            written.set_result(write())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            written.set_exception(error)

    try:
        # No executor: of one that is interrupted while it starts a thread, nobody waits for that.
        Thread(target=run, name="stformat-zarr").start()
        return written.result()
    finally:
        if not written.cancel():
            wait([written])


def consolidate(root: Path) -> None:
    """Copy the metadata of every group and array below `root` into its zarr.json.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    import zarr  # noqa: PLC0415 - readers that only change a document need not load it
    from zarr.errors import ZarrUserWarning  # noqa: PLC0415 - likewise

    with warnings.catch_warnings(), refusals_of(root / "zarr.json"):
        # SpatialData's own layout: a GeoParquet file inside a group, and consolidated metadata in
        # Zarr v3. Both are meant. So is a hidden file: it is gone before this is a store.
        for message in (
            r"Object at (.*/)?shapes\.parquet is not recognized",
            r"Object at \.\S* is not recognized",
            r"Consolidated metadata is currently not part in the Zarr format 3",
        ):
            warnings.filterwarnings("ignore", message=message, category=ZarrUserWarning)
        uninterrupted(lambda: zarr.consolidate_metadata(str(root), zarr_format=3))
