"""A loop over batches that ends early does not wait for what nobody wants any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from stformat.loader import TileLoader
from stformat.loader.group import GroupReader, StoppedError

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 300_000}
LIMIT_S = 60
"""How long a group is read that nobody gives up: many times what a test needs."""


def load(sources, **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options)


def read_until_stopped(reader: GroupReader, stopped: list[bool]) -> None:
    """Read a group that takes very long, and say whether it was given up."""
    end = time.monotonic() + LIMIT_S
    while not reader.is_stopped() and time.monotonic() < end:
        time.sleep(0.01)
    stopped.append(reader.is_stopped())
    raise StoppedError


SCRIPT = """
    import os, signal, sys, time
    from stformat.loader import TileLoader
    from stformat.loader.group import GroupReader, StoppedError

    # Whoever runs tests in the background hands down that it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    workers, limit_s, *paths = sys.argv[1:]

    def read(self, plan, number):
        os.write(1, b"reading\\n")  # one call: print writes the end of a line by another
        end = time.monotonic() + float(limit_s)
        while not self.is_stopped() and time.monotonic() < end:
            time.sleep(0.01)
        raise StoppedError

    GroupReader.read = read
    loader = TileLoader(paths, tile_px=40, buffer_bytes=300_000, workers=int(workers))
    try:
        next(iter(loader))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize(("workers", "n_threads"), [(1, "2"), (2, "1")])
def test_an_interrupt_while_a_group_is_waited_for_gives_it_up(paths, tmp_path, workers, n_threads):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with subprocess.Popen(
        [sys.executable, script, str(workers), str(LIMIT_S), *paths],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"STFORMAT_NUM_THREADS": n_threads},
    ) as process:  # fmt: skip
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        for _ in range(workers):
            assert process.stdout.readline() == "reading\n"
        time.sleep(0.2)  # until the main thread waits
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        taken_s = time.monotonic() - begin
        timer.cancel()
    assert process.returncode == 0
    assert taken_s < LIMIT_S / 4


def test_an_error_does_not_wait_for_the_groups_after_it(paths, monkeypatch):
    stopped = []
    are_reading = threading.Barrier(3)

    def read(self, _plan, number):
        are_reading.wait(LIMIT_S)
        if number == 0:
            raise OSError("group 0 cannot be read")
        read_until_stopped(self, stopped)

    monkeypatch.setattr(GroupReader, "read", read)
    loader = load(paths, workers=3)
    assert loader.plan(0).n_groups >= 3
    with pytest.raises(OSError, match="group 0 cannot"):
        next(iter(loader))
    assert stopped == [True, True]
