"""C2: of an interrupted conversion all that is whole is kept, and the result is the same bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from stformat import cli
from stformat.convert import convert_slide
from stformat.errors import StoreLockedError, StoreWriteError
from stformat.metadata.strict_json import dump_canonical
from stformat.store import durable
from stformat.store.commit import partial_path
from stformat.store.image_writer import write_pyramid
from stformat.store.journal import Key, open_journal
from stformat.store.writer import STEPS, resume_slide, write_slide
from stformat.testing.records import make_image, make_record

KEY = Key(text=lambda: "key", is_known=lambda: True)
IMAGE = {("images",), ("images/he/s0/c/0/0",)}
SHAPES = {("shapes/spots",)}
TABLE = {("tables/expression", "stformat/expression")}
FINISHED = {
    "image": None,
    "shapes": IMAGE,
    **dict.fromkeys(["counts", "matrix", "by-gene", "table"], IMAGE | SHAPES),
    **dict.fromkeys(["root", "consolidate"], IMAGE | SHAPES | TABLE),
    **dict.fromkeys(["manifest", "fsync", "commit", "rename"], IMAGE | SHAPES | TABLE),
}
"""Parts that are finished when a step begins; None where there is no journal yet."""


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


def stop_at(step, *, after=0):
    """Interrupt at the first event of a step from `after` units on."""

    def progress(event):
        if event.step == step and event.done >= after:
            raise Interrupted

    return progress


def finished(directory):
    path = directory / ".journal.json"
    if not path.exists():
        return None
    return {tuple(part) for part in json.loads(path.read_bytes())["finished"]}


def identities(directory):
    """Tell a file that was kept from one that was written again with the same bytes."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def files_in(directory, parts):
    """Names of the files in parts of a store."""
    prefixes = tuple(f"{name}/" for part in parts for name in part)
    return {name for name in identities(directory) if name.startswith(prefixes)}


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".journal.json"
    }


def assert_new_and_alone(site):
    assert site.version() == "new"
    assert site.names() == ["slide.zarr"]
    assert not list(site.target.rglob(".*"))


@pytest.mark.parametrize("step", FINISHED)
def test_what_a_killed_conversion_finished_is_kept(site, step):
    """Whether or not it was one that would have kept it after an exception."""
    begun_to_resume = len(step) % 2 == 0
    child = site.convert(overwrite=False, resume=begun_to_resume, kill_at=step)
    assert child.wait() == -signal.SIGKILL
    assert finished(partial_path(site.target)) == FINISHED[step]
    before = identities(partial_path(site.target))
    kept = files_in(partial_path(site.target), FINISHED[step] or ())
    assert site.convert(overwrite=False, resume=True).answer() == {"result": "done"}
    assert_new_and_alone(site)
    after = identities(site.target)
    assert {name for name in before if after.get(name) == before[name]} == kept


@pytest.mark.parametrize("step", ["exchange", "fsync-parent", "remove-old"])
def test_killed_while_a_store_is_replaced(site, step):
    site.put_old()
    assert site.convert(resume=True, kill_at=step).wait() == -signal.SIGKILL
    before = identities(site.target if step != "exchange" else partial_path(site.target))
    assert site.convert(resume=True).answer() == {"result": "done"}
    assert_new_and_alone(site)
    shard = "images/he/s0/c/0/0/0"
    assert (identities(site.target)[shard] == before[shard]) == (step == "exchange")


def test_killed_again_and_again(site):
    for step in ("shapes", "resume", "counts", "resume", "root", "resume"):
        assert site.convert(resume=True, kill_at=step).wait() == -signal.SIGKILL
    assert finished(partial_path(site.target)) == IMAGE | SHAPES | TABLE
    before = identities(partial_path(site.target))
    assert site.convert(resume=True).answer() == {"result": "done"}
    assert_new_and_alone(site)
    assert (
        identities(site.target)["shapes/spots/shapes.parquet"]
        == (before["shapes/spots/shapes.parquet"])
    )


