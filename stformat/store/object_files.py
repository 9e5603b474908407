"""The files of a store at a URL, over HTTP or in an object store, by ranged requests of obstore.

Nothing is listed and nothing is asked for twice: a store's metadata name all of its files, and what
is missing is told by reading it.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote, urlsplit, urlunsplit

from stformat.errors import (
    CorruptStoreError,
    Problem,
    StoreError,
    StoreReadError,
    StoreReplaced,
    UnsupportedStoreError,
)
from stformat.store.files import parts_of, shown
from stformat.store.kept_bytes import KeptBytes
from stformat.store.layout import COMMIT_PATH
from stformat.store.location import Location
from stformat.store.read_ahead import N_IN_FLIGHT
from stformat.store.read_costs import ReadCosts
from stformat.store.request_failures import Failure, classify

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["GAP_BYTES", "REQUEST_BYTES", "TAIL_BYTES", "ObjectFiles", "open_objects"]

GAP_BYTES = 256 * 2**10
"""Two ranges of one object no further apart are one request: about an image chunk, and what a
connection of 5 MB/s brings in the 50 ms that another request would take."""

REQUEST_BYTES = 4 * 2**20
"""Ranges are not joined beyond this size, so that decoding begins before a shard is there."""

TAIL_BYTES = 64 * 2**10
"""Bytes that are read of the end of an object at least: small ones are then whole."""

_ATTEMPTS = 4
"""Requests for a body that breaks off; obstore itself asks for the rest where there is an ETag."""

_FIRST_PAUSE_S = 0.1
_RETRIES = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(seconds=_FIRST_PAUSE_S),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}
_TIMES = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "120s"}
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a server says of one version of an object."""

    size: int
    e_tag: str | None
    last_modified: datetime


_process: int | None = None


def _check_process(where: str) -> None:
    """Refuse to wait for ever: the threads of obstore do not live on in a forked child."""
    global _process  # noqa: PLW0603 - obstore has one set of threads a process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise StoreReadError(
            Problem(
                "store.forked",
                where,
                "a process that reads URLs must not be forked from one that did so before",
                "such a process",
                "start processes by the method 'spawn' or 'forkserver'",
            )
        )


def open_objects(location: Location) -> ObjectFiles:
    """Open the files of a store at a URL; nothing is read.

    Parameters
    ----------
    location : Location
        The URL and its options.

    Returns
    -------
    ObjectFiles
        The files.

    Raises
    ------
    UnsupportedStoreError
        If obstore is not installed.
    ValueError
        If the options are not those of obstore's store for the URL.
    """
    try:
        import obstore  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnsupportedStoreError(
            Problem(
                "store.no-obstore",
                str(location),
                "reading a store at a URL needs the library obstore",
                str(error),
                "install stformat[remote]",
            )
        ) from error
    options = dict(location.options)
    url, headers = _without_user(location.address)
    client = {
        **_TIMES,
        "allow_http": _is_plain_http(url, options),
        **({"default_headers": headers} if headers else {}),
        **options.pop("client_options", {}),
    }
    options["client_options"] = client
    options.setdefault("retry_config", _RETRIES)
    of_http = urlsplit(url).scheme in {"http", "https"}
    make = obstore.store.HTTPStore if of_http else obstore.store.from_url
    try:
        store = make(url, **options)
    except (obstore.exceptions.BaseError, TypeError, ValueError):
        store = None
    if store is None:  # raised here: the cause would quote what may be secret
        names = ", ".join(sorted(location.options)) or "none"
        raise ValueError(
            f"{location}: storage_options must be those of obstore's store for such a URL, with "
            f"values of the types that it takes, got {names}"
        )
    return ObjectFiles(store, str(location))


