"""Where a pass over the batches of an epoch stands, and what their order depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.loader.group import Batch
from stformat.loader.inventory import Inventory
from stformat.loader.settings import Settings, parse_integer

__all__ = [
    "Order",
    "Position",
    "Progress",
    "digest_order",
    "order_of",
    "parse_epoch",
    "parse_state",
]

type Order = dict[str, int | bool | str]
"""What the order of batches depends on, as plain values."""

_MOST_EPOCH = 2**62
"""Epochs are counted in 64 bits."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place between batches."""

    epoch: int
    batch: int


class Progress:
    """Where the passes of a loader stand."""

    def __init__(self) -> None:
        self.upcoming = Position(0, 0)
        """Where the next pass begins."""
        self.now = self.upcoming
        """Where the pass stands that began, yielded or ended last."""

    def move_to(self, position: Position) -> None:
        """Let the next pass begin at a place."""
        self.upcoming = self.now = position

    def begin(self) -> Position:
        """Return where the next pass begins; the one after it has the next epoch."""
        self.now = self.upcoming
        self.upcoming = Position(self.now.epoch + 1, 0)
        return self.now

    def follow(self, here: Position, batches: Generator[Batch]) -> Generator[Batch]:
        """Yield the batches of a pass that began at a place.

        Raises
        ------
        RuntimeError
            In a process that was forked amid the pass: the threads that make batches are not there.
        """
        owner = os.getpid()
        for batch in batches:
            self.now = Position(here.epoch, batch["batch_index"] + 1)
            yield batch
            if os.getpid() != owner:
                _of_parents.append(batches)
                raise RuntimeError(
                    "a pass that began in one process cannot go on in another that was forked "
                    "meanwhile: begin one there"
                )
        self.now = self.upcoming


_of_parents: list[Generator[Batch]] = []
"""Kept as they are in a forked child: to close one would wait for threads that are not there."""


def parse_epoch(epoch: object) -> int:
    """Return the number of an epoch.

    Raises
    ------
    TypeError
        If it is no whole number.
    ValueError
        If it is negative, or too large to be counted on from.
    """
    number = parse_integer("epoch", epoch)
    if not 0 <= number <= _MOST_EPOCH:
        raise ValueError(f"epoch must be from 0 to 2**62, got {number}")
    return number


def digest_order(inventory: Inventory, weights: Sequence[NDArray[np.float64]] | None) -> str:
    """Return SHA-256 of which slides and rows are loaded, in which blocks and by which weights."""
    sha256 = hashlib.sha256(json.dumps([inventory.slide_ids, inventory.n_obs]).encode())
    blocks = inventory.blocks
    parts: list[NDArray[Any] | None] = [
        blocks.slide, blocks.start, blocks.stop, blocks.n_bytes, *inventory.rows, *(weights or ())
    ]  # fmt: skip
    for part in parts:
        # The length of each, so that no two lists of parts read the same.
        sha256.update(f"{-1 if part is None else len(part)} ".encode())
        if part is not None:
            sha256.update(np.ascontiguousarray(part).data)
    return sha256.hexdigest()


def order_of(settings: Settings, inventory: Inventory, *, n_rows: int, digest: str) -> Order:
    """Return what the order of batches depends on.

    Parameters
    ----------
    settings, inventory : Settings, Inventory
        Of a loader.
    n_rows : int
        Rows of an epoch, of all shares.
    digest : str
        What `digest_order` returns.
    """
    return {
        "n_rows": n_rows,
        "n_blocks": len(inventory.blocks.slide),
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "group_bytes": settings.group_bytes(inventory),
        "shuffle": bool(settings.shuffle),
        "drop_last": bool(settings.drop_last),
        "rank": settings.rank,
        "world_size": settings.world_size,
        "slides_rows_weights": digest,
    }


def parse_state(state: Mapping[str, Any], order: Order, *, n_batches: int) -> Position:
    """Return where a state says that a pass stood.

    Raises
    ------
    ValueError
        If it is no state, that of a loader of another order, or of no batch of the epoch.
    """
    missing = [name for name in ("epoch", "batch", "order") if name not in state]
    if missing:
        raise ValueError(f"a state must be what state_dict returns, it lacks {', '.join(missing)}")
    given = state["order"]
    if given != order:
        known: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        differing = [
            f"{name} is {value}, not {known.get(name)}"
            for name, value in order.items()
            if known.get(name) != value
        ]
        raise ValueError(
            "the state must be that of a loader of the same order of batches, but here "
            + ("; ".join(differing) or "nothing more is known")
        )
    batch = parse_integer("batch", state["batch"])
    if not 0 <= batch <= n_batches:
        raise ValueError(f"batch of a state must be from 0 to {n_batches}, got {batch}")
    return Position(parse_epoch(state["epoch"]), batch)
