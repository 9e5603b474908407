"""What no epoch can be made of is refused before it begins."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from stformat.errors import (
    GeneLookupError,
    NoImageError,
    NotAStoreError,
    SlidesDifferError,
)
from stformat.loader import Augmentation, TileLoader
from stformat.store.location import parse_location
from stformat.store.slide_part import SlidePart

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 2_000_000}


def load(sources, **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options)


@pytest.mark.parametrize(
    ("kinds", "options", "error", "message"),
    [
        (("spots", "fluorescence"), {}, SlidesDifferError, "fluorescence: .* 3 channels of uint8"),
        (("spots", "other-genes"), {}, SlidesDifferError, "21 genes, others than its 30"),
        (("spots", "reversed"), {}, SlidesDifferError, "in another order; name genes"),
        (("spots", "no-image"), {}, NoImageError, "image"),
        (("spots", "unknown-mpp"), {"mpp": 0.5}, ValueError, "mpp is known"),
        (("spots", "other-genes"), {"genes": ["G25"]}, GeneLookupError, "G25"),
        (
            ("spots",),
            {"genes": ["G1", "G2", "G1"]},
            ValueError,
            "slide spots once, got 'G1' and 'G1'",
        ),
        (("fluorescence",), {"augment": Augmentation(brightness=0.1)}, ValueError, "three channel"),
        (("spots",), {"dtype": "float32", "mean": [0.5]}, ValueError, "mean must have one number"),
        (("spots",), {"dtype": "int8"}, TypeError, "float32 or float16"),
    ],
)
def test_slides_that_do_not_go_together_are_refused(store, kinds, options, error, message):
    with pytest.raises(error, match=message):
        load([store(kind) for kind in kinds], **options)


def test_genes_of_the_same_keys_are_the_same(store):
    loader = load([store("spots"), store("other-names")])
    assert loader.gene_keys == load([store("spots")]).gene_keys
    assert len(loader.gene_keys) == 30


def test_slides_of_other_genes_give_tiles_without_expression(store):
    loader = load([store("spots"), store("other-genes"), store("reversed")], expression=None)
    assert loader.n_rows == 60 + 40 + 40
    without_tiles = load([store("spots"), store("no-image")], tile_px=None)
    assert without_tiles.n_rows == 60 + 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to 1"),
        ({"expression": "coo"}, "expression must be"),
        ({"normalize": "sqrt"}, "normalize must be"),
        ({"device": "tpu"}, "device must be"),
        ({"tile_px": 0}, "tile_px must be at least 1"),
        ({"tile_px": None, "expression": None}, "tiles, expression or both"),
        ({"tile_px": None, "mpp": 0.5}, "mpp must come with tiles"),
        ({"expression": None, "genes": ["G1"]}, "must come with expression"),
        ({"target_sum": 0.0}, "target_sum must be positive"),
        ({"target_sum": None}, "target_sum must be positive"),
        ({"rank": -1}, "rank must be at least 0"),
        ({"mean": [0.5] * 3}, "must come with a dtype"),
        ({"n_draws": 3}, "must come with weights"),
        ({"rows": [None]}, "3 slides"),
        ({"device": "cuda", "expression": "csr"}, "dense on a GPU"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(paths, options, message):
    with pytest.raises(ValueError, match=message):
        load(paths, **options)


def test_no_slides_and_no_store_are_refused(paths, tmp_path):
    with pytest.raises(ValueError, match="slides must be at least one"):
        load([])
    with pytest.raises(NotAStoreError):
        load([paths[0], tmp_path / "nothing"])
    with pytest.raises(TypeError, match="list of names"):
        load(paths, genes="ERBB2")
    with pytest.raises(TypeError, match=r"sorted\(genes\)"):
        load(paths, genes={"G1", "G2"})
    with pytest.raises(TypeError, match="got 3 among them"):
        load(paths, genes=["G1", 3])


def test_what_is_no_list_of_slides_is_refused(paths, slides):
    part = SlidePart(location=parse_location(paths[0]), slide_id="spots", manifest_sha256="0" * 64)
    for one in (paths[0], str(paths[0]), slides[0], part, 3, None, dict.fromkeys(paths)):
        with pytest.raises(TypeError, match="slides must be a Collection, or a list of"):
            load(one)
    for unordered in (set(paths), frozenset(paths)):
        with pytest.raises(TypeError, match=r"a set has not: give sorted\(slides\)"):
            load(unordered)
    for among in (3, None, paths):
        with pytest.raises(TypeError, match=r"a list of slides, parts or paths, got .* among them"):
            load([paths[0], among])


@pytest.mark.parametrize("kind", [tuple, iter, lambda paths: dict.fromkeys(paths).keys(),
                                  lambda paths: pd.Series(map(str, paths))])  # fmt: skip
def test_slides_may_be_any_in_an_order(paths, kind):
    assert load(kind(paths)).slide_ids == load(paths).slide_ids


def test_rows_of_a_slide_are_no_single_number(paths):
    for row in (1, np.int64(1)):
        with pytest.raises(TypeError, match="rows of a slide must be an array, mask, slice or"):
            load(paths, rows=[row] * len(paths))


@pytest.mark.parametrize("name", ["weights", "rows"])
def test_what_is_given_for_each_slide_is_a_list_in_their_order(paths, name):
    for given in ({0: 1.0, 1: 1.0, 2: 1.0}, {1.0, 2.0, 3.0}, "abc", 1):
        with pytest.raises(TypeError, match=f"{name} must be a list with an entry for each of 3"):
            load(paths, **{name: given})
    with pytest.raises(ValueError, match=f"{name} must be a list with an entry for each of 3"):
        load(paths, **{name: [None]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": True}, "augment must be an Augmentation or None, got True"),
        ({"target_sum": "1"}, "target_sum must be a number, got '1'"),
        ({"mpp": "0.5"}, "mpp must be a number, got '0.5'"),
        ({"shuffle": "no"}, "shuffle must be True or False, got 'no'"),
        ({"drop_last": 1}, "drop_last must be True or False, got 1"),
    ],
    ids=str,
)
def test_arguments_of_other_types_are_refused(paths, options, message):
    with pytest.raises(TypeError, match=message):
        load(paths, **options)


@pytest.mark.parametrize("name", ["batch_size", "buffer_bytes", "max_open", "n_draws", "rank",
                                  "seed", "tile_px", "workers", "world_size"])  # fmt: skip
def test_numbers_that_are_not_whole_are_refused(paths, name):
    for value in (32.0, "32"):
        with pytest.raises(TypeError, match=f"{name} must be a whole number, got {value!r}"):
            load(paths, **{name: value})


def test_whole_numbers_of_numpy_are_numbers(paths, same):
    options = {"seed": 3, "batch_size": 31, "rank": 1, "world_size": 2, "tile_px": 40,
               "buffer_bytes": 500_000, "workers": 1, "max_open": 2}  # fmt: skip
    given = {name: np.int64(value) for name, value in options.items()}
    augment = Augmentation()
    found, expected = load(paths, **given, augment=augment), load(paths, **options, augment=augment)
    for loader in (found, expected):
        loader.set_epoch(np.int64(2) if loader is found else 2)
    state = json.loads(json.dumps(found.state_dict()))
    assert state == expected.state_dict()
    assert all(same(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("epoch", "error"), [(-1, ValueError), (2**63, ValueError), (1.0, TypeError), ("1", TypeError)]
)
def test_epochs_that_cannot_be_are_refused(paths, epoch, error):
    loader = load(paths)
    for ask in (loader.set_epoch, loader.plan, loader.count_decodes):
        with pytest.raises(error, match="epoch must be"):
            ask(epoch)
    loader.set_epoch(2**62)
    assert next(iter(load(paths, augment=Augmentation())))["epoch"] == 0
    assert next(iter(loader))["epoch"] == 2**62


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Index, pd.Series, iter])
def test_genes_may_be_any_names_in_an_order(paths, kind):
    names = ["G7", "G2"]
    loader = load(paths, genes=kind(names), tile_px=None)
    assert loader.gene_keys == tuple(names)
    batch, expected = (next(iter(one)) for one in (loader, load(paths, genes=names, tile_px=None)))
    assert "measured" not in batch
    np.testing.assert_array_equal(batch["expression"], expected["expression"])
