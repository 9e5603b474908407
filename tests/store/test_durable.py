from __future__ import annotations

import errno
import os
import resource
import threading
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from stformat.errors import StoreWriteError
from stformat.store import durable
from stformat.store.durable import fsync_ahead, fsync_directory, fsync_tree, remove, write_file


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    (folder / "a/b/c/d/e/f").mkdir(parents=True)
    (folder / "a/b/c/d/e/f/file").write_text("x")
    (folder / "a/empty").mkdir()
    (folder / "a/link-to-file").symlink_to("b/c/d/e/f/file")
    (folder / "a/link-to-directory").symlink_to(tmp_path)
    (folder / os.fsdecode(b"\xff")).touch()
    os.mkfifo(folder / "pipe")
    return folder


def test_everything_is_removed_and_no_link_followed(tree, tmp_path):
    (tmp_path / "outside").touch()
    remove(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


def test_links_and_files_are_removed_and_nothing_is_fine(tree, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    remove(tmp_path / "link")
    assert tree.is_dir()
    remove(tree / "pipe")
    assert not (tree / "pipe").exists()
    remove(tmp_path / "nothing")


def test_a_tree_is_removed_by_a_process_that_may_open_one_file_more(tree):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        with suppress(OSError):
            while True:
                held.append(os.open(tree, os.O_RDONLY))
        os.close(held.pop())
        remove(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)
    assert not tree.exists()


def test_every_file_and_directory_is_synced_children_first(tree, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "_flush", lambda fd: synced.append(inode(fd)))
    fsync_tree(tree)
    wanted = [path for path in tree.rglob("*") if path.is_dir() or path.is_file()]
    wanted = [path for path in [tree, *wanted] if not path.is_symlink()]
    assert set(synced) == {path.stat().st_ino for path in wanted}
    position = {number: at for at, number in enumerate(synced)}
    for path in wanted[1:]:
        assert position[path.stat().st_ino] < position[path.parent.stat().st_ino]


def inode(fd):
    return os.fstat(fd).st_ino


def test_a_file_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []
    monkeypatch.setattr(durable, "_flush", lambda fd: seen.append((inode(fd), path.read_bytes())))
    write_file(path, b"new")
    assert seen == [(path.stat().st_ino, b"old"), (tmp_path.stat().st_ino, b"new")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_directories_that_cannot_be_synced_need_not_be(tmp_path, monkeypatch):
    def refuse(number):
        def flush(_fd):
            raise OSError(number, os.strerror(number))

        return flush

    monkeypatch.setattr(durable, "_flush", refuse(22))
    fsync_directory(tmp_path)
    monkeypatch.setattr(durable, "_flush", refuse(5))
    with pytest.raises(OSError, match="Input/output"):
        fsync_directory(tmp_path)


@pytest.fixture
def refused():
    return Mock()


def flush_all(paths, refused, then=lambda: None):
    with fsync_ahead(refused) as flush:
        for path in paths:
            path.touch()
            flush(path)
        then()


def test_files_are_synced_ahead_by_the_end_of_the_block(tmp_path, monkeypatch, refused):
    paths = [tmp_path / name for name in "ab"]
    synced = []
    monkeypatch.setattr(durable, "_flush", lambda fd: synced.append(inode(fd)))
    flush_all(paths, refused)
    assert synced == [path.stat().st_ino for path in paths]
    refused.assert_not_called()


def test_a_disk_that_refuses_what_was_written_is_heard_though_it_says_so_once(
    tmp_path, monkeypatch, refused
):
    def refuse(_fd):
        monkeypatch.setattr(durable, "_flush", lambda _fd: None)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(durable, "_flush", refuse)
    paths = [tmp_path / name for name in "ab"]
    with pytest.raises(StoreWriteError, match=str(paths[0])):
        flush_all(paths, refused)
    refused.assert_called_once_with()


def test_a_refusal_is_heard_of_though_something_else_ends_the_block(tmp_path, monkeypatch, refused):
    def refuse(_fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(durable, "_flush", refuse)
    is_heard = threading.Event()
    refused.side_effect = is_heard.set

    def interrupt():
        assert is_heard.wait(60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flush_all([tmp_path / "a"], refused, interrupt)


def test_what_ends_the_block_ends_the_syncing(tmp_path, monkeypatch, refused):
    first_began, may_end = threading.Event(), threading.Event()
    synced = []

    def wait(fd):
        first_began.set()
        may_end.wait(60)
        synced.append(inode(fd))

    monkeypatch.setattr(durable, "_flush", wait)
    paths = [tmp_path / name for name in "ab"]

    def interrupt():
        first_began.wait(60)
        threading.Timer(0.05, may_end.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flush_all(paths, refused, interrupt)
    assert synced == [paths[0].stat().st_ino]
