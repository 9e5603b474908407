"""The files of a store, wherever it is."""

from __future__ import annotations

from stformat.store.files import DirectoryFiles, StoreFiles
from stformat.store.location import Location

__all__ = ["open_files"]


def open_files(location: Location) -> StoreFiles:
    """Open the files of a store; of one at a URL, nothing is read yet unless it is a zip file.

    Parameters
    ----------
    location : Location
        Where it is.

    Returns
    -------
    StoreFiles
        To be closed.

    Raises
    ------
    NotAStoreError
        If there is no directory, or no zip file, at the location.
    UnsupportedStoreError
        If a zip file has members that are not read, or a library is missing.
    CorruptStoreError
        If a zip file is damaged.
    StoreReadError
        If the file system, or the server, does not let it be read.
    ValueError
        If the options of a URL are not those of its kind.
    """
    # What local directories do not need is not imported for them.
    if location.is_zip:
        from stformat.store.zip_files import ZipFiles  # noqa: PLC0415 - see above

        folder, name = location.split()
        return ZipFiles(_open_folder(folder), name, str(location))
    return _open_folder(location)


def _open_folder(location: Location) -> StoreFiles:
    if not location.is_url:
        return DirectoryFiles(location.address)
    from stformat.store.object_files import open_objects  # noqa: PLC0415 - see above

    return open_objects(location)
