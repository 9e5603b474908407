"""Count matrices of every generation, whole, odd, damaged and hostile."""

from __future__ import annotations

import gzip
import tempfile
from dataclasses import replace as replace_fields
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stformat.errors import CountsError
from stformat.sources._counts_10x import clean_counts
from stformat.sources._counts_h5 import is_counts_h5, read_counts_h5
from stformat.sources._counts_mtx import find_mtx, read_counts_mtx
from stformat.sources._spilled_mtx import spill_counts_mtx
from stformat.testing._visium_counts import FeatureRows, write_h5, write_mtx

BARCODES = ("AAAC-1", "AAAG-1", "AAAT-1")
FEATURES = FeatureRows(
    ids=("ENSG00000000001", "ENSG00000000002", "AB1", "ENSG00000000004"),
    names=("A", "B", "A", "C"),
    types=("Gene Expression", "Gene Expression", "Antibody Capture", "Gene Expression"),
    genomes=("GRCh38", "mm10", "", "GRCh38"),
)
DENSE = np.array([[0, 2, 0, 5], [0, 0, 0, 0], [7, 0, 1, 0]], dtype=np.int32)


def write(path, **changes):
    options = {
        "is_legacy": False, "strings": "fixed", "value_type": "int32", "index_type": "int64",
    } | changes  # fmt: skip
    write_h5(path, BARCODES, FEATURES, sparse.csr_array(DENSE), **options)
    return path


@pytest.fixture
def matrix(tmp_path):
    return write(tmp_path / "filtered_feature_bc_matrix.h5")


@pytest.fixture
def folder(tmp_path):
    below = tmp_path / "filtered_feature_bc_matrix"
    write_mtx(
        below, "", BARCODES, FEATURES, sparse.csr_array(DENSE), version=3, is_compressed=False
    )
    return below


def replace(path, name, values, **options):
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, data=values, **options)


def refused(path):
    with pytest.raises(CountsError) as caught:
        read_counts_h5(path)
    (problem,) = caught.value.problems
    assert path.name in problem.where
    return problem


def refused_mtx(folder):
    (files,) = find_mtx(folder)
    with pytest.raises(CountsError) as caught:
        read_counts_mtx(files)
    (problem,) = caught.value.problems
    with pytest.raises(CountsError) as spilled:
        list(spill_counts_mtx(files, scratch=None).iter_blocks())
    # Of lists that do not fit it is told before any entry is read.
    assert spilled.value.problems[0].code in {problem.code, "counts.shape"}
    return problem


def test_parts_of_an_h5_matrix(matrix):
    counts = read_counts_h5(matrix)
    assert counts.barcodes == BARCODES
    np.testing.assert_array_equal(counts.matrix.toarray(), DENSE)
    assert counts.matrix.dtype == counts.matrix.indices.dtype == np.int32
    assert counts.features.ids == FEATURES.ids
    assert counts.features.names == FEATURES.names
    assert counts.features.types == FEATURES.types
    assert counts.features.genomes == ("GRCh38", "mm10", None, "GRCh38")
    assert counts.notes == ()


def test_shape_may_be_missing(matrix):
    with h5py.File(matrix, "a") as file:
        del file["matrix/shape"]
    np.testing.assert_array_equal(read_counts_h5(matrix).matrix.toarray(), DENSE)


def test_probes_keep_their_own_names_and_point_to_genes(matrix):
    with h5py.File(matrix, "a") as file:
        table = file["matrix/features"]
        table["gene_id"] = np.array([b"ENSG00000000001"] * 4)
        table["gene_name"] = np.array([b"A"] * 4)
        del table["id"]
        table["id"] = np.array([f"ENSG00000000001|A|{n}".encode() for n in range(4)])
    features = read_counts_h5(matrix).features
    assert features.ids[1] == "ENSG00000000001|A|1"
    assert set(features.gene_ids) == {"ENSG00000000001"}
    assert set(features.names) == {"A"}


