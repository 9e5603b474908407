from __future__ import annotations

import os
import resource
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    StoreReadError,
    StoreReplaced,
    UnsupportedStoreError,
)
from stformat.store.files import MAX_DEPTH, DirectoryFiles, shown

CONTENT = {"zarr.json": b"{}", "a/zarr.json": b"[1]", "a/c/0/0": bytes(range(256)) * 20, "b": b""}


@pytest.fixture
def folder(tmp_path):
    for path, data in CONTENT.items():
        file = tmp_path / "store" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return tmp_path / "store"


@pytest.fixture
def files(folder):
    with DirectoryFiles(folder) as opened:
        yield opened


def open_descriptors():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("path", CONTENT)
def test_reads_whole_files_ranges_and_ends(files, path):
    data = CONTENT[path]
    assert files.read(path) == data
    assert files.size(path) == len(data)
    assert (
        files.read_range(path, len(data) // 2, len(data) // 4)
        == (data[len(data) // 2 : len(data) // 2 + len(data) // 4])
    )
    tail = data[len(data) - len(data) // 3 :]
    assert files.read_tail(path, len(data) // 3) == (tail, len(data))
    assert files.read_tail(path, len(data) + 1) == (data, len(data))
    assert files.read(path, at_most=len(data) // 2) == data[: len(data) // 2]
    assert files.find(path) == data


def test_walk_is_sorted_by_bytes_and_leaves_hidden_names_out(folder, files):
    (folder / ".DS_Store").touch()
    (folder / "a/.x.partial").mkdir()
    (folder / "a/.x.partial/zarr.json").touch()
    (folder / "ä").touch()
    (folder / "a.b").touch()
    assert list(files.walk()) == ["a.b", "a/c/0/0", "a/zarr.json", "b", "zarr.json", "ä"]


def test_exists_says_whether_there_is_a_file(files):
    assert files.exists("a/c/0/0")
    assert not files.exists("a/c/0")
    assert not files.exists("a/c/1")
    assert not files.exists("b/c")


@pytest.mark.parametrize("name", ["nothing", "b", "zarr.json/x", "null\0character"])
def test_what_is_no_directory_is_no_store(folder, name):
    with pytest.raises(NotAStoreError):
        DirectoryFiles(folder / name)


def test_a_link_to_the_store_is_followed_and_none_inside(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "secret").write_text("secret")
    (folder / "to-file").symlink_to(tmp_path / "secret")
    (folder / "to-nothing").symlink_to(tmp_path / "nothing")
    (folder / "to-directory").symlink_to(folder / "a")
    with DirectoryFiles(tmp_path / "link") as files:
        assert files.read("zarr.json") == b"{}"
        for path in ("to-file", "to-nothing", "to-directory/zarr.json", "to-directory/c/0/0"):
            with pytest.raises(UnsupportedStoreError, match="link"):
                files.read(path)


def test_pipes_are_refused_without_waiting_for_a_writer(folder, files):
    os.mkfifo(folder / "pipe")
    with pytest.raises(UnsupportedStoreError, match="regular"):
        files.read("pipe")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../outside", "a/../b", "a//c", "a/.", "x\0"])
def test_paths_that_leave_the_store_are_refused(folder, files, path):
    (folder.parent / "outside").write_text("secret")
    for method in (files.read, files.exists, files.size):
        with pytest.raises(UnsupportedStoreError):
            method(path)


@pytest.mark.parametrize(("start", "length"), [(0, 5121), (5120, 1), (-1, 2), (0, 2**62), (9, -1)])
def test_ranges_beyond_the_file_are_refused_before_anything_is_allocated(files, start, length):
    with pytest.raises(CorruptStoreError, match="5120 bytes"):
        files.read_range("a/c/0/0", start, length)


def test_a_file_that_is_looked_for_may_be_missing(files):
    assert files.find("a/c/0/1") is None
    assert files.find("nothing/at/all", at_most=3) is None


def test_a_missing_file_of_a_store_that_is_there_is_corruption(files):
    for path in ("a/c/0/1", "b/c", "nothing/at/all", "n" * 200):
        with pytest.raises(CorruptStoreError, match="must exist"):
            files.read(path)


def test_a_file_that_shrinks_while_it_is_open_is_corruption(folder, files):
    assert files.size("a/c/0/0") == 5120
    os.truncate(folder / "a/c/0/0", 100)
    with pytest.raises(CorruptStoreError, match="end at 100"):
        files.read("a/c/0/0")


def test_a_replaced_store_stays_readable_until_it_is_removed(folder, files):
    other = shutil.copytree(folder, folder.parent / "other")
    (other / "zarr.json").write_bytes(b"new")
    old = folder.rename(folder.parent / "old")
    other.rename(folder)
    assert files.is_replaced()
    assert files.read("zarr.json") == b"{}"
    shutil.rmtree(old)
    assert files.read("zarr.json") == b"{}", "a file that is held open is still there"
    for act in (
        lambda: files.read("a/zarr.json"),
        lambda: files.exists("a/zarr.json"),
        lambda: list(files.walk()),
    ):
        with pytest.raises(StoreReplaced, match="open the store again"):
            act()


def test_a_removed_store_says_that_it_is_gone(folder, files):
    assert not files.is_replaced()
    shutil.rmtree(folder)
    with pytest.raises(StoreReplaced):
        files.read("zarr.json")


def test_directories_are_entered_to_a_stated_depth(folder, files):
    deepest = folder / "/".join(["d"] * (MAX_DEPTH + 1))
    deepest.mkdir(parents=True)
    with pytest.raises(UnsupportedStoreError, match=str(MAX_DEPTH)):
        list(files.walk())


def test_few_files_stay_open_and_none_after_closing(folder):
    for number in range(20):
        (folder / f"file{number}").write_bytes(bytes([number]))
    before = open_descriptors()
    files = DirectoryFiles(folder, max_open_files=3)
    for number in range(20):
        assert files.read(f"file{number}") == bytes([number])
    assert len(open_descriptors() - before) == 4
    files.close()
    files.close()
    assert open_descriptors() == before
    with pytest.raises(ValueError, match="closed"):
        files.read("zarr.json")


@pytest.fixture
def few_descriptors():
    """Let the process open six more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in open_descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 6, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_idle_files_make_room_when_the_process_may_open_no_more(folder):
    for number in range(20):
        (folder / f"file{number}").write_bytes(bytes([number]))
    with DirectoryFiles(folder) as files:
        for number in range(20):
            assert files.read(f"file{number}") == bytes([number])


@pytest.mark.usefixtures("few_descriptors")
def test_too_many_open_files_are_no_corruption(files):
    held = []
    with suppress(OSError):
        while True:
            held.append(os.open(files.path, os.O_RDONLY))
    try:
        with pytest.raises(StoreReadError, match="Too many open files"):
            files.read("a/c/0/0")
    finally:
        for fd in held:
            os.close(fd)


def test_a_refusal_of_the_system_is_no_corruption(files, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreReadError, match="Permission denied"):
        files.read("zarr.json")


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}").write_bytes(bytes([number]) * 5000)
    return folder


def read_at_random(files, seed, n_reads=400):
    rng = np.random.default_rng(seed)
    for number, start in zip(
        rng.integers(0, 12, n_reads), rng.integers(0, 4000, n_reads), strict=True
    ):
        assert files.read_range(f"{number}", int(start), 1000) == bytes([number]) * 1000


def test_threads_share_few_open_files(many):
    before = open_descriptors()
    with DirectoryFiles(many, max_open_files=2) as files, ThreadPoolExecutor(8) as pool:
        list(pool.map(read_at_random, [files] * 8, range(8)))
    assert open_descriptors() == before


def test_closing_lets_running_reads_end(many):
    before = open_descriptors()
    files = DirectoryFiles(many, max_open_files=2)
    begun = threading.Event()

    def read_until_closed(seed):
        while True:
            try:
                read_at_random(files, seed, n_reads=20)
            except ValueError:
                return
            begun.set()

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read_until_closed, seed) for seed in range(4)]
        begun.wait()
        files.close()
    for reader in readers:
        reader.result()
    assert open_descriptors() == before


def test_forked_children_read_while_threads_of_the_parent_do(many):
    done = threading.Event()

    def read_until_done(files):
        seed = 0
        while not done.is_set():
            read_at_random(files, seed := seed + 1, n_reads=20)

    with DirectoryFiles(many, max_open_files=2) as files, ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read_until_done, files) for _ in range(2)]
        try:
            statuses = [fork_and_read(files) for _ in range(15)]
        finally:
            done.set()
    assert statuses == [0] * 15
    for reader in readers:
        reader.result()


def fork_and_read(files):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the point
        child = os.fork()
    if child == 0:
        try:
            read_at_random(files, seed=0, n_reads=50)
        except BaseException:  # noqa: BLE001 - nothing may unwind into the parent's test
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_names_of_any_bytes_can_be_walked_and_shown(folder, files):
    (folder / os.fsdecode(b"\xff\n")).touch()
    (path,) = (path for path in files.walk() if path not in CONTENT)
    assert shown(path) == "\\udcff\\n"
    assert files.read(path) == b""
    assert Path(shown(path)).name.isprintable()
