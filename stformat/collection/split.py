"""Slides, or parts of them, for training, validation and test."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stformat.collection.documents import (
    Document,
    content_digest,
    read_document,
    write_document,
)
from stformat.coords import tile_reach_px
from stformat.errors import Problem, SplitError
from stformat.store.reader import Slide

__all__ = ["SIDES", "Side", "Split", "SplitBy"]

type Side = Literal["train", "val", "test"]
type SplitBy = Literal["study", "donor", "section", "slide", "block"]
type SplitOption = str | int | float | None

SIDES: tuple[Side, ...] = get_args(Side.__value__)

_RUNS = re.compile(r"(?:[1-9]\d{0,11}x[0-3](?: (?!$)|$))*")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Which slides, and which rows of them, are for what; made by `Collection.split`.

    Examples
    --------
    >>> sides = {"S2": np.array([1, 1, 0, 2], dtype=np.uint8)}
    >>> split = Split(by="block", fractions=(0.5, 0.5, 0.0), shares=(2 / 3, 1 / 3, 0.0), seed=0,
    ...               options={}, catalogue_sha256="0" * 64, sides={}, rows=sides,
    ...               manifests={"S2": "0" * 64}, groups={}, left_out={})
    >>> split
    <Split by block: train 1 (67 %), val 1 (33 %), test 0 (0 %), digest bbe2c9deadd8>
    >>> split.slides("train"), split.test, split.row_masks("val")
    (('S2',), (), {'S2': array([False, False, False,  True])})
    """

    by: SplitBy
    """What is kept together."""

    fractions: tuple[float, float, float]
    """Wanted shares of training, validation and test."""

    shares: tuple[float, float, float]
    """Their shares as they are: of slides, of sections where these are kept together, or of the
    rows that are on a side where blocks are."""

    seed: int
    """What the order was drawn from."""

    options: Mapping[str, SplitOption]
    """The other arguments."""

    catalogue_sha256: str
    """Digest of the catalogue that was split."""

    sides: Mapping[str, Side]
    """Side of each slide that is on one side as a whole, by identifier."""

    rows: Mapping[str, NDArray[np.uint8]]
    """(n_obs,) side of each row of each slide that is divided: 1 training, 2 validation, 3 test, 0
    none, being too close to another side."""

    manifests: Mapping[str, str]
    """Version of the store of each slide that is divided: digest of its manifest. Of others the
    sides stay what they are when they are converted again."""

    groups: Mapping[str, str]
    """What each slide was kept together with: the first of its group. By section, sections stand
    for slides as ``"<slide>/<section>"``, where ``~1`` is a ``/`` of an identifier or name and
    ``~0`` a ``~``."""

    left_out: Mapping[str, str]
    """Slides that are on no side, and why."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Mappings that cannot be changed cannot be pickled.
        values = {member.name: getattr(self, member.name) for member in fields(self)}
        plain = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
        }
        return _unpickled, (plain,)

    def __repr__(self) -> str:
        shares = ", ".join(
            f"{side} {len(self.slides(side))} ({share:.0%})".replace("%", " %")
            for side, share in zip(SIDES, self.shares, strict=True)
        )
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"<Split by {self.by}: {shares}{left}, digest {self.digest[:12]}>"

    @property
    def train(self) -> tuple[str, ...]:
        """Identifiers of the slides for training, ascending, where each is there as a whole.

        Raises
        ------
        SplitError
            If one is divided, since its identifier alone stands for rows of every side; take
            ``collection.side(split, "train")``.
        """
        return self._whole_slides("train")

    @property
    def val(self) -> tuple[str, ...]:
        """Identifiers of the slides for validation; see `train`."""
        return self._whole_slides("val")

    @property
    def test(self) -> tuple[str, ...]:
        """Identifiers of the slides for the test; see `train`."""
        return self._whole_slides("test")

    @property
    def digest(self) -> str:
        """SHA-256 of all that the split says, hexadecimal."""
        return content_digest(self._content())

    def slides(self, side: Side) -> tuple[str, ...]:
        """Return the slides that have a part on a side, ascending.

        Parameters
        ----------
        side : {"train", "val", "test"}
            The side.

        Returns
        -------
        tuple of str
            Identifiers; of a slide that is divided only the rows of `row_masks` are on the side.

        Raises
        ------
        SplitError
            If there is no such side.
        """
        code = _code_of(side)
        whole = {name for name, of in self.sides.items() if of == side}
        divided = {name for name, codes in self.rows.items() if (codes == code).any()}
        return tuple(sorted(whole | divided))

    def row_masks(self, side: Side) -> dict[str, NDArray[np.bool_]]:
        """Return which rows of the slides that are divided are on a side.

        Parameters
        ----------
        side : {"train", "val", "test"}
            The side.

        Returns
        -------
        dict of str to (n_obs,) ndarray of bool
            By identifier; slides that are on one side as a whole are not in it.
        """
        code = _code_of(side)
        return {name: codes == code for name, codes in self.rows.items()}

    def rows_of(self, slide: Slide, side: Side) -> NDArray[np.int64]:
        """Return the rows of a slide that are on a side.

        Parameters
        ----------
        slide : Slide
            Bound to its default table.
        side : {"train", "val", "test"}
            The side.

        Returns
        -------
        (m,) ndarray of int64
            Positions of rows, ascending.

        Raises
        ------
        SplitError
            If there is no such side, or the slide is divided, and is of another version or bound to
            another table than when it was.
        """
        code = _code_of(side)
        codes = self.rows.get(slide.slide_id)
        self.check_versions({slide.slide_id: slide.opened.store.commit.manifest_sha256})
        if codes is None:
            is_whole = self.sides.get(slide.slide_id) == side
            return np.arange(slide.n_obs if is_whole else 0)
        if len(codes) != slide.n_obs:
            raise SplitError(
                Problem(
                    "split.rows",
                    slide.slide_id,
                    f"the slide must have the {len(codes)} rows that were split",
                    f"{slide.n_obs}",
                    "bind the default table, or split anew",
                )
            )
        return np.flatnonzero(codes == code)

    def check_versions(self, manifests: Mapping[str, str]) -> None:
        """Refuse slides that are divided and have been converted anew since.

        Parameters
        ----------
        manifests : mapping of str to str
            Digest of the manifest of the store of each slide, by identifier.

        Raises
        ------
        SplitError
            If the rows of a slide may be others than those that were split.
        """
        problems = [
            Problem(
                "split.version",
                name,
                "a slide that is divided must be of the version that was split",
                "another version of its store",
                "split anew, or restore the store that was split",
            )
            for name, found in manifests.items()
            if name in self.rows and self.manifests.get(name) != found
        ]
        if problems:
            raise SplitError(*problems)

    def reach_px(self, slide_id: str, slide_mpp: float | None) -> float | None:
        """Return how far a tile may reach from its centre to meet none of another side.

        Parameters
        ----------
        slide_id : str
            Identifier of the slide.
        slide_mpp : float or None
            Its microns per full-resolution pixel.

        Returns
        -------
        float or None
            In full-resolution pixels; None where the slide is not divided into blocks.
        """
        tile_px, mpp = self.options.get("tile_px"), self.options.get("mpp")
        if slide_id not in self.rows or not isinstance(tile_px, int):
            return None
        if not isinstance(mpp, int | float) or slide_mpp is None:
            return tile_reach_px(tile_px, 1.0)
        return tile_reach_px(tile_px, mpp / slide_mpp)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the split as JSON, atomically.

        Parameters
        ----------
        path : path
            File to write, or a directory, such as that of the catalogue, where the file is named
            after the split's digest.

        Returns
        -------
        pathlib.Path
            The file. The same split gives the same bytes.

        Raises
        ------
        StoreWriteError
            If the file system refuses.
        ValueError
            If it would be larger than `load` reads.
        """
        return write_document(self._content(), path, stem="split")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a split that `save` wrote.

        Raises
        ------
        SplitError
            If the file cannot be read, is no split, or is not what was written.
        """
        found = read_document(path, _SplitDocument, what="split", error=SplitError)
        train, val, test = found.fractions
        return cls(
            by=found.by,
            fractions=(train, val, test),
            shares=(found.shares[0], found.shares[1], found.shares[2]),
            seed=found.seed,
            options=MappingProxyType(found.options),
            catalogue_sha256=found.catalogue_sha256,
            sides=MappingProxyType(found.sides),
            rows=MappingProxyType({
                name: _parse_runs(text, str(path)) for name, text in found.rows.items()
            }),
            manifests=MappingProxyType(found.manifests),
            groups=MappingProxyType(found.groups),
            left_out=MappingProxyType(found.left_out),
        )  # fmt: skip

    def _content(self) -> dict[str, Any]:
        return {
            "stformat_split": "0.1",
            "by": self.by,
            "fractions": list(self.fractions),
            "shares": list(self.shares),
            "seed": self.seed,
            "options": dict(self.options),
            "catalogue_sha256": self.catalogue_sha256,
            "sides": dict(self.sides),
            "rows": {name: _runs(codes) for name, codes in self.rows.items()},
            "manifests": dict(self.manifests),
            "groups": dict(self.groups),
            "left_out": dict(self.left_out),
        }

    def _whole_slides(self, side: Side) -> tuple[str, ...]:
        names = self.slides(side)
        divided = [name for name in names if name in self.rows]
        if divided:
            raise SplitError(
                Problem(
                    "split.divided",
                    divided[0],
                    "identifiers alone stand for whole slides",
                    f"{len(divided)} of {len(names)} slides with rows of other sides",
                    f"take collection.side(split, {side!r}), which knows the rows",
                )
            )
        return names


def _unpickled(values: dict[str, Any]) -> Split:
    held: dict[str, Any] = {
        name: MappingProxyType(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return Split(**held)


def _code_of(side: str) -> int:
    """Return what stands for a side in `Split.rows`."""
    if side not in SIDES:
        raise SplitError(
            Problem("split.side", side, "a side is 'train', 'val' or 'test'", repr(side))
        )
    return 1 + SIDES.index(side)


def _runs(codes: NDArray[np.uint8]) -> str:
    """Return sides of rows as text: ``"2x1 1x0"`` stands for 1, 1, 0."""
    starts = np.flatnonzero(np.diff(codes, prepend=255))
    lengths = np.diff(starts, append=len(codes))
    pairs = zip(lengths.tolist(), codes[starts].tolist(), strict=True)
    return " ".join(f"{length}x{code}" for length, code in pairs)


def _parse_runs(text: str, where: str) -> NDArray[np.uint8]:
    if not _RUNS.fullmatch(text):
        raise SplitError(
            Problem(
                "split.file",
                where,
                "sides of rows are runs such as '12x1 3x0'",
                repr(text[:40]),
                "restore it from a copy, or make it again",
            )
        )
    runs = np.array([run.split("x") for run in text.split()], dtype=np.int64).reshape(-1, 2)
    return np.repeat(runs[:, 1].astype(np.uint8), runs[:, 0])


type _Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


class _SplitDocument(Document):
    stformat_split: Literal["0.1"]
    by: SplitBy
    fractions: _Triple
    shares: _Triple
    seed: int
    options: dict[str, SplitOption]
    catalogue_sha256: str
    sides: dict[str, Side]
    rows: dict[str, str]
    manifests: dict[str, str]
    groups: dict[str, str]
    left_out: dict[str, str]
