"""Joins of a legacy ST sample: counts to places by name, labels to spots by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import KDTree

from stformat.errors import CountsError, PositionsError, Problem
from stformat.model import Note
from stformat.sources._counts_text import TextCounts
from stformat.sources._legacy_st_files import SampleFiles
from stformat.sources._notes import counted, named, unmatched_notes
from stformat.sources._sniff import parse_spot_name
from stformat.sources._spot_table import LabelTable, SpotTable

__all__ = ["JoinedSpots", "join_labels", "join_spots"]

SAME_PX = 0.5
"""Labels given by pixels are those of a spot within half a pixel."""

SAME_PLACE = 0.01
"""Measured array positions of one spot agree to two decimals."""

type _Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedSpots:
    """Spots that have counts and a place, in the order of the count matrix."""

    barcodes: NDArray[np.object_]
    """(n,) names of the count matrix."""

    array_xy: NDArray[np.float64]
    """(n, 2) columns x, y of the spot file."""

    new_xy: NDArray[np.float64] | None
    """(n, 2) columns new_x, new_y of the spot file, or None."""

    xy: NDArray[np.float64]
    """(n, 2) columns pixel_x, pixel_y of the spot file."""

    selected: NDArray[np.bool_]
    """(n,) column selected of the spot file."""

    matrix: sparse.csr_array
    """(n, n_genes) counts."""

    gene_names: tuple[str, ...]
    """Names of the columns, unique or not."""


def join_spots(
    counts: TextCounts, table: SpotTable, files: SampleFiles
) -> tuple[JoinedSpots, tuple[Note, ...]]:
    """Give each row of counts its place.

    Parameters
    ----------
    counts : TextCounts
        Count matrix, with spots along either axis.
    table : SpotTable
        Spot file.
    files : SampleFiles
        Where both come from, for messages.

    Returns
    -------
    JoinedSpots
        Rows that stand on both sides. Names are compared with x and y as printed: the spot file's
        numbers are rounded to the decimals that the names have. Where fewer than half of the rows
        find a place by x, y and more do by new_x, new_y, these are compared.
    tuple of Note
        Rows without a partner on either side.

    Raises
    ------
    CountsError
        If neither axis or both have names of spots, or a spot or gene name is not usable.
    PositionsError
        If a place of the spot file repeats, or no row finds its place.
    """
    spot_names, gene_names, matrix = _orient(counts, files.counts.name)
    printed = [parse_spot_name(name) for name in spot_names]
    bad = [name for name, pair in zip(spot_names, printed, strict=True) if pair is None]
    if bad:
        raise CountsError(
            Problem(
                "counts.spot-names",
                files.counts.name,
                "every spot needs a name of two numbers, such as 10x13",
                named([repr(name) for name in bad]),
            )
        )
    pairs = [pair for pair in printed if pair is not None]
    decimals = max(len(number.partition(".")[2]) for pair in pairs for number in pair)
    places = _rounded(np.array(pairs, dtype=np.float64), decimals)
    _refuse_repeated(places, spot_names, CountsError, "counts.repeated-spots", files.counts.name)
    spot_rows = _match(places, table, decimals, files.spots.name)
    is_joined = spot_rows >= 0
    if not is_joined.any():
        x, y = table.array_xy[:3].T
        raise PositionsError(
            Problem(
                "positions.no-join",
                f"{files.counts.name}, {files.spots.name}",
                "names of spots in the counts must be x and y of the spot file",
                f"{', '.join(spot_names[:3])} in the counts, "
                f"{', '.join(f'{a:g}x{b:g}' for a, b in zip(x, y, strict=True))} in the spot file",
                "check that both are of the same sample",
            )
        )
    kept = spot_rows[is_joined]
    joined = JoinedSpots(
        barcodes=np.array(spot_names, dtype=object)[is_joined],
        array_xy=table.array_xy[kept],
        new_xy=None if table.new_xy is None else table.new_xy[kept],
        xy=table.pixel_xy[kept],
        selected=table.selected[kept],
        matrix=matrix if is_joined.all() else matrix[np.flatnonzero(is_joined)],
        gene_names=gene_names,
    )
    without_place = [name for name, has in zip(spot_names, is_joined, strict=True) if not has]
    is_alone = np.ones(len(table.array_xy), dtype=np.bool_)
    is_alone[kept] = False
    without_counts = [f"{x:g}x{y:g}" for x, y in table.array_xy[is_alone]]
    return joined, unmatched_notes(without_place, without_counts)


def _orient(
    counts: TextCounts, name: str
) -> tuple[tuple[str, ...], tuple[str, ...], sparse.csr_array]:
    """Return names of spots, names of genes and spots x genes."""
    down, along = counts.row_names, counts.column_names
    shares = [
        sum(parse_spot_name(text) is not None for text in names) / len(names)
        for names in (down, along)
    ]
    is_spots = [share > 0.5 for share in shares]
    if is_spots[0] == is_spots[1]:
        raise CountsError(
            Problem(
                "counts.orientation",
                name,
                "one axis must have names of spots, such as 10x13, and the other names of genes",
                f"{'both have names of spots' if is_spots[0] else 'neither has names of spots'}: "
                f"{', '.join(down[:3])} down the first column, {', '.join(along[:3])} along the "
                "first line",
            )
        )
    genes = along if is_spots[0] else down
    if "" in genes:
        raise CountsError(
            Problem(
                "counts.gene-names",
                name,
                "every gene needs a name",
                f"none for gene {genes.index('') + 1}",
            )
        )
    if is_spots[0]:
        return down, along, counts.matrix
    return along, down, counts.matrix.T.tocsr()


def _rounded(xy: NDArray[np.float64], decimals: int) -> list[_Place]:
    """Positions in whole units of the last decimal."""
    scaled = np.rint(xy * 10.0**decimals).astype(np.int64)
    return [(x, y) for x, y in scaled.tolist()]


def _match(
    places: list[_Place], table: SpotTable, decimals: int, spots_name: str
) -> NDArray[np.int64]:
    """Row of the spot file for each place, or -1."""
    best = np.full(len(places), -1, dtype=np.int64)
    for array_xy in (table.array_xy, table.new_xy):
        if array_xy is None:
            continue
        candidates = _rounded(array_xy, decimals)
        row_of = {place: row for row, place in enumerate(candidates)}
        rows = np.array([row_of.get(place, -1) for place in places], dtype=np.int64)
        if np.count_nonzero(rows >= 0) > np.count_nonzero(best >= 0):
            shown = [f"{x:g}x{y:g}" for x, y in array_xy]
            _refuse_repeated(
                candidates, shown, PositionsError, "positions.repeated-spots", spots_name
            )
            best = rows
        if 2 * np.count_nonzero(best >= 0) >= len(places):
            break
    return best


def _refuse_repeated(
    places: Sequence[_Place],
    shown: Sequence[str],
    error: type[CountsError | PositionsError],
    code: str,
    where: str,
) -> None:
    n_times = Counter(places)
    if len(n_times) == len(places):
        return
    repeated = [name for name, place in zip(shown, places, strict=True) if n_times[place] > 1]
    raise error(Problem(code, where, "a spot must occur once", f"{named(repeated)} repeated"))


def join_labels(
    labels: LabelTable, joined: JoinedSpots, *, name: str
) -> tuple[NDArray[np.object_], tuple[Note, ...]]:
    """Give each spot its label.

    Parameters
    ----------
    labels : LabelTable
        Label file.
    joined : JoinedSpots
        Spots of the table.
    name : str
        Name of the label file, for messages.

    Returns
    -------
    (n,) ndarray of str or None
        Label of each spot. A row of labels belongs to the spot at its x and y rounded to whole
        array positions, or, where more rows find a spot that way, to the spot within half a pixel
        of its pixel_x and pixel_y.
    tuple of Note
        Labels without a spot, spots without a label, equal labels given twice, and positions that
        join but differ from those of the spot file.

    Raises
    ------
    PositionsError
        If no label finds a spot, or two rows give one spot different labels.
    """
    by_place = _spots_by_place(labels, joined)
    by_pixel = _spots_by_pixel(labels, joined)
    is_by_pixel = np.count_nonzero(by_pixel >= 0) > np.count_nonzero(by_place >= 0)
    spots = by_pixel if is_by_pixel else by_place
    if not (spots >= 0).any():
        raise PositionsError(
            Problem(
                "labels.no-join",
                name,
                "positions of labels must be those of the spots",
                "no label at any spot",
                "check that both are of the same sample",
            )
        )
    values = np.full(len(joined.barcodes), None, dtype=object)
    is_given = np.zeros(len(values), dtype=np.bool_)
    n_repeated = 0
    for spot, label in zip(spots.tolist(), labels.label, strict=True):
        if spot < 0:
            continue
        if is_given[spot]:
            n_repeated += 1
            if values[spot] != label:
                raise PositionsError(
                    Problem(
                        "labels.contradiction",
                        name,
                        f"spot {joined.barcodes[spot]} must have one label",
                        f"{values[spot]!r} and {label!r}",
                    )
                )
        values[spot], is_given[spot] = label, True
    n_moved = 0 if is_by_pixel else _n_moved(labels, joined, spots)
    return values, _label_notes(
        n_without_spot=int(np.count_nonzero(spots < 0)),
        n_without_label=int(np.count_nonzero(values == np.array(None))),
        n_repeated=n_repeated,
        n_moved=n_moved,
    )


def _label_notes(
    *, n_without_spot: int, n_without_label: int, n_repeated: int, n_moved: int
) -> tuple[Note, ...]:
    found = (
        (
            "labels.without-spot",
            n_without_spot,
            ("label is", "labels are"),
            "at no spot of the table",
        ),
        ("spots.without-label", n_without_label, ("spot has", "spots have"), "no label"),
        (
            "labels.repeated",
            n_repeated,
            ("label repeats", "labels repeat"),
            "what another says of the same spot",
        ),
        (
            "labels.moved",
            n_moved,
            ("label stands", "labels stand"),
            "elsewhere than at the positions of spots: check that the samples agree",
        ),
    )
    return tuple(
        Note(code=code, message=f"{counted(count, *words)} {rest}.", count=count)
        for code, count, words, rest in found
        if count
    )


def _spots_by_place(labels: LabelTable, joined: JoinedSpots) -> NDArray[np.int64]:
    """Spot at the rounded array position of each label, or -1."""
    spots = np.full(len(labels.label), -1, dtype=np.int64)
    places = _rounded(joined.array_xy, 0)
    row_of = {place: row for row, place in enumerate(places)}
    # Positions that share a rounded place cannot be told apart by it.
    if labels.array_xy is None or len(row_of) < len(places):
        return spots
    is_placed = np.isfinite(labels.array_xy).all(axis=1)
    found = [row_of.get(place, -1) for place in _rounded(labels.array_xy[is_placed], 0)]
    spots[is_placed] = found
    return spots


def _spots_by_pixel(labels: LabelTable, joined: JoinedSpots) -> NDArray[np.int64]:
    """Spot within half a pixel of each label, or -1."""
    spots = np.full(len(labels.label), -1, dtype=np.int64)
    if labels.pixel_xy is None:
        return spots
    is_placed = np.isfinite(labels.pixel_xy).all(axis=1)
    distance, nearest = KDTree(joined.xy).query(labels.pixel_xy[is_placed], p=np.inf)
    spots[is_placed] = np.where(distance <= SAME_PX, nearest, -1)
    return spots


def _n_moved(labels: LabelTable, joined: JoinedSpots, spots: NDArray[np.int64]) -> int:
    """How many labels with measured positions are not where the spot file measured their spots."""
    if labels.array_xy is None or joined.new_xy is None:
        return 0
    is_joined = spots >= 0
    given = labels.array_xy[is_joined]
    if (given == np.rint(given)).all():
        return 0
    difference = np.abs(given - joined.new_xy[spots[is_joined]]).max(axis=1)
    return int(np.count_nonzero(difference > SAME_PLACE))
