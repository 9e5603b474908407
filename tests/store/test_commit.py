from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import zarr

from stformat.errors import (
    CorruptStoreError,
    InputError,
    Problem,
    StoreExistsError,
    StoreLockedError,
    StoreReplaced,
    StoreWriteError,
)
from stformat.store import commit, exchange
from stformat.store.commit import partial_path, replace_store
from stformat.store.exchange import can_exchange, rename_new
from stformat.store.lock import lock_path, writer_lock
from stformat.store.opened import open_committed
from stformat.store.verify import verify_store

NEW = ["manifest", "fsync", "commit", "rename", "fsync-parent"]
REPLACED = ["manifest", "fsync", "commit", "exchange", "fsync-parent", "remove-old"]


@pytest.fixture
def fill(small_store):
    """Fill a directory with all of a store but its manifest and its commit record."""

    def copy(directory, note="new"):
        shutil.copytree(small_store, directory, dirs_exist_ok=True)
        for name in ("manifest.json", "commit.json"):
            (directory / "stformat" / name).unlink()
        (directory / "note").write_text(note)

    return copy


@pytest.fixture
def write(fill):
    """Write a whole store."""

    def write_store(target, note="new", *, then=lambda _directory: None, **options):
        with replace_store(target, **options) as directory:
            fill(directory, note)
            then(directory)

    return write_store


@pytest.fixture
def target(fast_path):
    return fast_path / "here" / "slide.zarr"


@pytest.fixture
def old(target, write):
    """A store that is to be replaced."""
    target.parent.mkdir()
    write(target, "old")
    return target


def note_of(store):
    assert verify_store(store) == []
    return (store / "note").read_text()


def names_beside(store):
    return sorted(path.name for path in store.parent.iterdir())


def test_a_store_appears_when_the_block_ends(target, fill):
    target.parent.mkdir()
    steps = []
    with replace_store(target, progress=lambda event: steps.append(event.step)) as directory:
        assert directory.parent == target.parent
        assert list(directory.iterdir()) == []
        fill(directory)
        assert not target.exists()
    assert note_of(target) == "new"
    assert names_beside(target) == ["slide.zarr"]
    assert steps == NEW


def test_a_store_is_replaced_when_the_block_ends(old, fill):
    steps = []
    inode = old.stat().st_ino
    with replace_store(
        old, overwrite=True, progress=lambda event: steps.append(event.step)
    ) as directory:
        fill(directory)
        assert note_of(old) == "old"
    assert note_of(old) == "new"
    assert old.stat().st_ino != inode
    assert names_beside(old) == ["slide.zarr"]
    assert steps == REPLACED


def test_the_same_content_gives_the_same_commit(old, write):
    other = old.with_name("other.zarr")
    write(other, "old")
    for name in ("commit.json", "manifest.json"):
        assert (other / "stformat" / name).read_bytes() == (old / "stformat" / name).read_bytes()