def test_legacy_groups_unite_their_barcodes(tmp_path):
    path = tmp_path / "filtered_gene_bc_matrices_h5.h5"
    genomes = replace_fields(FEATURES, genomes=("GRCh38", "mm10", "mm10", "GRCh38"))
    write_h5(
        path, BARCODES, genomes, sparse.csr_array(DENSE),
        is_legacy=True, strings="variable", value_type="int32", index_type="int64",
    )  # fmt: skip
    replace(path, "mm10/barcodes", np.array([b"AAAT-1", b"CCCC-1", b"AAAC-1"]))
    counts = read_counts_h5(path)
    assert counts.barcodes == (*BARCODES, "CCCC-1")
    assert counts.features.ids == ("ENSG00000000001", "ENSG00000000004", "ENSG00000000002", "AB1")
    assert counts.features.genomes == ("GRCh38", "GRCh38", "mm10", "mm10")
    np.testing.assert_array_equal(
        counts.matrix.toarray(), [[0, 5, 0, 1], [0, 0, 0, 0], [7, 0, 2, 0], [0, 0, 0, 0]]
    )
    assert [note.code for note in counts.notes] == ["counts.several-genomes"]
    assert counts.matrix.has_canonical_format
    assert counts.matrix.dtype == np.int32
    replace(path, "mm10/data", np.array([2.5, 5.0]))
    assert read_counts_h5(path).matrix.dtype == np.float32


def test_values_that_are_no_integers_are_floats(matrix):
    replace(matrix, "matrix/data", np.array([2.5, 5.0, 7.0, 1.0]))
    counts = read_counts_h5(matrix)
    assert counts.matrix.dtype == np.float32
    assert [(note.code, note.count) for note in counts.notes] == [("counts.non-integer", 1)]


@pytest.mark.parametrize(
    ("name", "values", "code", "found"),
    [
        ("data", [2, -5, 7, 1], "counts.negative", "-5"),
        ("data", [2.0, np.nan, 7, 1], "counts.not-finite", "NaN"),
        ("data", [2.0, np.inf, 7, 1], "counts.not-finite", "infinity"),
        ("data", [2, 2**31, 7, 1], "counts.overflow", "2147483648"),
        ("data", [2.5, 1e39, 7, 1], "counts.overflow", "1e+39"),
        ("data", [2, 5, 7], "counts.structure", "3"),
        ("data", [b"2", b"5", b"7", b"1"], "counts.structure", "|S1"),
        ("indices", [1, 3, 0, 4], "counts.structure", "0 to 4"),
        ("indices", [1, -1, 0, 2], "counts.structure", "-1 to 2"),
        ("indices", [1, 1, 0, 2], "counts.repeated-entries", "feature 2 more than once"),
        ("indices", [1.0, 3.0, 0.0, 2.0], "counts.structure", "float64"),
        ("indptr", [0, 2, 1, 4], "counts.structure", "ending in 4"),
        ("indptr", [0, 2, 2, 3], "counts.structure", "ending in 3"),
        ("indptr", [1, 2, 2, 4], "counts.structure", "1 to 4"),
        ("indptr", [0, 2, 4], "counts.structure", "3"),
        ("shape", [4, 4], "counts.structure", "3"),
        ("shape", [-4, 3], "counts.structure", "-4 x 3"),
        ("shape", [4, 3, 1], "counts.structure", "3"),
        ("barcodes", [b"AAAC-1", b"AAAG-1", b"AAAC-1"], "counts.repeated-spots", "'AAAC-1' again"),
        ("barcodes", [b"AAAC-1", b"", b"AAAG-1"], "counts.repeated-spots", "none"),
        ("barcodes", [1, 2, 3], "counts.structure", "int64"),
        ("barcodes", [b"\xff\xfe", b"a", b"b"], "counts.encoding", "utf-8"),
        ("features/id", [b"x" * 5000] * 4, "counts.structure", "5000"),
        ("features/name", [b"A", b"B"], "counts.structure", "2"),
    ],
)
def test_parts_that_do_not_fit_are_named(matrix, name, values, code, found):
    replace(matrix, f"matrix/{name}", np.array(values))
    problem = refused(matrix)
    assert problem.code == code
    assert found in problem.found


@pytest.mark.parametrize("name", ["data", "indices", "barcodes", "features/id"])
def test_data_sets_elsewhere_are_refused(matrix, tmp_path, name):
    elsewhere = tmp_path / "other.h5"
    matrix.rename(elsewhere)
    write(matrix)
    with h5py.File(matrix, "a") as file:
        old = file[f"matrix/{name}"]
        shape, dtype = old.shape, old.dtype
        del file[f"matrix/{name}"]
        file[f"matrix/{name}"] = h5py.ExternalLink(elsewhere.name, f"matrix/{name}")
    assert refused(matrix).code == "counts.h5-link"
    with h5py.File(matrix, "a") as file:
        del file[f"matrix/{name}"]
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(elsewhere.name, f"matrix/{name}", shape)
        file.create_virtual_dataset(f"matrix/{name}", layout)
    assert refused(matrix).code == "counts.h5-external"
    with h5py.File(matrix, "a") as file:
        del file[f"matrix/{name}"]
        file.create_dataset(
            f"matrix/{name}", shape, dtype, external=[(str(tmp_path / "secret"), 0, 1 << 20)]
        )
    assert refused(matrix).code == "counts.h5-external"


