"""F4, F5: whatever happens to a store's files, verifying finds it and reading tells no lies."""

from __future__ import annotations

import random
import shutil
from collections import Counter

import numpy as np
import pytest
import zarr

import stformat
from stformat.errors import StoreChangedWarning, StoreError
from stformat.store.arrays import ArrayReader
from stformat.store.opened import open_committed
from stformat.store.verify import verify_store
from stformat.store.zarr_bridge import UNREADABLE, open_array
from stformat.testing import make_slide, write_legacy_st

KINDS = {
    "pixels": "images/*/*/c/**/*",
    "numbers": "stformat/**/c/*",
    "table": "tables/**/c/*",
    "text": "tables/*/*/*/c/*",
    "scalar": "tables/*/uns/**/c",
    "metadata": "*/**/zarr.json",
    "root": "zarr.json",
    "manifest": "stformat/manifest.json",
    "commit": "stformat/commit.json",
    "parquet": "**/*.parquet",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store whose image has two shards at level 0."""
    folder = tmp_path_factory.mktemp("rot")
    slide = make_slide(height=120, width=4200, n_genes=40, pitch_px=40.0, seed=5)
    source = write_legacy_st(slide, folder / "source")
    return stformat.convert_slide(source, folder / "slide.zarr")


@pytest.fixture
def store(whole, fast_path):
    return shutil.copytree(whole, fast_path / "slide.zarr")


@pytest.fixture(scope="module")
def arrays(whole):
    """The values of every array."""
    with open_committed(whole) as opened:
        return {
            entry.path: zarr.open_array(whole / entry.path, mode="r")[...]
            for entry in opened.manifest.arrays
        }


def read(store, path):
    """Read an array as users of the library do."""
    with open_committed(store) as opened:
        metadata = opened.array(path)
        if metadata.coding is None:
            return open_array(opened, path)[...]
        reader = ArrayReader(opened, path)
        out = np.empty(reader.shape, reader.dtype)
        for index in np.ndindex(*reader.grid):
            place = tuple(
                slice(i * edge, (i + 1) * edge)
                for i, edge in zip(index, metadata.chunks, strict=True)
            )
            out[place] = reader.read_chunk(index)
        return out


def array_of(path):
    """Return the array that a chunk's file belongs to."""
    return path.rpartition("/c/")[0] or path.removesuffix("/c")


def is_silently_wrong(store, path, arrays):
    """Return whether a read returns values that were never written."""
    array = array_of(path)
    try:
        return not np.array_equal(read(store, array), arrays[array])
    except (StoreError, *UNREADABLE):
        return False


def choose(store, generator):
    """Choose a kind of file, then a file: each kind is as likely as any other."""
    while True:
        kind = generator.choice(list(KINDS))
        files = sorted(path for path in store.glob(KINDS[kind]) if path.is_file())
        if files:
            return kind, generator.choice(files)


@pytest.mark.counts(500, 500, 10_000)
def test_no_flipped_bit_is_silent(store, arrays, n):
    generator = random.Random(n)
    kinds = Counter()
    for _ in range(n):
        kind, path = choose(store, generator)
        data = path.read_bytes()
        bit = generator.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        name = str(path.relative_to(store))
        assert verify_store(store), f"bit {bit} of {name}"
        if name.endswith("/c") or "/c/" in name:
            assert not is_silently_wrong(store, name, arrays), f"bit {bit} of {name}"
        path.write_bytes(data)
        kinds[kind] += 1
    assert verify_store(store) == []
    assert kinds.keys() == KINDS.keys()


def truncate(path, generator):
    path.write_bytes(path.read_bytes()[: generator.randrange(path.stat().st_size)])


def zero_part(path, generator):
    data = bytearray(path.read_bytes())
    start = generator.randrange(len(data))
    length = min(len(data) - start, generator.choice([1, 100, 4096, len(data)]))
    if not any(data[start : start + length]):
        start, length = 0, len(data)
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


def zero_whole(path, _generator):
    path.write_bytes(bytes(path.stat().st_size))


def delete(path, _generator):
    path.unlink()


def add(path, _generator):
    path.with_name("7").write_bytes(path.read_bytes())


def swap(path, generator):
    """Exchange two files that differ."""
    store = next(parent for parent in path.parents if parent.name == "slide.zarr")
    shards = sorted(file for file in store.rglob("c/**/*") if file.is_file())
    data = path.read_bytes()
    other = generator.choice([file for file in shards if file.read_bytes() != data])
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


FAULTS = [truncate, zero_part, zero_whole, delete, swap, add]


@pytest.mark.counts(100, 300, 3000)
def test_no_broken_shard_is_silent(store, arrays, whole, n):
    generator = random.Random(n)
    shards = sorted(path for path in store.rglob("c/**/*") if path.is_file())
    assert {"0", "1"} <= {path.name for path in shards if "s0" in path.parts}
    for number in range(n):
        path = generator.choice(shards)
        fault = FAULTS[number % len(FAULTS)]
        fault(path, generator)
        name = str(path.relative_to(store))
        assert verify_store(store), f"{fault.__name__} {name}"
        # Whole shards of equal shape that change places are each without fault: only verifying,
        # which knows what stood where, can tell.
        if fault not in {swap, add}:
            assert raises(store, name), f"{fault.__name__} {name}"
        restore(whole, store)
    assert verify_store(store) == []
    assert not is_silently_wrong(store, "images/he/s0/c/0/0/0", arrays)


def raises(store, name):
    try:
        read(store, array_of(name))
    except (StoreError, *UNREADABLE):
        return True
    return False


def restore(whole, store):
    shutil.rmtree(store)
    shutil.copytree(whole, store)


@pytest.mark.counts(30, 100, 1000)
def test_a_damaged_store_opens_as_what_it_was_or_not_at_all(store, whole, n):
    """Flips in metadata: a slide says what it said before, refuses, or warns."""
    generator = random.Random(n)
    files = sorted(store.rglob("*.json"))
    with stformat.open_slide(whole) as slide:
        expected = describe(slide)
    for _ in range(n):
        path = generator.choice(files)
        data = path.read_bytes()
        damaged = bytearray(data)
        bit = generator.randrange(8 * len(data))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert found_in(store) in (expected, None), f"bit {bit} of {path.relative_to(store)}"
        path.write_bytes(data)


def describe(slide):
    level = slide.levels[0]
    region = slide.read_region(0, 0, 0, min(level.height, 64), min(level.width, 64))
    return [
        level.height, level.width, len(slide.levels), slide.n_obs, slide.n_vars,
        int(region.sum()), float(slide.counts[:5].sum()), float(slide.obs["x"].sum()),
    ]  # fmt: skip


def found_in(store):
    """Return what a slide says, or None where it refuses or warns."""
    try:
        with stformat.open_slide(store) as slide:
            return describe(slide)
    except (StoreError, StoreChangedWarning):
        return None
