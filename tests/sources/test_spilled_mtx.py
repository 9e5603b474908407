"""Matrix Market text that is parsed once, in memory or on disk, against the plain reader."""

from __future__ import annotations

import gc
import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stformat.errors import CountsError, StoreWriteError
from stformat.sources import _counts_mtx, _spilled_mtx
from stformat.sources._counts_mtx import find_mtx, read_counts_mtx
from stformat.sources._spilled_mtx import spill_counts_mtx

BARCODES = [f"s_002um_{row:05d}_00000-1" for row in range(12)]


def write(folder, entries, *, shape, field="integer"):
    """Write entries, (feature, barcode, value) from 0, in the order in which they are given."""
    n_features, n_barcodes = shape
    lines = [f"{feature + 1} {barcode + 1} {value}" for feature, barcode, value in entries]
    (folder / "matrix.mtx").write_text(
        f"%%MatrixMarket matrix coordinate {field} general\n%\n"
        f"{n_features} {n_barcodes} {len(lines)}\n" + "".join(f"{line}\n" for line in lines)
    )
    features = "".join(f"ENSG{row}\tG{row}\tGene Expression\n" for row in range(n_features))
    (folder / "features.tsv").write_text(features)
    content = "".join(f"{name}\n" for name in BARCODES[:n_barcodes]).encode()
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress(content))
    (files,) = find_mtx(folder)
    return files


@st.composite
def matrices(draw):
    """Entries in the order of a file, its shape and field."""
    field = draw(st.sampled_from(["integer", "real"]))
    value = st.integers(0, 9) if field == "integer" else st.sampled_from([0.0, 1.0, 2.5, 1e9])
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    place = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1))
    entries = [(*at, number) for at, number in draw(st.dictionaries(place, value)).items()]
    if draw(st.booleans()):
        entries.sort(key=lambda entry: entry[1])
    return entries, shape, field


@settings(max_examples=150, deadline=None)
@given(
    matrix=matrices(),
    budget=st.sampled_from([0, 40, 1 << 20]),
    bucket=st.sampled_from([16, 64, 1 << 20]),
    block=st.integers(1, 7),
)
def test_rows_are_those_of_the_plain_reader(matrix, budget, bucket, block):
    entries, shape, field = matrix
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_counts_mtx, "ENTRIES_PER_BLOCK", 3)
        patch.setattr(_spilled_mtx, "MEMORY_BYTES", budget)
        patch.setattr(_spilled_mtx, "BUCKET_BYTES", bucket)
        patch.setattr(_spilled_mtx, "BLOCK_NNZ", block)
        patch.setattr(_spilled_mtx, "_LIST_BYTES", 30)
        files = write(Path(folder), entries, shape=shape, field=field)
        plain = read_counts_mtx(files)
        spilled = spill_counts_mtx(files, scratch=None)
        for _ in range(2):
            blocks = list(spilled.iter_blocks())
            assert all(one.has_canonical_format for one in blocks)
            assert {one.dtype for one in blocks} == {spilled.dtype}
            rows = sparse.vstack(blocks).toarray()
            np.testing.assert_array_equal(rows, plain.matrix.toarray())
    assert spilled.dtype == plain.matrix.dtype
    assert spilled.notes == plain.notes
    assert spilled.features == plain.features
    assert tuple(name.decode() for name in spilled.barcodes) == plain.barcodes
    assert spilled.nnz == len(entries)


def test_files_end_with_the_last_use(tmp_path, monkeypatch):
    monkeypatch.setattr(_spilled_mtx, "MEMORY_BYTES", 0)
    files = write(tmp_path, [(0, 0, 1), (1, 2, 3)], shape=(2, 3))
    before = n_open()
    spilled = spill_counts_mtx(files, scratch=None)
    assert n_open() > before
    blocks = spilled.iter_blocks()
    del spilled
    gc.collect()
    assert sum(block.sum() for block in blocks) == 4
    del blocks
    gc.collect()
    assert n_open() == before


def n_open():
    """Files that are held open, and have no name any more."""
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(link).endswith("(deleted)") for link in links)


def test_a_full_disk_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_spilled_mtx, "MEMORY_BYTES", 0)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("stformat.spill.shutil.disk_usage", lambda _path: usage)
    with pytest.raises(StoreWriteError, match="24 bytes are needed"):
        spill_counts_mtx(write(tmp_path, [(0, 0, 1), (1, 2, 3)], shape=(2, 3)), scratch=None)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"a-1\nb-1\na-1\n", "counts.repeated-spots"),
        (b"a-1\n\tx\nc-1\n", "counts.repeated-spots"),
        (b"a-1\nb-1\n", "counts.shape"),
        (b"a-1\n\xff\xfe\nc-1\n", "counts.encoding"),
        (gzip.compress(b"a-1\nb-1\nc-1\n", mtime=0)[:-5], "counts.truncated"),
    ],
)
def test_barcodes_that_are_none(tmp_path, content, code):
    files = write(tmp_path, [(0, 0, 1)], shape=(2, 3))
    assert files.barcodes is not None
    files.barcodes.write_bytes(content)
    with pytest.raises(CountsError) as caught:
        spill_counts_mtx(files, scratch=None)
    assert [problem.code for problem in caught.value.problems] == [code]
