"""How a catalogue is split: what belongs together goes to one side, duplicates included."""

from __future__ import annotations

import math
import operator
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stformat.collection.blocks import block_sides, count_blocks
from stformat.collection.count_blocks import SlideOpener
from stformat.collection.duplicates import duplicate_groups
from stformat.collection.shares import assign_sides, draw_order
from stformat.collection.split import SIDES, Side, Split, SplitBy, SplitOption
from stformat.coords import tile_reach_px
from stformat.errors import Problem, SplitError, SplitSharesWarning
from stformat.store.reader import Slide

__all__ = ["SplitRule", "SplitSlide", "split_slides"]

type Missing = Literal["refuse", "own-group", "leave-out"]

_N_SHOWN = 5
_TOLERANCE = 1e-9
_FAR = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How slides are split; see `stformat.collection.slides.Collection.split`."""

    by: SplitBy
    fractions: tuple[float, float, float]
    seed: int
    missing: Missing
    duplicates: Literal["together", "ignore"]
    tile_px: int
    mpp: float | None
    block_tiles: int

    def checked(self) -> SplitRule:
        """Return the rule, of plain numbers: those of NumPy are not what a document holds.

        Raises
        ------
        SplitError
            If an argument is out of its range.
        """
        rule = self._plain()
        _check_range(rule)
        return rule

    def _plain(self) -> SplitRule:
        try:
            train, val, test = (float(share) for share in self.fractions)
        except (TypeError, ValueError):
            expected = "three shares of train, val and test add up to 1"
            raise _refused("fractions", expected, f"{self.fractions}") from None
        try:
            return replace(
                self,
                fractions=(train, val, test),
                seed=operator.index(self.seed),
                tile_px=operator.index(self.tile_px),
                mpp=None if self.mpp is None else float(self.mpp),
                block_tiles=operator.index(self.block_tiles),
            )
        except (TypeError, ValueError):
            expected = "seed, tile_px and block_tiles are whole numbers, and mpp is a number"
            found = f"{self.seed!r}, {self.tile_px!r}, {self.block_tiles!r} and {self.mpp!r}"
            raise _refused("seed", expected, found) from None

    def options(self) -> dict[str, SplitOption]:
        """Return what a split records beside by, fractions and seed."""
        blocks = {"tile_px": self.tile_px, "mpp": self.mpp, "block_tiles": self.block_tiles}
        return {
            "missing": self.missing,
            "duplicates": self.duplicates,
            **(blocks if self.by == "block" else {}),
        }


def _check_range(rule: SplitRule) -> None:
    if rule.by not in {"study", "donor", "section", "slide", "block"}:
        expected = "slides are split by 'study', 'donor', 'section', 'slide' or 'block'"
        raise _refused("by", expected, repr(rule.by))
    is_share = all(share >= 0 for share in rule.fractions)
    if not is_share or abs(sum(rule.fractions) - 1) > _TOLERANCE:
        raise _refused(
            "fractions", "three shares of train, val and test add up to 1", f"{rule.fractions}"
        )
    if rule.missing not in {"refuse", "own-group", "leave-out"}:
        expected = "what is missing is for 'refuse', 'own-group' or 'leave-out'"
        raise _refused("missing", expected, repr(rule.missing))
    if rule.duplicates not in {"together", "ignore"}:
        expected = "duplicates are kept 'together', or 'ignore'"
        raise _refused("duplicates", expected, repr(rule.duplicates))
    if rule.seed < 0 or rule.tile_px < 1 or rule.block_tiles < 2:
        raise _refused(
            "seed",
            "seed is at least 0, tile_px at least 1, block_tiles at least 2",
            f"{rule.seed}, {rule.tile_px}, {rule.block_tiles}",
        )
    if rule.mpp is not None and not 0 < rule.mpp < math.inf:
        raise _refused("mpp", "microns per pixel are above 0 and finite", f"{rule.mpp}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSlide:
    """What of the catalogue a split needs of a slide."""

    slide_id: str
    manifest_sha256: str
    opened: SlideOpener
    study: str | None
    donor: str | None
    n_sections: int
    rows: NDArray[np.bool_] | None
    """(n_obs,) rows that are split, where the slide is divided already; None for all."""


def split_slides(
    slides: Sequence[SplitSlide],
    rule: SplitRule,
    duplicates: Iterable[tuple[int, int]],
    *,
    catalogue_sha256: str,
) -> Split:
    """Split slides; see `stformat.collection.slides.Collection.split`."""
    rule = rule.checked()
    repeated = sorted(name for name, n in Counter(s.slide_id for s in slides).items() if n > 1)
    if repeated:
        raise _refused("slides", "an identifier must mean one slide", f"several {repeated[0]}")
    joined = duplicate_groups(len(slides), duplicates)
    split = _split_blocks if rule.by == "block" else _split_groups
    parts = split(slides, rule, joined)
    found = Split(
        by=rule.by,
        fractions=rule.fractions,
        shares=parts.shares,
        seed=rule.seed,
        options=MappingProxyType(rule.options()),
        catalogue_sha256=catalogue_sha256,
        sides=MappingProxyType(parts.sides),
        rows=MappingProxyType(parts.rows),
        manifests=MappingProxyType(
            {
                slide.slide_id: slide.manifest_sha256
                for slide in slides
                if slide.slide_id in parts.rows
            }
        ),
        groups=MappingProxyType(parts.groups),
        left_out=MappingProxyType(parts.left_out),
    )
    for side, share in zip(SIDES, rule.fractions, strict=True):
        if share > 0 and not found.slides(side):
            raise _refused(
                "slides",
                f"every side of a share above 0 needs something that may stand apart by {rule.by}",
                f"nothing for {side}",
                "give fewer shares, or split by something smaller",
            )
    _warn_of_shares(found, parts.n_groups)
    return found


def _warn_of_shares(split: Split, n_groups: int) -> None:
    """Say if shares are far from those wanted: by more than a tenth, and the mean group."""
    far = max(abs(one - other) for one, other in zip(split.shares, split.fractions, strict=True))
    if far > _FAR + 1 / max(1, n_groups):
        found, wanted = (
            " / ".join(f"{share:.2f}" for share in shares)
            for shares in (split.shares, split.fractions)
        )
        why = f"what is kept together by {split.by} is not cut"
        if split.by == "block":
            why = "blocks are not cut, and rows near another side are on none"
        warnings.warn(
            f"train, val and test have shares of {found} where {wanted} were wanted, since {why}",
            SplitSharesWarning,
            stacklevel=4,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is on which side; see `Split`."""

    shares: tuple[float, float, float]
    sides: dict[str, Side]
    rows: dict[str, NDArray[np.uint8]]
    groups: dict[str, str]
    left_out: dict[str, str]
    n_groups: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """A slide, or one section of it."""

    slide_id: str
    section: str | None

    @property
    def name(self) -> str:
        """What it is called in `Split.groups`, where sections are units."""
        parts = [self.slide_id] if self.section is None else [self.slide_id, self.section]
        return "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)


