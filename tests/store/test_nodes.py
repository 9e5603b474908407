"""Group documents, consolidation, and what a file system may refuse."""

import errno
import json
import os
import threading
from concurrent.futures import Future

import pytest
import zarr

from stformat.errors import CorruptStoreError, Problem, StoreWriteError
from stformat.store.nodes import (
    consolidate,
    refusals_of,
    uninterrupted,
    write_document,
    write_group,
)


def test_zarr_opens_a_written_group(tmp_path):
    write_group(tmp_path / "a" / "b", {"key": [1, None]})
    assert dict(zarr.open_group(str(tmp_path / "a" / "b"), mode="r").attrs) == {"key": [1, None]}


def test_consolidation_holds_every_document_as_it_stands(tmp_path):
    write_group(tmp_path, {"root": True})
    write_group(tmp_path / "shapes")
    write_group(tmp_path / "shapes" / "spots", {"x": 1})
    (tmp_path / "shapes" / "spots" / "shapes.parquet").write_bytes(b"PAR1")
    consolidate(tmp_path)
    document = json.loads((tmp_path / "zarr.json").read_bytes())
    assert document["attributes"] == {"root": True}
    consolidated = document["consolidated_metadata"]
    assert (consolidated["kind"], consolidated["must_understand"]) == ("inline", False)
    assert list(consolidated["metadata"]) == ["shapes", "shapes/spots"]
    assert consolidated["metadata"]["shapes/spots"]["attributes"] == {"x": 1}


def test_other_stray_files_are_still_warned_of(tmp_path):
    write_group(tmp_path)
    (tmp_path / "notes").mkdir()
    with pytest.warns(zarr.errors.ZarrUserWarning, match="notes"):
        consolidate(tmp_path)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free space"), (errno.EACCES, "allow writing"), (errno.EIO, "")],
)
def test_refusals_say_what_and_what_to_do(tmp_path, number, remedy):
    with pytest.raises(StoreWriteError) as caught, refusals_of(tmp_path):
        raise OSError(number, os.strerror(number))
    (problem,) = caught.value.problems
    assert problem.found == f"{os.strerror(number)} ({errno.errorcode[number]})"
    assert problem.remedy.startswith(remedy)
    assert problem.where == str(tmp_path)


def test_an_error_without_a_number_keeps_its_text(tmp_path):
    with pytest.raises(StoreWriteError, match=r"something else \(OSError\)"), refusals_of(tmp_path):
        raise OSError("something else")


def test_errors_of_stores_and_others_pass(tmp_path):
    problem = Problem("a.b", "w", "e", "f")
    with pytest.raises(CorruptStoreError), refusals_of(tmp_path):
        raise CorruptStoreError(problem)
    with pytest.raises(KeyError), refusals_of(tmp_path):
        raise KeyError("x")


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreWriteError):
        write_document(tmp_path / "file" / "group", {})


@pytest.mark.parametrize("place", [(Future, "result"), (threading.Thread, "start")])
def test_an_interrupt_waits_until_a_write_has_ended(tmp_path, monkeypatch, place):
    """Whether it comes while the write is waited for or while its thread is being started."""
    begun, interrupted = threading.Event(), threading.Event()
    start = threading.Thread.start

    def write():
        begun.set()
        assert interrupted.wait(10)
        for number in range(100):
            (tmp_path / str(number)).write_bytes(b"late")

    def interrupt(of):
        if isinstance(of, threading.Thread):
            start(of)
        assert begun.wait(10)
        interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(*place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        uninterrupted(write)
    assert len(list(tmp_path.iterdir())) == 100


def test_what_an_interrupt_forestalls_is_never_written(monkeypatch):
    threads, written = [], []

    def interrupt(thread):
        threads.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            uninterrupted(lambda: written.append("late"))
    for thread in threads:
        thread.start()
        thread.join()
    assert len(threads) == 1
    assert not written


def test_what_a_write_raises_is_passed_on():
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)
