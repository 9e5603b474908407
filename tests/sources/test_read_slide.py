"""The kind of a source is recognised or refused, never guessed."""

from __future__ import annotations

import pytest

from stformat import sources
from stformat.errors import UnknownSourceError
from stformat.sources import read_slide
from stformat.sources._kinds import SourceKind


def kind(name, *, evidence):
    return SourceKind(
        name=name,
        options=(),
        looks_like=lambda path: evidence if path.name == "both" else None,
        read=lambda request: (name, request),
    )


@pytest.fixture
def two_kinds(monkeypatch, tmp_path):
    monkeypatch.setattr(
        sources, "KINDS", (kind("one", evidence="a.h5"), kind("two", evidence="b.h5"))
    )
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


def test_given_kind_decides(two_kinds):
    name, request = read_slide(
        two_kinds, kind="two", options={"species": "human", "donor": None}, mpp=1
    )
    assert name == "two"
    assert request.options == {"species": "human"}
    assert request.mpp == 1.0


def test_no_kind_says_which_there_are(two_kinds):
    with pytest.raises(UnknownSourceError, match="kinds one, two"):
        read_slide(two_kinds.parent)