def _split_groups(slides: Sequence[SplitSlide], rule: SplitRule, joined: list[int]) -> _Parts:
    """Put groups of slides, or of sections, on sides."""
    left_out: dict[str, str] = {}
    units: list[_Unit] = []
    labels: list[tuple[Any, ...]] = []
    places: list[int] = []
    sections: dict[str, NDArray[np.object_]] = {}
    missing: list[str] = []
    has_studies = any(slide.study is not None for slide in slides)
    for place, slide in enumerate(slides):
        label = _label(slide, rule.by)
        unknown = _unknown(slide, rule.by, has_studies=has_studies)
        if unknown is not None:
            missing.append(slide.slide_id)
            if rule.missing == "leave-out":
                left_out[slide.slide_id] = f"{unknown} is not known"
                continue
        found = [_Unit(slide.slide_id, None)]
        if rule.by == "section" and slide.n_sections > 1:
            sections[slide.slide_id] = _sections(slide)
            distinct = sorted(set(sections[slide.slide_id].tolist()) - {None})
            found = [_Unit(slide.slide_id, name) for name in distinct]
            if not found:
                left_out[slide.slide_id] = "none of its rows has a section"
        for unit in found:
            units.append(unit)
            labels.append((*label, unit.section) if rule.by == "section" else label)
            places.append(place)
    _check_missing(missing, rule)
    names = [unit.name if rule.by == "section" else unit.slide_id for unit in units]
    group = _join(labels, places, joined)
    side_of = _sides_of_groups(group, names, rule)
    sides: dict[str, Side] = {}
    rows: dict[str, NDArray[np.uint8]] = {}
    for unit, side in zip(units, side_of.tolist(), strict=True):
        if unit.section is None:
            sides[unit.slide_id] = SIDES[side]
            continue
        of_row = sections[unit.slide_id]
        codes = rows.setdefault(unit.slide_id, np.zeros(len(of_row), dtype=np.uint8))
        codes[of_row == unit.section] = 1 + side
    # The smallest name, so that the order of slides does not matter.
    first = {number: name for name, number in sorted(zip(names, group, strict=True), reverse=True)}
    return _Parts(
        shares=_shares(np.bincount(side_of, minlength=len(SIDES))),
        sides=sides,
        rows=rows,
        groups={name: first[number] for name, number in zip(names, group, strict=True)},
        left_out=left_out,
        n_groups=len(first),
    )


