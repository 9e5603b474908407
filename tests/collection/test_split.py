from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import stformat as stf
from stformat.collection.blocks import block_sides, count_blocks
from stformat.collection.documents import write_document
from stformat.collection.shares import assign_sides, draw_order
from stformat.collection.split import SIDES, Split
from stformat.collection.splitting import SplitRule, SplitSlide, split_slides
from stformat.coords import grid_for_mpp, tile_reach_px, tile_windows
from stformat.errors import SplitError, SplitSharesWarning


@pytest.fixture
def collection(write_store, fast_path):
    """Six slides of two studies and four donors; donor 1 of the one is not donor 1 of the other."""
    known = [("s1", "1"), ("s1", "1"), ("s1", "2"), ("s2", "1"), ("s2", "3"), ("s2", None)]
    for place, (study, donor) in enumerate(known):
        write_store(f"S{place}", study=study, donor=donor)
    stf.collect_slides(fast_path)
    return stf.open_collection(fast_path)


def sides_of(split):
    return {name: side for side in SIDES for name in split.slides(side)}


@pytest.mark.parametrize("seed", range(6))
def test_donors_of_a_study_stay_together(collection, seed):
    with pytest.raises(SplitError, match=r"needs the donor of every slide, .* found none of S5"):
        collection.split(by="donor", seed=seed)
    split = collection.split(by="donor", seed=seed, missing="own-group")
    sides = sides_of(split)
    assert sides["S0"] == sides["S1"]
    assert set(sides) == set(collection.slide_ids)
    assert set(sides.values()) == set(SIDES)
    assert split.groups["S1"] == "S0"
    assert split.groups["S3"] == "S3"
    left = collection.split(by="donor", seed=seed, missing="leave-out")
    assert dict(left.left_out) == {"S5": "its donor is not known"}
    assert "S5" not in sides_of(left)


def test_a_donor_of_no_study_is_not_told_from_those_of_others(write_store, fast_path):
    known = [("s1", "1"), ("s1", "2"), (None, "1"), (None, "1"), ("s2", "3"), ("s2", None)]
    for place, (study, donor) in enumerate(known):
        write_store(f"S{place}", study=study, donor=donor)
    stf.collect_slides(fast_path)
    collection = stf.open_collection(fast_path)
    with pytest.raises(SplitError, match=r"its study where others state one, .*S2, S3, S5"):
        collection.split(by="donor")
    options = {"by": "donor", "fractions": (0.4, 0.3, 0.3)}
    split = collection.split(**options, missing="own-group")
    assert (split.groups["S2"], split.groups["S3"], split.groups["S5"]) == ("S2", "S2", "S5")
    left = collection.split(**options, missing="leave-out")
    unknown = "the study of its donor is not known"
    assert dict(left.left_out) == {"S2": unknown, "S3": unknown, "S5": "its donor is not known"}
    # Where no slide states a study, donors are all there is.
    alone = collection.select(["S2", "S3"]).split(by="donor", fractions=(1.0, 0.0, 0.0))
    assert alone.groups == {"S2": "S2", "S3": "S2"}


def test_studies_stay_together(collection):
    for seed in range(6):
        split = collection.split(by="study", fractions=(0.5, 0.0, 0.5), seed=seed)
        assert {split.train, split.test} == {("S0", "S1", "S2"), ("S3", "S4", "S5")}
    with pytest.raises(SplitError, match="3 sides need as many groups by study"):
        collection.split(by="study")


def test_order_of_slides_does_not_matter(collection):
    split = collection.split(by="slide", seed=3)
    turned = collection.select(collection.slide_ids[::-1]).split(by="slide", seed=3)
    assert sides_of(split) == sides_of(turned)
    studies = {"by": "study", "fractions": (0.5, 0.5, 0.0), "seed": 3}
    backwards = collection.select(collection.slide_ids[::-1]).split(**studies)
    assert collection.split(**studies).digest == backwards.digest
    assert (
        len({tuple(sides_of(collection.split(by="slide", seed=s)).items()) for s in range(9)}) > 3
    )


