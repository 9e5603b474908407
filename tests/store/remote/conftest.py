"""A server of files on loopback that counts, and fails on demand; stores at its URLs."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import stformat as stf
from stformat.store.reader import Slide

FAST = {
    "retry_config": {
        "max_retries": 2,
        "retry_timeout": timedelta(seconds=5),
        "backoff": {
            "init_backoff": timedelta(milliseconds=1),
            "max_backoff": timedelta(milliseconds=5),
            "base": 2,
        },
    }
}
"""Options with which a request that keeps failing fails soon."""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    query: str
    range: str | None
    authorization: str | None
    n_bytes: int
    """Bytes of the body that the answer announced."""


class RangeServer(ThreadingHTTPServer):
    """Serves the files of a folder; its attributes say how well."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.lock = threading.Lock()
        self.start_anew()

    def start_anew(self) -> None:
        """Forget requests and faults."""
        self.requests: list[Request] = []
        self.n_waiting = 0
        self.most_at_once = 0
        self.latency_s = 0.0
        self.has_etag = True
        self.has_ranges = True
        self.has_suffixes = True
        self.has_lengths = True
        self.has_content_ranges = True
        self.shifts_ranges = False
        self.fault: Callable[[str, int], str | int | None] = lambda _path, _nth: None
        """What goes wrong with the nth request for a path: a status, or the name of a fault."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def seen(self, part: str = "") -> list[Request]:
        """Requests for paths that contain a text."""
        with self.lock:
            return [request for request in self.requests if part in request.path]

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server = self.server
        parts = urlsplit(self.path)
        path = unquote(parts.path).lstrip("/")
        file = server.folder / path
        wanted = self.headers.get("Range")
        data = file.read_bytes() if file.is_file() else None
        start, stop, status = _span(data or b"", wanted, server)
        with server.lock:
            nth = sum(request.path == path for request in server.requests)
            server.requests.append(
                Request(
                    self.command,
                    path,
                    parts.query,
                    wanted,
                    self.headers.get("Authorization"),
                    stop - start,
                )
            )
            server.n_waiting += 1
            server.most_at_once = max(server.most_at_once, server.n_waiting)
        time.sleep(server.latency_s)
        with server.lock:
            server.n_waiting -= 1
        fault = server.fault(path, nth)
        if fault == "reset":
            self._reset()
        elif fault == "stall":
            time.sleep(2)
            self._reset()
        elif isinstance(fault, int):
            self.send_error(fault)
        elif data is None:
            self.send_error(404)
        else:
            self._send(data, start, stop, status, file, is_truncated=fault == "truncate")

    def _send(self, data, start, stop, status, file, *, is_truncated):
        self.send_response(status)
        if status == 206 and self.server.has_content_ranges:
            shift = int(self.server.shifts_ranges)
            self.send_header(
                "Content-Range", f"bytes {start + shift}-{stop - 1 + shift}/{len(data)}"
            )
        if self.server.has_lengths:
            self.send_header("Content-Length", str(stop - start))
        else:
            self.send_header("Connection", "close")
        if self.server.has_etag:
            self.send_header("ETag", f'"{file.stat().st_mtime_ns:x}-{len(data):x}"')
        self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        self.end_headers()
        body = data[start:stop]
        if is_truncated:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._reset()
        else:
            self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _span(data: bytes, wanted: str | None, server: RangeServer) -> tuple[int, int, int]:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if not found or not server.has_ranges or not (found[1] or server.has_suffixes):
        return 0, len(data), 200
    if not found[1]:
        return max(0, len(data) - int(found[2])), len(data), 206
    return int(found[1]), min(len(data), int(found[2]) + 1), 206


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    with RangeServer(tmp_path_factory.mktemp("served")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(_running: RangeServer, tmp_path: Path, small_store: Path) -> RangeServer:
    """A server with a copy of the small store as ``slide.zarr``."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "slide.zarr").symlink_to(small_store)
    _running.start_anew()
    _running.folder = folder
    return _running


@pytest.fixture
def url(server: RangeServer) -> str:
    return f"{server.url}/slide.zarr"


@pytest.fixture
def own_copy(server: RangeServer, small_store: Path) -> Path:
    """The served store, as files that a test may change."""
    path = server.folder / "slide.zarr"
    path.unlink()
    return Path(shutil.copytree(small_store, path))


@pytest.fixture
def open_url(server: RangeServer) -> Callable[..., Slide]:
    """Open the served slide so that what keeps failing fails soon."""

    def opened(name: str = "slide.zarr", **client: Any) -> Slide:
        return stf.open_slide(
            f"{server.url}/{name}", storage_options={**FAST, "client_options": client}
        )

    return opened
