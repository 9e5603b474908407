"""One spelling for many, from tables that contradict themselves nowhere."""

import csv
import re
from importlib import resources

import pytest

from stformat.terms import label_term, species_term, tables, tissue_term

TABLES = {"species": species_term, "tissue": tissue_term, "label": label_term}


@pytest.mark.parametrize(
    "spelling", ["human", "Human", "HOMO SAPIENS", "homo_sapiens", " h. sapiens "]
)
def test_spellings_of_one_species_meet(spelling):
    assert species_term(spelling).curie == "NCBITaxon:9606"


def test_labels_of_two_studies_meet():
    assert {label_term(text).name for text in ("L1", "Layer1", "Layer_1", "layer 1")} == {
        "cortical layer 1"
    }
    assert label_term("invasive cancer").name == "invasive carcinoma"


@pytest.mark.parametrize("text", ["", "human & mouse", "no such thing", "undetermined"])
def test_what_no_table_has_is_none(text):
    assert species_term(text) is None
    assert tissue_term(text) is None
    assert label_term(text) is None


@pytest.mark.parametrize("name", TABLES)
def test_no_spelling_has_two_meanings(name):
    content = resources.files("stformat.terms").joinpath(f"{name}.csv").read_text("utf-8")
    rows = list(csv.DictReader(content.splitlines()))
    spellings = [
        tables._key(spelling)
        for row in rows
        for spelling in {row["name"], *row["synonyms"].split("|")} - {""}
    ]
    assert sorted(set(spellings)) == sorted(spellings)
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows) or name == "species"
    for row in rows:
        assert TABLES[name](row["name"]).name == row["name"]
        assert row["curie"] == "" or re.fullmatch(r"[A-Za-z]+:[0-9]+", row["curie"])
