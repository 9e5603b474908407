"""Records that contradict themselves are refused before anything is written."""

import dataclasses

import numpy as np
import pytest

from stformat.errors import InputError
from stformat.model import Mpp
from stformat.store.record_checks import validate_record
from stformat.store.writer import write_slide
from stformat.testing.records import make_image, make_record

replace = dataclasses.replace


def with_spots(**changes):
    record = make_record(n_obs=5, image_px=(30, 40))
    table = record.tables[0]
    return replace(record, tables=(replace(table, spots=replace(table.spots, **changes)),))


def with_genes(**changes):
    record = make_record(n_obs=5, image_px=(30, 40))
    table = record.tables[0]
    return replace(record, tables=(replace(table, genes=replace(table.genes, **changes)),))


def with_record(**changes):
    return replace(make_record(n_obs=5, image_px=(30, 40)), **changes)


def with_image(**changes):
    record = make_record(n_obs=5, image_px=(30, 40))
    return replace(record, image=replace(record.image, **changes))


def objects(*values):
    return np.array(values, dtype=object)


LABELS = objects("a", "b", None, "a", "b")


def two_tables(**changes):
    record = make_record(n_obs=5, image_px=(30, 40))
    first = record.tables[0]
    second = replace(first, name="antibody_capture", spots=replace(first.spots, **changes))
    return replace(record, tables=(first, second))


@pytest.mark.parametrize(
    "record",
    [
        make_record(),
        make_record(image_px=None, mpp=None),
        make_record(shape="square"),
        two_tables(),
        with_spots(annotations={"Label_2.x-y": LABELS}),
    ],
)
def test_consistent_records_have_no_problems(record):
    assert validate_record(record) == []


@pytest.mark.parametrize(
    ("record", "code", "text"),
    [
        (with_spots(xy=np.zeros((4, 2))), "record.shape", "xy must have the shape (5, 2)"),
        (with_spots(in_tissue=np.ones(6, bool)), "record.shape", "in_tissue"),
        (with_spots(section=objects("a")), "record.shape", "section"),
        (with_spots(annotations={"label": LABELS[:2]}), "record.shape", "label"),
        (with_spots(barcodes=objects(*"abcd")), "record.shape", "counts"),
        (with_genes(genome=objects(None)), "record.shape", "genome"),
        (with_spots(barcodes=objects(*"abcab")), "record.duplicates", "2 that repeat"),
        (with_genes(keys=objects(*["k"] * 30)), "record.duplicates", "gene keys"),
        (with_spots(xy=np.full((5, 2), np.nan)), "record.value", "nan and 9 more"),
        (with_spots(radius_px=np.array([1, 2, 0, 3, 4.0])), "record.value", "0.0 and 0 more"),
        (with_spots(radius_px=np.full(5, np.inf)), "record.value", "inf"),
        (with_spots(annotations={"a b": LABELS}), "record.name", "a b"),
        (with_spots(annotations={"__x": LABELS}), "record.name", "__x"),
        (with_spots(annotations={"X": LABELS}), "record.name-taken", "'X'"),
        (with_spots(annotations={"barcode": LABELS}), "record.name-taken", "barcode"),
        (with_spots(annotations={"a": LABELS, "A": LABELS}), "record.name-taken", "'a'"),
        (two_tables(barcodes=objects(*"abcde")), "record.region", "antibody_capture"),
        (two_tables(radius_px=np.full(5, 3.0)), "record.region", "antibody_capture"),
        (with_record(default_table="other"), "record.description", "default_table"),
        (with_record(slide_id=""), "record.description", "StformatAttributes.slide_id"),
        (
            with_record(mpp=Mpp(value=-1.0, method="given")),
            "record.description",
            "MppAttributes.value",
        ),
        (with_spots(region="a/b"), "record.description", "region"),
        (with_spots(region="Expression"), "record.description", "unique"),
        (with_spots(region="he"), "record.description", "unique"),
        (with_image(channel_names=("a",)), "record.channels", "3 channel names"),
        (with_image(dtype=np.dtype(np.float32)), "record.image", "uint8 or uint16"),
        (with_record(image=make_image(np.zeros((3, 0, 4), np.uint8))), "record.image", "pixel"),
    ],
)
def test_contradictions_are_named(tmp_path, record, code, text):
    problems = validate_record(record)
    assert code in {problem.code for problem in problems}
    assert any(text in str(problem) for problem in problems if problem.code == code)
    with pytest.raises(InputError):
        write_slide(record, tmp_path)
    assert not any(tmp_path.iterdir())


def test_all_problems_are_said_at_once():
    record = with_spots(annotations={"x": LABELS}, barcodes=objects(*"aabcd"))
    codes = [problem.code for problem in validate_record(replace(record, slide_id=""))]
    assert codes == ["record.duplicates", "record.name-taken", "record.description"]
