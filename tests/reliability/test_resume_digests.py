"""What is finished is noted once the digest of the image is known, and nobody waits for that."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

from stformat.digests import Digest
from stformat.errors import ImageError, Problem
from stformat.store.writer import resume_slide
from stformat.testing.records import make_record

replace = dataclasses.replace


def finished(directory):
    """Return the parts that the journal calls finished; None without one."""
    path = directory / ".journal.json"
    return set(map(tuple, json.loads(path.read_text())["finished"])) if path.exists() else None


def identities(directory):
    """Tell files that were kept from those that were written again."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def with_unread_image(record, read):
    """Return a record with an image whose digest takes reading, by `read`."""
    source = replace(record.image.source, digest=Digest(read))
    return replace(
        record,
        image=replace(record.image, source=source),
        sources=tuple(source if one.name == source.name else one for one in record.sources),
    )


def test_nothing_is_noted_before_the_digest_of_the_image_is_known(tmp_path):
    is_wanted = threading.Event()

    def read():
        assert is_wanted.wait(60)
        yield b"pixels"

    record = with_unread_image(make_record(), read)
    events = []

    def progress(event):
        events.append((event.step, finished(tmp_path)))
        if event.step == "table":
            is_wanted.set()

    resume_slide(record, tmp_path, progress=progress)
    noted = dict(events)
    assert noted["counts"] is None
    assert len(noted["consolidate"]) == 4

    before = identities(tmp_path)
    is_wanted.clear()
    threading.Timer(0.05, is_wanted.set).start()
    resume_slide(with_unread_image(make_record(), read), tmp_path)
    after = identities(tmp_path)
    written = {name for name in after if before[name] != after[name]}
    assert not [name for name in written if "/c/" in name or name.endswith(".parquet")]


def test_what_is_noted_is_of_the_image_that_was_read(tmp_path):
    resume_slide(with_unread_image(make_record(), lambda: (block for block in [b"one"])), tmp_path)
    before = identities(tmp_path)
    resume_slide(with_unread_image(make_record(), lambda: (block for block in [b"two"])), tmp_path)
    after = identities(tmp_path)
    assert all(before[name] != after[name] for name in after if name.startswith("images/he/s0/c"))


def test_an_interrupt_does_not_wait_for_the_digest(tmp_path):
    blocks = []

    def read():
        while True:
            blocks.append(time.monotonic())
            yield b"x"
            time.sleep(0.001)

    def progress(event):
        if event.step == "shapes":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume_slide(with_unread_image(make_record(), read), tmp_path, progress=progress)
    assert blocks
    assert not [thread for thread in threading.enumerate() if thread.name == "stformat-digests"]
    assert finished(tmp_path) is None


def test_an_image_that_cannot_be_read_for_its_digest_ends_the_writing(tmp_path):
    def read():
        raise ImageError(Problem("image.changed", "image.tif", "an image must stay", "another"))
        yield b""

    with pytest.raises(ImageError, match="must stay"):
        resume_slide(with_unread_image(make_record(), read), tmp_path)
