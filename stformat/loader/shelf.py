"""Slides that are opened when they are needed, so many at a time."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from stformat.store.location import parse_location
from stformat.store.reader import Slide, open_slide
from stformat.store.row_index import RowIndex
from stformat.store.slide_part import HasParts, SlidePart

__all__ = ["SlideShelf", "SlideSource", "SlideSources", "entries"]

type SlideSource = Slide | SlidePart | str | os.PathLike[str]
type SlideSources = Iterable[SlideSource] | HasParts


class SlideShelf:
    """Many slides, of which a few are open; safe for threads, after a fork and to pickle.

    It opens slides of its own, so that a slide that was given may be closed, and always the version
    of a store that it opened first.

    Parameters
    ----------
    sources : iterable of Slide, SlidePart or path, or a Collection
        The slides. A path stands for the default table of its store.
    max_open : int
        Slides that stay open when nobody uses them, at least 1.

    Raises
    ------
    TypeError
        If they are no slides, or in no order.
    ValueError
        If there is none.
    """

    def __init__(self, sources: SlideSources, *, max_open: int) -> None:
        listed = _listed(sources)
        self._parts = {
            number: part for number, part in enumerate(listed) if isinstance(part, SlidePart)
        }
        self._sources: list[bytes | str | SlidePart] = [
            pickle.dumps(source) if isinstance(source, Slide)
            else source if isinstance(source, SlidePart)
            else os.fspath(source)
            for source in listed
        ]  # fmt: skip
        # Of a path known once it was opened: until then the exception itself says where it is.
        self._names = [_name_of(source) for source in listed]
        self._max_open = max_open
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, Slide] = OrderedDict()
        _SHELVES.add(self)

    def __len__(self) -> int:
        return len(self._sources)

    def __getstate__(self) -> dict[str, Any]:
        names = "_sources", "_parts", "_names", "_max_open"
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_empty()

    def rows(self, given: Sequence[RowIndex | None] | None) -> list[RowIndex | None]:
        """Return the rows of each slide that are loaded: those given, of a part only of its own.

        Raises
        ------
        SplitError
            If a row is given that is not of the part.
        ValueError
            If there is not an entry for each slide.
        TypeError
            If they are no list, or an entry is a single number.
        """
        rows = [None] * len(self) if given is None else entries("rows", given, len(self))
        for each in rows:
            if isinstance(each, int | np.integer):
                raise TypeError(
                    f"rows of a slide must be an array, mask, slice or None, got {each!r}"
                )
        return [
            self._parts[number].rows_within(each) if number in self._parts else each
            for number, each in enumerate(rows)
        ]

    def check_tiles(
        self, number: int, tile_px: int, mpp: float | None, slide_mpp: float | None
    ) -> None:
        """Refuse tiles of a part that could share pixels with those of another side.

        Raises
        ------
        SplitError
            If they could.
        """
        if number in self._parts:
            self._parts[number].check_tiles(tile_px, mpp, slide_mpp=slide_mpp)

    @contextmanager
    def lend(self, number: int) -> Iterator[Slide]:
        """Lend an open slide; what it keeps of pixels and counts is forgotten afterwards.

        Raises
        ------
        StoreError
            If its store cannot be opened, or is another version than before.
        """
        with self._lock:
            slide = self._idle.pop(number, None)
        try:
            if slide is None:
                slide = self._open(number)
            yield slide
        except BaseException as error:
            error.add_note(f"while reading slide {number}{self._names[number]}")
            if _is_for_want_of_files(error):
                error.add_note(
                    "this process has as many files open as it may: lower max_open, or raise that "
                    "limit (ulimit -n)"
                )
            raise
        finally:
            if slide is not None:
                slide.opened.cache.clear()
                self._put_back(number, slide)

    def close(self) -> None:
        """Close the slides that are open; a slide that is asked for opens again."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
        for slide in idle.values():
            slide.close()

    def _open(self, number: int) -> Slide:
        source = self._sources[number]
        if isinstance(source, bytes):
            slide: Slide = pickle.loads(source)  # noqa: S301 - our own, of this object
            return slide
        slide = source.open() if isinstance(source, SlidePart) else open_slide(source)
        # From here on this version of the store, or none.
        self._sources[number] = pickle.dumps(slide)
        if not isinstance(source, SlidePart):
            self._names[number] = f", {slide.slide_id} at {parse_location(source)}"
        return slide

    def _put_back(self, number: int, slide: Slide) -> None:
        with self._lock:
            # Where two threads read one slide, the one that returns later closes its own.
            extra = [slide] if number in self._idle else []
            self._idle.setdefault(number, slide)
            while len(self._idle) > self._max_open:
                extra.append(self._idle.popitem(last=False)[1])
        for unused in extra:
            unused.close()


def entries[T](name: str, given: Iterable[T], n_slides: int) -> list[T]:
    """Return what is given for each slide, in their order.

    Raises
    ------
    TypeError
        If it is no list; of a mapping or a set the order would say which slide is meant.
    ValueError
        If there is not an entry for each slide.

    Examples
    --------
    >>> entries("weights", (1.0, 0.5), 2)
    [1.0, 0.5]
    """
    expected = f"{name} must be a list with an entry for each of {n_slides} slides, in their order"
    if isinstance(given, str | bytes | Mapping | AbstractSet) or not isinstance(given, Iterable):
        raise TypeError(f"{expected}, got {given!r}")
    listed = list(given)
    if len(listed) != n_slides:
        raise ValueError(f"{expected}, got {len(listed)}")
    return listed


def _listed(sources: object) -> Sequence[SlideSource]:
    """Return slides in their order, or refuse what are none."""
    kinds = (str, os.PathLike, Slide, SlidePart)
    expected = "slides must be a Collection, or a list of slides, parts or paths"
    # A path has parts, too.
    if isinstance(sources, (*kinds, Mapping)) or not isinstance(sources, Iterable):
        raise TypeError(f"{expected}, got {sources!r}")
    if isinstance(sources, set | frozenset):
        raise TypeError(f"{expected}, in an order, which a set has not: give sorted(slides)")
    listed = list(sources.parts if isinstance(sources, HasParts) else sources)
    if not listed:
        raise ValueError("slides must be at least one, got none")
    for source in listed:
        if not isinstance(source, kinds):
            raise TypeError(f"{expected}, got {source!r} among them")
    return cast("list[SlideSource]", listed)


def _name_of(source: SlideSource) -> str:
    if isinstance(source, SlidePart):
        return f", {source.slide_id} at {source.location}"
    return f", {source.slide_id}" if isinstance(source, Slide) else ""


def _is_for_want_of_files(error: BaseException | None) -> bool:
    """Whether an exception comes of too many open files."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            return True
        error = error.__cause__ or error.__context__
    return False


_SHELVES: weakref.WeakSet[SlideShelf] = weakref.WeakSet()


def _start_empty_in_child() -> None:
    # A thread of the parent may have held a lock at the fork.
    for shelf in list(_SHELVES):
        shelf._start_empty()  # noqa: SLF001 - the class and this hook are one unit


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_empty_in_child)