def test_sections_of_a_slide_may_stand_apart(write_store, fast_path):
    for name in ("A", "B"):
        write_store(name, sections=True)
    write_store("C")
    stf.collect_slides(fast_path)
    collection = stf.open_collection(fast_path)
    split = collection.split(by="section", fractions=(0.4, 0.2, 0.4), seed=1)
    assert set(split.groups) == {"A/left", "A/right", "B/left", "B/right", "C"}
    assert set(split.sides) == {"C"}
    section = collection["A"].obs["section"].to_numpy()
    codes = split.rows["A"]
    assert all(len(np.unique(codes[section == name])) == 1 for name in ("left", "right"))
    assert codes.all()


def test_rows_without_a_section_are_on_no_side():
    def slide(name, sections):
        obs = pd.DataFrame({"section": pd.Categorical(sections)})
        return SplitSlide(
            slide_id=name, manifest_sha256="0" * 64, study=None, donor=None, n_sections=2,
            opened=lambda: nullcontext(SimpleNamespace(obs=obs)), rows=None,
        )  # fmt: skip

    rule = SplitRule(by="section", fractions=(0.5, 0.5, 0.0), seed=0, missing="refuse",
                     duplicates="ignore", tile_px=1, mpp=None, block_tiles=2)  # fmt: skip
    slides = [slide("A", ["left", None, "right", "left"]), slide("B", [None, None])]
    split = split_slides(slides, rule, (), catalogue_sha256="0" * 64)
    assert split.rows["A"].tolist() in ([1, 0, 2, 1], [2, 0, 1, 2])
    assert dict(split.left_out) == {"B": "none of its rows has a section"}


def test_a_slide_named_as_a_section_of_another_is_itself(write_store, fast_path, draw_counts):
    write_store("A", sections=True)
    write_store("A_left", draw_counts(25, 20, 99), slide_id="A/left")
    write_store("C~", draw_counts(25, 20, 98))
    stf.collect_slides(fast_path)
    split = stf.open_collection(fast_path).split(by="section", fractions=(0.5, 0.0, 0.5))
    assert {name: name for name in ("A/left", "A/right", "A~1left", "C~0")} == split.groups
    assert set(split.sides) == {"A/left", "C~"}


@st.composite
def _slides_of_spots(draw):
    n = draw(st.integers(1, 150))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    extent = draw(st.sampled_from([50.0, 300.0, 2000.0]))
    xy = random.uniform(-extent / 4, extent, (n, 2))
    if draw(st.booleans()):  # a lattice, on which ties happen
        xy = np.round(xy / 8) * 8
    return xy


@settings(max_examples=120, deadline=None)
@given(
    _slides_of_spots(),
    st.integers(2, 40),
    st.sampled_from([None, 0.25, 0.5, 0.6, 1.0, 2.7]),
    st.integers(2, 5),
    st.integers(0, 1000),
)
def test_no_tile_of_one_side_meets_one_of_another(xy, tile_px, target, block_tiles, seed):
    mpp = 0.5
    scale = 1.0 if target is None else target / mpp
    reach_px = tile_reach_px(tile_px, scale)
    sides = block_sides(
        xy, block_px=block_tiles * 2 * reach_px, reach_px=reach_px,
        fractions=(0.5, 0.25, 0.25), seed=seed, name="S",
    )  # fmt: skip
    grid = grid_for_mpp(tile_px, target_mpp=target, mpp=mpp, n_levels=6)
    corner = tile_windows(xy, grid)
    first_px, past_px = corner * 2**grid.level, (corner + grid.source_px) * 2**grid.level
    for one, other in itertools.combinations((1, 2, 3), 2):
        a, b = sides == one, sides == other
        before = past_px[a][:, None] <= first_px[b][None]
        after = past_px[b][None] <= first_px[a][:, None]
        assert (before | after).any(axis=-1).all()
    assert sides.max(initial=0) <= 3


