"""F1, C2: a slide of several tables that is killed is absent; resumed, it is the same bytes."""

from __future__ import annotations

import random
import signal
import time

import pytest

from stformat.store.writer import STEPS
from stformat.testing import VisiumHdQuirks, make_slide, write_visium_hd


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two samples of bins and of cells."""
    folder = tmp_path_factory.mktemp("sources")
    quirks = VisiumHdQuirks(sizes_um=(8,), cells="numbers", images="hires")
    paths = []
    for seed, name in ((1, "old"), (2, "new")):
        slide = make_slide(
            height=280, width=300, n_genes=40, pitch_px=7.0, jitter=0.0, array_shape=(30, 32),
            seed=seed,
        )  # fmt: skip
        paths.append(str(write_visium_hd(slide, folder / name, quirks=quirks)))
    return tuple(paths)


@pytest.fixture(scope="module")
def versions(sources, start_child, tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    stores = folder / "old.zarr", folder / "new.zarr"
    for source, store in zip(sources, stores, strict=True):
        answer = start_child("convert", source=source, target=str(store)).answer()
        assert answer == {"result": "done"}
    return stores


@pytest.mark.parametrize("step", [*STEPS[::2], "commit"])
def test_killed_at_a_step_and_resumed(site, step):
    child = site.convert(overwrite=False, resume=True, kill_at=step)
    assert child.wait() == -signal.SIGKILL
    assert site.version() is None
    assert site.convert(overwrite=False, resume=True).answer() == {"result": "done"}
    assert site.version() == "new"
    assert site.names() == ["slide.zarr"]


@pytest.mark.counts(3, 30, 300)
def test_killed_at_any_time_and_resumed(site, n):
    """In the middle of any of its tables, some of which are finished by then."""
    began = time.monotonic()
    site.convert_again()
    duration = time.monotonic() - began
    generator = random.Random(n)
    ended = set()
    for number in range(n):
        if number % 2:
            site.put_old()
        else:
            site.clear()
        child = site.convert(resume=True)
        after_s = generator.uniform(0.1, 0.6) * duration
        child.send(signal.SIGKILL, after_s=after_s)
        ended.add(child.wait())
        if 0 in ended:  # others may have slowed the one that was timed
            duration = min(duration, after_s)
        assert site.version() in ({"old", "new"} if number % 2 else {None, "new"})
        assert site.convert(resume=True).answer() == {"result": "done"}
        assert site.version() == "new"
        assert site.names() == ["slide.zarr"]
    assert -signal.SIGKILL in ended
