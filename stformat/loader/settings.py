"""What a loader is asked for, checked as far as it can be without opening a slide."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import DTypeLike

from stformat import kernels
from stformat.loader.augment import Augmentation
from stformat.loader.expression import Panel
from stformat.loader.inventory import Inventory
from stformat.loader.memory import ROUNDED_UP
from stformat.loader.pixels import TileRule

__all__ = ["BLOCKS_OF_GROUP", "Settings", "parse_integer"]

BLOCKS_OF_GROUP = 16
"""Largest blocks that half a buffer holds: places whose rows a batch mixes. A group has fewer where
batches take much of the buffer, which is not known before blocks are cut: of float32 tiles of
224 px and the default buffer, nine."""

_BATCHES_AT_ONCE = 3
"""Batches that are there at once: one is used, one waits, one is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments of a `TileLoader` but for slides, rows and weights; see there."""

    tile_px: int | None
    mpp: float | None
    expression: Literal["dense", "csr"] | None
    genes: Sequence[str] | Panel | None
    normalize: Literal["log1p"] | None
    target_sum: float
    batch_size: int
    drop_last: bool
    shuffle: bool
    seed: int
    n_draws: int | None
    dtype: DTypeLike | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    augment: Augmentation | None
    buffer_bytes: int
    workers: int
    max_open: int
    rank: int
    world_size: int
    device: Literal["cpu", "cuda"]

    def __post_init__(self) -> None:
        least = {
            "batch_size": 1, "buffer_bytes": 1, "max_open": 1, "n_draws": 0, "rank": 0, "seed": 0,
            "tile_px": 1, "workers": 0, "world_size": 1,
        }  # fmt: skip
        for name, smallest in least.items():
            if getattr(self, name) is None and name in {"n_draws", "tile_px"}:
                continue
            value = parse_integer(name, getattr(self, name))
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}")
            # NumPy's numbers do not count beyond 64 bits, and are no JSON.
            object.__setattr__(self, name, value)
        for name in ("drop_last", "shuffle"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        object.__setattr__(self, "genes", _parse_genes(self.genes))
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be from 0 to {self.world_size - 1}, got {self.rank}")
        choices = {
            "expression": (None, "dense", "csr"),
            "normalize": (None, "log1p"),
            "device": ("cpu", "cuda"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                known = " or ".join(map(repr, allowed))
                raise ValueError(f"{name} must be {known}, got {getattr(self, name)!r}")
        self._check_expression()
        self._check_tiles()
        _ = self.xp  # CuPy is missing now, not when an epoch begins

    def _check_expression(self) -> None:
        if self.expression is None:
            if self.tile_px is None:
                raise ValueError("a batch must have tiles, expression or both, got neither")
            if not (self.genes is None and self.normalize is None):
                raise ValueError("genes and normalize must come with expression, which is None")
        target_sum = self._number("target_sum")
        if target_sum is None or not (math.isfinite(target_sum) and target_sum > 0):
            raise ValueError(f"target_sum must be positive and finite, got {target_sum}")
        if self.device == "cuda" and self.expression == "csr":
            raise ValueError("expression must be dense on a GPU, got 'csr'")

    def _check_tiles(self) -> None:
        self._number("mpp")
        if not (self.augment is None or isinstance(self.augment, Augmentation)):
            raise TypeError(f"augment must be an Augmentation or None, got {self.augment!r}")
        if self.tile_px is None:
            given = {"mpp": self.mpp, "dtype": self.dtype, "augment": self.augment}
            named = [name for name, value in given.items() if value is not None]
            if named:
                raise ValueError(f"{named[0]} must come with tiles, but tile_px is None")
        if self.dtype is None and not (self.mean is None and self.std is None):
            raise ValueError("mean and std must come with a dtype of float32 or float16, got none")

    def _number(self, name: str) -> float | None:
        value = getattr(self, name)
        if value is None or isinstance(value, int | float | np.number):
            return None if value is None else float(value)
        raise TypeError(f"{name} must be a number, got {value!r}")

    def check_against(self, tiles: TileRule) -> None:
        """Refuse before the epoch what no batch could be made of.

        Raises
        ------
        ValueError
            If `mean` or `std` does not fit the channels, or colours are to change that are no
            colours.
        TypeError
            If `dtype` is no type that tiles are made of.
        """
        if self.dtype is not None:
            nothing = np.empty((0, tiles.n_c, 1, 1), tiles.dtype)
            kernels.tiles_to_float(nothing, mean=self.mean, std=self.std, dtype=self.dtype)
        changes_colours = self.augment is not None and self.augment.changes_colours
        if changes_colours and (tiles.n_c, tiles.dtype) != (3, np.dtype(np.uint8)):
            raise ValueError(
                "colours can be changed in images of three channels of uint8, got "
                f"{tiles.n_c} of {tiles.dtype}"
            )

    def n_batches(self, n_rows: int) -> int:
        """Return the number of batches of this share of an epoch of so many rows."""
        if self.drop_last:
            return n_rows // self.world_size // self.batch_size
        low, high = (n_rows * k // self.world_size for k in (self.rank, self.rank + 1))
        return (high - low + self.batch_size - 1) // self.batch_size

    @property
    def kept_bytes(self) -> int:
        """Most bytes of memory used again: of all groups at once, with a block more each."""
        n_groups = max(1, self.workers) + 1
        return int(n_groups * (self._half + self.block_bytes) * ROUNDED_UP)

    @property
    def block_bytes(self) -> int:
        """Most bytes of a block."""
        return max(1, self._half // BLOCKS_OF_GROUP)

    @property
    def _half(self) -> int:
        return self.buffer_bytes // 2

    def group_bytes(self, inventory: Inventory) -> int:
        """Return the most bytes of a group: two, with all batches beside, are the buffer."""
        return max(1, (self.buffer_bytes - self._beside_bytes(inventory)) // 2)

    def _beside_bytes(self, inventory: Inventory) -> int:
        """Return what batches take beside their groups."""
        of_row = 0
        if self.expression == "dense":
            of_row = len(inventory.gene_keys) * np.dtype(np.float32).itemsize
        elif self.expression == "csr":
            of_value = sum(dtype.itemsize for dtype in inventory.count_dtypes)
            of_row = int(max(inventory.row_nnz) * of_value)
        return self.batch_size * (_BATCHES_AT_ONCE * of_row + self._tile_bytes_beside(inventory))

    def _tile_bytes_beside(self, inventory: Inventory) -> int:
        """Return what one tile takes in all batches that are there at once."""
        if inventory.tiles is None:
            return 0
        rule = inventory.tiles[0]
        is_cut = any(of_slide.uses_regions for of_slide in inventory.tiles)
        if self.dtype is None and not is_cut:
            return rule.tile_bytes  # a part of its group, but for the last batch of each
        n_samples = rule.tile_bytes // rule.dtype.itemsize
        of_floats = 0 if self.dtype is None else n_samples * np.dtype(self.dtype).itemsize
        return _BATCHES_AT_ONCE * (is_cut * rule.tile_bytes + of_floats)

    @property
    def xp(self) -> Any:  # noqa: ANN401 - a module
        """Module of arrays: NumPy, or CuPy where they are on a GPU."""
        if self.device == "cpu":
            return np
        try:
            import cupy  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            error.add_note("install stformat[gpu], or stformat[gpu-cuda12] for CUDA 12")
            raise
        return cupy


def parse_integer(name: str, value: object) -> int:
    """Return a whole number of any type, NumPy's too, as an int.

    Raises
    ------
    TypeError
        If it is none; a float is none, whatever its value.

    Examples
    --------
    >>> parse_integer("seed", np.int64(3))
    3
    """
    try:
        return operator.index(cast("int", value))
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None


def _parse_genes(genes: Iterable[str] | Panel | None) -> tuple[str, ...] | Panel | None:
    """Return names as a tuple; a panel as it is."""
    if genes is None or hasattr(genes, "columns_in"):
        return cast("Panel | None", genes)
    if isinstance(genes, str):
        raise TypeError(f"genes must be a list of names, got the string {genes!r}")
    if isinstance(genes, set | frozenset):
        raise TypeError("genes must be in an order, which a set has not: give sorted(genes)")
    names = tuple(genes)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"genes must be names or a panel, got {name!r} among them")
    return tuple(map(str, names))
