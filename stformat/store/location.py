"""Where a store is: a local path or a URL, with what is needed to open it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from stformat.errors import Problem, UnsupportedStoreError

__all__ = ["Location", "local_path", "parse_location"]

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMES = frozenset({"http", "https", "s3", "s3a", "gs"})
_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Location:
    """Where a store is. Its text, unlike its fields, shows no secrets.

    Examples
    --------
    >>> location = parse_location("https://me:password@example.org/B4.zarr/?signature=abc")
    >>> location
    <Location https://example.org/B4.zarr>
    >>> location.is_url, location.is_zip
    (True, False)
    """

    address: str
    """An absolute path, or a URL with whatever user name and signature it was given with."""

    options: Mapping[str, Any] = field(default_factory=lambda: _NO_OPTIONS)
    """What a store at a URL is to be opened with, credentials among it."""

    def __str__(self) -> str:
        if not self.is_url:
            return self.address
        parts = urlsplit(self.address)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def __repr__(self) -> str:
        return f"<Location {self}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _location, (self.address, dict(self.options))

    @property
    def is_url(self) -> bool:
        """Whether the store is reached over a network."""
        return _URL.match(self.address) is not None

    @property
    def is_zip(self) -> bool:
        """Whether the store is one zip file."""
        if self.is_url:
            return urlsplit(self.address).path.endswith(".zip")
        return self.address.endswith(".zip") and not Path(self.address).is_dir()

    def split(self) -> tuple[Location, str]:
        """Return what holds the last part of the path, and that part."""
        if not self.is_url:
            path = Path(self.address).resolve()  # a link is followed here, once
            return _location(str(path.parent), {}), path.name
        parts = urlsplit(self.address)
        folder, _, name = parts.path.rpartition("/")
        address = urlunsplit((parts.scheme, parts.netloc, folder, parts.query, ""))
        return _location(address, self.options), unquote(name)


def parse_location(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Location:
    """Say where a store is; touches neither disk nor network.

    Parameters
    ----------
    path : path or str
        A local path, or a URL of one of the schemes ``file``, ``http``, ``https``, ``s3``, ``gs``.
    storage_options : mapping, optional
        How a URL is to be opened; see `stformat.open_slide`.

    Returns
    -------
    Location
        What `stformat.store.open_files` opens.

    Raises
    ------
    UnsupportedStoreError
        If the URL is of another scheme, or names no server or bucket.
    ValueError
        If there are `storage_options` for a local path.
    """
    text = os.fspath(path)
    found = _URL.match(text)
    scheme = found["scheme"].lower() if found else "file"
    if found and scheme == "file":
        text = unquote(urlsplit(text).path)
    if scheme == "file":
        if storage_options:
            raise ValueError("storage_options are for URLs, got some for a local path")
        return Location(address=str(Path(text).absolute()))
    if scheme not in _SCHEMES:
        raise _unsupported(
            text, f"a URL must be of the scheme {', '.join(sorted(_SCHEMES))}", repr(scheme)
        )
    parts = urlsplit(text)
    if not parts.hostname:
        raise _unsupported(text, "a URL must name a server or a bucket", "none")
    address = urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), parts.query, ""))
    return _location(address, storage_options or {})


def local_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a store in a local directory, for those who write.

    Raises
    ------
    UnsupportedStoreError
        If it is a URL or a zip file, which are read only.
    """
    location = parse_location(path)
    if location.is_url or location.is_zip:
        raise UnsupportedStoreError(
            Problem(
                "store.not-local",
                str(location),
                "only a store in a local directory can be changed",
                "a URL" if location.is_url else "a zip file",
                "copy it to a local directory, or unpack it, first",
            )
        )
    return location.address


def _location(address: str, options: Mapping[str, Any]) -> Location:
    return Location(address=address, options=MappingProxyType(dict(options)))


def _unsupported(text: str, expected: str, found: str) -> UnsupportedStoreError:
    where = str(Location(address=text))
    return UnsupportedStoreError(Problem("store.location", where, expected, found))
