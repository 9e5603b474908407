"""Compiled twin of the text kernel in `_reference`."""

from __future__ import annotations

from typing import Any

import numpy as np

from stformat.kernels._numba._compile import Array, compiled, inlined

NEWLINE, RETURN, QUOTE, PLUS, MINUS, POINT, ZERO, LOWER_E = (ord(char) for char in '\n\r"+-.0e')
CASE = 0x20

MAX_DIGITS = 18
"""As many digits fit int64."""

MAX_EXPONENT_DIGITS = 3
EXACT_INTEGERS = 1 << 53

POWERS_OF_TEN = np.array([float(f"1e{power}") for power in range(23)])
"""Those that float64 holds exactly: a product or quotient of exact numbers is rounded once."""

NO_FAULT, RAGGED, EMPTY_FIELD = range(3)

# Places are unsigned: a signed index may count from the end, and the test for that costs a half.
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@inlined
def _is_field_end(text: Array, at: Any, delimiter: int) -> Any:  # noqa: ANN401 - numba's integers
    character = text[at]
    # A text ends with a newline: behind a carriage return there is something.
    return (
        character == delimiter  # noqa: PLR1714 - in a tuple it is a loop
        or character == NEWLINE
        or (character == RETURN and text[at + ONE] == NEWLINE)
    )


@compiled
def _field_stop(text: Array, start: Any, delimiter: int) -> Any:  # noqa: ANN401 - likewise
    """Return the place behind a field; in quotes it may hold delimiters and doubled quotes."""
    at = start
    while text[at] == QUOTE:
        closing = at + ONE
        while text[closing] != QUOTE and text[closing] != NEWLINE:
            closing += ONE
        if text[closing] == NEWLINE:
            break
        at = closing + ONE
    while not _is_field_end(text, at, delimiter):
        at += ONE
    return at


@inlined
def _digits(text: Array, start: Any, before: Any) -> Any:  # noqa: ANN401 - likewise
    """Return the number that digits append to one before them, and the place behind them."""
    at = start
    number = before
    digit = np.int64(text[at]) - ZERO
    while 0 <= digit <= 9:
        number = number * 10 + digit
        at += ONE
        digit = np.int64(text[at]) - ZERO
    return number, at


@compiled
def _number(text: Array, start: Any, delimiter: int) -> Any:  # noqa: ANN401 - likewise
    """Return a number and the place behind it; NaN for a field that is not plain."""
    mantissa, at = _digits(text, start, np.int64(0))
    n_digits = np.int64(at - start)
    exponent = np.int64(0)
    if text[at] == POINT:
        behind_point = at + ONE
        mantissa, at = _digits(text, behind_point, mantissa)
        exponent = -np.int64(at - behind_point)
        n_digits -= exponent
    is_plain = 0 < n_digits <= MAX_DIGITS
    if is_plain and text[at] | CASE == LOWER_E:
        sign = text[at + ONE]
        first = at + TWO if sign in {PLUS, MINUS} else at + ONE
        written, at = _digits(text, first, np.int64(0))
        is_plain = 0 < np.int64(at - first) <= MAX_EXPONENT_DIGITS
        exponent += -written if sign == MINUS else written
    if not (is_plain and _is_field_end(text, at, delimiter)):
        return np.nan, _field_stop(text, start, delimiter)
    if mantissa == 0:
        return 0.0, at
    if mantissa > EXACT_INTEGERS or abs(exponent) >= POWERS_OF_TEN.size:
        return np.nan, at
    value = np.float64(mantissa)
    if exponent < 0:
        return value / POWERS_OF_TEN[-exponent], at
    return value * POWERS_OF_TEN[exponent], at


@inlined
def _behind_zeros(text: Array, start: Any, delimiter: int) -> Any:  # noqa: ANN401 - likewise
    """Return the place behind fields that are ``0`` or ``0.0``, and how many these are."""
    at = start
    n_zeros = np.int64(0)
    while text[at] == delimiter and text[at + ONE] == ZERO:
        stop = at + TWO
        if text[stop] == POINT and text[stop + ONE] == ZERO:
            stop += TWO
        if text[stop] != delimiter and text[stop] != NEWLINE:
            break
        at = stop
        n_zeros += 1
    return at, n_zeros


@compiled
def parse_count_rows(  # noqa: PLR0917 - compiled functions are called by position
    text: Array,
    delimiter: int,
    n_columns: int,
    rows: Array,
    indices: Array,
    values: Array,
    spans: Array,
) -> Any:  # noqa: ANN401 - numba's integers
    """Return how many lines, rows, values and spans there are, a fault, and fields of its row."""
    at = np.uint64(0)
    line = row = n = n_spans = 0
    while at < text.size:
        stop = _field_stop(text, at, delimiter)
        # A blank line is no row.
        if stop > at or text[stop] == delimiter:
            rows[row, 0], rows[row, 1], rows[row, 2] = line, at, stop
            first = n
            column = 0
            first_empty = n_columns
            while True:
                stop, n_zeros = _behind_zeros(text, stop, delimiter)
                column += n_zeros
                if text[stop] != delimiter:
                    break
                at = stop + ONE
                value, stop = _number(text, at, delimiter)
                if column < n_columns and value != 0.0:
                    if stop == at:
                        first_empty = min(first_empty, column)
                    else:
                        if value != value:  # noqa: PLR0124 - NaN alone differs from itself
                            spans[n_spans, 0], spans[n_spans, 1] = at, stop
                            n_spans += 1
                        indices[n] = column
                        values[n] = value
                        n += 1
                column += 1
            rows[row, 3] = n - first
            row += 1
            if column != n_columns:
                return line, row, n, n_spans, RAGGED, column
            if first_empty < n_columns:
                return line, row, n, n_spans, EMPTY_FIELD, first_empty
        at = stop + (ONE if text[stop] == NEWLINE else TWO)
        line += 1
    return line, row, n, n_spans, NO_FAULT, 0