def _plain_block_sides(xy, *, block_px, reach_px, fractions, seed, name):
    """What `block_sides` returns, row by row."""
    corners = [(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    touched = [
        [tuple(int((row[axis] + sign[axis] * reach_px) // block_px) for axis in (0, 1))
         for sign in corners]
        for row in xy
    ]  # fmt: skip
    occupied = sorted({own for own, *_ in touched})
    n_rows = np.array([sum(own == block for own, *_ in touched) for block in occupied])
    order = draw_order(len(occupied), seed, name)
    drawn = assign_sides(n_rows, fractions, order)
    side_of = dict(zip(occupied, (1 + drawn).tolist(), strict=True))
    claims = {}
    for own, *others in touched:
        for block in others:
            if block not in side_of:
                claims.setdefault(block, []).append(side_of[own])
    side_of |= {block: max((1, 2, 3), key=sides.count) for block, sides in claims.items()}
    return [
        side_of[own] if all(side_of[block] == side_of[own] for block in others) else 0
        for own, *others in touched
    ]


@settings(max_examples=60, deadline=None)
@given(_slides_of_spots(), st.floats(4, 60), st.integers(2, 5), st.integers(0, 1000))
def test_sides_of_blocks_are_those_of_their_definition(xy, reach_px, block_tiles, seed):
    options = {"block_px": block_tiles * 2 * reach_px, "reach_px": reach_px,
               "fractions": (0.5, 0.25, 0.25), "seed": seed, "name": "S"}  # fmt: skip
    assert block_sides(xy, **options).tolist() == _plain_block_sides(xy, **options)
    plain = {tuple(block) for block in np.floor(xy / options["block_px"]).tolist()}
    assert count_blocks(xy, options["block_px"]) == len(plain)


def test_blocks_leave_out_little_and_keep_shares():
    y, x = np.mgrid[:120, :120] * 100.0
    xy = np.stack([x.ravel(), y.ravel()], axis=1)
    reach_px = tile_reach_px(224, 1.0)
    sides = block_sides(
        xy, block_px=16 * reach_px, reach_px=reach_px, fractions=(0.8, 0.1, 0.1), seed=0, name="S"
    )
    shares = np.bincount(sides, minlength=4) / len(sides)
    assert shares[0] < 0.2
    np.testing.assert_allclose(shares[1:] / shares[1:].sum(), (0.8, 0.1, 0.1), atol=0.04)


def test_blocks_of_a_slide_do_not_depend_on_the_others(write_store, fast_path):
    random = np.random.default_rng(0)
    for name in ("A", "B"):
        write_store(name, xy=random.uniform(0, 900, (30, 2)))
    stf.collect_slides(fast_path)
    collection = stf.open_collection(fast_path)
    options = {"by": "block", "tile_px": 20, "fractions": (0.5, 0.25, 0.25), "seed": 5}
    both, one = collection.split(**options), collection[:1].split(**options)
    np.testing.assert_array_equal(both.rows["A"], one.rows["A"])
    assert set(both.rows) == {"A", "B"}
    slide = collection["A"]
    rows = [both.rows_of(slide, side) for side in SIDES]
    assert sum(map(len, rows)) == (both.rows["A"] > 0).sum()
    for side, codes in zip(SIDES, rows, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(both.row_masks(side)["A"]), codes)
    whole = collection.split(by="slide", fractions=(1.0, 0.0, 0.0))
    for split in (both, whole):
        with pytest.raises(SplitError, match="'train', 'val' or 'test', found 'valid'"):
            split.rows_of(slide, "valid")
    wrong = replace(both, rows={"A": np.ones(31, dtype=np.uint8)})
    with pytest.raises(SplitError, match="the slide must have the 31 rows"):
        wrong.rows_of(slide, "train")


def test_of_slides_that_are_one_only_the_first_is_divided(write_store, fast_path, draw_counts):
    counts = draw_counts(30, 20, 0)
    xy = np.random.default_rng(0).uniform(0, 900, (30, 2))
    for name in ("Z", "A"):
        write_store(name, counts, xy=xy)
    stf.collect_slides(fast_path)
    options = {"by": "block", "tile_px": 20, "fractions": (0.5, 0.25, 0.25)}
    split = stf.open_collection(fast_path).split(**options)
    assert set(split.rows) == {"A"}
    assert dict(split.left_out) == {"Z": "it is the same slide as A, which is divided"}


def test_panels_of_the_training_side_read_its_rows_only(write_store, fast_path, draw_counts):
    xy = np.random.default_rng(0).uniform(0, 900, (60, 2))
    write_store("A", draw_counts(60, 80, 3), xy=xy)
    stf.collect_slides(fast_path)
    collection = stf.open_collection(fast_path)
    split = collection.split(by="block", tile_px=20, fractions=(0.6, 0.2, 0.2))
    options = {"n_top": 10, "flavor": "seurat"}
    panel = collection.gene_panel("variable", rows=split.row_masks("train"), **options)
    alone = write_store("B", collection["A"].counts[split.rows_of(collection["A"], "train")])
    with stf.open_slide(alone) as slide:
        assert panel.keys == stf.gene_panel([slide], "variable", **options).keys
    assert panel.keys != collection.gene_panel("variable", **options).keys


def test_splits_are_saved_by_digest(write_store, fast_path, tmp_path):
    write_store("A", xy=np.random.default_rng(0).uniform(0, 900, (30, 2)))
    stf.collect_slides(fast_path)
    collection = stf.open_collection(fast_path)
    split = collection.split(by="block", tile_px=20, fractions=(0.5, 0.25, 0.25))
    path = split.save(tmp_path)
    assert path.name == f"split-{split.digest[:12]}.json"
    again = Split.load(path)
    assert (again.digest, again.fractions) == (split.digest, split.fractions)
    assert again.catalogue_sha256 == collection.digest
    np.testing.assert_array_equal(again.rows["A"], split.rows["A"])
    assert again.rows["A"].dtype == np.uint8
    assert again.save(tmp_path) == path

    content = json.loads(path.read_text())
    for damage in ({"seed": 1}, {"digest": ""}):
        path.write_text(json.dumps(content | damage))
        with pytest.raises(SplitError, match="content that its digest is not of"):
            Split.load(path)


def test_numbers_of_numpy_are_saved_as_others(collection, tmp_path):
    whole = collection.split(by="slide", fractions=(1, 0, 0), seed=np.int64(3))
    path = whole.save(tmp_path)
    assert Split.load(path).digest == whole.digest
    assert Split.load(path).save(tmp_path) == path
    shares = np.array([0.5, 0.0, 0.5], dtype=np.float32)
    split = collection.split(
        by="block",
        fractions=shares,
        tile_px=np.int32(2),
        mpp=np.float32(0.5),
        block_tiles=np.int8(2),
    )
    plain = {"fractions": (0.5, 0.0, 0.5), "tile_px": 2, "mpp": 0.5, "block_tiles": 2}
    assert split.digest == collection.split(by="block", **plain).digest
    assert "<Split by block" in repr(split)


def test_a_split_of_very_many_rows_is_read_again(tmp_path):
    codes = np.random.default_rng(0).integers(0, 4, 3_000_000).astype(np.uint8)
    split = Split(
        by="block", fractions=(0.8, 0.1, 0.1), shares=(0.8, 0.1, 0.1), seed=0, options={},
        catalogue_sha256="0" * 64, sides={}, rows={"A": codes, "B": codes[:0], "C": codes[::-1]},
        manifests={}, groups={}, left_out={},
    )  # fmt: skip
    path = split.save(tmp_path)
    assert path.stat().st_size > 2**24
    again = Split.load(path)
    np.testing.assert_array_equal(again.rows["A"], codes)
    np.testing.assert_array_equal(again.rows["C"], codes[::-1])
    assert len(again.rows["B"]) == 0


def test_what_would_not_be_read_is_not_written(collection, tmp_path, monkeypatch):
    monkeypatch.setattr("stformat.collection.documents.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="a split must take at most 100 bytes"):
        collection.split(by="slide").save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["3", "3x4", "0x1", "3x1  2x0", "3x1 ", "-1x1", "axb", "3x1x2"])
def test_rows_that_are_no_runs_are_refused(collection, tmp_path, text):
    content = collection.split(by="slide")._content()
    path = write_document(content | {"rows": {"S0": text}}, tmp_path / "split.json", stem="")
    with pytest.raises(SplitError, match="sides of rows are runs"):
        Split.load(path)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.9, 0.05, 0.05)]),
    st.integers(0, 2**32),
)
def test_shares_are_met_as_far_as_sizes_allow(sizes, fractions, seed):
    n_sides = sum(share > 0 for share in fractions)
    assume(len(sizes) >= n_sides)
    sides = assign_sides(np.array(sizes), fractions, draw_order(len(sizes), seed))
    found = np.bincount(sides, weights=sizes, minlength=3)
    assert all((share > 0) == (n > 0) for share, n in zip(fractions, found, strict=True))
    # No thing would be better on another side.
    over = found - np.array(fractions) * sum(sizes)
    n_things = np.bincount(sides, minlength=3)
    for size, side in zip(sizes, sides, strict=True):
        for other in np.flatnonzero(np.array(fractions) > 0):
            if other != side and n_things[side] > 1:
                assert size >= over[side] - over[other] - 1e-9