def test_without_resume_what_was_kept_is_removed(site):
    assert site.convert(resume=True, kill_at="root").wait() == -signal.SIGKILL
    before = identities(partial_path(site.target))
    site.convert_again()
    assert not set(before.values()) & set(identities(site.target).values())


@pytest.fixture
def interrupted(site):
    """A conversion that was interrupted when all but the root was written."""
    with pytest.raises(Interrupted):
        convert_slide(site.sources[1], site.target, resume=True, progress=stop_at("root"))
    return partial_path(site.target)


def flip(path, generator):
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def truncate(path, generator):
    os.truncate(path, generator.randrange(path.stat().st_size))


def delete(path, _generator):
    path.unlink()


def zero(path, _generator):
    path.write_bytes(bytes(path.stat().st_size))


def link(path, _generator):
    moved = path.rename(path.with_name("moved"))
    path.symlink_to(moved)


def become_a_directory(path, _generator):
    path.unlink()
    (path / "c").mkdir(parents=True)
    (path / "c" / "0").write_bytes(b"0")


def add_stray(path, _generator):
    path.with_name("7").write_bytes(path.read_bytes())
    path.with_name(".hidden").mkdir()


DAMAGES = [flip, truncate, delete, zero, link, become_a_directory, add_stray]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A record, what is written of it, and a directory in which all of it is finished."""
    folder = tmp_path_factory.mktemp("small")
    record = make_record(n_obs=20, image_px=(300, 400))
    for name in ("whole", "part"):
        (folder / name).mkdir()
    write_slide(record, folder / "whole")
    resume_slide(record, folder / "part")
    return record, contents(folder / "whole"), folder / "part"


@pytest.fixture
def part(small, fast_path):
    return shutil.copytree(small[2], fast_path / "part")


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        *((damage, "tables/**/*") for damage in DAMAGES),
        *((flip, f"{name}/**/*") for name in ("images/he/s0/c", "shapes", "stformat")),
        (add_stray, "images/he/s0/c/**/*"),
    ],
)
def test_what_was_damaged_is_written_again(small, part, damage, pattern):
    record, whole, _ = small
    generator = random.Random(f"{damage.__name__} {pattern}")
    damage(generator.choice(sorted(filter(os.path.isfile, part.glob(pattern)))), generator)
    resume_slide(record, part)
    assert contents(part) == whole


@pytest.mark.parametrize("damage", [flip, truncate, delete, zero, link, become_a_directory])
def test_a_damaged_journal_knows_of_nothing(small, part, damage):
    record, whole, _ = small
    before = identities(part)
    damage(part / ".journal.json", random.Random(0))
    resume_slide(record, part)
    assert contents(part) == whole
    assert not set(before.values()) & set(identities(part).values())


@pytest.mark.parametrize("lie", [{}, {"files": []}, {"files": [1]}, {"finished": 1}, {"key": 1}])
def test_a_journal_that_another_program_wrote_is_not_believed(small, part, lie):
    record, whole, _ = small
    path = part / ".journal.json"
    path.write_bytes(dump_canonical({**json.loads(path.read_bytes()), **lie, "crc32c": "0" * 8}))
    resume_slide(record, part)
    assert contents(part) == whole


def test_everything_that_does_not_belong_is_removed(site, interrupted):
    for name in ("images/stray", "tables/expression/X/c", "stray/a/b", ".exchange/a", "labels"):
        (interrupted / name).mkdir(parents=True)
        (interrupted / name / "file").write_bytes(b"stray")
    (interrupted / "stformat" / "commit.json").write_bytes(b"stray")
    (interrupted / "link").symlink_to(site.target.parent, target_is_directory=True)
    os.mkfifo(interrupted / "shapes" / "spots" / "pipe")
    convert_slide(site.sources[1], site.target, resume=True)
    assert_new_and_alone(site)


@pytest.mark.parametrize(
    ("source", "options"), [(0, {}), (1, {"species": "mouse"}), (1, {"mpp": 0.7})]
)
def test_of_another_slide_nothing_is_kept(site, interrupted, tmp_path, source, options):
    before = identities(interrupted)
    fresh = convert_slide(site.sources[source], tmp_path / "fresh.zarr", **options)
    convert_slide(site.sources[source], site.target, resume=True, **options)
    assert contents(site.target) == contents(fresh)
    assert not set(before.values()) & set(identities(site.target).values())


def test_of_a_source_that_changed_nothing_is_kept(site, tmp_path):
    source = shutil.copytree(site.sources[0], tmp_path / "source")
    with pytest.raises(Interrupted):
        convert_slide(source, site.target, resume=True, progress=stop_at("root"))
    before = identities(partial_path(site.target))
    shutil.copytree(site.sources[1], source, dirs_exist_ok=True)
    convert_slide(source, site.target, resume=True)
    assert_new_and_alone(site)
    assert not set(before.values()) & set(identities(site.target).values())


@pytest.mark.parametrize(
    ("resume", "step"),
    [
        (False, "root"),
        *((True, step) for step in (*STEPS[::3], "manifest", "commit", "rename", "fsync-parent")),
    ],
)
def test_an_exception_keeps_what_is_finished_only_to_resume(site, resume, step):
    with pytest.raises(Interrupted) as caught:
        convert_slide(site.sources[1], site.target, resume=resume, progress=stop_at(step))
    # When the last step fails, the journal is gone and the store is taken back.
    is_kept = resume and step not in {"image", "fsync-parent"}
    assert site.names() == ([".slide.zarr.partial"] if is_kept else [])
    notes = getattr(caught.value, "__notes__", [])
    assert ["kept" in note and str(partial_path(site.target)) in note for note in notes] == (
        [True] if is_kept else []
    )


def test_what_the_disk_did_not_take_is_not_kept(site, monkeypatch):
    """It can be read back from memory, so its checksum would fit."""

    def refuse(_fd):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_flush", refuse)
        with pytest.raises(StoreWriteError, match="EIO") as caught:
            convert_slide(site.sources[1], site.target, resume=True)
    assert site.names() == []
    assert not getattr(caught.value, "__notes__", [])


def test_a_full_disk_keeps_what_is_finished(site, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stformat.store.writer.write_table", refuse)
        with pytest.raises(StoreWriteError, match="ENOSPC") as caught:
            convert_slide(site.sources[1], site.target, resume=True)
    assert "kept" in caught.value.__notes__[0]
    assert finished(partial_path(site.target)) == IMAGE | SHAPES
    convert_slide(site.sources[1], site.target, resume=True)
    assert_new_and_alone(site)


def test_two_that_resume_exclude_each_other(site, interrupted):
    def progress(event):
        if event.step == "resume" and event.done == 0:
            with pytest.raises(StoreLockedError):
                convert_slide(site.sources[1], site.target, resume=True)

    assert interrupted.is_dir()
    convert_slide(site.sources[1], site.target, resume=True, progress=progress)
    assert_new_and_alone(site)


def test_with_nothing_to_resume_a_conversion_begins(site):
    partial_path(site.target).write_text("no directory at all")
    steps = []
    convert_slide(
        site.sources[1],
        site.target,
        resume=True,
        progress=lambda event: steps.append(event.step),
    )
    assert_new_and_alone(site)
    assert "resume" not in steps


def test_finished_elements_are_announced_as_done(site, interrupted):
    total = len(json.loads((interrupted / ".journal.json").read_bytes())["files"])
    events = []
    convert_slide(site.sources[1], site.target, resume=True, progress=events.append)
    assert (events[0].step, events[0].done, events[0].total) == ("resume", 0, total)
    before_root = [event for event in events if event.step in STEPS[:-2]]
    assert [event.step for event in before_root] == list(STEPS[:-2])
    assert all(event.done == event.total for event in before_root)


@contextmanager
def interrupted_progress(**_options):
    def progress(event):
        if event.step == "counts":
            raise KeyboardInterrupt

    yield progress


def test_the_command_line_says_what_is_left(site, monkeypatch):
    command = ["convert", site.sources[1], str(site.target), "--quiet"]
    partial = str(partial_path(site.target))
    with monkeypatch.context() as patch:
        patch.setattr("stformat.cli.convert.shown_progress", interrupted_progress)
        plain = CliRunner().invoke(cli.app, command)
        assert (plain.exit_code, site.names()) == (130, [])
        assert plain.stderr == "stformat: interrupted; nothing was left behind\n"
        kept = CliRunner().invoke(cli.app, [*command, "--resume"])
    assert kept.exit_code == 130
    assert kept.stderr.startswith(f"stformat: interrupted; what was finished is kept in {partial}")
    assert "nothing" not in kept.stderr
    assert CliRunner().invoke(cli.app, [*command, "--resume"]).exit_code == 0
    assert_new_and_alone(site)


PYRAMID = {"chunk_px": 4, "shard_px": 8, "smallest_px": 5}


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 20)),
    stops=st.lists(st.integers(0, 45), max_size=3),
    band_height=st.none() | st.integers(1, 9),
)
def test_rows_of_shards_are_kept(shape, stops, band_height):
    """Of every level, however often it is interrupted."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = make_image(pixels, band_height=band_height)
    with TemporaryDirectory() as folder:
        whole, part = Path(folder, "whole"), Path(folder, "part")
        part.mkdir()
        write_pyramid(whole, image, **PYRAMID)
        for stop in stops:
            with suppress(Interrupted):
                write_part(part, image, stop)
        rows = {
            path.parent: identities(path.parent)
            for path in part.rglob("c/0/*/0")
            if has_finished(part, path.parent)
        }
        step = band_height or PYRAMID["chunk_px"]
        n_read = min(max(stops, default=0), shape[1]) // step * step
        for row in range(n_read // PYRAMID["shard_px"]):
            assert part / f"s0/c/0/{row}" in rows
        write_part(part, image, None)
        assert contents(part) == contents(whole)
        for path, before in rows.items():
            assert identities(path) == before


def write_part(directory, image, stop):
    """Go on with a pyramid until the source has been read up to a row."""

    def bands(height):
        done = 0
        for band in image.iter_bands(height):
            if stop is not None and done + band.shape[1] > stop:
                raise Interrupted
            yield band
            done += band.shape[1]

    journal = open_journal(directory, KEY)
    write_pyramid(
        directory, dataclasses.replace(image, iter_bands=bands), **PYRAMID, journal=journal
    )


def has_finished(directory, part):
    return (part.relative_to(directory).as_posix(),) in (finished(directory) or ())


def test_one_bad_shard_costs_one_row(tmp_path):
    record = make_record(n_obs=20, image_px=(4200, 40))
    resume_slide(record, tmp_path)
    before = contents(tmp_path), identities(tmp_path)
    flip(tmp_path / "images/he/s0/c/0/1/0", random.Random(0))
    resume_slide(record, tmp_path)
    after = contents(tmp_path), identities(tmp_path)
    assert after[0] == before[0]
    written = {name for name in before[0] if before[1][name] != after[1][name]}
    assert {name for name in written if not name.endswith("zarr.json")} == {"images/he/s0/c/0/1/0"}
    assert not {name for name in written if "expression" in name}


def test_what_is_finished_is_not_even_computed(small, part, monkeypatch):
    record, whole, _ = small
    for name in ("write_pyramid", "write_shapes", "write_table"):
        monkeypatch.setattr(f"stformat.store.writer.{name}", None)
    resume_slide(record, part)
    assert contents(part) == whole


def test_float_counts_keep_their_sum(tmp_path):
    record = make_record(count_dtype=np.float32, image_px=None)
    (tmp_path / "whole").mkdir()
    write_slide(record, tmp_path / "whole")
    part = tmp_path / "part"
    part.mkdir()
    with pytest.raises(Interrupted):
        resume_slide(record, part, progress=stop_at("root"))
    resume_slide(record, part)
    assert contents(part) == contents(tmp_path / "whole")
