"""Rows of text as sparse counts: the compiled parser beside its definition and Python's float."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stformat.kernels import _reference, parse_count_rows
from stformat.kernels._numba.text import parse_count_rows as compiled

# Characters that numbers, their ends and their neighbours are made of.
SCRAPS = st.sampled_from(
    ["0", "0.0", "3", "3.0", "17", "1e2", "2.5E-3", "1e400", "-1", "+7", " 4", '"5"', '"a,b"', '""',
     "nan", "9" * 18, "9" * 19, "9007199254740993", "0.1", "123456789012345678e-30", "1e22", "1e23",
     ".5", "5.", ".", "e5", "1e", "1e+", "1.2.3", "0x1", "00", "0e0", "0.00", "x", "", '"', "\r",
     "0\r1", "1e-22", "1e-23", "4503599627370497.5", "1e0001"]
)  # fmt: skip
ENDS = st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\r\n"])


def parsed(parse, text, delimiter, n_columns):
    """What a parser returns and what it wrote, as lists."""
    rows = np.zeros((len(text) + 1, 4), np.int64)
    indices = np.zeros(len(text) + 1, np.int32)
    values = np.zeros(len(text) + 1)
    spans = np.zeros((len(text) + 1, 2), np.int32)
    content = np.frombuffer(text, np.uint8)
    counts = parse(content, ord(delimiter), n_columns, rows, indices, values, spans)
    return [
        list(map(int, counts)),
        rows.tolist(),
        indices.tolist(),
        values.tobytes(),
        spans.tolist(),
    ]


@settings(max_examples=400, deadline=None)
@given(
    lines=st.lists(st.tuples(st.lists(SCRAPS, min_size=1, max_size=5), ENDS), max_size=6),
    delimiter=st.sampled_from(",;\t"),
    n_columns=st.integers(1, 4),
)
@example(lines=[(["a", "0"], "\r\n")], delimiter=",", n_columns=1)
def test_the_twin_is_its_definition(lines, delimiter, n_columns):
    text = "".join(delimiter.join(fields) + end for fields, end in lines).encode()
    arguments = text, delimiter, n_columns
    assert parsed(compiled, *arguments) == parsed(_reference.parse_count_rows, *arguments)


@settings(max_examples=400, deadline=None)
@given(st.from_regex(r"[0-9]{0,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
@example("9007199254740993")
@example("0.3")
@example("8.41e21")
@example("123456789012345680")
def test_plain_numbers_are_those_of_python(text):
    rows = parse_count_rows(
        np.frombuffer(f"a,{text},1\n".encode(), np.uint8), delimiter=",", n_columns=2
    )
    if text == "":
        assert (rows.fault, rows.n_fields) == ("empty-field", 0)
        return
    assert rows.fault is None
    if len(rows.spans):
        assert rows.spans.tolist() == [[2, 2 + len(text)]]
        assert np.isnan(rows.values[0])
        return
    expected = float(text)
    assert rows.values.tolist() == ([expected, 1.0] if expected else [1.0])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 3))
def test_any_bytes_have_an_end(content, n_columns):
    text = content + b"\n"
    arguments = text, ",", n_columns
    assert parsed(compiled, *arguments) == parsed(_reference.parse_count_rows, *arguments)
    rows = parse_count_rows(np.frombuffer(text, np.uint8), delimiter=",", n_columns=n_columns)
    assert rows.n_values.sum() == len(rows.values) == len(rows.indices)
    assert np.isnan(rows.values).sum() == len(rows.spans)


def test_lines_names_and_values():
    text = b'\n"a,1",0,2.0\r\n\r\nb,3,0.0\n'
    rows = parse_count_rows(np.frombuffer(text, np.uint8), delimiter=",", n_columns=2)
    assert rows.lines.tolist() == [1, 3]
    assert [text[start:stop] for start, stop in rows.names.tolist()] == [b'"a,1"', b"b"]
    assert rows.n_values.tolist() == [1, 1]
    assert rows.indices.tolist() == [1, 0]
    assert rows.values.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("text", "fault", "n_fields"),
    [(b"a,1,2\nb,1\n", "ragged", 1), (b"a,1,2,3,4\n", "ragged", 4), (b"a\n", "ragged", 0),
     (b"a,1,\n", "empty-field", 1), (b"a,,1\n", "empty-field", 0), (b"a,1,2\n", None, 0)],
)  # fmt: skip
def test_faults_end_the_rows(text, fault, n_fields):
    rows = parse_count_rows(np.frombuffer(text, np.uint8), delimiter=",", n_columns=2)
    assert (rows.fault, rows.n_fields) == (fault, n_fields)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [(b"a,1", {}, "newline"), (b"a,1\n", {"delimiter": "0"}, "delimiter"),
     (b"a,1\n", {"delimiter": "::"}, "delimiter"), (b"a,1\n", {"n_columns": 0}, "n_columns")],
)  # fmt: skip
def test_arguments_are_checked(text, arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_count_rows(
            np.frombuffer(text, np.uint8), **({"delimiter": ",", "n_columns": 1} | arguments)
        )