class ObjectFiles:
    """The files of a store at a URL; safe to share between threads, refused after a fork.

    Parameters
    ----------
    store : obstore store
        Where paths are relative to.
    where : str
        What to call the store in messages.

    Notes
    -----
    Every object is read in one version: where the server's ETag, or the size or time of an object
    is another than when it was read first, `StoreReplaced` is raised. So it is by `check_version`
    where the commit record has become another since it was read.

    A missing object is `CorruptStoreError`, a server that cannot be reached, refuses or fails after
    repeated requests `StoreReadError`, one that does not serve the ranges that it is asked for
    `UnsupportedStoreError`. Ends of objects are kept up to 4 MiB.
    """

    costs: ClassVar[ReadCosts] = ReadCosts(
        n_in_flight=N_IN_FLIGHT,
        gap_bytes=GAP_BYTES,
        request_bytes=REQUEST_BYTES,
        can_list=False,
    )

    def __init__(self, store: ObjectStore, where: str) -> None:
        self._store = store
        self._where = where
        self._identities: dict[str, _Identity] = {}
        self._tails = KeptBytes()
        self._commit: bytes | None = None
        self._n_confirmed = 0
        self._confirming = threading.Lock()

    def find(self, path: str, *, at_most: int | None = None) -> bytes | None:
        """Return a file, or its first `at_most` bytes; None where there is none."""
        _check_process(self._where)
        data = self._request(path, None, at_most=at_most)
        if path == COMMIT_PATH and self._commit is None and at_most != 0:
            # What was read before is what this record is of, which its reader checks.
            self._commit, self._n_confirmed = data, len(self._identities)
        return data

    def read(self, path: str, *, at_most: int | None = None) -> bytes:
        """Return a whole file, or its first `at_most` bytes where it is longer."""
        data = self.find(path, at_most=at_most)
        if data is None:
            raise self._missing(path)
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start` on."""
        _check_process(self._where)
        known = self._identities.get(path)
        if start < 0 or length < 0 or (known and start + length > known.size):
            size = "an unknown number" if known is None else f"{known.size}"
            raise _short(path, f"{length} bytes from {start} on", f"{size} of bytes in all")
        if not length:
            return b""
        tail = self._tails.get(path)
        if known is not None and tail is not None and start >= known.size - len(tail):
            begin = start - (known.size - len(tail))
            return tail[begin : begin + length]
        data = self._request(path, (start, start + length))
        if data is None:
            raise self._missing(path)
        if len(data) != length:
            raise _short(path, f"{length} bytes from {start} on", f"{len(data)}")
        return data

    def read_tail(self, path: str, at_most: int) -> tuple[bytes, int]:
        """Return the last `at_most` bytes, or all if there are fewer, and the size of the file."""
        _check_process(self._where)
        tail = self._tails.get(path)
        known = self._identities.get(path)
        if tail is None or known is None or len(tail) < min(at_most, known.size):
            tail = self._request(path, {"suffix": max(at_most, TAIL_BYTES)})
            if tail is None:
                raise self._missing(path)
            known = self._identities[path]
            self._tails.put(path, tail)
        return tail[max(0, len(tail) - at_most) :], known.size

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        known = self._identities.get(path)
        return self.read_tail(path, 1)[1] if known is None else known.size

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""
        return path in self._identities or self.find(path, at_most=0) is not None

    def walk(self) -> Iterator[str]:
        """Refuse: what is at a URL is not listed."""
        raise UnsupportedStoreError(
            Problem(
                "store.no-listing",
                self._where,
                "files are listed in a local directory or a zip file only",
                "a URL",
            )
        )

    def check_version(self) -> None:
        """Look whether the commit record is still what it was, if other objects are new since.

        Raises
        ------
        StoreReplaced
            If it is another, or gone.
        """
        n_seen = len(self._identities)
        if self._commit is None or self._n_confirmed >= n_seen:
            return
        with self._confirming:
            if self._n_confirmed >= n_seen:
                return
            n_seen = len(self._identities)
            if self._is_replaced():
                raise self._replaced()
            self._n_confirmed = n_seen

    def close(self) -> None:
        """Let go of what was kept; connections end by themselves."""
        self._tails.clear()

    def _request(
        self, path: str, wanted: tuple[int, int] | dict[str, int] | None, at_most: int | None = None
    ) -> bytes | None:
        """Read a range, or the whole, of an object; None where there is none."""
        parts_of(path)
        found = self._get(path, wanted, at_most)
        for attempt in range(_ATTEMPTS - 1):
            if not isinstance(found, Failure) or not found.is_broken_body:
                break
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
            found = self._get(path, wanted, at_most)
        if not isinstance(found, Failure):
            return found
        # Raised here, without a cause: that would quote the URL with its signature.
        raise found.error(f"{self._where}, {shown(path)}")

    def _get(
        self, path: str, wanted: tuple[int, int] | dict[str, int] | None, at_most: int | None
    ) -> bytes | Failure | None:
        from obstore.exceptions import BaseError  # noqa: PLC0415 - whoever made the store has it

        options: Any = {} if wanted is None else {"range": wanted}
        try:
            result = self._store_get(path, options)
            self._hold(path, result.meta)
            if at_most is not None and result.meta["size"] > at_most:
                return self._request(path, (0, at_most)) if at_most else b""
            return bytes(result.bytes())
        except StoreError:
            raise
        except FileNotFoundError:
            return None
        except BaseError as error:
            return classify(error)

    def _store_get(self, path: str, options: Any) -> Any:  # noqa: ANN401 - as obstore has them
        from obstore import get  # noqa: PLC0415 - whoever made the store has it

        return get(self._store, path, options=options)

    def _hold(self, path: str, meta: Any) -> None:  # noqa: ANN401 - a typed dict of obstore's
        """Note what version of an object is read, or refuse another one."""
        found = _Identity(meta["size"], meta["e_tag"], meta["last_modified"])
        known = self._identities.setdefault(path, found)
        if known != found and path != COMMIT_PATH:
            raise self._replaced()

    def _is_replaced(self) -> bool:
        return self._commit is not None and self._request(COMMIT_PATH, None) != self._commit

    def _missing(self, path: str) -> StoreError:
        # A version that is being replaced looks like one that lacks files.
        if self._is_replaced():
            return self._replaced()
        return CorruptStoreError(
            Problem("store.file-missing", shown(path), "the file must exist", "nothing")
        )

    def _replaced(self) -> StoreReplaced:
        return StoreReplaced(
            Problem(
                "store.replaced",
                self._where,
                "the version that was opened must exist",
                "another version, or none, at its URL",
                "open the store again",
            )
        )


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without user name and password, and the header that stands for them.

    Examples
    --------
    >>> _without_user("https://me:p%40ss@example.org/a")
    ('https://example.org/a', {'Authorization': 'Basic bWU6cEBzcw=='})
    """
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if not user or parts.scheme not in {"http", "https"}:
        return url, {}
    token = base64.b64encode(unquote(user).encode()).decode()
    address = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return address, {"Authorization": f"Basic {token}"}


def _is_plain_http(url: str, options: dict[str, Any]) -> bool:
    """Return whether somebody asked for a server without TLS."""
    endpoints = [value for name, value in options.items() if "endpoint" in name.lower()]
    if not endpoints:
        endpoints = [os.environ.get(name, "") for name in _ENDPOINT_VARIABLES]
    return any(str(address).startswith("http://") for address in (url, *endpoints))


def _short(path: str, expected: str, found: str) -> CorruptStoreError:
    return CorruptStoreError(Problem("store.file-short", shown(path), expected, found))
