from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.genes.vocabulary import (
    SOURCE_KEYS,
    GeneVocabulary,
    first_columns,
    species_of_genome,
)

ERBB2, TBCE, OTHER_TBCE = "ENSG00000141736", "ENSG00000116957", "ENSG00000284770"
HUMAN, MOUSE = "Homo sapiens", "Mus musculus"


def table(*rows):
    """A table of (key, gene_id, gene_name, genome), as slides have it."""
    columns = list(zip(*rows, strict=True))
    frame = pd.DataFrame(
        dict(zip(("gene_id", "gene_name", "genome"), columns[1:], strict=True)), dtype=object
    )
    return frame.set_index(pd.Index(columns[0], name="key"))


def test_symbols_and_identifiers_of_one_gene_have_one_key():
    vocabulary = GeneVocabulary.from_pairs([("ERBB2", f"{ERBB2}.13")], species=HUMAN)
    var = table(
        ("a", ERBB2, "ERBB2", None),
        ("b", f"{ERBB2}.4", None, None),
        ("c", None, "ERBB2", None),
        ("d", None, "ERBB2", "hg38"),
        ("e", None, "NOVEL", None),
        ("f", None, None, None),
    )
    keys = vocabulary.keys_of(var, species=HUMAN).tolist()
    assert keys == [ERBB2, ERBB2, ERBB2, ERBB2, "NOVEL", "f"]


def test_missing_texts_of_any_kind_are_missing():
    vocabulary = GeneVocabulary.from_pairs([])
    frame = table(("a", None, "X", None), ("b", None, "Y", None))
    frame["gene_id"] = pd.array([pd.NA, pd.NA], dtype="string")
    frame["genome"] = np.nan
    assert vocabulary.keys_of(frame).tolist() == ["X", "Y"]


def test_symbols_of_a_graft_keep_their_genome():
    vocabulary = GeneVocabulary.from_pairs([("ERBB2", ERBB2), ("Erbb2", "wrong")], species=HUMAN)
    var = table(("a", None, "ERBB2", "GRCh38"), ("b", None, "Erbb2", "mm10"))
    assert vocabulary.keys_of(var, species=HUMAN).tolist() == [ERBB2, "mm10_Erbb2"]


def test_slides_of_another_species_are_not_looked_up():
    vocabulary = GeneVocabulary.from_pairs([("ERBB2", ERBB2)], species=HUMAN)
    var = table(("a", None, "ERBB2", None))
    assert vocabulary.keys_of(var, species="Sus scrofa").tolist() == ["ERBB2"]


def test_a_symbol_of_several_genes_is_none_of_them():
    pairs = [("TBCE", TBCE), ("TBCE", OTHER_TBCE), ("ERBB2", ERBB2)]
    vocabulary = GeneVocabulary.from_pairs(pairs)
    assert vocabulary.ambiguous == ("TBCE",)
    assert vocabulary.keys_of(table(("a", None, "TBCE", None))).tolist() == ["TBCE"]


@given(st.permutations([("A", "1"), ("B", "2"), ("B", "3"), ("A", "1"), ("hg38_C", "4")]))
def test_order_and_repetition_do_not_matter(pairs):
    plain = GeneVocabulary.from_pairs([("A", "1"), ("B", "2"), ("B", "3"), ("C", "4")])
    found = GeneVocabulary.from_pairs(pairs)
    assert found.to_json() == plain.to_json()


def test_versions_tell_contents_apart():
    first = GeneVocabulary.from_pairs([("A", "1")])
    second = GeneVocabulary.from_pairs([("A", "2")])
    named = GeneVocabulary.from_pairs([("A", "2")], version="GENCODE 44")
    assert first.version != second.version
    assert named.version == "GENCODE 44"


def test_tables_teach_their_own_symbols():
    known = table(("a", ERBB2, "ERBB2", "GRCh38"), ("b", "ENSMUSG00000062312", "Erbb2", "mm10"))
    vocabulary = GeneVocabulary.from_tables([known, table(("c", None, "X", None))], species=HUMAN)
    assert dict(vocabulary.ids) == {"ERBB2": ERBB2}


def test_source_keys_are_taken_as_they_are():
    var = table(("hg38_ERBB2", None, "ERBB2", "hg38"), ("x", ERBB2, None, None))
    assert SOURCE_KEYS.keys_of(var).tolist() == ["hg38_ERBB2", "x"]


def test_first_of_several_columns_stands_for_a_gene():
    keys = np.array(["A", "B", "A", "A"], dtype=object)
    assert first_columns(keys) == ({"A": 0, "B": 1}, 2)


def test_a_part_finds_what_the_whole_finds():
    pairs = [("ERBB2", ERBB2), ("HER2", ERBB2), ("CD4", "ENSG00000010610")]
    whole = GeneVocabulary.from_pairs(pairs, species=HUMAN)
    part = whole.restricted_to([ERBB2])
    assert dict(part.ids) == {"ERBB2": ERBB2, "HER2": ERBB2}
    assert part.version == whole.version
    assert GeneVocabulary.from_json(part.to_json()).to_json() == part.to_json()


@pytest.mark.parametrize(
    ("genome", "species"),
    [("hg19", HUMAN), ("GRCh38", HUMAN), ("mm10", MOUSE), ("GRCm39", MOUSE), ("custom", None)],
)
def test_species_of_genomes(genome, species):
    assert species_of_genome(genome) == species
