"""JSON read as a stream, so that a document may be larger than memory.

Specification: https://www.rfc-editor.org/rfc/rfc8259
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from stformat.errors import InputError, Problem

__all__ = ["JsonStream"]

MAX_VALUE = 1 << 26
"""Longest value that is decoded at once, in characters."""

_CHUNK = 1 << 18
_SPACE = " \t\n\r"
_DECODER = json.JSONDecoder()


class JsonStream:
    """A cursor on a JSON text: enter arrays and objects, or decode a value whole.

    Parameters
    ----------
    path : pathlib.Path
        File that the text is of, for messages.
    file : text file
        The text, from its beginning.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file
        self._text = ""
        self._at = 0
        self._is_end = False

    def peek(self) -> str:
        """Return the next character that is no white space; nothing at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def value(self) -> Any:  # noqa: ANN401 - whatever is there
        """Decode the next value.

        Raises
        ------
        InputError
            If there is none, or it is longer than `MAX_VALUE`.
        """
        self.peek()
        while True:
            try:
                value, stop = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # It may be cut off: each time as much is read as there is, so no text is
                # decoded more often than its length has doublings.
                if isinstance(error, RecursionError) or not self._more(len(self._text) - self._at):
                    raise self._error("a JSON value is needed", str(error)) from error
                continue
            # A number that ends where the text does may go on.
            if stop == len(self._text) and self._more():
                continue
            self._at = stop
            return value

    def items(self) -> Iterator[int]:
        """Enter an array: yields the number of each item, which the caller then reads."""
        self._take("[")
        number = 0
        while self.peek() != "]" or number:
            if number and self._take(",]") == "]":
                return
            yield number
            number += 1
        self._take("]")

    def members(self) -> Iterator[str]:
        """Enter an object: yields the name of each member, whose value the caller then reads."""
        self._take("{")
        is_first = True
        while self.peek() != "}" or not is_first:
            if not is_first and self._take(",}") == "}":
                return
            name = self.value()
            if not isinstance(name, str):
                raise self._error("the name of a member is needed", repr(name)[:40])
            self._take(":")
            yield name
            is_first = False
        self._take("}")

    def end(self) -> None:
        """Refuse anything but white space behind the value.

        Raises
        ------
        InputError
            If there is more.
        """
        if self.peek():
            raise self._error("nothing may follow the value", repr(self.peek()))

    def _take(self, wanted: str) -> str:
        found = self.peek()
        if not found or found not in wanted:
            raise self._error(
                f"{' or '.join(wanted)} is needed", repr(found) if found else "the end"
            )
        self._at += 1
        return found

    def _more(self, wanted: int = 0) -> bool:
        """Read on, and forget what is behind the cursor; False at the end of the text."""
        kept = self._text[self._at :]
        if self._is_end or len(kept) > MAX_VALUE:
            return False
        try:
            new = self._file.read(max(_CHUNK, wanted))
        except (OSError, UnicodeDecodeError) as error:
            raise self._error("the file must be UTF-8 text", str(error)) from error
        self._is_end = not new
        self._text = kept + new
        self._at = 0
        return bool(new)

    def _error(self, expected: str, found: str) -> InputError:
        return InputError(Problem("outlines.json", self._path.name, expected, found[:200]))
