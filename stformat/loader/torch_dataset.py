"""The loader as a dataset of torch; a thin skin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from scipy import sparse
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from stformat.loader.group import Batch

__all__ = ["BatchSource", "TorchTiles"]


class BatchSource(Protocol):
    """What is asked of a `stformat.TileLoader` here."""

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
    for they are batches already. Each of its processes makes every so many-th group of batches, in
    turn; without processes, batches come in the order of the loader. A process takes the memory of
    a loader.

    Where ``torch.distributed`` is initialised and the loader has no rank of its own, each process
    of it gets its rank's share.

    Processes of a DataLoader know only the epoch that they were started with: call `set_epoch`
    before each pass, as for torch's ``DistributedSampler``. To resume within an epoch that
    processes read, let torchdata's ``StatefulDataLoader`` keep their states.

    Parameters
    ----------
    loader : TileLoader
        The loader.
    """

    def __init__(self, loader: BatchSource) -> None:
        super().__init__()
        has_ranks = distributed.is_available() and distributed.is_initialized()
        if has_ranks and loader.world_size == 1:
            loader = loader.share(distributed.get_rank(), distributed.get_world_size())
        self.loader = loader

    def __len__(self) -> int:
        """Return the number of batches of an epoch, of this rank's share."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of the next epoch, in a process of a DataLoader its part of them."""
        process = get_worker_info()
        if process is None:
            batches = self.loader.iter_share()
        else:
            batches = self.loader.iter_share(process.id, process.num_workers)
        return map(_to_tensors, batches)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass begin an epoch; see `stformat.TileLoader.set_epoch`."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where this process stands; see `stformat.TileLoader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass of this process go on where another one stood."""
        self.loader.load_state_dict(state)


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
