"""How a run of tests is set up: in how many processes, and on which examples."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

MAX_PROCESSES = 8


def _selects(config: pytest.Config, *markers: str) -> bool:
    """Say whether `-m` asks for one of these markers."""
    return bool(re.search(rf"(?<!not )\b({'|'.join(markers)})\b", config.option.markexpr))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Spread a run of whole folders over the processors; run all else in this process.

    One process is right for what is looked at closely (a file, a test, output as it comes), and
    for what measures, fills the machine, or holds servers and devices.
    """
    places = [Path(argument.partition("::")[0]) for argument in config.args]
    is_whole = all((config.invocation_params.dir / place).is_dir() for place in places)
    is_watched = config.option.capture == "no" or config.option.trace
    is_measured = config.option.benchmark_enable or config.option.benchmark_only
    if (
        not is_whole
        or is_watched
        or is_measured
        or _selects(config, "gpu", "long", "server", "torch")
    ):
        return 0
    if hasattr(os, "sched_getaffinity"):
        n_usable = len(os.sched_getaffinity(0))
    else:
        n_usable = os.cpu_count() or 1
    return min(n_usable, MAX_PROCESSES)


for name, is_same in (("same-examples", True), ("new-examples", False)):
    settings.register_profile(
        name,
        derandomize=is_same,
        deadline=None,
        print_blob=True,
        # It judges by the clock.
        suppress_health_check=[HealthCheck.too_slow],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose which examples Hypothesis draws, before a module of tests is imported.

    Every run draws the same ones, so that a change passes or fails for what it changes, and never
    for an example that chance shows first to whoever comes next. New ones are looked for where
    someone asks for that: by ``-m reliability``, ``-m long``, or
    ``--hypothesis-profile=new-examples``.
    """
    is_new = _selects(config, "reliability", "long")
    settings.load_profile("new-examples" if is_new else "same-examples")


def pytest_sessionstart() -> None:
    """Draw the same examples whichever tests ran before in a process."""
    if settings.default is not None and settings.default.derandomize:
        # Examples are drawn, too, from the literals in those modules of the package that are
        # loaded by then: with other tests before them, and with any edit, they would be others.
        providers.is_local_module_file = lambda _: False
