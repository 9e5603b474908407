"""Terms stand beside labels, which stay as they were given."""

from dataclasses import replace

import numpy as np

from stformat.sources._label_terms import with_label_terms
from stformat.testing.records import make_record


def labelled(**annotations):
    record = make_record(n_obs=4, image_px=None)
    table = record.tables[0]
    columns = {name: np.array(values, dtype=object) for name, values in annotations.items()}
    spots = replace(table.spots, annotations=columns)
    return replace(record, tables=(replace(table, spots=spots), replace(table, spots=spots)))


def test_terms_stand_beside_labels():
    record = with_label_terms(labelled(layer=["Layer_1", "WM", None, "undetermined"]))
    columns = record.tables[0].spots.annotations
    assert columns["layer"].tolist() == ["Layer_1", "WM", None, "undetermined"]
    assert columns["layer_term"].tolist() == ["cortical layer 1", "white matter", None, None]
    assert record.tables[1].spots is record.tables[0].spots
    [note] = [note for note in record.notes if note.code == "labels.without-term"]
    assert note.count == 1
    assert note.message.startswith("1 label of 'layer' (undetermined) mean")


def test_labels_that_mean_nothing_elsewhere_get_no_column():
    record = labelled(cluster=["1", "2", None, "1"])
    assert with_label_terms(record).tables[0].spots.annotations.keys() == {"cluster"}
    assert with_label_terms(record).notes == record.notes


def test_terms_that_are_there_stay():
    record = labelled(layer=["L1"] * 4, layer_term=["mine"] * 4)
    columns = with_label_terms(record).tables[0].spots.annotations
    assert {name: set(values.tolist()) for name, values in columns.items()} == {
        "layer": {"L1"},
        "layer_term": {"mine"},
    }


def test_doing_it_twice_changes_nothing():
    once = with_label_terms(labelled(layer=["L1", "L2", None, "WM"]))
    twice = with_label_terms(once)
    assert twice.tables[0].spots.annotations.keys() == {"layer", "layer_term"}
