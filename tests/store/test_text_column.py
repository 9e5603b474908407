"""Text read column by column equals what AnnData reads, and damage to it is told."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import ZstdCodec

from stformat.errors import CorruptStoreError, UnsupportedStoreError
from stformat.store import text_column
from stformat.store.chunk_codec import ChunkError, decode_into
from stformat.store.elements import read_element
from stformat.store.opened import open_committed
from stformat.store.text_column import read_text

COLUMNS = ("key", "gene_id", "gene_name", "feature_type", "genome")


def write(root: zarr.Group, name: str, values: object, *, chunk: int = 4) -> None:
    options = {
        "chunks": (chunk,),
        "shards": (2 * chunk,),
        "compressors": (ZstdCodec(level=1, checksum=True),),
    }
    with (
        zarr.config.set({"array.write_empty_chunks": True}),
        anndata.settings.override(allow_write_nullable_strings=True),
    ):
        anndata.io.write_elem(root, name, values, dataset_kwargs=options)


@pytest.fixture
def refuse_anndata(monkeypatch):
    def refuse(*_arguments: object) -> None:
        raise AssertionError("AnnData was asked")

    monkeypatch.setattr("stformat.store.elements.read_element", refuse)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=20))
def test_texts_are_those_written(tmp_path_factory, open_loose, values):
    folder = tmp_path_factory.mktemp("text")
    root = zarr.open_group(str(folder), mode="w", zarr_format=3)
    known = [value or "" for value in values]
    write(root, "known", np.array(known, dtype=object))
    write(root, "some", pd.array(values, dtype=pd.StringDtype()))
    store = open_loose(folder)
    assert read_text(store, "known").tolist() == known
    assert read_text(store, "some").tolist() == values


@pytest.mark.usefixtures("refuse_anndata")
def test_a_store_of_ours_is_read_without_anndata(small_store):
    with open_committed(small_store) as store:
        for name in COLUMNS:
            assert read_text(store, f"tables/expression/var/{name}").dtype == object


def test_columns_of_a_store_are_as_anndata_reads_them(small_store):
    with open_committed(small_store) as store:
        for name in COLUMNS:
            path = f"tables/expression/var/{name}"
            expected = pd.Series(read_element(store, path)).astype(object)
            expected = expected.where(expected.notna(), None)
            assert read_text(store, path).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Categorical(["b", None, "a"]), ["b", None, "a"]),
        (np.array([3, 1]), ["3", "1"]),
    ],
    ids=["categorical", "numbers"],
)
def test_other_encodings_are_left_to_anndata(tmp_path, open_loose, values, expected):
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    write(root, "column", values)
    assert read_text(open_loose(tmp_path), "column").tolist() == expected


def test_other_codecs_are_left_to_anndata(tmp_path, open_loose):
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    anndata.io.write_elem(root, "column", np.array(["a", "b"], dtype=object))
    assert read_text(open_loose(tmp_path), "column").tolist() == ["a", "b"]


def test_a_frame_is_no_column(small_store):
    with (
        open_committed(small_store) as store,
        pytest.raises(CorruptStoreError, match="a column is needed"),
    ):
        read_text(store, "tables/expression/var")
    with open_committed(small_store) as store, pytest.raises(UnsupportedStoreError):
        read_text(store, "tables/expression/X")


def test_a_mask_of_another_length_is_told(tmp_path, open_loose):
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    write(root, "column", pd.array(["a", None, "b"], dtype=pd.StringDtype()))
    write(root["column"], "mask", np.array([True, False]))
    with pytest.raises(CorruptStoreError, match="one bool a value, 3"):
        read_text(open_loose(tmp_path), "column")


def damaged_texts(tmp_path, open_loose, monkeypatch, change) -> str:
    """Read texts whose decoded bytes were changed, under checksums that hold; return the error."""
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    write(root, "column", np.array(["abc"] * 4, dtype=object))

    def decode(frame: memoryview, out: np.ndarray) -> None:
        decode_into(frame, out)
        change(out)

    monkeypatch.setattr(text_column, "decode_into", decode)
    with pytest.raises(CorruptStoreError, match="column, chunk") as caught:
        read_text(open_loose(tmp_path), "column")
    return caught.value.problems[0].found


def test_a_chunk_of_another_number_of_texts_is_told(tmp_path, open_loose, monkeypatch):
    def claim_more(content: np.ndarray) -> None:
        content[:4] = 255

    found = damaged_texts(tmp_path, open_loose, monkeypatch, claim_more)
    assert found == "4294967295 texts instead of 4"


def test_a_text_that_leaves_its_chunk_is_told(tmp_path, open_loose, monkeypatch):
    def lengthen(content: np.ndarray) -> None:
        content[4:8] = 127

    assert "no text" in damaged_texts(tmp_path, open_loose, monkeypatch, lengthen)


def test_bytes_that_are_no_utf8_are_told(tmp_path, open_loose, monkeypatch):
    def spoil(content: np.ndarray) -> None:
        content[8] = 255

    assert "no text" in damaged_texts(tmp_path, open_loose, monkeypatch, spoil)


def test_a_frame_that_holds_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(text_column, "declared_size", lambda _frame: (2**40, True))
    with pytest.raises(ChunkError, match="at most"):
        text_column._decode(memoryview(b""), 1)
