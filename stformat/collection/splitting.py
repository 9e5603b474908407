"""How a catalogue is split: what belongs together goes to one side, duplicates included."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stformat.collection.blocks import block_sides, tile_reach_px
from stformat.collection.count_blocks import SlideOpener
from stformat.collection.duplicates import duplicate_groups
from stformat.collection.shares import assign_sides, draw_order
from stformat.collection.split import SIDES, Side, Split, SplitBy, SplitOption
from stformat.errors import Problem, SplitError
from stformat.store.reader import Slide

__all__ = ["SplitRule", "SplitSlide", "split_slides"]

type Missing = Literal["refuse", "own-group", "leave-out"]

_N_SHOWN = 5
_TOLERANCE = 1e-9


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
        """Return the rule.

        Raises
        ------
        SplitError
            If an argument is out of its range.
        """
        if self.by not in {"study", "donor", "section", "slide", "block"}:
            expected = "slides are split by 'study', 'donor', 'section', 'slide' or 'block'"
            raise _refused("by", expected, repr(self.by))
        is_share = all(share >= 0 for share in self.fractions)
        if len(self.fractions) != len(SIDES) or not is_share or (
            abs(sum(self.fractions) - 1) > _TOLERANCE
        ):  # fmt: skip
            raise _refused(
                "fractions", "three shares of train, val and test add up to 1", f"{self.fractions}"
            )
        if self.missing not in {"refuse", "own-group", "leave-out"}:
            expected = "what is missing is for 'refuse', 'own-group' or 'leave-out'"
            raise _refused("missing", expected, repr(self.missing))
        if self.duplicates not in {"together", "ignore"}:
            expected = "duplicates are kept 'together', or 'ignore'"
            raise _refused("duplicates", expected, repr(self.duplicates))
        if self.seed < 0 or self.tile_px < 1 or self.block_tiles < 2:
            raise _refused(
                "seed",
                "seed is at least 0, tile_px at least 1, block_tiles at least 2",
                f"{self.seed}, {self.tile_px}, {self.block_tiles}",
            )
        if self.mpp is not None and not self.mpp > 0:
            raise _refused("mpp", "microns per pixel are above 0", f"{self.mpp}")
        return self

    def options(self) -> dict[str, SplitOption]:
        """Return what a split records beside by, fractions and seed."""
        blocks = {"tile_px": self.tile_px, "mpp": self.mpp, "block_tiles": self.block_tiles}
        return {
            "missing": self.missing,
            "duplicates": self.duplicates,
            **(blocks if self.by == "block" else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSlide:
    """What of the catalogue a split needs of a slide."""

    slide_id: str
    opened: SlideOpener
    study: str | None
    donor: str | None
    n_sections: int


def split_slides(
    slides: Sequence[SplitSlide],
    rule: SplitRule,
    duplicates: Iterable[tuple[int, int]],
    *,
    catalogue_sha256: str,
) -> Split:
    """Split slides; see `stformat.collection.slides.Collection.split`."""
    rule.checked()
    repeated = sorted(name for name, n in Counter(s.slide_id for s in slides).items() if n > 1)
    if repeated:
        raise _refused("slides", "an identifier must mean one slide", f"several {repeated[0]}")
    joined = duplicate_groups(len(slides), duplicates)
    split = _split_blocks if rule.by == "block" else _split_groups
    sides, rows, groups, left_out = split(slides, rule, joined)
    found = Split(
        by=rule.by,
        fractions=rule.fractions,
        seed=rule.seed,
        options=MappingProxyType(rule.options()),
        catalogue_sha256=catalogue_sha256,
        sides=MappingProxyType(sides),
        rows=MappingProxyType(rows),
        groups=MappingProxyType(groups),
        left_out=MappingProxyType(left_out),
    )
    for side, share in zip(SIDES, rule.fractions, strict=True):
        if share > 0 and not found.slides(side):
            raise _refused(
                "slides",
                f"every side of a share above 0 needs something that may stand apart by {rule.by}",
                f"nothing for {side}",
                "give fewer shares, or split by something smaller",
            )
    return found


type _Parts = tuple[dict[str, Side], dict[str, NDArray[np.uint8]], dict[str, str], dict[str, str]]


def _split_groups(slides: Sequence[SplitSlide], rule: SplitRule, joined: list[int]) -> _Parts:
    """Put groups of slides, or of sections, on sides."""
    left_out: dict[str, str] = {}
    units: list[str] = []
    labels: list[tuple[Any, ...]] = []
    places: list[int] = []
    sections: dict[str, NDArray[np.object_]] = {}
    missing: list[str] = []
    for place, slide in enumerate(slides):
        label = _label(slide, rule.by)
        if label is None:
            missing.append(slide.slide_id)
            if rule.missing == "leave-out":
                left_out[slide.slide_id] = f"its {rule.by} is not known"
                continue
            label = ("slide", slide.slide_id)
        names = [slide.slide_id]
        if rule.by == "section" and slide.n_sections > 1:
            sections[slide.slide_id] = _sections(slide)
            distinct = sorted(set(sections[slide.slide_id].tolist()))
            names = [f"{slide.slide_id}/{name}" for name in distinct]
        for name in names:
            units.append(name)
            labels.append((*label, name) if rule.by == "section" else label)
            places.append(place)
    _check_missing(missing, rule)
    group = _join(labels, places, joined)
    side_of = _sides_of_groups(group, units, rule)
    sides: dict[str, Side] = {}
    rows: dict[str, NDArray[np.uint8]] = {}
    for unit, place in zip(units, places, strict=True):
        name = slides[place].slide_id
        if name not in sections:
            sides[name] = SIDES[side_of[unit]]
        else:
            codes = rows.setdefault(name, np.zeros(len(sections[name]), dtype=np.uint8))
            codes[sections[name] == unit.removeprefix(f"{name}/")] = 1 + side_of[unit]
    first = {number: units[index] for index, number in reversed([*enumerate(group)])}
    groups = {unit: first[number] for unit, number in zip(units, group, strict=True)}
    return sides, rows, groups, left_out


def _label(slide: SplitSlide, by: SplitBy) -> tuple[Any, ...] | None:
    """Return what a slide has in common with others of its group; None where not known."""
    if by == "study":
        return None if slide.study is None else ("study", slide.study)
    if by == "donor":
        # A donor's name is unique within the study alone.
        return None if slide.donor is None else ("donor", slide.study, slide.donor)
    return ("slide", slide.slide_id)


def _check_missing(missing: list[str], rule: SplitRule) -> None:
    if missing and rule.missing == "refuse":
        shown = ", ".join(missing[:_N_SHOWN])
        rest = f" and {len(missing) - _N_SHOWN} more" if len(missing) > _N_SHOWN else ""
        raise _refused(
            "missing",
            f"a split by {rule.by} needs the {rule.by} of every slide",
            f"none of {shown}{rest}",
            "pass missing='own-group' to keep each such slide by itself, or 'leave-out'",
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


def _sides_of_groups(group: list[int], units: list[str], rule: SplitRule) -> dict[str, int]:
    members: dict[int, list[str]] = defaultdict(list)
    for unit, number in zip(units, group, strict=True):
        members[number].append(unit)
    # By name, so that the order of the catalogue does not matter.
    listed = sorted(members.values(), key=min)
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
    return {unit: int(side) for each, side in zip(listed, sides, strict=True) for unit in each}


def _sections(slide: SplitSlide) -> NDArray[np.object_]:
    with slide.opened() as opened:
        return opened.obs["section"].astype(str).to_numpy(dtype=object)


def _split_blocks(slides: Sequence[SplitSlide], rule: SplitRule, joined: list[int]) -> _Parts:
    """Put blocks of each slide on sides; of slides that are one, only the first is divided."""
    rows: dict[str, NDArray[np.uint8]] = {}
    left_out: dict[str, str] = {}
    first: dict[int, str] = {}
    for place in sorted(range(len(slides)), key=lambda place: slides[place].slide_id):
        slide = slides[place]
        kept = first.setdefault(joined[place], slide.slide_id)
        if kept != slide.slide_id:
            left_out[slide.slide_id] = f"it is the same slide as {kept}, which is divided"
            continue
        with slide.opened() as opened:
            scale = _scale(opened, rule)
            reach_px = tile_reach_px(rule.tile_px, scale)
            rows[slide.slide_id] = block_sides(
                opened.centers_px(slice(None)),
                block_px=rule.block_tiles * 2 * reach_px,
                reach_px=reach_px,
                fractions=rule.fractions,
                seed=rule.seed,
                name=slide.slide_id,
            )
    return {}, rows, {name: name for name in rows}, left_out


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