def _shares(sizes: NDArray[np.int64]) -> tuple[float, float, float]:
    train, val, test = (sizes / max(1, int(sizes.sum()))).tolist()
    return train, val, test


def _label(slide: SplitSlide, by: SplitBy) -> tuple[Any, ...]:
    """Return what a slide has in common with others of its group; itself where not known."""
    if by == "study" and slide.study is not None:
        return ("study", slide.study)
    if by == "donor" and slide.donor is not None:
        return ("donor", slide.study, slide.donor)
    return ("slide", slide.slide_id)


def _unknown(slide: SplitSlide, by: SplitBy, *, has_studies: bool) -> str | None:
    """Return what a slide does not say of what it is to be kept together by."""
    if by == "study" and slide.study is None:
        return "its study"
    if by == "donor" and slide.donor is None:
        return "its donor"
    # A donor's name is unique within the study alone: of a slide that does not say its study, and
    # of others that do, one name may be one donor or two.
    is_of_any = by == "donor" and has_studies and slide.study is None
    return "the study of its donor" if is_of_any else None


def _check_missing(missing: list[str], rule: SplitRule) -> None:
    if missing and rule.missing == "refuse":
        shown = ", ".join(missing[:_N_SHOWN])
        rest = f" and {len(missing) - _N_SHOWN} more" if len(missing) > _N_SHOWN else ""
        raise _refused(
            "missing",
            f"a split by {rule.by} needs the {rule.by} of every slide"
            + ", and its study where others state one" * (rule.by == "donor"),
            f"none of {shown}{rest}",
            "pass missing='own-group' to keep such slides apart from all others, or 'leave-out'",
        )


def _join(labels: list[tuple[Any, ...]], places: list[int], joined: list[int]) -> list[int]:
    """Return the number of the group of each unit: of one label, or of slides that are one."""
    first_of_label: dict[tuple[Any, ...], int] = {}
    first_of_slide: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    is_shared = {place for place, n in Counter(joined).items() if n > 1}
    for unit, (label, place) in enumerate(zip(labels, places, strict=True)):
        pairs.append((first_of_label.setdefault(label, unit), unit))
        if joined[place] in is_shared:
            pairs.append((first_of_slide.setdefault(joined[place], unit), unit))
    return duplicate_groups(len(labels), pairs)