@pytest.mark.parametrize("seed", range(40))
def test_one_large_group_goes_where_it_fits(seed):
    sizes = np.array([50] + [1] * 11)
    sides = assign_sides(sizes, (0.8, 0.1, 0.1), draw_order(12, seed))
    found = np.bincount(sides, weights=sizes, minlength=3)
    assert found[0] == 50
    assert sorted(found[1:]) == [5, 6]


def test_shares_are_said_and_those_far_off_warned_of(collection, tmp_path):
    split = collection.split(by="study", fractions=(0.5, 0.0, 0.5))
    assert split.shares == (0.5, 0.0, 0.5)
    assert repr(split).startswith("<Split by study: train 3 (50 %), val 0 (0 %), test 3 (50 %), d")
    with pytest.warns(SplitSharesWarning, match=r"of 0\.33 / 0\.33 / 0\.33 where 0\.98 / 0"):
        few = collection[:3].split(by="slide", fractions=(0.98, 0.01, 0.01))
    assert Split.load(few.save(tmp_path)).shares == few.shares


def test_shares_that_borders_of_small_blocks_take_are_warned_of(
    write_store, fast_path, draw_counts
):
    xy = np.stack(np.mgrid[:40, :40], axis=-1).reshape(-1, 2) * 15.0
    write_store("A", draw_counts(1600, 20, 0), xy=xy)
    stf.collect_slides(fast_path)
    options = {"by": "block", "tile_px": 20, "block_tiles": 2}
    collection = stf.open_collection(fast_path)
    with pytest.warns(SplitSharesWarning, match=r"0\.20 were wanted, since blocks are not cut"):
        collection.split(**options, fractions=(0.6, 0.2, 0.2))
    collection.split(**options, fractions=(0.9, 0.0, 0.1))


