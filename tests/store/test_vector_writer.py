"""1-D arrays of unknown length: the bytes depend on the values alone."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.store import layout
from stformat.store.vector_writer import VectorWriter, write_vector

SMALL = {"chunk": 4, "shard": 12}


def write_in_blocks(directory, blocks, dtype, **sizes):
    writer = VectorWriter(directory, np.dtype(dtype), **sizes)
    for block in blocks:
        writer.append(block)
    writer.finish()
    return writer


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 15), max_size=12),
    st.sampled_from(["uint8", "int32", "int64", "float32"]),
)
def test_blocks_of_any_size_give_the_same_readable_bytes(sizes, dtype):
    values = np.arange(1, sum(sizes) + 1).astype(dtype)
    blocks = np.split(values, np.cumsum(sizes)[:-1]) if sizes else []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        writer = write_in_blocks(directory / "blocks", blocks, dtype, **SMALL)
        write_in_blocks(directory / "whole", [values], dtype, **SMALL)
        assert writer.length == len(values)
        assert contents(directory / "blocks") == contents(directory / "whole")
        array = zarr.open_array(str(directory / "blocks"), mode="r")
        assert (array.chunks, array.shards) == layout.vector_chunks(len(values), **SMALL)
        with zarr.config.set({"array.read_missing_chunks": False}):
            np.testing.assert_array_equal(array[...], values)
        kvstore = {"driver": "file", "path": str(directory / "blocks")}
        read = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
        np.testing.assert_array_equal(read.read().result(), values)


@pytest.mark.parametrize("length", [0, 1, 1000, 32_768, 32_769, 100_000])
def test_default_sizes_are_those_of_the_layout(tmp_path, length):
    values = np.arange(length, dtype=np.int64)
    write_vector(tmp_path, values)
    array = zarr.open_array(str(tmp_path), mode="r")
    assert (array.chunks, array.shards) == layout.vector_chunks(length)
    np.testing.assert_array_equal(array[...], values)


def test_an_empty_array_has_no_files_but_its_metadata(tmp_path):
    write_vector(tmp_path, np.zeros(0, np.float64))
    assert list(contents(tmp_path)) == ["zarr.json"]


def test_a_block_may_be_reused_by_its_owner(tmp_path):
    writer = VectorWriter(tmp_path, np.dtype(np.int32), **SMALL)
    block = np.array([1, 2], np.int32)
    writer.append(block)
    block[:] = 9
    writer.append(block)
    writer.finish()
    assert zarr.open_array(str(tmp_path), mode="r")[...].tolist() == [1, 2, 9, 9]


def test_blocks_are_never_cast_unsafely(tmp_path):
    writer = VectorWriter(tmp_path, np.dtype(np.int32))
    with pytest.raises(TypeError, match="safe"):
        writer.append(np.array([1], np.int64))
    with pytest.raises(ValueError, match="shape"):
        writer.append(np.zeros((2, 2), np.int32))


def test_a_shard_holds_whole_chunks(tmp_path):
    with pytest.raises(ValueError, match="multiple"):
        VectorWriter(tmp_path, np.dtype(np.int32), chunk=4, shard=10)


def test_closing_leaves_no_index_behind(tmp_path):
    writer = VectorWriter(tmp_path, np.dtype(np.uint8), **SMALL)
    writer.append(np.ones(5, np.uint8))
    writer.close()
    assert not (tmp_path / "zarr.json").exists()
    assert len((tmp_path / "c" / "0").read_bytes()) < 20
