"""A folder of slides, opened by its catalogue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np

from stformat.collection.catalogue import CATALOGUE_NAME, parse_catalogue
from stformat.collection.slides import Collection
from stformat.errors import CatalogueError, NotAStoreError, Problem
from stformat.store.location import parse_location
from stformat.store.open_files import open_files

__all__ = ["open_collection"]


def open_collection(
    path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Collection:
    """Open the slides of a folder that has a catalogue.

    Parameters
    ----------
    path : path or str
        Folder that ``stformat collect`` was run on, or the URL where such a folder is.
    storage_options : mapping, optional
        How a URL is to be opened; see `stformat.open_slide`.

    Returns
    -------
    Collection
        The slides; nothing but the catalogue has been read.

    Raises
    ------
    CatalogueError
        If there is no catalogue, or it is damaged or of another version.
    StoreReadError
        If the file system, or the server, does not let it be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=400, width=400, n_genes=20, pitch_px=60, seed=0),
    ...                          folder / "source")
    >>> _ = stf.convert_slide(source, folder / "S1.zarr", species="human")
    >>> _ = stf.collect_slides(folder)
    >>> slides = stf.open_collection(folder)
    >>> len(slides), slides.where(species="Homo sapiens").slide_ids, slides["S1"].n_vars
    (1, ('S1',), 20)
    """
    location = parse_location(path, storage_options)
    where = f"{location}/{CATALOGUE_NAME}"
    try:
        with closing(open_files(location)) as files:
            is_there = files.exists(CATALOGUE_NAME)
            data = files.read(CATALOGUE_NAME) if is_there else b""
    except NotAStoreError:
        is_there = False
    if not is_there:
        is_file = location.address.rstrip("/").endswith(f"/{CATALOGUE_NAME}")
        raise CatalogueError(
            Problem(
                "catalogue.missing",
                str(location),
                f"a collection is a folder with {CATALOGUE_NAME}",
                "its catalogue" if is_file else "none",
                "give the folder" if is_file else "make it with stformat collect",
            )
        )
    catalogue = parse_catalogue(data, where)
    return Collection(location, catalogue, np.arange(catalogue.table.num_rows))
