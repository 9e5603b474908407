"""Trees of folders: every slide once, whatever links lead to it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stformat.errors import CountsError, UnknownSourceError
from stformat.sources import list_slides, read_slide
from stformat.testing import (
    VisiumQuirks,
    expected_visium,
    make_slide,
    write_legacy_st,
    write_visium,
)

SMALL = {"height": 240, "width": 240, "n_genes": 8, "pitch_px": 30.0}


def legacy(folder, name="A", **changes):
    slide = make_slide(**SMALL, seed=0, slide_id=name)
    return write_legacy_st(slide, folder, image_format=None, **changes)


def visium_slide(name, seed):
    return make_slide(**SMALL, seed=seed, slide_id=name, lattice="hexagonal")


def found(tree, **options):
    return [
        (one.slide_id, one.path.relative_to(tree)) for one in list_slides(tree, **options).slides
    ]


def test_slides_come_by_name_and_nothing_below_them_is_looked_at(tmp_path):
    for name in ("b", "a", "a/below", "c/d/e"):
        legacy(tmp_path / name, name.replace("/", "_"))
    assert found(tmp_path) == [("a", Path("a")), ("b", Path("b")), ("c_d_e", Path("c/d/e"))]
    assert found(tmp_path, excluded=[tmp_path / "c"]) == [("a", Path("a")), ("b", Path("b"))]


def test_hidden_folders_and_files_are_not_entered(tmp_path):
    legacy(tmp_path / "shown")
    legacy(tmp_path / ".snapshot" / "shown")
    legacy(tmp_path / "kept" / ".ipynb_checkpoints")
    (tmp_path / "notes.txt").write_text("x")
    assert found(tmp_path) == [("A", Path("shown"))]


def test_links_are_followed_and_loops_end(tmp_path):
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    legacy(elsewhere / "study" / "linked", "L")
    legacy(tree / "own", "O")
    (tree / "to-study").symlink_to(elsewhere / "study")
    (tree / "own-again").symlink_to(tree / "own")
    (tree / "z-up").symlink_to(tree)
    (elsewhere / "study" / "back").symlink_to(tree)
    (tree / "dangling").symlink_to(tmp_path / "nowhere")
    (tree / "itself").symlink_to(tree / "itself")
    listing = list_slides(tree)
    assert listing.refused == ()
    assert found(tree) == [("O", Path("own")), ("L", Path("to-study/linked"))]


def test_a_folder_of_two_kinds_is_refused_and_keeps_no_other_from_the_list(tmp_path):
    legacy(tmp_path / "a")
    both = legacy(tmp_path / "both", layout="flat")
    write_visium(visium_slide("V", 1), both, quirks=VisiumQuirks(layout="flat", images="none"))
    legacy(tmp_path / "both" / "below")
    legacy(tmp_path / "c", "C")
    listing = list_slides(tmp_path)
    assert [one.slide_id for one in listing.slides] == ["A", "C"]
    ((folder, error),) = listing.refused
    assert folder == both
    assert isinstance(error, UnknownSourceError)
    (problem,) = error.problems
    assert (problem.code, problem.found) == ("source.ambiguous", "legacy_st, visium")
    assert ("both", Path("both")) in found(tmp_path, kind="visium")


@pytest.fixture
def geo(tmp_path):
    """Samples of one study side by side, as GEO has them; one name is the beginning of another."""
    folder = tmp_path / "GSE1"
    slides = {
        f"GSM1_{name}": visium_slide(name, seed) for seed, name in enumerate(["A", "A_2", "B"])
    }
    for name, counts in (("GSM1_A", "h5"), ("GSM1_A_2", "mtx"), ("GSM1_B", "h5")):
        write_visium(slides[name], folder, quirks=VisiumQuirks(layout="flat", counts=counts))
    return folder, slides


def test_samples_side_by_side_are_a_slide_each(geo):
    folder, slides = geo
    listed = list_slides(folder).slides
    assert [(one.slide_id, one.sample, one.path) for one in listed] == [
        (name, name, folder) for name in slides
    ]
    names = [path.name for one in listed for path in one.files]
    assert len(set(names)) == len(names)
    for one in listed:
        assert all(path.name.startswith(f"{one.sample}_") for path in one.files)
        slide = slides[one.slide_id]
        record = read_slide(one.path, slide_id=one.sample)
        expected = expected_visium(slide, VisiumQuirks(layout="flat"))
        (table,) = record.tables
        np.testing.assert_array_equal(
            np.vstack([block.toarray() for block in table.counts.iter_blocks()]),
            expected.counts.toarray(),
        )
        np.testing.assert_allclose(table.spots.xy, expected.xy, atol=1e-6)
        assert record.image is not None
        (pixels,) = record.image.iter_bands(record.image.shape[1])
        np.testing.assert_array_equal(pixels, expected.image)


def test_a_sample_is_never_given_the_matrix_of_another(geo):
    """Barcodes are the same on every slide: they would join."""
    folder, _ = geo
    for name in ("GSM1_A", "GSM1_A_2"):
        for path in folder.glob(f"{name}_filtered*"):
            path.unlink()
    assert [one.slide_id for one in list_slides(folder).slides] == ["GSM1_A", "GSM1_A_2", "GSM1_B"]
    for name in ("GSM1_A", "GSM1_A_2"):
        with pytest.raises(CountsError, match="a count matrix is needed"):
            read_slide(folder, slide_id=name)
    assert read_slide(folder, slide_id="GSM1_B").slide_id == "GSM1_B"
