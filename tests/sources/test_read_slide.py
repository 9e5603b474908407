"""The kind of a source is recognised or refused, never guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stformat import sources
from stformat.errors import InputError, UnknownSourceError
from stformat.sources import read_slide
from stformat.sources._kinds import SourceKind, descriptors
from stformat.testing.records import make_record


def kind(name, requests, *, evidence):
    def read(request):
        requests.append(request)
        return replace(make_record(n_obs=3, image_px=None), slide_id=name)

    return SourceKind(
        name=name,
        options=(),
        looks_like=lambda path: evidence if path.name == "both" else None,
        read=read,
    )


@pytest.fixture
def requests():
    return []


@pytest.fixture
def two_kinds(monkeypatch, tmp_path, requests):
    kinds = (kind("one", requests, evidence="a.h5"), kind("two", requests, evidence="b.h5"))
    monkeypatch.setattr(sources, "KINDS", kinds)
    folder = tmp_path / "both"
    folder.mkdir()
    return folder


def test_several_kinds_are_named_with_what_speaks_for_them(two_kinds):
    with pytest.raises(UnknownSourceError) as caught:
        read_slide(two_kinds)
    (problem,) = caught.value.problems
    assert problem.code == "source.ambiguous"
    assert problem.found == "one (a.h5); two (b.h5)"
    assert "--kind" in problem.remedy


def test_given_kind_decides(two_kinds, requests):
    record = read_slide(two_kinds, kind="two", options={"species": "human", "donor": None}, mpp=1)
    assert record.slide_id == "two"
    [request] = requests
    assert request.options == {"species": "human"}
    assert request.mpp == 1.0


def test_no_kind_says_which_there_are(two_kinds):
    with pytest.raises(UnknownSourceError, match="kinds one, two"):
        read_slide(two_kinds.parent)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("species", ""),
        ("stain", "pas"),
        ("involves_cancer", "yes"),
        ("pmid", "PMC1"),
        ("keywords", "breast"),
        ("keywords", ["breast", ""]),
    ],
)
def test_descriptors_of_a_wrong_type_are_named(option, value):
    with pytest.raises(InputError, match=option):
        descriptors({option: value}, technology="ST")


def test_descriptors_are_kept_as_given():
    options = {"involves_cancer": False, "pmid": "123", "title": "A title", "keywords": ["a", "b"]}
    found = descriptors(options, technology="ST")
    assert (found.involves_cancer, found.pmid, found.title) == (False, "123", "A title")
    assert found.keywords == ("a", "b")


def test_a_focal_plane_needs_an_image(two_kinds, monkeypatch):
    kinds = tuple(replace(kind, options=("focal_plane",)) for kind in sources.KINDS)
    monkeypatch.setattr(sources, "KINDS", kinds)
    with pytest.raises(InputError, match="slide without an image"):
        read_slide(two_kinds, kind="two", options={"focal_plane": 0})
