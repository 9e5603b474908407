"""Keys of genes: identifiers by pattern, names made unique."""

from __future__ import annotations

import anndata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.genes.keys import (
    key_kind,
    parse_ensembl,
    split_genome,
    split_ids_and_names,
    unique_keys,
)

NAMES = st.lists(
    st.builds(
        lambda stem, numbers: "-".join([stem, *numbers]),
        st.sampled_from("AB"),
        st.lists(st.sampled_from("123"), max_size=2),
    ),
    max_size=12,
)


@given(names=NAMES)
def test_keys_are_unique_and_keep_first_names(names):
    keys, n_renamed = unique_keys(names)
    assert len(set(keys)) == len(names)
    assert n_renamed == len(names) - len(set(names)) == sum(keys != names)
    for column, name in enumerate(names):
        assert keys[column].startswith(name)
        if name not in names[:column]:
            assert keys[column] == name


@given(names=st.lists(st.sampled_from(["A", "B", "C"]), max_size=9))
def test_suffixes_are_those_of_anndata(names):
    keys, _ = unique_keys(names)
    import pandas as pd

    expected = anndata.utils.make_index_unique(pd.Index(names, dtype=object))
    assert keys.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ENSG00000141736", "ENSG00000141736"),
        ("ENSG00000141736.13", "ENSG00000141736"),
        ("ENSMUSG00000064339.1", "ENSMUSG00000064339"),
        ("ENSDARG00000000001", "ENSDARG00000000001"),
        ("ENSA", None),
        ("ENSG0000014173", None),
        ("ENST00000269571", None),
        ("ENSG00000002586.20_PAR_Y", None),
        ("ensg00000141736", None),
    ],
)
def test_ensembl_genes(name, expected):
    assert parse_ensembl(name) == expected


def test_kind_of_key_is_that_of_most_columns():
    gene_id, gene_name = split_ids_and_names(["ENSG00000141736", "ENSG00000141737", "ERCC-00002"])
    assert gene_id.tolist() == ["ENSG00000141736", "ENSG00000141737", None]
    assert gene_name.tolist() == [None, None, "ERCC-00002"]
    assert key_kind(gene_id) == "gene_id"
    assert key_kind(gene_id[1:]) == "gene_name"
    assert key_kind(gene_id[:0]) == "gene_name"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hg38_ERBB2", ("hg38", "ERBB2")),
        ("mm10_Erbb2", ("mm10", "Erbb2")),
        ("GRCh38______ENSG00000141736", ("GRCh38", "ENSG00000141736")),
        ("GRCm39_a_b", ("GRCm39", "a_b")),
        ("hg38_", (None, "hg38_")),
        ("HG38_ERBB2", (None, "HG38_ERBB2")),
        ("RP11_206L10.2", (None, "RP11_206L10.2")),
        ("ERBB2", (None, "ERBB2")),
    ],
)
def test_genome_before_a_name(name, expected):
    assert split_genome(name) == expected
