"""Genes are found by key, identifier or name, and never guessed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.errors import GeneLookupError
from stformat.genes.lookup import GeneIndex

INDEX = GeneIndex(
    ["k1", "k2", "k3", "ERBB2", "k5"],
    ["ENSG1", "ENSG2", "ENSG3", None, "ENSG5"],
    ["TBCE", "TBCE", "ERBB2", "other", None],
)


def test_keys_identifiers_and_names_may_be_mixed():
    np.testing.assert_array_equal(INDEX.resolve(["k2", "ENSG1", "other", "k2"]), [1, 0, 3, 1])


def test_a_key_wins_over_a_name():
    np.testing.assert_array_equal(INDEX.resolve(["ERBB2"]), [3])


def test_no_genes():
    found = INDEX.resolve([])
    assert found.shape == (0,)
    assert found.dtype == np.int64


def test_an_ambiguous_name_lists_its_keys():
    with pytest.raises(GeneLookupError, match="2 genes of that name; choose among the keys k1, k2"):
        INDEX.resolve(["TBCE"])


def test_an_unknown_name_shows_close_ones():
    with pytest.raises(GeneLookupError, match=r"no such gene; did you mean .*ERBB2"):
        INDEX.resolve(["erbb3"])


def test_every_problem_is_named():
    with pytest.raises(GeneLookupError) as caught:
        INDEX.resolve(["k1", "TBCE", "nothing like it", "ERB2"])
    assert [(p.code, p.where) for p in caught.value.problems] == [
        ("genes.ambiguous", "TBCE"),
        ("genes.unknown", "nothing like it"),
        ("genes.unknown", "ERB2"),
    ]
    assert caught.value.problems[1].remedy == ""


def test_a_name_that_is_also_the_identifier_of_the_same_gene_is_one_gene():
    index = GeneIndex(["a"], ["ENSG1"], ["ENSG1"])
    np.testing.assert_array_equal(index.resolve(["ENSG1"]), [0])


def test_one_string_is_not_a_list_of_letters():
    with pytest.raises(TypeError, match="'ERBB2'"):
        INDEX.resolve("ERBB2")


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one entry a column, got 2, 1 and 2"):
        GeneIndex(["a", "b"], [None], [None, None])
    with pytest.raises(ValueError, match="unique"):
        GeneIndex(["a", "a"], [None, None], [None, None])


@given(st.lists(st.text("abc", max_size=2), unique=True), st.data())
def test_resolving_is_reading_the_columns(keys, data):
    names = [data.draw(st.none() | st.text("abc", max_size=2)) for _ in keys]
    wanted = data.draw(st.lists(st.text("abc", max_size=2), max_size=4))

    def plain(gene: str) -> list[int]:
        if gene in keys:
            return [keys.index(gene)]
        return [column for column, name in enumerate(names) if name == gene]

    expected = [plain(gene) for gene in wanted]
    index = GeneIndex(keys, [None] * len(keys), names)
    if all(len(columns) == 1 for columns in expected):
        assert index.resolve(wanted).tolist() == [columns[0] for columns in expected]
    else:
        with pytest.raises(GeneLookupError) as caught:
            index.resolve(wanted)
        assert len(caught.value.problems) == sum(len(columns) != 1 for columns in expected)
