"""A folder of slides at a URL is opened by its catalogue, and its slides from below the URL."""

from __future__ import annotations

import pickle
import shutil

import pytest

import stformat as stf
from stformat.errors import CatalogueError


@pytest.fixture
def served(server, own_copy):
    (server.folder / "über a b").mkdir()
    shutil.move(own_copy, server.folder / "über a b" / "S 1%20?#.zarr")
    stf.collect_slides(server.folder)
    server.start_anew()
    return server


def test_opening_asks_for_the_catalogue_alone(served):
    slides = stf.open_collection(f"{served.url}/")
    assert len(slides) == 1
    assert {request.path for request in served.seen()} == {"catalogue.parquet"}


def test_slides_are_opened_below_the_url(served, small_store):
    slides = pickle.loads(pickle.dumps(stf.open_collection(f"{served.url}?key=abc")))  # noqa: S301
    with slides[0] as slide, stf.open_slide(small_store) as local:
        assert slide.slide_id == local.slide_id
        assert (slide.counts[:5] != local.counts[:5]).nnz == 0
        keys = tuple(local.var.index)
    assert {request.query for request in served.seen("zarr.json")} == {"key=abc"}
    assert "abc" not in repr(slides)
    assert slides.gene_panel("intersection").keys == keys


def test_a_url_without_a_catalogue_is_refused(server):
    with pytest.raises(CatalogueError, match="make it with stformat collect"):
        stf.open_collection(server.url)