def test_relative_targets_stay_where_they_were_meant(tmp_path, fill, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with replace_store("slide.zarr") as directory:
        fill(directory)
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert note_of(tmp_path / "slide.zarr") == "new"


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_after_an_exception_nothing_is_left(target, write, request, raised, overwrite):
    if overwrite:
        request.getfixturevalue("old")
    else:
        target.parent.mkdir()

    def fail(_directory):
        raise raised

    with pytest.raises(raised):
        write(target, then=fail, overwrite=overwrite)
    assert names_beside(target) == (["slide.zarr"] if overwrite else [])
    if overwrite:
        assert note_of(target) == "old"


@pytest.mark.parametrize("step", NEW)
def test_an_exception_at_any_step_leaves_no_store(target, write, step):
    target.parent.mkdir()
    with pytest.raises(InputError):
        write(target, progress=stop_at(step))
    assert names_beside(target) == []


@pytest.mark.parametrize("step", REPLACED)
def test_an_exception_at_any_step_leaves_the_old_store(old, write, step):
    with pytest.raises(InputError):
        write(old, overwrite=True, progress=stop_at(step))
    assert note_of(old) == "old"
    assert names_beside(old) == ["slide.zarr"]


def stop_at(step):
    def progress(event):
        if event.step == step:
            raise InputError(Problem("test", step, "nothing", "an exception"))

    return progress


def test_an_old_version_that_cannot_be_removed_is_left_hidden(old, write, monkeypatch):
    real = commit.remove

    def refuse(path):
        if (path / "note").exists() and (path / "note").read_text() == "old":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        real(path)

    monkeypatch.setattr(commit, "remove", refuse)
    with pytest.raises(StoreWriteError, match="EIO") as caught:
        write(old, overwrite=True)
    assert "could not be removed" in caught.value.__notes__[0]
    assert note_of(old) == "new"
    monkeypatch.undo()
    write(old, "newest", overwrite=True)
    assert note_of(old) == "newest"
    assert names_beside(old) == ["slide.zarr"]


def test_what_a_dead_writer_left_is_cleared(target, fill):
    target.parent.mkdir()
    partial = partial_path(target)
    (partial / "images").mkdir(parents=True)
    (partial / "images" / "stale").touch()
    lock_path(target).touch()
    with replace_store(target) as directory:
        assert list(directory.iterdir()) == []
        fill(directory)
    assert names_beside(target) == ["slide.zarr"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/etc")])
def test_whatever_has_the_hidden_name_is_cleared_unfollowed(target, write, make):
    target.parent.mkdir()
    make(partial_path(target))
    write(target)
    assert note_of(target) == "new"
    assert Path("/etc/passwd").exists()


def make_directory(path):
    path.mkdir()
    (path / "thesis.txt").touch()


def make_foreign_store(path):
    zarr.create_group(path)


def make_broken_json(path):
    path.mkdir()
    (path / "zarr.json").write_bytes(b"{")


def make_link(path):
    path.symlink_to(path.parent)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "make",
    [Path.touch, Path.mkdir, make_directory, make_foreign_store, make_broken_json, make_link],
)
def test_only_a_store_may_be_overwritten(target, make, overwrite):
    target.parent.mkdir()
    make(target)
    before = names_beside(target), target.lstat().st_ino
    with (
        pytest.raises(StoreExistsError, match=r"slide\.zarr"),
        replace_store(target, overwrite=overwrite),
    ):
        pytest.fail("nothing may be written")
    assert (names_beside(target), target.lstat().st_ino) == before


def test_a_store_is_overwritten_only_when_asked(old):
    with pytest.raises(StoreExistsError, match="overwrite"), replace_store(old):
        pytest.fail("nothing may be written")
    assert note_of(old) == "old"


@pytest.mark.parametrize(
    "name",
    ["zarr.json", "stformat/commit.json", "stformat/manifest.json", "images/he/s0/zarr.json"],
)
def test_a_damaged_store_may_be_overwritten(old, write, name):
    (old / name).write_bytes(b"\0")
    write(old, overwrite=True)
    assert note_of(old) == "new"


def test_a_copy_by_another_tool_may_be_overwritten(old, write):
    shutil.rmtree(old / "stformat")
    write(old, overwrite=True)
    assert note_of(old) == "new"


@pytest.mark.parametrize("name", ["", ".", "..", "/", ".x.partial", ".x.lock", "a\0b"])
def test_names_that_no_store_can_have_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreWriteError, match="target"), replace_store(name):
        pytest.fail("nothing may be written")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [None, Path.touch])
def test_the_parent_must_be_a_directory(tmp_path, make):
    parent = tmp_path / "parent"
    if make is not None:
        make(parent)
    with (
        pytest.raises(StoreWriteError, match="make the directory first"),
        replace_store(parent / "x"),
    ):
        pytest.fail("nothing may be written")


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path):
    with (
        pytest.raises(StoreWriteError, match="ENAMETOOLONG"),
        replace_store(tmp_path / ("n" * 250)),
    ):
        pytest.fail("nothing may be written")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG", "EROFS"])
def test_refused_writes_of_the_block_are_said_to_be_that(old, code):
    number = getattr(errno, code)
    with pytest.raises(StoreWriteError, match=code), replace_store(old, overwrite=True):
        raise OSError(number, os.strerror(number))
    assert note_of(old) == "old"
    assert names_beside(old) == ["slide.zarr"]


def test_refusals_below_the_hidden_directory_are_refused_writes(target):
    target.parent.mkdir()
    with pytest.raises(StoreWriteError, match="EACCES"), replace_store(target) as directory:
        raise PermissionError(errno.EACCES, "Permission denied", str(directory / "images"))


def test_errors_of_what_the_block_reads_stay_what_they_are(target):
    target.parent.mkdir()
    with pytest.raises(FileNotFoundError) as caught, replace_store(target):
        Path("/nothing/here").read_bytes()
    assert not isinstance(caught.value, StoreWriteError)
    assert names_beside(target) == []


@pytest.mark.parametrize("step", NEW)
@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EMFILE"])
def test_refusals_at_any_step_leave_the_old_store(old, write, monkeypatch, step, code):
    acts = {
        "manifest": (commit, "_write_manifest"),
        "fsync": (commit, "fsync_tree"),
        "commit": (commit, "write_file"),
        "rename": (commit, "exchange"),
        "fsync-parent": (commit, "fsync_directory"),
    }
    real = getattr(*acts[step])
    left = [1]

    def refuse(*arguments):
        if left:
            raise OSError(left.pop() and getattr(errno, code), "refused")
        return real(*arguments)

    monkeypatch.setattr(*acts[step], refuse)
    with pytest.raises(StoreWriteError, match=code):
        write(old, overwrite=True)
    assert note_of(old) == "old"
    assert names_beside(old) == ["slide.zarr"]


