"""Whatever ends an export, what was at its target is there, or what it made; never a half."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import stformat as stf
from stformat.errors import (
    CorruptStoreError,
    ExportError,
    StoreChangedWarning,
    StoreExistsError,
    StoreLockedError,
    StoreWriteError,
)
from stformat.export import _stimage
from stformat.export.description import read_description
from stformat.store.lock import writer_lock

TARGETS = {
    "stimage": "out",
    "hest": "out",
    "h5ad": "out.h5ad",
    "ome-tiff": "out.ome.tif",
    "zip": "out.zip",
}
TILES = ("png", "npy", "zarr", "webdataset")
FULL = Path("/dev/full")
KILLED = """
import os, signal, sys
import stformat as stf
def kill(event):
    if event.step == sys.argv[4] and event.done:
        os.kill(os.getpid(), signal.SIGKILL)
stf.export_slide(sys.argv[1], sys.argv[2], to=sys.argv[3], progress=kill)
"""


class StopError(Exception):
    pass


def export(store, folder, kind, **options):
    if kind in TILES:
        return stf.export_tiles(store, folder / "out", format=kind, tile_px=16, **options)
    return stf.export_slide(store, folder / TARGETS[kind], to=kind, **options)


def steps_of(store, folder, kind):
    steps = []
    export(store, folder, kind, progress=lambda event: steps.append(event.step), overwrite=True)
    return list(dict.fromkeys(steps))


@pytest.mark.parametrize("kind", [*TARGETS, *TILES])
def test_an_exception_at_any_step_leaves_what_was_there(store_of, kind, tmp_path, digest_of):
    store = store_of("ST")
    before = export(store, tmp_path, kind)
    digest = digest_of(before)
    new = tmp_path / "new"
    new.mkdir()
    steps = steps_of(store, tmp_path, kind)
    assert steps[-2:] == ["fsync", "rename"]
    for step in steps:

        def stop(event, step=step):
            if event.step == step:
                raise StopError

        with pytest.raises(StopError):
            export(store, tmp_path, kind, progress=stop, overwrite=True)
        assert {path.name for path in tmp_path.iterdir()} == {"new", before.name}
        assert digest_of(before) == digest
    with pytest.raises(StopError):
        export(store, new, kind, progress=stop)
    assert list(new.iterdir()) == []


@pytest.mark.parametrize(("kind", "step"), [("stimage", "counts"), ("zip", "verify")])
def test_what_a_killed_process_leaves_is_hidden_and_the_next_one_removes_it(
    store_of, kind, step, tmp_path
):
    target = tmp_path / TARGETS[kind]
    command = [sys.executable, "-c", KILLED, store_of("ST"), target, kind, step]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    export(store_of("ST"), tmp_path, kind)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("kind", ["png", "stimage", "h5ad"])
def test_what_is_there_is_replaced_only_when_asked(store_of, kind, tmp_path, digest_of):
    made = export(store_of("ST"), tmp_path, kind)
    with pytest.raises(StoreExistsError, match="ask to overwrite it"):
        export(store_of("two tables"), tmp_path, kind)
    digest = digest_of(made)
    assert export(store_of("two tables"), tmp_path, kind, overwrite=True) == made
    assert digest_of(made) != digest
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


@pytest.mark.parametrize("kind", ["png", "stimage", "h5ad"])
def test_what_no_export_made_is_never_replaced(store_of, kind, tmp_path):
    target = tmp_path / TARGETS.get(kind, "out")
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="choose another target"):
        export(store_of("ST"), tmp_path, kind, overwrite=True)
    assert (target / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_description_of_another_maker_is_none(tmp_path):
    assert read_description(tmp_path) is None
    (tmp_path / "export.json").write_text('{"made_by": "someone else"}')
    assert read_description(tmp_path) is None
    (tmp_path / "export.json").write_text("no JSON")
    assert read_description(tmp_path) is None


def test_of_two_writers_the_second_is_refused(store_of, tmp_path):
    with writer_lock(tmp_path / "out"), pytest.raises(StoreLockedError):
        export(store_of("ST"), tmp_path, "png")


@pytest.mark.parametrize("name", ["..", ".out.partial", "no/such/folder"])
def test_a_target_that_cannot_be(store_of, name, tmp_path):
    with pytest.raises((ExportError, StoreWriteError)):
        stf.export_tiles(store_of("ST"), tmp_path / name, tile_px=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not FULL.exists(), reason="needs the device /dev/full of Linux")
def test_a_full_disk_is_a_typed_error(store_of, tmp_path, monkeypatch):
    def write(_slide, path, **_options):
        path.symlink_to(FULL)
        with path.open("wb", buffering=0) as file:
            file.write(b"x")

    monkeypatch.setattr(_stimage, "write_counts_csv", write)
    with pytest.raises(StoreWriteError, match="ENOSPC"):
        export(store_of("ST"), tmp_path, "stimage")
    assert list(tmp_path.iterdir()) == []


def test_damage_of_the_store_ends_a_zip_and_leaves_nothing(store_of, tmp_path):
    store = shutil.copytree(store_of("ST"), tmp_path / "slide.zarr")
    shard = next((store / "images").rglob("c/0/0/0"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(CorruptStoreError, match="the checksum must be"):
        export(store, tmp_path, "zip")
    assert [path.name for path in tmp_path.iterdir()] == ["slide.zarr"]


def test_a_store_that_another_tool_changed_is_sealed_first(store_of, tmp_path):
    store = shutil.copytree(store_of("ST"), tmp_path / "slide.zarr")
    root = store / "zarr.json"
    document = json.loads(root.read_bytes())
    document["attributes"]["mine"] = 1
    root.write_text(json.dumps(document))
    with pytest.warns(StoreChangedWarning), pytest.raises(ExportError, match="seal"):
        export(store, tmp_path, "zip")
    stf.seal_store(store)
    assert export(store, tmp_path, "zip").exists()
