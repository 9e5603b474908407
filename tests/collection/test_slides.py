from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

import stformat as stf
from stformat.collection.catalogue import CATALOGUE_NAME, dump_catalogue, parse_catalogue
from stformat.collection.slides import Collection
from stformat.errors import CatalogueError, CatalogueLookupError, CatalogueStaleWarning


@pytest.fixture
def slides(write_store, fast_path):
    write_store("A", technology="ST", donor="d1", keywords=("breast", "her2"))
    write_store("B", technology="Visium", species="Homo sapiens", tissue="Breast")
    write_store("C", technology="Visium", species="mouse", involves_cancer=False)
    stf.collect_slides(fast_path)
    return stf.open_collection(fast_path)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, "ABC"),
        ({"technology": "Visium"}, "BC"),
        ({"technology": ["Visium", "ST"]}, "ABC"),
        ({"technology": "visium"}, ""),
        ({"species": "human"}, "AB"),
        ({"species": "Homo sapiens"}, "AB"),
        ({"species": ("mouse", "rat")}, "C"),
        ({"tissue": "breast"}, "B"),
        ({"donor": None}, "BC"),
        ({"donor": float("nan")}, "BC"),
        ({"donor": np.array([np.nan, "d1"], dtype=object)}, "ABC"),
        ({"donor": lambda donor: donor.startswith("d")}, "A"),
        ({"donor": [None, "d1"]}, "ABC"),
        ({"keywords": "her2"}, "A"),
        ({"involves_cancer": False}, "C"),
        ({"n_obs": lambda n: 10 < n < 100, "species": "mouse"}, "C"),
        ({"mpp": 0.5}, "ABC"),
        ({"n_obs": range(100)}, "ABC"),
        ({"n_obs": np.arange(30)}, ""),
        ({"slide_id": np.array(["A", "C"])}, "AC"),
        ({"slide_id": {"A": 1, "B": 2}.keys()}, "AB"),
        ({"slide_id": (name for name in "BC")}, "BC"),
        ({"n_obs": np.int64(30)}, "ABC"),
        ({"keywords": None}, "BC"),
        ({"keywords": ["her2", "none"]}, "A"),
        ({"keywords": [None, "her2"]}, "ABC"),
        ({"keywords": lambda keyword: keyword.startswith("her")}, "A"),
        ({"keywords": [None, lambda keyword: keyword.startswith("x")]}, "BC"),
        ({"donor": [None, lambda donor: donor == "d1"]}, "ABC"),
        ({"species": np.array(["Human"])}, "AB"),
    ],
)
def test_slides_are_chosen_by_columns(slides, conditions, expected):
    assert "".join(slides.where(**conditions).slide_ids) == expected


def test_choices_may_follow_one_another(slides):
    chosen = slides.where(species="human").where(technology="Visium")
    assert chosen.slide_ids == ("B",)
    assert len(chosen.catalogue) == 1
    assert "A" not in chosen
    with pytest.raises(CatalogueLookupError, match="none that has it"):
        chosen["A"]


def test_unknown_columns_are_refused_with_those_there_are(slides):
    with pytest.raises(CatalogueLookupError, match=r"one of path, slide_id, .*, found no such"):
        slides.where(organ="breast")


def test_conditions_that_no_value_could_meet_are_refused(slides):
    with pytest.raises(CatalogueLookupError, match=r"keywords: .*\[\['her2'\]\]; .*name an entry"):
        slides.where(keywords=[["her2"]])


def test_slides_are_opened_by_place_and_identifier(slides):
    with slides[0] as slide, slides["A"] as same, slides[-1] as last, slides[np.int64(1)] as second:
        assert slide.slide_id == same.slide_id == "A"
        assert (last.slide_id, second.slide_id) == ("C", "B")
    with pytest.raises(IndexError):
        slides[3]
    assert slides[1:].slide_ids == ("B", "C")
    assert [slide.slide_id for slide in slides] == ["A", "B", "C"]
    assert slides.select(["C", "A"]).slide_ids == ("C", "A")


def test_slides_are_not_found_by_what_is_no_place_or_list(slides):
    with pytest.raises(TypeError):
        slides[1.7]
    with pytest.raises(CatalogueLookupError, match=r"list of identifiers.*'CA'.*give \['CA'\]"):
        slides.select("CA")
    for unordered in ({"C", "A"}, frozenset(["A"])):
        with pytest.raises(CatalogueLookupError, match=r"no order; give sorted\(slide_ids\)"):
            slides.select(unordered)
    with pytest.raises(CatalogueLookupError, match="none that has it"):
        slides.select([1])


