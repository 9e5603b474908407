"""Join of counts to tissue positions by barcode, and the sections of a stitched slide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.model import Note
from stformat.sources._notes import counted, unmatched_notes
from stformat.sources._positions import TissuePositions

__all__ = ["JoinedBarcodes", "join_barcodes", "sections", "without_suffix"]

_SUFFIX = re.compile(r"-\d+$")
_STITCHED = re.compile(r"([ACGTN]{8,}(?:-\d+)?)[_-](\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedBarcodes:
    """Rows that have both counts and a place, in the order of the count matrix."""

    count_rows: NDArray[np.int64]
    """(n,) rows of the count matrix."""

    position_rows: NDArray[np.int64]
    """(n,) rows of the tissue positions."""

    names: tuple[str, ...]
    """Every name of the tissue positions, of the column that joined."""


def without_suffix(barcode: str) -> str:
    """Return a barcode without the number of its capture area.

    Examples
    --------
    >>> without_suffix("AACAGGAAGAGCATAG-1"), without_suffix("AACAGGAAGAGCATAG")
    ('AACAGGAAGAGCATAG', 'AACAGGAAGAGCATAG')
    """
    return _SUFFIX.sub("", barcode)


def join_barcodes(
    barcodes: Sequence[str], positions: TissuePositions, *, where: str
) -> tuple[JoinedBarcodes, tuple[Note, ...]]:
    """Give each row of counts its place.

    Parameters
    ----------
    barcodes : sequence of str
        Rows of the count matrix, unique.
    positions : TissuePositions
        Tissue positions, with one column of names or two: the one that more rows find is taken.
    where : str
        Files that both come from, for messages.

    Returns
    -------
    JoinedBarcodes
        Rows that stand on both sides. Where none does, the same without ``-1`` at the end of
        barcodes, if they are then still unique on both sides.
    tuple of Note
        Rows without a partner on either side, and suffixes that were passed over.

    Raises
    ------
    PositionsError
        If no row finds its place.

    Examples
    --------
    >>> import numpy as np
    >>> positions = TissuePositions(
    ...     identifiers=(("AAAC-1", "AAAG-1"),), in_tissue=np.ones(2, dtype=bool),
    ...     array_row=np.zeros(2, dtype=np.int64), array_col=np.array([0, 2]), xy=np.zeros((2, 2)),
    ... )
    >>> joined, notes = join_barcodes(["AAAG-1"], positions, where="example")
    >>> joined.position_rows.tolist(), [note.code for note in notes]
    ([1], ['spots.without-counts'])
    """
    rows, names = max(
        ((_rows_of(barcodes, names), names) for names in positions.identifiers),
        key=lambda found: np.count_nonzero(found[0] >= 0),
    )
    notes: list[Note] = []
    if not (rows >= 0).any():
        for names in positions.identifiers:
            rows = _rows_without_suffix(barcodes, names)
            if (rows >= 0).any():
                n_joined = int(np.count_nonzero(rows >= 0))
                joining = counted(n_joined, "barcode joins", "barcodes join")
                message = f"{joining} without the suffix -1, which one of the files leaves out."
                notes.append(Note(code="barcodes.suffix", message=message, count=n_joined))
                break
        else:
            raise PositionsError(
                Problem(
                    "positions.no-join",
                    where,
                    "barcodes of the counts must be those of the tissue positions",
                    f"{', '.join(barcodes[:3]) or 'none'} in the counts, "
                    f"{', '.join(positions.identifiers[0][:3])} in the positions",
                    "check that both are of the same sample",
                )
            )
    is_joined = rows >= 0
    kept = rows[is_joined]
    is_alone = np.ones(len(names), dtype=np.bool_)
    is_alone[kept] = False
    notes.extend(
        unmatched_notes(
            [barcode for barcode, has in zip(barcodes, is_joined, strict=True) if not has],
            [name for name, alone in zip(names, is_alone, strict=True) if alone],
        )
    )
    joined = JoinedBarcodes(count_rows=np.flatnonzero(is_joined), position_rows=kept, names=names)
    return joined, tuple(notes)


def _rows_of(barcodes: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Row of each barcode among the names, or -1."""
    row_of = {name: row for row, name in enumerate(names)}
    return np.array([row_of.get(barcode, -1) for barcode in barcodes], dtype=np.int64)


def _rows_without_suffix(barcodes: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    bare, bare_names = ([without_suffix(text) for text in texts] for texts in (barcodes, names))
    if len(set(bare)) < len(bare) or len(set(bare_names)) < len(bare_names):
        return np.full(len(barcodes), -1, dtype=np.int64)
    return _rows_of(bare, bare_names)


def sections(positions: TissuePositions) -> NDArray[np.object_] | None:
    """Return the section of each spot of a stitched slide.

    Parameters
    ----------
    positions : TissuePositions
        Tissue positions.

    Returns
    -------
    (n,) ndarray of str or None
        What follows the barcode in ``<barcode>_<section>``, where every spot has such a name and
        there are at least two sections; else None.
    """
    for names in positions.identifiers:
        matches = [_STITCHED.fullmatch(name) for name in names]
        found = [match[2] for match in matches if match]
        if len(found) == len(names) and len(set(found)) > 1:
            return np.array(found, dtype=object)
    return None