def test_linked_group_is_no_matrix(matrix, tmp_path):
    other = tmp_path / "linked.h5"
    with h5py.File(other, "w") as file:
        file["matrix"] = h5py.ExternalLink(matrix.name, "matrix")
    assert not is_counts_h5(other)
    assert refused(other).code == "counts.not-a-matrix"


def test_file_that_declares_terabytes_is_refused_before_they_are_asked_for(matrix):
    n_declared = 1 << 40
    with h5py.File(matrix, "a") as file:
        for name in ("data", "indices"):
            del file[f"matrix/{name}"]
            file.create_dataset(
                f"matrix/{name}", (n_declared,), np.int64, chunks=(1 << 20,), compression="gzip"
            )
        file["matrix/indptr"][:] = [0, 0, 0, n_declared]
    assert matrix.stat().st_size < 50_000
    problem = refused(matrix)
    assert problem.code == "counts.h5-size"
    assert str(n_declared) in problem.found


def test_unknown_compression_is_named(matrix):
    replace(matrix, "matrix/data", np.array([2, 5, 7, 1]), scaleoffset=0, chunks=(4,))
    problem = refused(matrix)
    assert problem.code == "counts.h5-filter"
    assert "h5repack" in problem.remedy


def test_matrix_without_names_of_features(matrix):
    with h5py.File(matrix, "a") as file:
        del file["matrix/features"]
    assert "genes" in refused(matrix).expected
    with h5py.File(matrix, "a") as file:
        file.create_group("matrix/features")
    assert refused(matrix).code == "counts.structure"
    with h5py.File(matrix, "a") as file:
        del file["matrix/features"]
        file["matrix/features"] = [1]
    assert refused(matrix).code == "counts.structure"


def test_other_files_are_no_matrices(tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = [1]
    assert not is_counts_h5(other)
    assert refused(other).code == "counts.not-a-matrix"
    other.write_bytes(b"text")
    assert not is_counts_h5(other)
    assert refused(other).code == "counts.damaged"


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), n_flips=st.integers(0, 6), seed=st.integers(0, 999))
def test_damaged_h5_is_read_or_refused_with_a_problem(share, n_flips, seed):
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "matrix.h5"))
        data = bytearray(path.read_bytes())
        data = data if n_flips else data[: int(share * len(data))]
        for place in random.integers(0, len(data), n_flips):
            data[place] ^= 1 << random.integers(0, 8)
        path.write_bytes(data)
        try:
            counts = read_counts_h5(path)
        except CountsError:
            return
    assert n_flips
    assert counts.matrix.shape == DENSE.shape


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("is_compressed", [True, False])
def test_parts_of_a_matrix_market_folder(tmp_path, version, is_compressed):
    write_mtx(
        tmp_path, "GSM7_", BARCODES, FEATURES, sparse.csr_array(DENSE),
        version=version, is_compressed=is_compressed,
    )  # fmt: skip
    (files,) = find_mtx(tmp_path)
    counts = read_counts_mtx(files)
    np.testing.assert_array_equal(counts.matrix.toarray(), DENSE)
    assert counts.barcodes == BARCODES
    assert counts.features.names == FEATURES.names
    is_typed = version == 3
    assert (counts.features.types == FEATURES.types) == is_typed


def test_entries_may_stand_in_any_order(tmp_path):
    write_mtx(
        tmp_path, "", BARCODES, FEATURES, sparse.csr_array(DENSE), version=2, is_compressed=False
    )
    path = tmp_path / "matrix.mtx"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], *lines[:2:-1]]) + "\n")
    (files,) = find_mtx(tmp_path)
    counts = read_counts_mtx(files)
    np.testing.assert_array_equal(counts.matrix.toarray(), DENSE)
    assert counts.matrix.has_canonical_format


def test_folder_of_version_2_is_named_for_its_genome(tmp_path):
    below = tmp_path / "filtered_gene_bc_matrices" / "mm10"
    write_mtx(
        below, "", BARCODES, FEATURES, sparse.csr_array(DENSE), version=2, is_compressed=False
    )
    (files,) = find_mtx(below)
    assert set(read_counts_mtx(files).features.genomes) == {"mm10"}


