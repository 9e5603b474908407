"""F8: what the disk may hold after a power cut, at any moment of a conversion."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import stformat
from stformat.store import commit, durable

N_DISKS = 3
"""Disks that are drawn for a moment: the system may have written more than it was asked to."""


@dataclass
class Disk:
    """What was asked of the file system: contents by inode, names by inode of the directory."""

    parent: Path
    log: list[tuple[str, int, object]] = field(default_factory=list)

    def record_sync(self, fd):
        """A file's content, or a directory's names, are on the disk from here on."""
        number = os.fstat(fd).st_ino
        path = Path(f"/proc/self/fd/{fd}").resolve()
        if path.is_dir():
            self.log.append(("names-synced", number, names_in(path)))
        else:
            self.log.append(("content-synced", number, path.read_bytes()))

    def record_names(self, directory):
        """A directory's names changed; they may be on the disk from here on, or later."""
        self.log.append(("names", directory.stat().st_ino, names_in(directory)))


def names_in(directory):
    return {
        entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False))
        for entry in os.scandir(directory)
    }


def recorded(monkeypatch, disk):
    """Record what the commit protocol asks of the file system."""

    def after(module, name, directories):
        real = getattr(module, name)

        def act(*arguments):
            result = real(*arguments)
            for directory in directories(*arguments):
                disk.record_names(directory)
            return result

        monkeypatch.setattr(module, name, act)

    flush = durable._flush

    def record_and_flush(fd):
        disk.record_sync(fd)
        flush(fd)

    monkeypatch.setattr(durable, "_flush", record_and_flush)
    after(commit, "exchange", lambda first, _second: [first.parent])
    after(commit, "rename_new", lambda _source, target: [target.parent])
    after(commit, "remove", lambda path: [path.parent])
    after(Path, "replace", lambda _source, target: [Path(target).parent])


def tree_of(directory):
    """Contents and names of everything below a directory, as if all had been synced."""
    log = []
    for path in [directory, *directory.rglob("*")]:
        number = path.lstat().st_ino
        if path.is_dir():
            log.append(("names-synced", number, names_in(path)))
        else:
            log.append(("content-synced", number, path.read_bytes()))
    return log


class Remains:
    """What one disk holds: of everything not synced, as much as chance had it."""

    def __init__(self, log, generator):
        self._generator = generator
        self._contents = {}
        self._names = {}
        for act, number, value in log:
            if act == "content-synced":
                self._contents[number] = value
            elif act == "names-synced":
                self._names[number] = [value]
            else:
                self._names.setdefault(number, []).append(value)

    def restore(self, number, target):
        """Write a directory as it is found after the cut."""
        target.mkdir()
        for name, (inode, is_directory) in self._surviving_names(number).items():
            if is_directory:
                self.restore(inode, target / name)
            elif inode in self._contents:
                (target / name).write_bytes(self._contents[inode])
            else:
                (target / name).write_bytes(bytes(self._generator.choice([0, 1, 4096])))

    def _surviving_names(self, number):
        versions = self._names.get(number)
        # Changes of one directory reach the disk in their order; a directory that was never
        # synced has lost everything.
        return self._generator.choice(versions) if versions else {}


def moments(log, n, generator):
    """Choose lengths of the log: around every change of names, the rest by chance."""
    changes = [at for at, (act, _, _) in enumerate(log) if act == "names"]
    near = {at + step for at in changes for step in (0, 1, 2)} | {0, len(log)}
    near = sorted(at for at in near if at <= len(log))
    rest = [at for at in range(len(log) + 1) if at not in near]
    more = generator.sample(rest, min(len(rest), max(0, n - len(near))))
    return sorted([*near[-n:], *more])


@pytest.fixture
def replay(site, monkeypatch, fast_path):
    """Convert, recording; return the versions found after power cuts, and the log."""

    def convert_and_cut(n, *, overwrite):
        site.clear()
        disk = Disk(site.target.parent)
        if overwrite:
            site.put_old()
        before = tree_of(site.target.parent)
        with monkeypatch.context() as patch:
            recorded(patch, disk)
            stformat.convert_slide(site.sources[1], site.target, overwrite=overwrite)
        generator = random.Random(n)
        scratch = fast_path / "after-the-cut"
        root = site.target.parent.stat().st_ino
        found = []
        for at in moments(disk.log, n, generator):
            for _ in range(N_DISKS):
                Remains([*before, *disk.log[:at]], generator).restore(root, scratch)
                found.append((at, version_of(site, scratch / site.target.name)))
                shutil.rmtree(scratch)
        return found, disk.log

    return convert_and_cut


def version_of(site, store):
    """Return which version is at a path, or its problems."""
    if not store.exists():
        return None
    problems = stformat.verify_store(store)
    return site.name_of(store) if not problems else [problem.code for problem in problems]


@pytest.mark.counts(20, 50, 1000)
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "replacing"])
def test_after_a_power_cut_a_store_is_old_or_new_or_absent(replay, n, overwrite):
    found, log = replay(n, overwrite=overwrite)
    versions = [version for _, version in found]
    before = "old" if overwrite else None
    assert all(version in {before, "new"} for version in map(str_or_none, versions)), found
    assert versions[0] == before
    assert {version for at, version in found if at == len(log)} == {"new"}


def str_or_none(version):
    return version if version is None else str(version)


@pytest.mark.parametrize("forgotten", ["fsync_tree", "fsync_directory"])
def test_a_forgotten_sync_would_be_seen(replay, monkeypatch, forgotten):
    monkeypatch.setattr(commit, forgotten, lambda _path: None)
    found, log = replay(10, overwrite=True)
    at_the_end = {str_or_none(version) for at, version in found if at == len(log)}
    broken = {str_or_none(version) for _, version in found} - {"old", "new"}
    assert broken if forgotten == "fsync_tree" else at_the_end != {"new"}
