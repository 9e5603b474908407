"""F1, F2: a conversion that is killed, interrupted, or broken off leaves no half of a store."""

from __future__ import annotations

import random
import signal
import time

import pytest

from stformat.errors import StoreChangedWarning
from stformat.store.commit import seal_store
from stformat.store.opened import open_committed
from stformat.store.verify import verify_store
from stformat.store.writer import STEPS

NEW = [*STEPS, "manifest", "fsync", "commit", "rename", "fsync-parent"]
REPLACED = [*STEPS, "manifest", "fsync", "commit", "exchange", "fsync-parent", "remove-old"]
ADDED = ["write", "fsync", "rename", "root", "manifest", "commit"]


@pytest.mark.parametrize("step", NEW)
def test_killed_at_a_step(site, step):
    child = site.convert(overwrite=False, kill_at=step)
    assert child.wait() == -signal.SIGKILL
    assert site.version() == ("new" if step == "fsync-parent" else None)
    if step in {"image", "commit", "rename"}:
        site.convert_again()


@pytest.mark.parametrize("step", REPLACED)
def test_killed_at_a_step_of_a_replacement(site, step):
    site.put_old()
    child = site.convert(kill_at=step)
    assert child.wait() == -signal.SIGKILL
    assert site.version() == ("new" if step in {"fsync-parent", "remove-old"} else "old")
    if step in {"by-gene", "exchange", "remove-old"}:
        site.convert_again()


@pytest.mark.counts(20, 60, 1000)
def test_killed_at_any_time(site, n):
    """Each conversion but the first finds what a killed one left."""
    duration = seconds_of(site)
    generator = random.Random(n)
    outcomes = set()
    for number in range(n):
        if number % 2:
            site.put_old()
        child = site.convert()
        after_s = generator.uniform(0, 1.2) * duration
        child.send(signal.SIGKILL, after_s=after_s)
        ended = child.wait()
        assert ended in {0, -signal.SIGKILL}
        if ended == 0:  # others may have slowed the one that was timed
            duration = min(duration, after_s)
        outcomes.add((ended, site.version()))
    assert (-signal.SIGKILL, "old") in outcomes
    site.convert_again()


@pytest.mark.counts(10, 30, 200)
def test_broken_off(site, n):
    """By a signal at any time, through the command line; by an exception at any step."""
    duration = seconds_of(site)
    generator = random.Random(n)
    outcomes = set()
    for number in range(n):
        site.put_old()
        if number % 3 == 2:
            outcomes.add(broken_by_exception(site, generator.choice(REPLACED)))
        else:
            outcomes.add(broken_by_signal(site, generator.uniform(0, 1.2 * duration), number % 3))
        assert site.names() == ["slide.zarr"]
    assert "old" in outcomes


def seconds_of(site):
    began = time.monotonic()
    site.convert_again()
    return time.monotonic() - began


def broken_by_signal(site, after_s, kind):
    number, code = ((signal.SIGTERM, 143), (signal.SIGINT, 130))[kind]
    child = site.start(
        "run_command",
        arguments=["convert", site.sources[1], str(site.target), "--overwrite", "--quiet"],
    )
    child.send(number, after_s=after_s)
    ended = child.wait()
    # Before the command line has taken over its signals, the system ends the process.
    assert ended in {0, code, -number}
    # It may come when the store has just been committed.
    return site.version()


def broken_by_exception(site, step):
    answer = site.convert(raise_at=step).answer()
    assert answer == {"error": "InputError", "text": f"progress: nothing, found {step}"}
    assert site.version() == "old"
    return "old"


@pytest.mark.parametrize("step", ADDED)
def test_killed_while_an_element_is_added(site, step):
    site.put_old()
    child = site.start("add", target=str(site.target), name="tumour", kill_at=step)
    assert child.wait() == -signal.SIGKILL
    codes = {problem.code for problem in verify_store(site.target)}
    if step in {"write", "fsync", "rename"}:
        assert codes == set()
    elif step == "root":
        assert codes == {"verify.unlisted-file"}
    else:
        assert "verify.root-changed" in codes
        with pytest.warns(StoreChangedWarning):
            store = open_committed(site.target)
        with store:
            store.array("images/he/s0")
            assert store.children("tables") == ["expression"]
    seal_store(site.target)
    assert verify_store(site.target) == []
    assert not list(site.target.rglob(".*"))
