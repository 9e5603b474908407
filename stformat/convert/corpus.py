"""Every slide of a tree to a store of its own, side by side."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from stformat.convert._cluster import run_on_cluster
from stformat.convert._local_pool import run_local
from stformat.convert._plan import plan_corpus
from stformat.convert._task import SlideTask
from stformat.convert.report import CorpusEvent, CorpusProgress, CorpusReport, SlideOutcome
from stformat.convert.slide import parse_image_codec
from stformat.errors import InputError, Problem
from stformat.kernels._pool import thread_count
from stformat.model import ProgressEvent

__all__ = ["convert_slides"]

THREADS_A_WORKER = 4
"""Threads of a local process where the caller does not say how many processes there shall be."""


def convert_slides(
    tree: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    kind: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    image_codec: str = "zstd",
    progress: CorpusProgress | None = None,
    **metadata: object,
) -> CorpusReport:
    """Convert every slide of a tree of folders, each into the store ``<out>/<slide_id>.zarr``.

    Slides are converted side by side, by processes of this machine or of a cluster. One that
    cannot be converted keeps none of the others from it; the report says which, and why. Each
    store is what `convert_slide` makes of that slide, byte for byte, whatever does the work.

    Parameters
    ----------
    tree : path
        Folder of slides, or of folders of slides. Hidden folders, and folders below a slide, are
        not looked into; links are followed.
    out : path
        Folder of the stores; made if it is not there, in one that is.
    kind : str, default: "auto"
        Kind of source, as for `convert_slide`; slides of other kinds are then not found.
        ``"auto"`` takes for each folder the only kind that recognises it.
    workers : int, optional
        Processes of this machine, each of which converts one slide at a time with its share of the
        processors. By default one for every four processors.
    scheduler : str, optional
        Address of a dask.distributed scheduler, instead of processes of this machine. Its workers
        must have the same software, and `tree` and `out` under the same paths.
    overwrite : bool, default: False
        Replace stores that are there.
    resume : bool, default: False
        Leave a store that is there where it is of the same source and options, as the digests of
        its source files and its description tell; one of others fails, or is replaced where
        `overwrite` is also given. Slides that were interrupted are continued, see `convert_slide`.
    image_codec : {"zstd", "blosc", "jpeg"}, default: "zstd"
        As for `convert_slide`.
    progress : callable, optional
        Called with a `CorpusEvent` when a slide goes on, and when it ends; an exception that it
        raises ends the conversion.
    **metadata
        What holds for every slide, as for `convert_slide`. What differs from slide to slide
        (``image``, ``mpp``, ``slide_id``, ``counts``, ``labels``) is refused.

    Returns
    -------
    CorpusReport
        What became of every slide, and of every folder that could not be listed.

    Raises
    ------
    UnknownSourceError
        If `tree` is no folder, or has no slide.
    InputError
        If two slides have the same identifier, an identifier cannot name a file, an argument does
        not fit, or no scheduler answers; nothing has been converted then.
    StoreWriteError
        If `out` cannot be made.

    Warns
    -----
    ImageCodecWarning
        Under ``image_codec="jpeg"``.

    Notes
    -----
    Memory: that of one conversion for each process, see `convert_slide`; of a cluster, for each
    thread of its workers.

    A process that dies is replaced, and its slide begun once more; on a cluster as often as the
    scheduler allows. While a cluster has no worker, the conversion waits for one.

    After an interrupt, or an exception of `progress`, all processes have ended, every store is
    whole, and nothing else is left in `out` but, with `resume`, what was finished of a store. A
    second interrupt kills the processes; the next conversion removes what they leave.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> for seed, name in enumerate(["A1", "A2"]):
    ...     slide = make_slide(height=400, width=400, n_genes=20, pitch_px=60, seed=seed,
    ...                        slide_id=name)
    ...     _ = write_legacy_st(slide, folder / "study" / name)
    >>> report = convert_slides(folder / "study", folder / "stores", workers=1, species="human")
    >>> [outcome.target.name for outcome in report.converted], report.failed
    (['A1.zarr', 'A2.zarr'], ())
    """
    if workers is not None and (scheduler is not None or workers < 1):
        raise InputError(
            Problem(
                "convert.workers",
                "workers",
                "a number of local processes, at least 1, or else a scheduler is needed",
                f"workers={workers!r}, scheduler={scheduler!r}",
            )
        )
    codec = parse_image_codec(image_codec)
    plan = plan_corpus(
        Path(tree),
        Path(out),
        kind=kind,
        overwrite=overwrite,
        resume=resume,
        image_codec=codec.name,
        options=metadata,
    )
    count = _Count(plan.tasks, progress)
    run = (
        _run_local(plan.tasks, workers, count)
        if scheduler is None
        else run_on_cluster(plan.tasks, scheduler=scheduler, report=count.step)
    )
    outcomes: list[SlideOutcome] = []
    try:
        with closing(run):
            for outcome in run:
                outcomes.append(outcome)
                count.end(outcome)
    except BaseException as error:
        done = f"{len(outcomes)} of {len(plan.tasks)} slides had ended"
        error.add_note(f"{done}; run it again to resume with the others")
        raise
    outcomes.sort(key=lambda outcome: str(outcome.slide_id))
    return CorpusReport(slides=(*plan.refused, *outcomes))


def _run_local(
    tasks: Sequence[SlideTask], workers: int | None, count: _Count
) -> Generator[SlideOutcome]:
    n_threads = thread_count()
    wanted = max(1, n_threads // THREADS_A_WORKER) if workers is None else workers
    n_workers = min(wanted, len(tasks))
    return run_local(
        tasks,
        n_workers=n_workers,
        n_threads=max(1, n_threads // n_workers),
        report=count.step,
    )


class _Count:
    """Tells how far the corpus is."""

    def __init__(self, tasks: Sequence[SlideTask], progress: CorpusProgress | None) -> None:
        self._progress = progress
        self._n_bytes = {task.slide_id: task.n_bytes for task in tasks}
        self._n_done = 0
        self._bytes_done = 0
        self._tell(None, None, None)

    def step(self, task: SlideTask, step: ProgressEvent) -> None:
        self._tell(task.slide_id, step, None)

    def end(self, outcome: SlideOutcome) -> None:
        self._n_done += 1
        self._bytes_done += self._n_bytes[str(outcome.slide_id)]
        self._tell(outcome.slide_id, None, outcome)

    def _tell(
        self, slide_id: str | None, step: ProgressEvent | None, outcome: SlideOutcome | None
    ) -> None:
        if self._progress is None:
            return
        self._progress(
            CorpusEvent(
                slide_id=slide_id,
                step=step,
                outcome=outcome,
                n_done=self._n_done,
                n_slides=len(self._n_bytes),
                bytes_done=self._bytes_done,
                bytes_total=sum(self._n_bytes.values()),
            )
        )