def test_orders_are_those_of_the_first_release():
    """Splits that were published must be drawn again the same, wherever and whenever."""
    assert draw_order(8, seed=0).tolist() == [1, 7, 5, 3, 6, 4, 0, 2]
    assert draw_order(3, seed=2**40, name="TENX155").tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "patient"}, "slides are split by 'study'"),
        ({"fractions": (0.5, 0.5, 0.5)}, "add up to 1"),
        ({"fractions": (1.5, -0.5, 0.0)}, "add up to 1"),
        ({"fractions": (0.5, 0.5)}, "add up to 1"),
        ({"seed": -1}, "seed is at least 0"),
        ({"missing": "guess"}, "what is missing is for"),
        ({"duplicates": "apart"}, "duplicates are kept"),
        ({"by": "block", "block_tiles": 1}, "block_tiles at least 2"),
        ({"fractions": 1}, "add up to 1"),
        ({"seed": 1.5}, "seed, tile_px and block_tiles are whole numbers"),
        ({"by": "block", "mpp": 0.0}, "microns per pixel are above 0"),
        ({"by": "block", "mpp": float("inf")}, "microns per pixel are above 0 and finite"),
    ],
)
def test_arguments_out_of_range_are_refused(collection, options, message):
    with pytest.raises(SplitError, match=message):
        collection.split(**{"by": "slide", **options})


def test_one_identifier_of_two_stores_is_refused(write_store, fast_path):
    for name in ("A", "B", "C"):
        write_store(name, slide_id="C" if name == "C" else "same")
    stf.collect_slides(fast_path)
    with pytest.raises(SplitError, match="several same"):
        stf.open_collection(fast_path).split(by="slide", fractions=(0.5, 0.0, 0.5))
