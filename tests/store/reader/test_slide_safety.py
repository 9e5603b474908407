"""An open slide tells of damage and change, and is safe in threads and processes, and cheap."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import time
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest

from stformat.errors import (
    CorruptStoreError,
    NotAStoreError,
    StoreChangedWarning,
    StoreReplaced,
    UnsupportedStoreError,
)
from stformat.store.reader import Slide, open_slide


def damage(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[10] ^= 0x10
    shard.write_bytes(content)


@pytest.fixture
def copy(path, tmp_path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "copy.zarr"))


@pytest.mark.parametrize(
    ("shard", "read"),
    [
        ("images/he/s0/c/0/0/0", lambda slide: slide.tiles(300)[:]),
        ("images/he/s1/c/0/0/0", lambda slide: slide.thumbnail(400)),
        ("images/he/s0/c/0/0/0", lambda slide: slide.image.to_numpy()),
        ("tables/expression/X/data/c/0", lambda slide: slide.counts[:]),
        ("tables/expression/X/indices/c/0", lambda slide: slide.expression([0])),
        ("tables/expression/X/indptr/c/0", lambda slide: slide.counts[0]),
        ("stformat/expression/by_gene/data/c/0", lambda slide: slide.counts.genes(["G1"])),
        ("stformat/expression/spots/x/c/0", lambda slide: slide.tiles(8)),
        ("tables/expression/obs/x/c/0", lambda slide: slide.obs),
        ("tables/expression/obs/barcode/c/0", lambda slide: slide.rows(["1x1"])),
        ("tables/expression/obs/section/codes/c/0", lambda slide: slide.obs),
        (
            "tables/expression/obs/total_counts/c/0",
            lambda slide: slide.expression([0], normalize="log1p"),
        ),
        ("tables/expression/var/gene_name/c/0", lambda slide: slide.gene_columns(["G1"])),
    ],
)
def test_damage_is_never_silent(copy, shard, read):
    damage(copy / shard)
    with open_slide(copy) as slide, pytest.raises(CorruptStoreError):
        read(slide)
    (copy / shard).unlink()
    with open_slide(copy) as slide, pytest.raises(CorruptStoreError):
        read(slide)


def test_a_store_that_another_tool_changed_is_read_with_a_warning(copy, edit_json, oracle):
    edit_json(copy / "zarr.json", lambda root: root["attributes"].update(note="edited"))
    with pytest.warns(StoreChangedWarning, match="another tool"):
        slide = open_slide(copy)
    with slide:
        np.testing.assert_array_equal(slide.counts[:].toarray(), oracle.matrix.toarray())
        np.testing.assert_array_equal(slide.obs[["x", "y"]].to_numpy(), oracle.xy)
        assert slide.tiles(8)[:].shape == (60, 3, 8, 8)


def test_an_element_in_an_unknown_encoding_is_refused(copy, edit_json, recommit, reconsolidate):
    document = copy / "tables/expression/obs/x/zarr.json"
    edit_json(document, lambda node: node["attributes"].update({"encoding-type": "pickle"}))
    reconsolidate(copy)
    recommit(copy)
    with open_slide(copy) as slide, pytest.raises(UnsupportedStoreError, match="'pickle'"):
        _ = slide.obs


def test_rows_that_do_not_fit_their_table_are_damage(copy, edit_json, recommit):
    def fewer(root):
        root["attributes"]["stformat"]["tables"][0]["n_obs"] = 59

    edit_json(copy / "zarr.json", fewer)
    recommit(copy)
    with open_slide(copy) as slide:
        for read in (lambda: slide.obs, lambda: slide.tiles(8), lambda: slide.counts[0]):
            with pytest.raises(CorruptStoreError, match="59"):
                read()
        with pytest.raises(CorruptStoreError, match="59"):
            slide.rows(["1x1"])


def test_nothing_there(tmp_path):
    with pytest.raises(NotAStoreError):
        open_slide(tmp_path / "nothing")


def test_a_closed_slide_reads_nothing(path):
    slide = open_slide(path)
    slide.tiles(8)[:]
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.tiles(8)[:]


def held(path: Path) -> list[str]:
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [link for link in links if link.startswith(str(path))]


def still_held(path: Path, expected: list[str]) -> list[str]:
    """Return what is held when threads that read have let go, which may be after their results."""
    end = time.monotonic() + 10
    while held(path) != expected and time.monotonic() < end:
        time.sleep(0.01)
    return held(path)


def test_a_slide_that_is_forgotten_holds_no_files(path):
    before = held(path)
    tiles = open_slide(path).tiles(8)
    gc.collect()
    assert tiles[:].shape == (60, 3, 8, 8)  # tiles hold the files as long as they live
    assert len(held(path)) > len(before)
    del tiles
    gc.collect()
    assert still_held(path, before) == before


@pytest.fixture
def _no_collector():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_a_slide_that_was_used_closes_its_files_when_it_is_forgotten(path):
    """Many slides, one after the other, must not wait for the collector of cycles."""
    before = held(path)
    for _ in range(2):
        slide = open_slide(path)
        counts = slide.counts
        assert counts[:2].shape[0] == counts.genes(["G2", "G7"])[:2].shape[0]
        slide.gene_columns(["G1"])
        assert len(slide.obs) == len(slide.tiles(8)[:]) == 60
        assert len(held(path)) > len(before)
        del slide, counts
        assert still_held(path, before) == before


# ---- threads and processes


def ask(slide: Slide, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 60, 12)
    return [
        slide.tiles(50)[rows],
        slide.tiles(30, mpp=0.8)[rows],
        slide.counts[rows].toarray(),
        slide.counts.genes(["G2", "G7"]).toarray(),
        slide.expression(rows, ["G4", "G1"], normalize="log1p"),
        slide.read_region(0, *rng.integers(0, 600, 2).tolist(), 90, 70),
        slide.obs["x"].to_numpy(),
    ]


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_read_the_same(path):
    with open_slide(path) as slide:
        expected = [ask(slide, seed) for seed in range(8)]
    found: dict[int, list[np.ndarray]] = {}
    barrier = threading.Barrier(8)
    with open_slide(path) as slide:

        def work(seed: int) -> None:
            barrier.wait()
            found[seed] = ask(slide, seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for seed in range(8):
        assert_equal(found[seed], expected[seed])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_on(path):
    context = multiprocessing.get_context("fork")
    with open_slide(path) as slide:
        expected = ask(slide, 1)
        ours, theirs = context.Pipe()

        def work() -> None:
            theirs.send(ask(slide, 1))

        child = context.Process(target=work)
        child.start()
        assert ours.poll(60)
        assert_equal(ours.recv(), expected)
        child.join()
        assert child.exitcode == 0
        assert_equal(ask(slide, 1), expected)


def test_a_spawned_child_opens_the_same_version(path):
    with open_slide(path, table="expression_square_008um") as slide:
        call = methodcaller("expression", [3, 1], normalize="log1p")
        expected = call(slide)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(call, (slide,))
    np.testing.assert_array_equal(found, expected)


def test_a_pickled_slide_is_the_same_or_none(copy, bare, monkeypatch):
    monkeypatch.chdir(copy.parent)
    with open_slide(copy.name, table="expression_square_008um") as slide:
        pickled = pickle.dumps(slide)
    monkeypatch.chdir("/")
    with pickle.loads(pickled) as again:  # noqa: S301 - our own
        assert again.table("expression").n_obs == 60
        assert again.n_obs == 20
    shutil.rmtree(copy)
    shutil.copytree(bare, copy)
    with pytest.raises(StoreReplaced, match="the version"):
        pickle.loads(pickled)  # noqa: S301 - our own


def test_an_open_slide_keeps_its_version_while_another_takes_its_place(copy, bare, oracle):
    with open_slide(copy) as slide:
        copy.rename(copy.with_name("old"))
        shutil.copytree(bare, copy)
        np.testing.assert_array_equal(slide.counts[:].toarray(), oracle.matrix.toarray())
        assert slide.tiles(8)[:].shape == (60, 3, 8, 8)
        shutil.rmtree(copy.with_name("old"))
        with pytest.raises(StoreReplaced, match="open the store again"):
            _ = slide.obs


def test_opening_reads_metadata_alone_and_imports_nothing_heavy(path):
    script = f"""
import os, sys
opened = []
real = os.open
def spy(name, *args, **options):
    opened.append(str(name))
    return real(name, *args, **options)
os.open = spy
import stformat as stf
slide = stf.open_slide({str(path)!r})
repr(slide), slide.levels, slide.tables, slide.metadata
files = sorted(n for n in set(opened) if n.endswith(".json") or n.isdigit())
heavy = {{"zarr", "anndata", "pandas", "xarray", "geopandas", "numba", "scipy", "dask"}}
print(files, sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(  # the interpreter's own modules must not count
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['commit.json', 'zarr.json'] []"