@pytest.mark.parametrize(
    ("old", "new", "code", "found"),
    [
        ("4 3 4", "4 3 5", "counts.truncated", "4"),
        ("4 3 4", "4 3 3", "counts.structure", "more"),
        ("4 3 4", "3 4 4", "counts.structure", "1 to 4"),
        ("4 3 4", "5 3 4", "counts.shape", "5 rows and 3 columns"),
        ("4 3 4", "4 3", "counts.structure", "4 3"),
        ("4 3 4", "4 3 -4", "counts.structure", "-4"),
        ("4 3 4", f"4 3 {10**14}", "counts.size", "100000000000000"),
        ("4 3 4", f"4 {10**14} 4", "counts.size", "100000000000000"),
        ("coordinate", "array", "counts.not-a-matrix", "array"),
        ("integer", "complex", "counts.not-a-matrix", "complex"),
        ("general", "symmetric", "counts.not-a-matrix", "symmetric"),
        ("%%MatrixMarket", "%%Matrix", "counts.not-a-matrix", "%%Matrix"),
        ("2 1 2", "2 1 x", "counts.structure", "x"),
        ("2 1 2", "2 1 2 3", "counts.structure", "4 fields"),
        ("2 1 2", "2 1", "counts.structure", ""),
        ("2 1 2", "0 1 2", "counts.structure", "0 to 4"),
        ("2 1 2", "2 0 2", "counts.structure", "0 to 3"),
        ("2 1 2", "2 1 2.5", "counts.structure", ""),
        ("2 1 2", "2 1 -2", "counts.negative", "-2"),
        ("2 1 2", "4 1 2", "counts.repeated-entries", "feature 4"),
        ("2 1 2", f"2 1 {2**40}", "counts.overflow", "1.0995"),
        ("2 1 2", f"2 1 {10**30}", "counts.structure", ""),
    ],
)
def test_matrix_market_that_is_not_what_it_says(folder, old, new, code, found):
    path = folder / "matrix.mtx"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    problem = refused_mtx(folder)
    assert problem.code == code
    assert found in problem.found


def test_transposed_matrix_is_called_so(folder):
    path = folder / "matrix.mtx"
    path.write_text("%%MatrixMarket matrix coordinate integer general\n3 4 0\n")
    assert "transposed" in refused_mtx(folder).found


def test_real_matrix_of_integers_counts(folder):
    path = folder / "matrix.mtx"
    path.write_text(path.read_text().replace("integer", "real").replace("2 1 2", "2 1 2e0"))
    (files,) = find_mtx(folder)
    assert read_counts_mtx(files).matrix.dtype == np.int32


def test_matrix_without_values_may_have_any_field(folder):
    empty = "%%MatrixMarket matrix coordinate pattern symmetric\n4 3 0\n"
    (folder / "matrix.mtx").write_text(empty)
    (files,) = find_mtx(folder)
    assert read_counts_mtx(files).matrix.nnz == 0


def test_blocks_add_up(folder, monkeypatch):
    monkeypatch.setattr("stformat.sources._counts_mtx.ENTRIES_PER_BLOCK", 1)
    (files,) = find_mtx(folder)
    np.testing.assert_array_equal(read_counts_mtx(files).matrix.toarray(), DENSE)


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "features.tsv"])
def test_pointers_cut_files_and_bytes_that_are_no_text(folder, name):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    problem = refused_mtx(folder)
    assert (problem.code, problem.where) == ("counts.lfs-pointer", name)
    path.write_bytes(gzip.compress(whole)[:-9])
    assert refused_mtx(folder).code == "counts.truncated"
    path.write_bytes(whole[:8] + b"\xff\xfe\xff\n" + whole[8:])
    assert refused_mtx(folder).where == name
    path.unlink()
    if name != "matrix.mtx":
        problem = refused_mtx(folder)
        assert problem.code == "counts.missing"
        assert name in problem.expected


@settings(max_examples=50, deadline=None)
@given(
    dense=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_clean_counts_is_the_dense_matrix_in_any_order(dense, seed):
    matrix = sparse.csr_array(np.array(dense, dtype=np.float64))
    zeros = sparse.csr_array(np.ones_like(dense))
    zeros.data[:] = 0
    random = np.random.default_rng(seed)
    data, indices, indptr = [], [], [0]
    for row, values in enumerate(dense):
        columns = random.permutation(4)
        indices.extend(columns)
        data.extend(values[column] for column in columns)
        indptr.append(4 * row + 4)
    clean, notes = clean_counts(
        "m", np.array(data), np.array(indices), np.array(indptr), shape=matrix.shape
    )
    np.testing.assert_array_equal(clean.toarray(), dense)
    assert clean.has_canonical_format
    assert clean.nnz == np.count_nonzero(dense)
    assert sum(note.count for note in notes) == 4 * len(dense) - clean.nnz
