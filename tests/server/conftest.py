"""Real servers on loopback: nginx, and an object store that speaks S3."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format requests '$request_method $uri $status $body_bytes_sent';
    gzip on; gzip_types *; gzip_min_length 1;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
        root {folder}/served;
        access_log {folder}/access.log requests;
        location /closed/ {{ deny all; }}
        location /whole/ {{ alias {folder}/served/; max_ranges 0; }}
        location /guarded/ {{
            alias {folder}/served/;
            auth_basic "stores"; auth_basic_user_file {folder}/users;
        }}
    }}
}}
"""


MAY_READ = """{
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]
}"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    url: str
    tls_url: str
    """The same under a certificate that ``ca.pem`` in its folder has signed."""

    folder: Path
    """Its folder; ``served`` below it is what it serves."""

    def requests(self) -> list[list[str]]:
        """Method, path, status and bytes of every request so far, and forget them."""
        time.sleep(0.1)  # a line is written after its answer
        log = self.folder / "access.log"
        lines = log.read_text().splitlines()
        os.truncate(log, 0)
        return [line.split() for line in lines]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            pytest.fail(f"the server ended with code {process.returncode}")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the server did not begin to listen")


def openssl(folder: Path, arguments: str) -> str:
    run = subprocess.run(
        ["openssl", *arguments.split()],  # noqa: S607 - from the PATH
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def certify(folder: Path) -> None:
    """Make an authority, ``ca.pem``, and a certificate of it for 127.0.0.1."""
    new = "-newkey rsa:2048 -nodes -subj /CN="
    openssl(folder, f"req -x509 -days 2 {new}ca -keyout ca.key -out ca.pem")
    openssl(folder, f"req {new}127.0.0.1 -keyout server.key -out server.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        folder,
        "x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names "
        "-out server.pem",
    )


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Nginx]:
    """Nginx with the small store as ``slide.zarr``."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: install it, on Debian by apt-get install nginx")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: install it, on Debian by apt-get install openssl")
    folder = tmp_path_factory.mktemp("nginx")
    shutil.copytree(small_store, folder / "served/slide.zarr")
    # The password "secret" as Apache's MD5 of it.
    password = openssl(folder, "passwd -apr1 -salt salt secret")
    (folder / "users").write_text(f"me:{password}")
    certify(folder)
    port, tls_port = free_port(), free_port()
    (folder / "nginx.conf").write_text(
        ("user root;" if os.geteuid() == 0 else "")
        + CONFIGURATION.format(folder=folder, port=port, tls_port=tls_port)
    )
    process = subprocess.Popen(
        [program, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        yield Nginx(f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}", folder)
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server that asks for credentials."""

    endpoint: str
    options: dict[str, str]
    """Storage options that open it."""


@pytest.fixture(scope="session")
def bucket(small_store: Path, packed: Path) -> Iterator[Bucket]:
    """``s3://slides/study/slide.zarr`` and ``slide.zarr.zip`` on a server on loopback."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: uv sync installs it")
    server = pytest.importorskip("moto.server", reason="moto is not installed: uv sync installs it")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    account = {
        "endpoint_url": endpoint,
        "region_name": "us-east-1",
        "aws_access_key_id": "root",
        "aws_secret_access_key": "root",
    }
    client = boto3.client("s3", **account)
    for bucket, grant in (("slides", "private"), ("public", "public-read")):
        client.create_bucket(Bucket=bucket)
        for file in small_store.rglob("*"):
            if file.is_file():
                key = f"study/slide.zarr/{file.relative_to(small_store).as_posix()}"
                client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes(), ACL=grant)
    client.upload_file(os.fspath(packed), "slides", "study/slide.zarr.zip")
    iam = boto3.client("iam", **account)
    iam.create_user(UserName="reader")
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=MAY_READ)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    options = {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": key["AccessKeyId"],
        "secret_access_key": key["SecretAccessKey"],
    }
    try:
        yield Bucket(endpoint, options)
    finally:
        running.stop()


@pytest.fixture
def guarded(bucket: Bucket) -> Iterator[Bucket]:
    """The same bucket while its server looks at who asks; it then knows no public buckets."""
    n_free_actions(bucket, b"0")
    yield bucket
    n_free_actions(bucket, b"inf")


def n_free_actions(bucket: Bucket, number: bytes) -> None:
    asked = urllib.request.Request(  # noqa: S310 - loopback
        f"{bucket.endpoint}/moto-api/reset-auth",
        data=number,
        headers={"Content-Type": "text/plain"},
    )
    urllib.request.urlopen(asked, timeout=10).close()  # noqa: S310 - loopback


@pytest.fixture(scope="session")
def packed(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small store as a zip file."""
    base = tmp_path_factory.mktemp("packed") / "slide.zarr"
    path = base.with_name("slide.zarr.zip")
    with zipfile.ZipFile(path, "w") as archive:
        files = sorted(file for file in small_store.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: file.name == "commit.json"):
            archive.write(file, file.relative_to(small_store))
    return path


class FaultyNetwork:
    """Passes connections on to a port, with latency; every other one, from the first, breaks off.

    What breaks off does so within the first answer, in an orderly end or by a reset.
    """

    SENT_BEFORE_FAULT = 400  # the head of an answer and the beginning of its body

    def __init__(self, to_port: int, fault: str | None, latency_s: float) -> None:
        self.n_faults = 0
        self._to_port, self._fault, self._latency_s = to_port, fault, latency_s
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):  # closed already, or by the other side
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            for number in itertools.count():
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to_port))
                self._sockets += [client, server]
                fault = None if number % 2 else self._fault
                for work in ((client, server, None), (server, client, fault)):
                    thread = threading.Thread(target=self._pass_on, args=work, daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, fault: str | None) -> None:
        with suppress(OSError):  # the other side has closed
            while data := source.recv(2**16):
                time.sleep(self._latency_s)
                if fault is not None:
                    self._break_off(target, data, fault)
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _break_off(self, target: socket.socket, data: bytes, fault: str) -> None:
        self.n_faults += 1
        target.sendall(data[: self.SENT_BEFORE_FAULT])
        target.shutdown(socket.SHUT_RD if fault == "reset" else socket.SHUT_RDWR)
        if fault == "reset":
            time.sleep(0.05)  # whoever reads from it has to let go, else nothing is sent
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        target.close()


@pytest.fixture
def faulty_network(nginx: Nginx) -> Iterator[Callable[..., FaultyNetwork]]:
    """Makes networks between a reader and nginx."""
    with ExitStack() as stack:

        def make(fault: str | None, latency_s: float = 0.0) -> FaultyNetwork:
            network = FaultyNetwork(int(nginx.url.rpartition(":")[2]), fault, latency_s)
            stack.callback(network.close)
            return network

        yield make