@pytest.mark.usefixtures("slides")
def test_thousands_are_selected_at_once(fast_path):
    row = parse_catalogue((fast_path / CATALOGUE_NAME).read_bytes(), "here").rows()[0]
    ids = [f"S{number:05d}" for number in range(4000)]
    rows = [row | {"slide_id": name, "path": f"{name}.zarr"} for name in ids]
    (fast_path / CATALOGUE_NAME).write_bytes(dump_catalogue(rows))
    many = stf.open_collection(fast_path)
    start = time.process_time()
    chosen = many.select(ids[::-1])
    assert all(name in many for name in ids)
    assert time.process_time() - start < 2  # half a minute where each is looked for from the start
    assert chosen.slide_ids == tuple(ids[::-1])
    assert many.where(slide_id=ids[:3000]).slide_ids == tuple(ids[:3000])


def test_catalogue_is_a_frame_of_ones_own(slides):
    frame = slides.catalogue
    assert frame["slide_id"].tolist() == ["A", "B", "C"]
    assert "fingerprint_rows" not in frame
    frame["slide_id"] = "mine"
    assert slides.slide_ids == ("A", "B", "C")


@pytest.mark.usefixtures("slides")
def test_nothing_but_the_catalogue_is_needed_until_a_slide_is(fast_path):
    shutil.rmtree(fast_path / "B.zarr")
    again = stf.open_collection(fast_path)
    assert again.where(species="human").slide_ids == ("A", "B")
    with pytest.raises(stf.errors.NotAStoreError):
        again["B"]


def test_it_survives_pickling_and_copying(slides):
    for twin in (pickle.loads(pickle.dumps(slides[1:])), copy.copy(slides[1:])):  # noqa: S301
        assert twin.slide_ids == ("B", "C")
        with twin["B"] as slide:
            assert slide.n_obs == 30


def test_a_store_that_was_converted_since_is_told(slides, write_store):
    write_store("A", technology="Visium", donor="other")
    with pytest.warns(CatalogueStaleWarning, match="run stformat collect again"):
        slides["A"].close()


def test_representations_show_no_markup_of_the_slides(slides, fast_path):
    row = parse_catalogue((fast_path / CATALOGUE_NAME).read_bytes(), "here").rows()[0]
    rows = [row | {"slide_id": f"S{number:02d}", "tissue": "<script>"} for number in range(12)]
    (fast_path / CATALOGUE_NAME).write_bytes(dump_catalogue(rows))
    assert repr(slides).endswith(": 3 slides>")
    many = stf.open_collection(fast_path)
    assert repr(many[:1]).endswith(": 1 of 12 slides>")
    text = many._repr_html_()
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "S09" in text
    assert "S10" not in text
    assert "and 2 more" in text


def test_folders_without_a_catalogue_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CatalogueError, match="make it with stformat collect"):
            stf.open_collection(folder)
    (tmp_path / CATALOGUE_NAME).write_bytes(b"PAR1")
    with pytest.raises(CatalogueError, match="a Parquet file that stformat collect wrote"):
        stf.open_collection(tmp_path)
    (tmp_path / CATALOGUE_NAME).write_bytes(b"")
    with pytest.raises(CatalogueError, match="found its catalogue; give the folder"):
        stf.open_collection(tmp_path / CATALOGUE_NAME)


@pytest.mark.usefixtures("slides")
def test_catalogues_of_another_version_are_refused(fast_path):
    table = pq.read_table(fast_path / CATALOGUE_NAME)
    pq.write_table(
        table.replace_schema_metadata({"stformat_catalogue": "9"}), fast_path / CATALOGUE_NAME
    )
    with pytest.raises(CatalogueError, match=r"reads catalogues of version 0\.1, found '9'"):
        stf.open_collection(fast_path)
    pq.write_table(table.drop_columns(["nnz"]), fast_path / CATALOGUE_NAME)
    with pytest.raises(CatalogueError, match=r"nnz"):
        stf.open_collection(fast_path)


def test_panels_of_a_collection_are_those_of_its_slides(slides):
    human = slides.where(species="human")
    panel = human.gene_panel("intersection")
    assert panel.digest == stf.gene_panel(list(human)).digest
    assert isinstance(human, Collection)


@pytest.mark.usefixtures("slides")
def test_opening_loads_no_table_library(fast_path):
    code = (
        f"import sys, stformat; s = stformat.open_collection({str(fast_path)!r}); "
        "s.where(species='human'); print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert not {"pandas", "scipy", "numba", "zarr", "anndata", "xarray"} & loaded
