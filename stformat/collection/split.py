"""Slides, or parts of them, for training, validation and test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from stformat.collection.documents import (
    Document,
    content_digest,
    read_document,
    write_document,
)
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
    >>> split = Split(by="block", fractions=(0.5, 0.5, 0.0), seed=0, options={},
    ...               catalogue_sha256="0" * 64, sides={}, rows=sides, groups={}, left_out={})
    >>> split.train, split.test, split.row_masks("val")
    (('S2',), (), {'S2': array([False, False, False,  True])})
    """

    by: SplitBy
    """What is kept together."""

    fractions: tuple[float, float, float]
    """Wanted shares of training, validation and test."""

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

    groups: Mapping[str, str]
    """What each slide, or each section ``"<slide>/<section>"``, was kept together with: the first
    of its group."""

    left_out: Mapping[str, str]
    """Slides that are on no side, and why."""

    def __repr__(self) -> str:
        shares = ", ".join(f"{side} {len(self.slides(side))}" for side in SIDES)
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"<Split by {self.by}: {shares}{left}, digest {self.digest[:12]}>"

    @property
    def train(self) -> tuple[str, ...]:
        """Identifiers of the slides for training, ascending; of those that are divided too."""
        return self.slides("train")

    @property
    def val(self) -> tuple[str, ...]:
        """Identifiers of the slides for validation; see `train`."""
        return self.slides("val")

    @property
    def test(self) -> tuple[str, ...]:
        """Identifiers of the slides for the test; see `train`."""
        return self.slides("test")

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
            Identifiers.
        """
        code = 1 + SIDES.index(side)
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
        code = 1 + SIDES.index(side)
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
            If the slide is divided, and has another number of rows than when it was.
        """
        codes = self.rows.get(slide.slide_id)
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
        return np.flatnonzero(codes == 1 + SIDES.index(side))

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
            seed=found.seed,
            options=MappingProxyType(found.options),
            catalogue_sha256=found.catalogue_sha256,
            sides=MappingProxyType(found.sides),
            rows=MappingProxyType({
                name: _parse_runs(text, str(path)) for name, text in found.rows.items()
            }),
            groups=MappingProxyType(found.groups),
            left_out=MappingProxyType(found.left_out),
        )  # fmt: skip

    def _content(self) -> dict[str, Any]:
        return {
            "stformat_split": "0.1",
            "by": self.by,
            "fractions": list(self.fractions),
            "seed": self.seed,
            "options": dict(self.options),
            "catalogue_sha256": self.catalogue_sha256,
            "sides": dict(self.sides),
            "rows": {name: _runs(codes) for name, codes in self.rows.items()},
            "groups": dict(self.groups),
            "left_out": dict(self.left_out),
        }


def _runs(codes: Iterable[int]) -> str:
    """Return sides of rows as text: ``"2x1 1x0"`` stands for 1, 1, 0."""
    return " ".join(f"{len(list(run))}x{code}" for code, run in groupby(codes))


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


class _SplitDocument(Document):
    stformat_split: Literal["0.1"]
    by: SplitBy
    fractions: list[float]
    seed: int
    options: dict[str, SplitOption]
    catalogue_sha256: str
    sides: dict[str, Side]
    rows: dict[str, str]
    groups: dict[str, str]
    left_out: dict[str, str]