def test_a_target_that_appears_meanwhile_is_not_replaced(target, write):
    target.parent.mkdir()
    with pytest.raises(StoreExistsError):
        write(target, then=lambda _directory: target.mkdir())
    assert list(target.iterdir()) == []
    assert names_beside(target) == ["slide.zarr"]


@pytest.mark.parametrize("name", ["zarr.json", "images/zarr.json"])
def test_what_was_written_must_be_a_store(target, write, name):
    target.parent.mkdir()
    with pytest.raises(CorruptStoreError):
        write(target, then=lambda directory: (directory / name).write_bytes(b"[]"))
    assert names_beside(target) == []


def test_replacing_needs_a_file_system_that_exchanges(old, monkeypatch):
    monkeypatch.setattr(exchange, "_EXCHANGE", None)
    with pytest.raises(StoreWriteError, match="exchange"), replace_store(old, overwrite=True):
        pytest.fail("nothing may be written")
    assert note_of(old) == "old"
    assert names_beside(old) == ["slide.zarr"]


def test_a_new_store_needs_no_exchange(target, write, monkeypatch):
    monkeypatch.setattr(exchange, "_EXCHANGE", None)
    monkeypatch.setattr(exchange, "_RENAME_NEW", None)
    target.parent.mkdir()
    write(target)
    assert note_of(target) == "new"


@pytest.mark.parametrize("has_system_call", [True, False])
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, make_directory, make_link])
def test_renaming_never_replaces(tmp_path, monkeypatch, make, has_system_call):
    if not has_system_call:
        monkeypatch.setattr(exchange, "_RENAME_NEW", None)
    (tmp_path / "a").mkdir()
    make(tmp_path / "b")
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_dir()


def test_trying_an_exchange_leaves_nothing(tmp_path):
    assert can_exchange(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_threads_of_one_process_exclude_each_other(old, write):
    entered, leave = threading.Event(), threading.Event()

    def wait(_directory):
        entered.set()
        leave.wait()

    def hold():
        write(old, then=wait, overwrite=True)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with pytest.raises(StoreLockedError, match=r"slide\.zarr"), replace_store(old, overwrite=True):
        pytest.fail("nothing may be written")
    leave.set()
    thread.join()
    with writer_lock(old):
        pass
    assert names_beside(old) == ["slide.zarr"]


def test_one_thread_cannot_write_twice_at_once(old):
    with writer_lock(old), pytest.raises(StoreLockedError), writer_lock(old):
        pytest.fail("the lock is held")


def hold_lock_for_ever(target, entered):
    with writer_lock(target):
        entered.set()
        signal.pause()


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    context = multiprocessing.get_context("forkserver")
    entered = context.Event()
    holder = context.Process(target=hold_lock_for_ever, args=(tmp_path / "x", entered))
    holder.start()
    assert entered.wait(60)
    with pytest.raises(StoreLockedError), writer_lock(tmp_path / "x"):
        pytest.fail("the lock is held")
    holder.kill()
    holder.join()
    assert lock_path(tmp_path / "x").exists(), "what a killed process leaves"
    with writer_lock(tmp_path / "x"):
        pass
    assert not lock_path(tmp_path / "x").exists()


def test_whoever_waits_on_an_unlinked_lock_file_does_not_get_in(tmp_path, monkeypatch):
    """The second writer opens the file just before the first unlinks it and lets go."""
    target = tmp_path / "x"
    real_open, is_first = os.open, []
    first = writer_lock(target)

    def open_late(path, *arguments, **options):
        fd = real_open(path, *arguments, **options)
        if str(path) == str(lock_path(target)) and not is_first:
            is_first.append(True)
            first.__exit__(None, None, None)
        return fd

    first.__enter__()
    monkeypatch.setattr(os, "open", open_late)
    with pytest.raises(StoreLockedError), writer_lock(target):
        pytest.fail("the lock that was taken has no name any more")
    monkeypatch.undo()
    with writer_lock(target):
        assert lock_path(target).exists()


def test_file_systems_without_locks_are_refused(target, monkeypatch):
    def refuse(_fd, operation):
        if operation & fcntl.LOCK_EX:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    target.parent.mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreWriteError, match="ENOSYS"), replace_store(target):
        pytest.fail("nothing may be written")


def test_a_reader_keeps_the_version_it_opened(old, write):
    with open_committed(old) as store:
        assert store.files.read("note") == b"old"
        write(old, overwrite=True)
        assert store.files.read("note") == b"old", "held open"
        with pytest.raises(StoreReplaced):
            store.files.read("shapes/zarr.json")