def _sides_of_groups(group: list[int], names: list[str], rule: SplitRule) -> NDArray[np.int64]:
    """Return the side of each unit, from 0."""
    members: dict[int, list[int]] = defaultdict(list)
    for unit, number in enumerate(group):
        members[number].append(unit)
    # By name, so that the order of the catalogue does not matter.
    listed = sorted(members.values(), key=lambda each: min(names[unit] for unit in each))
    n_wanted = sum(share > 0 for share in rule.fractions)
    if len(listed) < n_wanted:
        raise _refused(
            "slides",
            f"{n_wanted} sides need as many groups by {rule.by}, duplicates being one",
            f"{len(listed)}",
            "give fewer shares, or split by something smaller",
        )
    sizes = np.array([len(each) for each in listed], dtype=np.int64)
    sides = assign_sides(sizes, rule.fractions, draw_order(len(listed), rule.seed))
    side_of = np.zeros(len(group), dtype=np.int64)
    for each, side in zip(listed, sides.tolist(), strict=True):
        side_of[each] = side
    return side_of


def _sections(slide: SplitSlide) -> NDArray[np.object_]:
    """Return the section of each row, None where it has none or is not to be split."""
    with slide.opened() as opened:
        column = opened.obs["section"].astype(object)
    if slide.rows is not None:
        column = column.where(slide.rows)
    return column.where(column.notna(), None).to_numpy(dtype=object)


def _split_blocks(slides: Sequence[SplitSlide], rule: SplitRule, joined: list[int]) -> _Parts:
    """Put blocks of each slide on sides; of slides that are one, only the first is divided."""
    rows: dict[str, NDArray[np.uint8]] = {}
    left_out: dict[str, str] = {}
    first: dict[int, str] = {}
    n_blocks = 0
    for place in sorted(range(len(slides)), key=lambda place: slides[place].slide_id):
        slide = slides[place]
        kept = first.setdefault(joined[place], slide.slide_id)
        if kept != slide.slide_id:
            left_out[slide.slide_id] = f"it is the same slide as {kept}, which is divided"
            continue
        with slide.opened() as opened:
            scale = _scale(opened, rule)
            reach_px = tile_reach_px(rule.tile_px, scale)
            block_px = rule.block_tiles * 2 * reach_px
            xy = opened.centers_px(slice(None))
        split = np.ones(len(xy), dtype=np.bool_) if slide.rows is None else slide.rows
        n_blocks += count_blocks(xy[split], block_px)
        rows[slide.slide_id] = np.zeros(len(xy), dtype=np.uint8)
        rows[slide.slide_id][split] = block_sides(
            xy[split],
            block_px=block_px,
            reach_px=reach_px,
            fractions=rule.fractions,
            seed=rule.seed,
            name=slide.slide_id,
        )
    n_rows = np.zeros(1 + len(SIDES), dtype=np.int64)
    for codes in rows.values():
        n_rows += np.bincount(codes, minlength=len(n_rows))
    return _Parts(
        shares=_shares(n_rows[1:]),
        sides={},
        rows=rows,
        groups={name: name for name in rows},
        left_out=left_out,
        n_groups=n_blocks,
    )


def _scale(slide: Slide, rule: SplitRule) -> float:
    """Return full-resolution pixels to one pixel of a tile."""
    if rule.mpp is None:
        return 1.0
    if slide.mpp is None:
        raise _refused(
            "mpp",
            "tiles of given microns need the microns per pixel of every slide",
            f"none of {slide.slide_id}",
            "leave mpp away, or convert the slide with --mpp",
        )
    return rule.mpp / slide.mpp


def _refused(where: str, expected: str, found: str, remedy: str = "") -> SplitError:
    return SplitError(Problem(f"split.{where}", where, expected, found, remedy))
