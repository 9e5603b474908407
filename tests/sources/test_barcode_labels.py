"""Labels of spots by barcode, with every way that studies write them."""

from __future__ import annotations

import pytest

from stformat.errors import InputError, PositionsError
from stformat.sources import read_slide
from stformat.sources._barcode_labels import read_barcode_labels
from stformat.testing import make_slide, write_visium


@pytest.fixture(scope="module")
def slide():
    return make_slide(height=260, width=300, n_genes=30, pitch_px=24.0, seed=3, lattice="hexagonal")


def codes(record):
    return {note.code: note.count for note in record.notes}


def refused(error, folder, **arguments):
    with pytest.raises(error) as caught:
        read_slide(folder, **arguments)
    (problem,) = caught.value.problems
    return problem


def write_labels(folder, text):
    path = folder / "labels.csv"
    path.write_text(text)
    return {"labels": path}


def as_given(record):
    """The labels of a file; terms stand beside them."""
    annotations = record.tables[0].spots.annotations
    return {name: values for name, values in annotations.items() if not name.endswith("_term")}


def test_labels_by_barcode(slide, tmp_path):
    write_visium(slide, tmp_path)
    barcodes = read_slide(tmp_path).tables[0].spots.barcodes.tolist()
    lines = [f"{barcode.removesuffix('-1')},L{n % 3}, {n}" for n, barcode in enumerate(barcodes)]
    text = "Barcode,Layer guess,layer_GUESS\n" + "\n".join(lines[1:]) + "\nTTTT,L1,9\n"
    record = read_slide(tmp_path, options=write_labels(tmp_path, text))
    annotations = as_given(record)
    assert list(annotations) == ["Layer_guess", "layer_GUESS_2"]
    assert annotations["Layer_guess"].tolist() == [
        None,
        *(f"L{n % 3}" for n in range(1, len(lines))),
    ]
    assert annotations["layer_GUESS_2"][1] == "1"
    found = codes(record)
    assert (found["labels.without-spot"], found["spots.without-label"]) == (1, 1)


def test_labels_of_several_samples_are_those_of_the_slide(slide, tmp_path):
    write_visium(slide, tmp_path / "humanpilot_151673")
    source = tmp_path / "humanpilot_151673"
    barcodes = read_slide(source).tables[0].spots.barcodes.tolist()
    lines = [
        f"{barcode}\t{sample}\t{label}"
        for sample, label in (("151507", "WM"), ("151673", "L1"))
        for barcode in barcodes
    ]
    options = write_labels(tmp_path, "\n".join(lines) + "\n")
    annotations = as_given(read_slide(source, options=options))
    assert {name: set(values) for name, values in annotations.items()} == {"label": {"L1"}}
    problem = refused(PositionsError, source, slide_id="P7", options=options)
    assert problem.code == "labels.contradiction"
    assert "slide_id" in problem.remedy


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("cell_id,first,second", ["first", "second"]),
        ("first,second", ["first", "second"]),
        (None, ["label", "label_2"]),
    ],
    ids=["another-name", "row-names-of-R", "no-header"],
)
def test_labels_are_told_from_their_header_by_content(slide, tmp_path, first, names):
    write_visium(slide, tmp_path)
    barcodes = read_slide(tmp_path).tables[0].spots.barcodes.tolist()
    # The first label is missing, and the last spot is of no row.
    lines = [f"{barcode},{'L1' * (n > 0)},L2" for n, barcode in enumerate(barcodes)]
    text = "\n".join([first, *lines] if first else [*lines, "TTTTTTTTTTTTTTTT-1,L1,L2"]) + "\n"
    record = read_slide(tmp_path, options=write_labels(tmp_path, text))
    annotations = as_given(record)
    assert list(annotations) == names
    assert annotations[names[0]].tolist() == [None] + ["L1"] * (len(barcodes) - 1)
    assert annotations[names[1]].tolist() == ["L2"] * len(barcodes)
    assert codes(record).get("labels.without-spot", 0) == (first is None)


def test_labels_off_the_slide_are_no_header(slide, tmp_path):
    write_visium(slide, tmp_path)
    barcode = read_slide(tmp_path).tables[0].spots.barcodes[0]
    text = f"TTTTTTTTTTTTTTTT-1,L1\n{barcode},L2\n"
    record = read_slide(tmp_path, options=write_labels(tmp_path, text))
    assert list(as_given(record)) == ["label"]
    assert codes(record)["labels.without-spot"] == 1


def test_labels_without_what_tells_spots_apart_are_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("barcode,label\nAAACAAAC,L1\n")
    with pytest.raises(PositionsError) as caught:
        read_barcode_labels(path, ["AAACAAAC-1", "AAACAAAC-2"], slide_id="A1")
    (problem,) = caught.value.problems
    assert problem.code == "labels.no-join"
    assert "suffix" in problem.found


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("barcode,label\nTTTT,L1\n", "labels.no-join"),
        ("barcode,label\n", "labels.no-join"),
        ("", "labels.columns"),
        ("barcode,label\nTTTT\n", "labels.columns"),
        ("barcode,label\n{0},L1\n{0},L2\n", "labels.contradiction"),
    ],
)
def test_labels_that_are_none(slide, tmp_path, text, code):
    write_visium(slide, tmp_path)
    barcode = read_slide(tmp_path).tables[0].spots.barcodes[0]
    options = write_labels(tmp_path, text.format(barcode))
    assert refused(PositionsError, tmp_path, options=options).code == code


def test_labels_must_be_a_file(slide, tmp_path):
    write_visium(slide, tmp_path)
    problem = refused(InputError, tmp_path, options={"labels": tmp_path})
    assert problem.code == "option.path"


def test_rows_that_repeat_and_other_names_of_spots(tmp_path):
    path = tmp_path / "anno.csv"
    path.write_text(",label\nS_1x1,a\nS_1x2,b\nS_1x1,a\n1x3,c\n")
    names, aliases = ["S_1x1", "S_1x2", "S_1x3"], ["1x1", "1x2", "1x3"]
    found, notes = read_barcode_labels(path, names, slide_id="S", aliases=aliases)
    assert found["label"].tolist() == ["a", "b", "c"]
    assert [(note.code, note.count) for note in notes] == [("labels.repeated", 1)]
    path.write_text(path.read_text().replace("S_1x1,a\n1x3", "S_1x1,z\n1x3"))
    with pytest.raises(PositionsError, match="S_1x1 more than once"):
        read_barcode_labels(path, names, slide_id="S", aliases=aliases)
