"""One comparison: the outputs of its sides are compared first, then the sides take turns."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Literal

from peer_cases.case import (
    ChildRun,
    Comparison,
    OutputsDifferError,
    Peer,
    Target,
    Work,
    at_most,
    reported,
)
from peer_cases.clock import Timing, take_turns
from peer_cases.data import Data

__all__ = ["Row", "compare"]

type Status = Literal["measured", "not installed", "failed", "differs"]

_OURS = "stformat"
# The kernel counts memory in pages: to tell less is to tell nothing.
_LEAST_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One peer beside us."""

    what: str
    """The work."""

    peer: str
    """The other side."""

    unit: str
    """What both amounts are stated for."""

    status: Status
    """Whether there are amounts; else why not."""

    detail: str
    """How the outputs compare, or what went wrong."""

    note: str
    """What a reader should know of the peer."""

    target: str = ""
    """What design.md asks of the ratio."""

    ours: float | None = None
    """Our amount for one unit: seconds, or bytes."""

    theirs: float | None = None
    """The other amount."""

    ratio: float | None = None
    """A peer's amount over ours; ours over that of a bound."""

    is_reached: bool | None = None
    """Whether the target is reached; None where there is none, or nothing was measured."""

    runs: int = 0
    """Runs of the peer that the median is of."""

    foreign: float = 0.0
    """Share of one processor that others took in the median run of the side that suffered more."""

    run: str = ""
    """Date and commit of the run that measured it."""


@dataclass(frozen=True, slots=True)
class _Checked:
    peer: Peer
    work: Work
    detail: str


def compare(
    comparison: Comparison,
    data: Data,
    *,
    rounds: int = 5,
    tries: int = 4,
    measures_memory: bool = True,
) -> list[Row]:
    """Check every peer's output against ours, time those that agree, and return a row for each.

    `measures_memory` says whether processes are started for what measures memory in its own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer warns of is its own affair
        ours = comparison.ours(data)
        found = _check_all(comparison, ours, data)
        works = {peer: one.work for peer, one in found.items() if isinstance(one, _Checked)}
        timings = take_turns({_OURS: ours, **works}, rounds=rounds, tries=tries)
    added = ours.added_bytes() if measures_memory and ours.added_bytes else None
    rows = []
    for one in found.values():
        if isinstance(one, Row):
            rows.append(one)
            continue
        rows += _measured(comparison, one, ours, timings)
        if added is not None:
            rows.append(_memory_added(rows[-1], one, added))
    return rows + _beside_limit(comparison, timings[_OURS])


def _memory_added(row: Row, one: _Checked, ours: int) -> Row:
    """Return the row of the memory that two sides add, beside that of their times."""
    if one.work.added_bytes is None:
        raise TypeError(f"{one.peer.name} must measure its memory as we do")
    amounts = max(ours, _LEAST_BYTES), max(one.work.added_bytes(), _LEAST_BYTES)
    return _compared(_of_memory(f"{row.what}: memory that it adds", row), amounts, reported())


def _check_all(comparison: Comparison, ours: Work, data: Data) -> dict[str, Row | _Checked]:
    ours.before()
    expected = _output(ours)
    return {peer.name: _check(comparison, peer, data, expected) for peer in comparison.peers}


def _output(work: Work) -> Any:
    output = work.run() if work.output is None else work.output()
    return output.output if isinstance(output, ChildRun) else output


def _check(comparison: Comparison, peer: Peer, data: Data, expected: Any) -> Row | _Checked:
    """Prepare a peer and run it once; return the row that says why it cannot be measured."""
    try:
        work = peer.prepare(data)
        work.before()
        output = _output(work)
        if peer.agrees is None:
            return _Checked(peer, work, "")
        whole = isinstance(work.part, slice) and work.part == slice(None)
        return _Checked(peer, work, peer.agrees(expected if whole else expected[work.part], output))
    except ModuleNotFoundError as error:
        return _unmeasured(comparison, peer, "not installed", f"no module {error.name}")
    except OutputsDifferError as error:
        return _unmeasured(comparison, peer, "differs", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is what its row says
        return _unmeasured(comparison, peer, "failed", f"{type(error).__name__}: {error}")


def _unmeasured(comparison: Comparison, peer: Peer, status: Status, detail: str) -> Row:
    return Row(
        what=comparison.what,
        peer=peer.name,
        unit=comparison.unit,
        status=status,
        detail=detail,
        note=peer.note,
        target=str(peer.target),
    )


def _measured(
    comparison: Comparison, one: _Checked, ours: Work, timings: dict[str, Timing]
) -> list[Row]:
    our_timing, timing = timings[_OURS], timings[one.peer.name]
    both = our_timing, timing
    per_unit = our_timing.median / ours.n_units, timing.median / one.work.n_units
    row = _compared(
        Row(
            what=comparison.what,
            peer=one.peer.name,
            unit=comparison.unit,
            status="measured",
            detail=one.detail,
            note=one.peer.note,
            runs=len(timing.seconds),
            foreign=max(side.foreign for side in both),
        ),
        per_unit,
        one.peer.target,
    )
    if our_timing.peak_bytes is None or timing.peak_bytes is None:
        return [row]
    peaks = our_timing.peak_bytes, timing.peak_bytes
    return [row, _compared(_of_memory(_peak_of(comparison), row), peaks, reported())]


def _beside_limit(comparison: Comparison, ours: Timing) -> list[Row]:
    """Return the row of our memory beside what it may be, where there is a limit."""
    if comparison.memory_limit is None or ours.peak_bytes is None:
        return []
    row = Row(
        what=_peak_of(comparison),
        peer="limit",
        unit="byte",
        status="measured",
        detail="",
        note="",
        runs=len(ours.seconds),
        foreign=ours.foreign,
    )
    return [_compared(row, (ours.peak_bytes, comparison.memory_limit), at_most(1))]


def _of_memory(what: str, row: Row) -> Row:
    return dataclasses.replace(row, what=what, unit="byte", note="")


def _peak_of(comparison: Comparison) -> str:
    return f"{comparison.what}: peak anonymous memory"


def _compared(row: Row, amounts: tuple[float, float], target: Target) -> Row:
    """Fill in what was measured."""
    ratio = target.ratio(*amounts)
    return dataclasses.replace(
        row,
        ours=amounts[0],
        theirs=amounts[1],
        ratio=ratio,
        target=str(target),
        is_reached=target.is_reached(ratio),
    )
