"""Slides converted by processes of this machine: one slide a process at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Never

from stformat.convert._task import Report, SlideTask, abandoned, run_task, throttled
from stformat.convert.report import SlideOutcome
from stformat.errors import ConversionDiedError, Problem
from stformat.kernels._pool import THREADS_VARIABLE
from stformat.model import ProgressEvent

__all__ = ["run_local", "serve"]

ATTEMPTS = 2
"""Times that a slide is begun whose process dies."""

_GRACE_S = 60.0
"""Time that a process has to remove what it was writing, before it is killed."""

_INTERVAL_S = 0.1
_STDERR = 2
# The child imports what this process can import, and nothing of its main module: scripts need no
# `if __name__ == "__main__"`, as multiprocessing would ask of them.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from stformat.convert._local_pool import serve; serve(int(sys.argv[1]))"
)


def run_local(
    tasks: Sequence[SlideTask], *, n_workers: int, n_threads: int, report: Report
) -> Generator[SlideOutcome]:
    """Convert slides in processes that are started for it.

    Parameters
    ----------
    tasks : sequence of SlideTask
        Slides, begun in this order.
    n_workers : int
        Processes, each with one slide at a time.
    n_threads : int
        Threads of a process.
    report : callable
        Told of the steps of each slide.

    Yields
    ------
    SlideOutcome
        One a slide, as they end. A slide whose process died is begun once more, then given up.

    Notes
    -----
    Whichever way the generator ends, its processes have ended by then, and have removed what they
    were writing; a second interrupt kills them where they are.
    """
    pending = deque((task, 1) for task in tasks)
    with ExitStack() as stack:
        workers = _Workers(n_threads)
        stack.callback(workers.stop)
        while pending or workers.busy:
            while pending and len(workers.busy) < n_workers:
                workers.begin(*pending.popleft())
            for worker in workers.ready():
                task, attempt = worker.work
                message = worker.receive()
                if isinstance(message, ProgressEvent):
                    report(task, message)
                    continue
                if message is not None:
                    workers.release(worker)
                    yield message
                    continue
                code = workers.bury(worker)
                if attempt < ATTEMPTS:
                    pending.appendleft((task, attempt + 1))
                else:
                    yield abandoned(task, _death(task, code))


def serve(descriptor: int) -> None:
    """Convert the slides that come through a socket until its other end is closed."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    connection = Connection(descriptor)
    try:
        while True:
            task = connection.recv()
            tell = throttled(connection.send, interval_s=_INTERVAL_S)
            connection.send(run_task(task, tell))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # Whoever waited is gone, and there is nothing to unwind.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_terminated(signum: int, _frame: FrameType | None) -> Never:
    # SystemExit unwinds through the writer, which removes what is unfinished: once.
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


class _Worker:
    """A process, and the slide that it is converting."""

    work: tuple[SlideTask, int]
    """The slide, and which attempt at it this is; set while it is busy."""

    def __init__(self, n_threads: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *(f"-W{option}" for option in sys.warnoptions),
                    "-c",
                    _CHILD,
                    str(theirs.fileno()),
                    json.dumps([*map(str, sys.path)]),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # standard output is the caller's own
                env={**os.environ, THREADS_VARIABLE: str(n_threads)},
                # An interrupt from the terminal comes to the caller, who ends its processes.
                process_group=0,
            )
        self.connection = Connection(ours.detach())

    def begin(self, task: SlideTask, attempt: int) -> None:
        """Let the process convert a slide; if it died, `receive` will tell."""
        self.work = task, attempt
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> ProgressEvent | SlideOutcome | None:
        """Return what the process says, or None if it has died."""
        try:
            message: ProgressEvent | SlideOutcome = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def interrupt(self) -> None:
        """Let the process remove what it is writing, and end."""
        self._process.terminate()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the process ends; return its exit code, or minus the signal that ended it."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """End the process, if it has not ended, where it stands."""
        self._process.kill()
        self._process.wait()


class _Workers:
    """Processes, started when they are needed and kept while there may be more to do."""

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._idle: list[_Worker] = []
        self.busy: dict[Connection, _Worker] = {}

    def begin(self, task: SlideTask, attempt: int) -> None:
        worker = self._idle.pop() if self._idle else _Worker(self._n_threads)
        self.busy[worker.connection] = worker
        worker.begin(task, attempt)

    def ready(self) -> list[_Worker]:
        """Wait until processes have something to say."""
        said = wait(list(self.busy))
        return [worker for connection, worker in self.busy.items() if connection in said]

    def release(self, worker: _Worker) -> None:
        """Take note that a worker has nothing to do."""
        del self.busy[worker.connection]
        self._idle.append(worker)

    def bury(self, worker: _Worker) -> int:
        """Take note that a worker has died; return its exit code, or minus a signal."""
        del self.busy[worker.connection]
        worker.connection.close()
        return worker.wait()

    def stop(self) -> None:
        """End every process: in its own time, unless that is too long or interrupted."""
        workers = [*self.busy.values(), *self._idle]
        for worker in self.busy.values():
            worker.interrupt()
        for worker in workers:
            worker.connection.close()
        try:
            with suppress(subprocess.TimeoutExpired):
                for worker in workers:
                    worker.wait(_GRACE_S)
        finally:
            for worker in workers:
                worker.kill()


def _death(task: SlideTask, code: int) -> ConversionDiedError:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return ConversionDiedError(
        Problem(
            "convert.died",
            str(task.source),
            "the process of a conversion must live until it ends",
            f"{how}, {ATTEMPTS} times",
            "where memory ran out, convert with fewer workers",
        )
    )
