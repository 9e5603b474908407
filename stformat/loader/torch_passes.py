"""Which epochs the workers of a DataLoader read, in memory that all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

__all__ = ["PassLog"]

_N_KEPT = 256
"""Passes that are remembered: many times as many as begin at once."""

_OWNER, _SEED, _N_SET, _EPOCH, _N_BEGUN = range(5)


class PassLog:
    """The passes that workers began last, and of which epoch each is; safe for processes.

    A DataLoader that starts workers anew for each pass says nothing of it to the dataset. But all
    workers of a pass are given one seed, and those of the next pass another. Processes that were
    forked with the dataset, such as ranks, share the log; each has passes of its own in it.

    Examples
    --------
    >>> log = PassLog()
    >>> [log.join(owner=1, seed=7, n_set=0, n_workers=2, epoch=0) for _ in range(2)]
    [0, 0]
    >>> [log.join(owner=1, seed=8, n_set=0, n_workers=2, epoch=0) for _ in range(2)]
    [1, 1]
    """

    def __init__(self) -> None:
        self._n_passes = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._passes = torch.zeros((_N_KEPT, 5), dtype=torch.int64).share_memory_()
        # One of "fork" could not be handed to workers that are spawned.
        self._lock: Any = get_context("spawn").Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A lock goes to a process that is being started, and nowhere else.
        is_for_worker = get_spawning_popen() is not None
        return self.__dict__ | {"_lock": self._lock if is_for_worker else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._lock is None:  # a copy
            self._lock = get_context("spawn").Lock()
            self._n_passes.share_memory_()
            self._passes.share_memory_()

    def join(
        self,
        *,
        owner: int,
        seed: int,
        n_set: int,
        n_workers: int,
        epoch: int,
        is_resumed: bool = False,
    ) -> int:
        """Return the epoch of the pass for which a worker was started.

        Parameters
        ----------
        owner : int
            The process that started the worker.
        seed : int
            What the workers of a pass have in common, and no other pass.
        n_set : int
            How often an epoch had been set when the worker was started.
        n_workers : int
            Workers of the pass. Once as many have begun, the same seed is that of another pass.
        epoch : int
            The epoch that the worker would begin by itself.
        is_resumed : bool, default: False
            Whether that is where a state says that it stood.

        Returns
        -------
        int
            `epoch`, unless workers have begun it since it was set: then the one after the last.
        """
        with self._lock:
            for place, known in self._latest():
                is_this = known[:_EPOCH] == [owner, seed, n_set] and known[_N_BEGUN] < n_workers
                if is_this and (not is_resumed or known[_EPOCH] == epoch):
                    self._passes[place, _N_BEGUN] += 1
                    return known[_EPOCH]
            epoch = epoch if is_resumed else self._next(owner, n_set, epoch)
            place = int(self._n_passes) % _N_KEPT
            self._passes[place] = torch.tensor([owner, seed, n_set, epoch, 1])
            self._n_passes += 1
            return epoch

    def next_epoch(self, *, owner: int, n_set: int, epoch: int) -> int:
        """Return the epoch of a pass of the owner itself, without workers; see `join`."""
        with self._lock:
            return self._next(owner, n_set, epoch)

    def _next(self, owner: int, n_set: int, epoch: int) -> int:
        for _, known in self._latest():
            if known[_OWNER] == owner:
                return max(epoch, known[_EPOCH] + 1) if known[_N_SET] == n_set else epoch
        return epoch

    def _latest(self) -> Iterator[tuple[int, list[int]]]:
        """Yield the place and the numbers of passes that are remembered, the latest first."""
        n_passes, passes = int(self._n_passes), self._passes.tolist()
        for number in range(n_passes - 1, max(0, n_passes - _N_KEPT) - 1, -1):
            yield number % _N_KEPT, passes[number % _N_KEPT]
