"""What is compared: one piece of work of ours beside the same work of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from peer_cases.data import Data

__all__ = [
    "ChildRun",
    "Comparison",
    "OutputsDifferError",
    "Peer",
    "Target",
    "Work",
    "at_least",
    "at_most",
    "close",
    "equal",
    "equal_matrices",
    "reported",
]


class OutputsDifferError(AssertionError):
    """A peer did not do the same work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How a ratio is formed, and what design.md asks of it."""

    is_bound: bool
    """The other side is a limit of the machine: the ratio is our time over its time. Else it is a
    peer: the ratio is its time over ours."""

    limit: float | None
    """Most that the ratio may be for a bound, least that it must be for a peer; None: no target."""

    def ratio(self, ours: float, other: float) -> float:
        """Return the ratio of two times, or of two amounts of memory."""
        return ours / other if self.is_bound else other / ours

    def is_reached(self, ratio: float) -> bool | None:
        """Return whether the target is reached, or None where there is none."""
        if self.limit is None:
            return None
        return ratio <= self.limit if self.is_bound else ratio >= self.limit

    def __str__(self) -> str:
        if self.limit is None:
            return ""
        return f"{'≤' if self.is_bound else '≥'} {self.limit:g} x"


def at_least(limit: float) -> Target:
    """Ask that a peer take so many times as long as we do."""
    return Target(is_bound=False, limit=limit)


def at_most(limit: float) -> Target:
    """Ask that we take at most so many times as long as a bound."""
    return Target(is_bound=True, limit=limit)


def reported() -> Target:
    """Ask nothing: the ratio to a peer is reported."""
    return Target(is_bound=False, limit=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRun:
    """What a run in a process of its own says of itself."""

    seconds: float
    """Time of the work, without the imports."""

    peak_bytes: int
    """Most anonymous memory that the process held."""

    output: Any
    """What the work made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One side of a comparison, ready to run."""

    run: Callable[[], Any]
    """The work that is timed. Returns its output, or a `ChildRun`."""

    n_units: int
    """Tiles, rows or values that a run handles; times are compared per unit."""

    part: NDArray[np.int64] | slice = slice(None)
    """Which of our outputs this side makes: slow peers run on a part."""

    before: Callable[[], object] = lambda: None
    """What must happen before each run, and is not timed."""

    output: Callable[[], Any] | None = None
    """Makes the output that is compared, where `run` does not return it."""

    added_bytes: Callable[[], int] | None = None
    """Measures the memory that the work adds at its peak, in a process of its own."""


type Agreement = Callable[[Any, Any], str]


def close(rtol: float) -> Agreement:
    """Compare floats, dense or sparse, up to a relative difference."""

    def agree(ours: Any, theirs: Any) -> str:
        furthest = float(np.max(np.abs(theirs / ours - 1), initial=0, where=ours != 0))
        if not np.array_equal(ours == 0, theirs == 0) or furthest > rtol:
            raise OutputsDifferError(f"a relative difference of {furthest:.1e}")
        return f"within {furthest:.0e}"

    return agree


def equal_matrices(ours: sparse.sparray, theirs: Any) -> str:
    """Say that two sparse matrices are equal, or raise.

    Raises
    ------
    OutputsDifferError
        If they are not.
    """
    if ours.shape != theirs.shape:
        raise OutputsDifferError(f"shape {theirs.shape} instead of {ours.shape}")
    difference = sparse.csr_array(ours) - sparse.csr_array(theirs)
    if difference.count_nonzero():
        raise OutputsDifferError(f"{difference.count_nonzero()} values differ")
    return "equal"


def equal(ours: Any, theirs: Any) -> str:
    """Say that two arrays are equal, or raise.

    Raises
    ------
    OutputsDifferError
        If they are not.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise OutputsDifferError(f"shape {theirs.shape} instead of {ours.shape}")
    if not np.array_equal(ours, theirs):
        raise OutputsDifferError(f"{np.mean(ours != theirs):.2%} of the values differ")
    return "equal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another way to do the work, or a limit of the machine."""

    name: str
    """Library and call."""

    prepare: Callable[[Data], Work]
    """Imports the library and opens what the work needs."""

    target: Target = reported()  # noqa: RUF009 - frozen
    """What is asked of the ratio."""

    agrees: Agreement | None = equal
    """Compares ``(ours, theirs)`` and says how they compare; None where there is nothing to."""

    note: str = ""
    """What a reader of the row should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One line of work, ours and others'."""

    what: str
    """The work, as the table names it."""

    unit: str
    """What times are stated for: one ``"tile"``."""

    ours: Callable[[Data], Work]
    """Our side."""

    peers: tuple[Peer, ...]
    """The other sides."""

    memory_limit: int | None = None
    """Bytes of anonymous memory that our side may hold, where sides are processes."""
