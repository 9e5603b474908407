"""What tells whether a slide is one that was asked for, by a value of its catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from stformat.errors import CatalogueLookupError, Problem
from stformat.terms.tables import Term, species_term, tissue_term

__all__ = ["condition_of"]

_TERMS: dict[str, Callable[[str], Term | None]] = {"species": species_term, "tissue": tissue_term}


def condition_of(name: str, wanted: object) -> Callable[[Any], bool]:
    """Return what tells whether the value of a column will do.

    Parameters
    ----------
    name : str
        The column.
    wanted : object
        A value, an array or another iterable of values, or a function.

    Returns
    -------
    callable
        Whether a value will do; see `stformat.collection.slides.Collection.where`.

    Raises
    ------
    CatalogueLookupError
        If a value that is wanted is no value of any column, as a list of lists is none.

    Examples
    --------
    >>> will_do = condition_of("n_obs", range(10, 20))
    >>> will_do(10), will_do(20), condition_of("keywords", None)([])
    (True, False, True)
    """
    values = [wanted]
    if isinstance(wanted, np.ndarray):
        values = wanted.ravel().tolist()
    elif isinstance(wanted, Iterable) and not isinstance(wanted, str | bytes):
        values = list(wanted)
    # A frame of the catalogue shows what is missing as not a number.
    values = [None if _is_nan(value) else value for value in values]
    tests = [value for value in values if callable(value)]
    try:
        # One look-up, however many are wanted.
        known = {value for value in values if not callable(value)}
    except TypeError as error:
        raise CatalogueLookupError(
            Problem(
                "catalogue.condition",
                name,
                "a condition is a value, a list of values or a function",
                f"{wanted!r}",
                "of a column that holds lists, name an entry",
            )
        ) from error
    term_of = _TERMS.get(name, _no_term)
    terms = {term_of(value) for value in known if isinstance(value, str)} - {None}

    def entry_will_do(value: Any) -> bool:  # noqa: ANN401 - of a column of any type
        if value is None or value in known:
            return value in known
        if terms and term_of(value) in terms:
            return True
        return any(test(value) for test in tests)

    def will_do(value: Any) -> bool:  # noqa: ANN401 - of a column of any type
        return any(map(entry_will_do, (value or [None]) if isinstance(value, list) else [value]))

    return will_do


def _is_nan(value: object) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _no_term(_text: str) -> None:
    return None
