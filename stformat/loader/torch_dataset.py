"""The loader as a dataset of torch; a thin skin."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from scipy import sparse
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from stformat.loader.group import Batch
from stformat.loader.torch_passes import PassLog

__all__ = ["BatchSource", "TorchTiles"]


class BatchSource(Protocol):
    """What is asked of a `stformat.TileLoader` here."""

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next pass begins with or goes on with."""

    @property
    def world_size(self) -> int:
        """Of how many shares of an epoch it has one."""

    def __len__(self) -> int: ...

    def iter_share(self, process: int = 0, n_processes: int = 1) -> Iterator[Batch]:
        """Yield what one of several processes makes of the next epoch."""

    def share(self, rank: int, world_size: int) -> Self:
        """Return the same for one of several shares."""

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass begin an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return where the pass stands."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where another one stood."""


class TorchTiles(IterableDataset[dict[str, Any]]):  # type: ignore[misc] # torch is not there where types are checked
    """Batches of a `stformat.TileLoader` as dictionaries of tensors; made by its ``as_torch``.

    ``DataLoader(dataset, batch_size=None, num_workers=4, pin_memory=True)`` takes them as they are,
    for they are batches already. Of W workers the w-th makes every W-th group of batches from the
    w-th on, and a DataLoader takes a batch of each worker in turn: any number of workers gives the
    same batches, in an order that depends on their number. Without workers, batches come in the
    order of the loader. Each worker takes the memory of a loader.

    Parameters
    ----------
    loader : TileLoader
        The loader.
    is_on_gpu : bool, default: False
        Whether it makes arrays on a GPU; tensors are then the same memory of the GPU.

    Notes
    -----
    **Epochs.** Each pass goes on to the next epoch: without workers, with workers that are started
    anew for each pass, and with ``persistent_workers``. `set_epoch` before a pass, as of torch's
    ``DistributedSampler``, lets it begin another one, as a run needs that is repeated in part.
    A pass is of the epoch that is next when it begins: without workers when its first batch is
    taken, and otherwise when its iterator is made.

    **Ranks.** Where ``torch.distributed`` is initialised, at the latest when a pass begins, and the
    loader is not one of several shares already, each rank gets its own. Ranks may differ by one
    batch unless the loader has ``drop_last=True``, which training that waits for all ranks needs.

    **Resuming.** Within an epoch that workers read, only they know where they stand: let
    torchdata's ``StatefulDataLoader`` keep their states. It yields the batches that were left, in
    the same order, with the same number of workers. Without workers, `state_dict` says it; such a
    state may be loaded before a DataLoader of any number of workers begins its pass.

    **GPUs.** Memory of a GPU does not pass from a worker to its parent: a loader on a GPU is read
    without workers. It reads ahead by threads of its own.

    **Slides at URLs.** Workers must be started by ``multiprocessing_context="spawn"`` or
    ``"forkserver"``: one that is forked from a process that read URLs raises `StoreReadError`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> from torch.utils.data import DataLoader
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> path = stf.convert_slide(source, folder / "slide.zarr")
    >>> dataset = stf.TileLoader([path], tile_px=64, genes=["ERBB2"], batch_size=12).as_torch()
    >>> data = DataLoader(dataset, batch_size=None)
    >>> for _ in range(2):
    ...     for batch in data:
    ...         tile = batch["tile"]
    ...         print(batch["epoch"], batch["batch_index"], tile.dtype, tile.shape)
    0 0 torch.uint8 torch.Size([12, 3, 64, 64])
    0 1 torch.uint8 torch.Size([12, 3, 64, 64])
    0 2 torch.uint8 torch.Size([2, 3, 64, 64])
    1 0 torch.uint8 torch.Size([12, 3, 64, 64])
    1 1 torch.uint8 torch.Size([12, 3, 64, 64])
    1 2 torch.uint8 torch.Size([2, 3, 64, 64])
    """

    def __init__(self, loader: BatchSource, *, is_on_gpu: bool = False) -> None:
        super().__init__()
        self._loader = loader
        self._is_on_gpu = is_on_gpu
        # The epoch that was set last and how often one was, in memory that workers share.
        self._told = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._n_heard = 0
        self._passes = PassLog()
        self._n_set = 0
        self._has_begun_in_worker = False
        self._is_resumed_in_worker = False
        self._done_epoch: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned knows of no ranks.
        return self.__dict__ | {"_loader": self.loader}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._told.is_shared():  # a copy, not what a worker is given
            self._told.share_memory_()

    def __len__(self) -> int:
        """Return the number of batches of an epoch, of this rank's share."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of the next epoch, in a worker of a DataLoader its part of them.

        Raises
        ------
        ValueError
            If a worker of a DataLoader is to make batches on a GPU.
        """
        worker = get_worker_info()
        if worker is not None and self._is_on_gpu:
            raise ValueError(
                f"num_workers must be 0 where batches are made on a GPU, got {worker.num_workers}: "
                "the loader reads ahead by threads of its own"
            )
        self._done_epoch = None
        if worker is not None:
            self._hear_of_epoch(worker)
            return self._iter_part(worker.id, worker.num_workers)
        epoch = self._passes.next_epoch(
            owner=os.getpid(), n_set=self._n_set, epoch=self.loader.epoch
        )
        # Workers have read what was next here, or a pass was left before its end: from here on the
        # state is that of the new one.
        if epoch != self.loader.epoch or self.loader.state_dict()["epoch"] != epoch:
            self.loader.set_epoch(epoch)
        return self._iter_whole()

    @property
    def loader(self) -> BatchSource:
        """The loader, of this rank's share where ``torch.distributed`` has ranks."""
        whole = self._loader
        has_ranks = distributed.is_available() and distributed.is_initialized()
        if has_ranks and whole.world_size == 1 and distributed.get_world_size() > 1:
            state = whole.state_dict()
            share = whole.share(distributed.get_rank(), distributed.get_world_size())
            if state["batch"] and state["epoch"] == whole.epoch:
                share.load_state_dict(state)  # refuses to resume a share where the whole stood
            share.set_epoch(whole.epoch)
            self._loader = share
        return self._loader

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass begin an epoch, in workers too; a pass under way is not changed.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0 on.

        Raises
        ------
        TypeError, ValueError
            If it is no whole number, or negative.
        """
        self.loader.set_epoch(epoch)
        if get_worker_info() is None:
            self._n_set += 1
            self._n_heard += 1
            self._told[0], self._told[1] = self.loader.epoch, self._n_heard

    def state_dict(self) -> dict[str, Any]:
        """Return where this process stands, as `stformat.TileLoader.state_dict` does.

        Returns
        -------
        dict
            Plain numbers. Of a worker that has made its part of an epoch, the end of that epoch.
        """
        state = self.loader.state_dict()
        if self._done_epoch is not None:
            state |= {"epoch": self._done_epoch, "batch": len(self)}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass of this process go on where another one stood.

        Raises
        ------
        ValueError
            If the state is that of a loader of another order; see
            `stformat.TileLoader.load_state_dict`.
        """
        self.loader.load_state_dict(state)
        if get_worker_info() is None:
            self._n_set += 1
        else:
            self._is_resumed_in_worker = True

    def _hear_of_epoch(self, worker: Any) -> None:  # noqa: ANN401 - torch does not name its type
        """Find out, in a worker, of which epoch the pass is that begins."""
        if self._has_begun_in_worker:  # it persists, and goes on by itself unless it is told
            epoch, n_told = self._told.tolist()
            if n_told == self._n_heard:
                return
            self._n_heard = n_told
        else:
            # The first pass is that for which it was started, whatever was set meanwhile.
            owner = multiprocessing.parent_process()
            epoch = self._passes.join(
                owner=0 if owner is None else owner.pid or 0,
                seed=worker.seed - worker.id,
                n_set=self._n_set,
                n_workers=worker.num_workers,
                epoch=self.loader.epoch,
                is_resumed=self._is_resumed_in_worker,
            )
            self._has_begun_in_worker = True
        if epoch != self.loader.epoch:  # else the batch where it stood is kept
            self.loader.set_epoch(epoch)

    def _iter_whole(self) -> Iterator[dict[str, Any]]:
        # StatefulDataLoader makes an iterator that it takes nothing from: that is no pass.
        yield from map(_to_tensors, self.loader.iter_share())

    def _iter_part(self, worker: int, n_workers: int) -> Iterator[dict[str, Any]]:
        epoch = self.loader.epoch
        return self._until_done(epoch, self.loader.iter_share(worker, n_workers))

    def _until_done(self, epoch: int, batches: Iterator[Batch]) -> Iterator[dict[str, Any]]:
        yield from map(_to_tensors, batches)
        # Others may still be at work: who resumes this epoch must not begin the next one here.
        self._done_epoch = epoch


def _to_tensors(batch: Batch) -> dict[str, Any]:
    return {name: _to_tensor(value) for name, value in batch.items()}


def _to_tensor(value: Any) -> Any:  # noqa: ANN401 - arrays become tensors, numbers stay
    if isinstance(value, int):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, sparse.csr_array):
        return torch.sparse_csr_tensor(
            torch.from_numpy(value.indptr),
            torch.from_numpy(value.indices),
            torch.from_numpy(value.data),
            size=value.shape,
            check_invariants=False,
        )
    # Of CuPy: the tensor is the same memory of the GPU.
    return torch.from_dlpack(value)
