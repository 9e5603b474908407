"""JSON as a store may hold it: strict in, canonical out (RFC 8259; RFC 8785 in spirit).

A store may come from anyone, so the parser refuses what Python's own accepts: NaN and Infinity,
duplicate keys, documents over 16 MiB, nesting deeper than 64.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["MAX_BYTES", "MAX_DEPTH", "JsonError", "dump_canonical", "parse_object"]

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 64


_BRACKETS_AND_STRINGS = re.compile(rb'[\[\]{}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class JsonError(ValueError):
    """A document is not the strict JSON object that a store must hold."""


def parse_object(document: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Parse a JSON object strictly.

    Parameters
    ----------
    document : bytes
        UTF-8 text.
    max_bytes : int, default: 16 MiB
        The most it may take.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    JsonError
        If the document is larger than `max_bytes`, nested deeper than 64, not UTF-8, not JSON,
        holds NaN, Infinity, a number beyond float64, half of a surrogate pair or a duplicate key,
        or is no object.

    Examples
    --------
    >>> parse_object(b'{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    if len(document) > max_bytes:
        raise JsonError(f"a JSON document must be at most {max_bytes} bytes, got {len(document)}")
    _check_depth(document)
    try:
        value = json.loads(
            document.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if b"\\u" in document:
            # Half of a surrogate pair parses, and cannot be written again.
            json.dumps(value, ensure_ascii=False).encode()
    except JsonError:
        raise
    except ValueError as error:  # no UTF-8, no JSON, or an integer of thousands of digits
        raise JsonError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise JsonError(f"a JSON object is needed, got {type(value).__name__}")
    return value


def dump_canonical(value: Mapping[str, Any]) -> bytes:
    r"""Return the one way to write a JSON object: sorted keys, two spaces, UTF-8, final newline.

    Raises
    ------
    ValueError
        If the object holds NaN or Infinity.

    Examples
    --------
    >>> dump_canonical({"b": 1, "a": None})
    b'{\n  "a": null,\n  "b": 1\n}\n'
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _check_depth(document: bytes) -> None:
    """Bound the nesting before the parser recurses; brackets inside strings count for nothing."""
    if document.count(b"[") + document.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _BRACKETS_AND_STRINGS.finditer(document):
        byte = token.group()[0]
        if byte in b"[{":
            depth += 1
        elif byte in b"]}":
            depth -= 1
        if depth > MAX_DEPTH:
            raise JsonError(f"a JSON document must nest at most {MAX_DEPTH} deep")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonError(f"a JSON object must not repeat a key, got {repeated!r} twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JsonError(f"a JSON number must fit float64, got {text[:32]}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"JSON has no {name}")
