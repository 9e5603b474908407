from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.errors import ExportError
from stformat.export._file_names import checked_file_name, file_stems

LABELS = st.lists(st.text(st.sampled_from("aAbB-_./é 12"), max_size=4) | st.text(max_size=120))


@given(LABELS)
def test_names_are_safe_and_none_is_there_twice_whatever_the_case(labels):
    stems = file_stems(labels)
    assert len({stem.lower() for stem in stems}) == len(labels)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", stem) for stem in stems)


@given(LABELS)
def test_a_label_that_is_a_safe_name_already_keeps_it(labels):
    safe = [label for label in labels if re.fullmatch(r"[a-z0-9_]{4,80}", label)]
    different = list(dict.fromkeys(safe))
    assert file_stems(different) == different


def test_names_of_devices_and_hidden_names_are_changed():
    assert file_stems(["NUL", "com1", "-rf", "", "."]) == ["_NUL", "_com1", "_-rf", "_", "_-2"]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a\\b", "a\nb", "C:", "x" * 201])
def test_a_slide_that_no_file_can_be_named_after_is_refused(name):
    with pytest.raises(ExportError, match="must be a file name"):
        checked_file_name(name, "the slide")
