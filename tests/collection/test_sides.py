"""One side of a split holds its rows alone, whoever reads it."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stformat as stf
from stformat.errors import CatalogueLookupError, SplitError, StoreReplaced

BLOCKS = {"by": "block", "tile_px": 20, "fractions": (0.6, 0.2, 0.2)}


@pytest.fixture
def slides(write_store, fast_path, draw_counts):
    """Two slides of scattered rows, one of which has two sections, and images."""
    random = np.random.default_rng(0)
    for seed, name in enumerate("AB"):
        write_store(
            name, draw_counts(60, 80, seed), xy=random.uniform(0, 900, (60, 2)), image_seed=seed,
            technology="ST" if name == "A" else "Visium", sections=name == "A",
        )  # fmt: skip
    stf.collect_slides(fast_path)
    return stf.open_collection(fast_path)


def loaded(loader):
    with loader:
        return {
            (loader.slide_ids[slide], int(row))
            for batch in loader
            for slide, row in zip(batch["slide"], batch["row"], strict=True)
        }


def rows_of(slides, split, side):
    return {
        (name, int(row)) for name in slides.slide_ids for row in split.rows_of(slides[name], side)
    }


@pytest.mark.parametrize("options", [BLOCKS, {"by": "section", "fractions": (0.4, 0.3, 0.3)}])
@pytest.mark.parametrize("side", ["train", "val", "test"])
def test_a_loader_reads_the_rows_of_its_side_alone(slides, options, side):
    split = slides.split(**options)
    part = slides.side(split, side)
    found = loaded(stf.TileLoader(part, tile_px=20, batch_size=16))
    assert found == rows_of(slides, split, side) != set()
    # Through a pickle, and as a list of parts, they stay the same.
    again = stf.TileLoader(list(pickle.loads(pickle.dumps(part)).parts), tile_px=20)  # noqa: S301
    assert loaded(pickle.loads(pickle.dumps(again))) == found  # noqa: S301


def test_a_panel_reads_the_rows_of_its_side_alone(slides):
    split = slides.split(**BLOCKS)
    train = slides.side(split, "train")
    options = {"n_top": 10}
    panel = train.gene_panel("variable", **options)
    masks = split.row_masks("train")
    assert panel.digest == slides.gene_panel("variable", rows=masks, **options).digest
    assert panel.keys != slides.gene_panel("variable", **options).keys
    some = {"A": np.flatnonzero(masks["A"])[::2]}
    fewer = train.gene_panel("variable", rows=some, **options)
    assert fewer.keys == slides.gene_panel("variable", rows=masks | some, **options).keys
    with pytest.raises(SplitError, match="rows of a slide that is divided must be on the side"):
        train.gene_panel("variable", rows=split.row_masks("test"), **options)
    assert train.gene_panel("intersection").digest == slides.gene_panel("intersection").digest


def test_choices_of_a_side_stay_on_it(slides):
    split = slides.split(**BLOCKS)
    train = slides.side(split, "train")
    for chosen in (train.where(technology="Visium"), train.select(["B"]), train[1:]):
        assert chosen.slide_ids == ("B",)
        np.testing.assert_array_equal(chosen.rows[0], split.row_masks("train")["B"])
        assert len(loaded(stf.TileLoader(chosen, tile_px=20))) == chosen.rows[0].sum()
    assert slides.rows == (None, None)
    short = split.digest[:12]
    assert repr(train).endswith(
        f": 2 slides, train of split {short}, 2 divided: some of their rows>"
    )


def test_a_side_of_a_side_has_the_rows_of_both(slides):
    outer, inner = slides.split(**BLOCKS), slides.split(**BLOCKS | {"seed": 1, "tile_px": 12})
    part = slides.side(outer, "train").side(inner, "test")
    for name, mask in zip(part.slide_ids, part.rows, strict=True):
        both = outer.row_masks("train")[name] & inner.row_masks("test")[name]
        np.testing.assert_array_equal(mask, both)
    part.check_tiles(12)
    with pytest.raises(SplitError, match="must reach at most 8"):
        part.check_tiles(20)
    whole = slides.side(outer, "train")
    by_slide = whole.split(by="slide", fractions=(0.5, 0.0, 0.5))
    (mask,) = whole.side(by_slide, "test").rows
    np.testing.assert_array_equal(mask, outer.row_masks("train")[by_slide.test[0]])


def test_a_side_is_split_into_its_own_rows(slides):
    """Blocks of the rows of one side: none of another's, and every side has some."""
    outer = slides.split(by="block", tile_px=20, fractions=(0.7, 0.3, 0.0), seed=1)
    train = slides.side(outer, "train")
    allowed = rows_of(slides, outer, "train")
    for options in ({"by": "block", "tile_px": 20, "seed": 1}, {"by": "section"}):
        inner = train.split(**options, fractions=(0.5, 0.5, 0.0))
        assert inner.digest != outer.digest
        found = [loaded(stf.TileLoader(train.side(inner, side), tile_px=20))
                 for side in ("train", "val")]  # fmt: skip
        assert all(found)
        assert not found[0] & found[1]
        assert found[0] | found[1] <= allowed
    assert found[0] | found[1] == allowed


