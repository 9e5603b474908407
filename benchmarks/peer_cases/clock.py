"""Times of several sides that take turns, on a machine that may have other work."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from peer_cases.case import ChildRun, Work

__all__ = ["Timing", "take_turns"]

_MOST_FOREIGN = 0.15
_LONG_S = 60.0
_ROUNDS_OF_LONG = 3
# The kernel counts processor time in hundredths of a second: shorter runs say nothing of others.
_SHORTEST_JUDGED_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Runs of one side."""

    seconds: tuple[float, ...]
    """Time of each run."""

    foreign: float
    """Median share of one processor that others took meanwhile."""

    peak_bytes: int | None
    """Most anonymous memory of a run, where runs are processes."""

    @property
    def median(self) -> float:
        """Median time."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    seconds: float
    foreign: float
    peak_bytes: int | None


def take_turns(sides: Mapping[str, Work], *, rounds: int, tries: int) -> dict[str, Timing]:
    """Run every side in turn, so many times over.

    A run during which other processes, or the host of a virtual machine, took more than 15 % of a
    processor is repeated, up to `tries` times in all; of these the cleanest counts. Runs in
    processes of their own are not repeated. A side whose runs exceed a minute runs three times.
    """
    runs: dict[str, list[_Run]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name, work in sides.items():
            done = runs[name]
            if turn >= _ROUNDS_OF_LONG and done[0].seconds > _LONG_S:
                continue
            done.append(_cleanest_run(work, tries))
    return {
        name: Timing(
            seconds=tuple(run.seconds for run in done),
            foreign=statistics.median(run.foreign for run in done),
            peak_bytes=max((run.peak_bytes for run in done if run.peak_bytes), default=None),
        )
        for name, done in runs.items()
    }


def _cleanest_run(work: Work, tries: int) -> _Run:
    runs: list[_Run] = []
    while len(runs) < tries:
        runs.append(_run(work))
        is_clean = runs[-1].foreign <= _MOST_FOREIGN
        # The kernel's own threads write what a conversion leaves, and look like others.
        is_conversion = runs[-1].peak_bytes is not None
        if is_clean or is_conversion or runs[-1].seconds > _LONG_S:
            break
    return min(runs, key=lambda run: run.foreign)


def _run(work: Work) -> _Run:
    work.before()
    all_before, own_before = _busy_seconds()
    start = time.perf_counter()
    output = work.run()
    elapsed = time.perf_counter() - start
    all_after, own_after = _busy_seconds()
    others = max(0.0, (all_after - all_before) - (own_after - own_before))
    is_child = isinstance(output, ChildRun)
    return _Run(
        seconds=output.seconds if is_child else elapsed,
        foreign=others / elapsed if elapsed > _SHORTEST_JUDGED_S else 0.0,
        peak_bytes=output.peak_bytes if is_child else None,
    )


def _busy_seconds() -> tuple[float, float]:
    """Return the processor time of everyone, that stolen by the host included, and our own."""
    everyone = psutil.cpu_times()
    idle = everyone.idle + getattr(everyone, "iowait", 0.0)
    # Guests are counted in user time already.
    guests = getattr(everyone, "guest", 0.0) + getattr(everyone, "guest_nice", 0.0)
    own = os.times()
    return sum(everyone) - idle - guests, sum(own[:4])
