"""Slides converted by the workers of a dask.distributed cluster that share a file system."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

from stformat.convert._task import Report, SlideTask, abandoned, failed, run_task, throttled
from stformat.convert.report import SlideOutcome
from stformat.errors import ConversionDiedError, InputError, Problem
from stformat.model import ProgressEvent

__all__ = ["run_on_cluster"]

_INTERVAL_S = 1.0
"""Time between two looks of a worker at whether it shall stop, within a step."""


class _Stopped(BaseException):
    """The conversion shall end: no `Exception`, which would be a fault of the slide."""


def run_on_cluster(
    tasks: Sequence[SlideTask], *, scheduler: str, report: Report
) -> Generator[SlideOutcome]:
    """Convert slides on a cluster.

    Parameters
    ----------
    tasks : sequence of SlideTask
        Slides; those that stand first are begun first.
    scheduler : str
        Address of the scheduler.
    report : callable
        Told of the steps of each slide, in the thread of the caller.

    Yields
    ------
    SlideOutcome
        One a slide, as they end. The scheduler begins a slide again whose worker died, as often as
        its setting ``distributed.scheduler.allowed-failures`` says.

    Raises
    ------
    InputError
        If distributed is not installed, or no scheduler answers.

    Notes
    -----
    Where the generator is closed early, or the caller is interrupted, workers are told to stop,
    and it ends when they have.
    """
    name = f"stformat-{uuid4().hex}"
    with _connected(scheduler) as (client, distributed):
        stop = distributed.Event(name, client=client)
        news: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        client.subscribe_topic(name, lambda logged: news.put(_step(*logged)))
        pending: set[int] = set()
        try:
            for index, task in enumerate(tasks):
                key = f"{name}-{index}"
                future = client.submit(
                    _run_on_worker, task, index, name, key=key, priority=-index, pure=False
                )
                pending.add(index)
                future.add_done_callback(lambda done, index=index: news.put((index, done)))
            while pending:
                index, said = news.get()
                if not isinstance(said, ProgressEvent):
                    pending.remove(index)
                    yield _outcome(tasks[index], said)
                elif index in pending:  # what a worker logs may come after its result
                    report(tasks[index], said)
        except BaseException:
            stop.set()
            while pending:
                index, said = news.get()
                if not isinstance(said, ProgressEvent):
                    pending.remove(index)
            raise
        finally:
            client.unsubscribe_topic(name)


@contextmanager
def _connected(scheduler: str) -> Iterator[tuple[Any, Any]]:
    """Connect to a scheduler; yield the client, and the library."""
    try:
        import distributed  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError(
            Problem(
                "convert.distributed",
                "scheduler",
                "converting on a cluster needs the library distributed",
                str(error),
                "install stformat[distributed]",
            )
        ) from error
    try:
        client = distributed.Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            Problem(
                "convert.scheduler",
                "scheduler",
                "a dask scheduler must answer at the address",
                f"{scheduler!r}: {error}",
                "start one with `dask scheduler`, and workers with `dask worker`",
            )
        ) from error
    with client:
        yield client, distributed


def _run_on_worker(task: SlideTask, index: int, name: str) -> SlideOutcome | None:
    """Convert a slide in a thread of a worker; None if the caller does not want it any more."""
    from distributed import Event, get_worker  # noqa: PLC0415 - an extra; a worker has it

    worker, stop = get_worker(), Event(name)

    def progress(event: ProgressEvent, /) -> None:
        if stop.is_set():
            raise _Stopped
        worker.log_event(name, {"index": index, "step": asdict(event)})

    try:
        progress(ProgressEvent(step="begin"))
        return run_task(task, throttled(progress, interval_s=_INTERVAL_S))
    except _Stopped:
        return None


def _step(_time: float, logged: dict[str, Any]) -> tuple[int, ProgressEvent]:
    """Return what a worker logged: the number of its slide, and the step."""
    return logged["index"], ProgressEvent(**logged["step"])


def _outcome(task: SlideTask, future: Any) -> SlideOutcome:  # noqa: ANN401 - distributed has no types
    if future.status == "finished":
        outcome: SlideOutcome = future.result()
        return outcome
    error = future.exception() if future.status == "error" else None
    from distributed import KilledWorker  # noqa: PLC0415 - an extra; the caller has it

    if error is None or isinstance(error, KilledWorker):
        return abandoned(
            task,
            ConversionDiedError(
                Problem(
                    "convert.died",
                    str(task.source),
                    "the worker of a conversion must live until it ends",
                    str(error or f"a task that is {future.status}"),
                    "where memory ran out, give workers more, or fewer threads",
                )
            ),
        )
    return failed(task, error)