def test_divided_slides_are_not_opened_as_if_they_were_whole(slides):
    split = slides.split(**BLOCKS)
    train = slides.side(split, "train")
    for read in (lambda: train[0], lambda: train["A"], lambda: list(train), lambda: split.train,
                 lambda: split.val, lambda: split.test):  # fmt: skip
        with pytest.raises(SplitError, match=r"side|rows of other sides"):
            read()
    assert split.slides("train") == ("A", "B")
    found = {(slide.slide_id, int(row)) for slide, rows in train.iter_slide_rows() for row in rows}
    assert found == rows_of(slides, split, "train")


def test_slides_on_one_side_as_a_whole_are_opened_as_ever(slides):
    split = slides.split(by="slide", fractions=(0.5, 0.0, 0.5))
    train = slides.side(split, "train")
    assert train.slide_ids == split.train
    assert train.rows == (None,)
    assert "divided" not in repr(train)
    with train[0] as slide:
        assert (slide.slide_id,) == train.slide_ids
        n_obs = slide.n_obs
    assert len(loaded(stf.TileLoader(train, tile_px=448))) == n_obs
    assert [len(rows) for _, rows in train.iter_slide_rows()] == [n_obs]


@pytest.mark.parametrize(
    ("tile_px", "mpp", "fits"),
    [(20, None, True), (10, 1.0, False), (19, 0.5, True), (21, None, False), (20, 0.51, False)],
)
def test_tiles_that_could_meet_another_side_are_refused(slides, tile_px, mpp, fits):
    train = slides.side(slides.split(**BLOCKS), "train")
    checks = (
        lambda: train.check_tiles(tile_px, mpp=mpp),
        lambda: stf.TileLoader(train, tile_px=tile_px, mpp=mpp).close(),
    )
    for check in checks:
        if fits:
            check()
        else:
            with pytest.raises(SplitError, match="split anew with tile_px="):
                check()
    stf.TileLoader(train, tile_px=None).close()
    slides.check_tiles(448)


def test_rows_of_a_loader_must_be_on_its_side(slides):
    split = slides.split(**BLOCKS)
    train = slides.side(split, "train")
    few = [np.flatnonzero(rows)[:3] for rows in train.rows]
    assert len(loaded(stf.TileLoader(train, rows=few, tile_px=20))) == 6
    other = [np.flatnonzero(mask) for mask in split.row_masks("test").values()]
    with pytest.raises(SplitError, match="must be on the side that is used"):
        stf.TileLoader(train, rows=other, tile_px=20)
    with pytest.raises(IndexError, match="rows go from 0 to 59"):
        stf.TileLoader(train, rows=[[60], None], tile_px=20)


def test_a_slide_that_was_converted_anew_has_no_sides(slides, write_store, fast_path, draw_counts):
    split = slides.split(**BLOCKS)
    train = slides.side(split, "train")
    xy = np.random.default_rng(9).uniform(0, 900, (60, 2))
    write_store("A", draw_counts(60, 80, 0), xy=xy, image_seed=0)
    for read in (lambda: stf.TileLoader(train, tile_px=20),
                 lambda: train.gene_panel("variable", n_top=3),
                 lambda: list(train.iter_slide_rows())):  # fmt: skip
        with pytest.raises(StoreReplaced, match="split anew if the slide is divided"):
            read()
    stf.collect_slides(fast_path)
    again = stf.open_collection(fast_path)
    with pytest.raises(SplitError, match="must be of the version that was split"):
        again.side(split, "train")
    with again["A"] as slide, pytest.raises(SplitError, match="of the version that was split"):
        split.rows_of(slide, "train")
    with again["B"] as slide:
        assert len(split.rows_of(slide, "train"))


def test_sides_of_other_slides_are_refused(slides):
    split = slides.split(**BLOCKS)
    with pytest.raises(CatalogueLookupError, match="every slide of a side must be in the coll"):
        slides.where(technology="ST").side(split, "train")
    with pytest.raises(SplitError, match="a side is 'train', 'val' or 'test', found 'training'"):
        slides.side(split, "training")
    assert len(slides.side(replace(split, rows={}, sides={"A": "train"}), "val")) == 0


def test_parts_are_closed_and_open_by_themselves(slides, fast_path):
    shutil.rmtree(fast_path / "A.zarr")
    parts = slides.parts
    assert [part.slide_id for part in parts] == ["A", "B"]
    assert repr(parts[1]) == f"<SlidePart B: all rows of {fast_path}/B.zarr>"
    with parts[1].open() as slide:
        assert slide.slide_id == "B"
    with pytest.raises(stf.errors.NotAStoreError):
        stf.TileLoader(slides, tile_px=20)


def test_a_loader_of_a_collection_opens_few_slides_at_a_time(write_store, fast_path):
    """What is only listed holds no files: four hundred slides would take all there may be."""

    def n_open():
        links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        return len({link.partition(".zarr")[0] for link in links if str(fast_path) in link})

    for number in range(6):
        write_store(f"S{number}")
    stf.collect_slides(fast_path)
    before = n_open()
    with stf.TileLoader(stf.open_collection(fast_path), tile_px=None, max_open=1) as loader:
        assert n_open() <= before + 1
        assert sum(len(batch["row"]) for batch in loader) == loader.n_rows == 180
