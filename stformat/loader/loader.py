"""The loader: shuffled batches of tiles and expression from many slides."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from stformat.loader.augment import Augmentation
from stformat.loader.decodes import DecodeCounts, count_decodes
from stformat.loader.device import hold_current
from stformat.loader.expression import ExpressionRule, Panel
from stformat.loader.group import Batch, Group, GroupReader, Output
from stformat.loader.inventory import Wanted, take_inventory
from stformat.loader.memory import Memory
from stformat.loader.passes import (
    Order,
    Position,
    Progress,
    digest_order,
    order_of,
    parse_epoch,
    parse_state,
)
from stformat.loader.plan import EpochPlan, draw_rows, plan_epoch
from stformat.loader.sampling import parse_weights
from stformat.loader.settings import Settings
from stformat.loader.shelf import SlideShelf, SlideSources
from stformat.loader.stream import stream_batches
from stformat.store.row_index import RowIndex

if TYPE_CHECKING:
    from stformat.loader.torch_dataset import TorchTiles

__all__ = ["TileLoader"]

BUFFER_BYTES = 2**30
"""Default size of two groups, one drawn from and one being read, and the batches beside."""


class TileLoader:
    """Streams batches of tiles and expression from many slides, shuffled, in bounded memory.

    Iterating yields dictionaries of arrays, one a batch; every pass is an epoch of its own:

    - ``tile (n, c, y, x)``, of the images' type, or float32 or float16 where `dtype` says so;
      outside its image each has the image's background;
    - ``expression (n, n_genes)`` float32, or a SciPy ``csr_array`` with ``expression="csr"``;
    - ``measured (n, n_genes)`` bool, whether the slide of a row has a gene, where `genes` is a
      panel: zeros of expression that was never measured are not zeros;
    - ``slide (n,)`` int64, position in `slides`; ``row (n,)`` int64, row of the slide's table;
      ``x (n,)`` and ``y (n,)`` float64, centres in full-resolution pixels;
    - ``epoch`` and ``batch_index``, int.

    Rows of a slide are read in blocks of neighbours, so that a chunk is decoded once for a block.
    Blocks of all slides are permuted and cut into groups, of which two, and batches beside, fit
    `buffer_bytes`; a batch is drawn at random from a group. A larger buffer mixes more places and
    slides in a batch. Each row comes once an epoch, unless `weights` are given.

    Parameters
    ----------
    slides : Collection, or iterable of Slide, SlidePart or path (its default table)
        At least one, of one side of a split its rows alone; slides may be closed afterwards.
    rows : sequence of (int array, mask, slice or None), optional
        Rows of each slide that are loaded; None and by default all of its side, off the tissue too.
    tile_px : int or None, default: 224
        Edge of a tile in its own pixels; None for no tiles.
    mpp : float, optional
        Microns per pixel of a tile; by default each slide's own.
    expression : {"dense", "csr"} or None, default: "dense"
        How expression is returned, if at all.
    genes : sequence of str or panel, optional
        Keys, identifiers or unambiguous names, which every slide must have; or a panel, an object
        with ``keys`` and ``columns_in(slide)`` as `stformat.loader.expression.Panel` has it, by
        which slides may lack genes. By default all genes, which all slides must then have.
    normalize : {"log1p"}, optional
        ``log(1 + count * target_sum / total)``, where the total of a row is over every gene of its
        table. By default counts are returned as they are.
    target_sum : float, default: 10000
        What rows are scaled to.
    batch_size : int, default: 256
        Rows of a batch; the last batch of an epoch has what remains.
    drop_last : bool, default: False
        Leave out an incomplete last batch.
    shuffle : bool, default: True
        Permute rows. Otherwise slides come in turn, rows in the order of their tables.
    seed : int, default: 0
        Not negative. The same seed, slides, rows and sizes give the same batches, whatever the
        number of workers.
    weights : sequence of (float or (n_obs,) array_like), optional
        For each slide a weight for all rows, or one for each row of its table: an epoch draws rows
        **with replacement**, in proportion to their weights, and may have a row several times and
        another never. See `stformat.loader.balanced_weights`.
    n_draws : int, optional
        Rows that an epoch draws, with `weights`. Default: as many as there are.
    dtype : {float32, float16}, optional
        Type of tiles: ``(tile / largest sample - mean) / std``. By default samples as they are.
    mean, std : (c,) sequence of float, optional
        Of each channel, with `dtype`. Default: 0 and 1.
    augment : Augmentation, optional
        Random changes of tiles.
    buffer_bytes : int, default: 1 GiB
        Memory of two groups, one drawn from and one being read, and three batches: one is used, one
        waits, one is made. A loader takes ``(max(1, workers) + 1) / 2`` times as much, and at most
        512 MiB beside. Tiles of a batch may be a view of their group: keep a copy, for a batch that
        is kept takes more, and so do batches that are larger than all this. It keeps about as much
        from one epoch to the next, until `close`.
    workers : int, default: 1
        Threads that read groups ahead, each of which decodes with all processors; 0 reads in the
        calling thread. More than one help where stores are far away.
    max_open : int, default: 16
        Slides that are kept open; each may hold some ten files. An epoch opens and closes the
        others, which takes some milliseconds each time, of a slide at a URL some fifteen requests
        in turn: there, keep as many open as fit, and give several `workers`.
    rank, world_size : int, default: 0 and 1
        Which of how many disjoint shares of each epoch this loader has. Shares differ by one row at
        most; with `drop_last` all have as many batches.
    device : {"cpu", "cuda"}, default: "cpu"
        Where tiles and expression are made: by NumPy, or by CuPy on the GPU, and in the order of
        the stream, that are current where a pass begins; other arrays are NumPy's in any case. A
        group is copied to the GPU when its first batch is made, one at a time: about half of
        `buffer_bytes` beside the batches.

    Raises
    ------
    ValueError
        If an argument is out of its range or does not go with another.
    TypeError
        If an argument is of another type than it must be, or slides or genes are in no order.
    SlidesDifferError
        If slides differ in channels or type of samples, or in genes where none are named.
    NoImageError
        If a slide has no image, and tiles are wanted.
    GeneLookupError
        If a slide lacks a gene that is named, or has several of its name.
    GenePanelError
        If a slide measures no gene of the panel.
    SplitError
        If rows, or pixels of tiles, may be of another side of a split.
    StoreError
        If a slide cannot be opened. A note of an exception, later ones too, names the slide.
    ModuleNotFoundError
        If CuPy is missing where `device` is "cuda": ``pip install stformat[gpu]``.

    Notes
    -----
    Every slide is opened once at the beginning, and all that could keep an epoch from ending is
    checked then. A loader may be pickled, and used after a fork; a pass that has begun ends with
    its process, and a GPU, whatever uses it, must not have been used before the fork.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> path = stf.convert_slide(source, folder / "slide.zarr")
    >>> loader = stf.TileLoader([path], tile_px=64, genes=["ERBB2"], batch_size=12)
    >>> for batch in loader:
    ...     print(batch["batch_index"], batch["tile"].shape, batch["expression"].shape)
    0 (12, 3, 64, 64) (12, 1)
    1 (12, 3, 64, 64) (12, 1)
    2 (2, 3, 64, 64) (2, 1)
    """

    def __init__(
        self,
        slides: SlideSources,
        *,
        rows: Sequence[RowIndex | None] | None = None,
        tile_px: int | None = 224,
        mpp: float | None = None,
        expression: Literal["dense", "csr"] | None = "dense",
        genes: Sequence[str] | Panel | None = None,
        normalize: Literal["log1p"] | None = None,
        target_sum: float = 1e4,
        batch_size: int = 256,
        drop_last: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        weights: Sequence[float | ArrayLike] | None = None,
        n_draws: int | None = None,
        dtype: DTypeLike | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augmentation | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        workers: int = 1,
        max_open: int = 16,
        rank: int = 0,
        world_size: int = 1,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        self._settings = Settings(
            tile_px=tile_px,
            mpp=mpp,
            expression=expression,
            genes=genes,
            normalize=normalize,
            target_sum=target_sum,
            batch_size=batch_size,
            drop_last=drop_last,
            shuffle=shuffle,
            seed=seed,
            n_draws=n_draws,
            dtype=dtype,
            mean=mean,
            std=std,
            augment=augment,
            buffer_bytes=buffer_bytes,
            workers=workers,
            max_open=max_open,
            rank=rank,
            world_size=world_size,
            device=device,
        )
        self._prepare(slides, rows, weights)
        self._progress = Progress()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        asked = self._settings
        tiles = "no tiles" if asked.tile_px is None else f"tiles of {asked.tile_px} px"
        genes = f"{len(self.gene_keys)} genes" if asked.expression else "no expression"
        rows = f"{self.n_rows} rows of {len(self.slide_ids)} slide{'s'[: len(self.slide_ids) > 1]}"
        return f"<TileLoader: {rows}, {tiles}, {genes}, {len(self)} batches of {asked.batch_size}>"

    def __len__(self) -> int:
        """Return the number of batches of an epoch, of this rank's share."""
        return self._settings.n_batches(self.n_rows)

    def __iter__(self) -> Generator[Batch]:
        """Yield the batches of the next epoch, or of what is left of one that is resumed."""
        return self.iter_share()

    @property
    def n_rows(self) -> int:
        """Rows of an epoch, of all ranks."""
        asked = self._settings
        blocks = self._inventory.blocks
        n_loaded = int((blocks.stop - blocks.start).sum())
        return n_loaded if self._weights is None or asked.n_draws is None else asked.n_draws

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Identifier of each slide, in the order of ``batch["slide"]``."""
        return self._inventory.slide_ids

    @property
    def gene_keys(self) -> tuple[str, ...]:
        """Key of each column of expression, or the name it was asked for by."""
        return self._inventory.gene_keys

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next pass begins with or goes on with."""
        return self._progress.upcoming.epoch

    @property
    def world_size(self) -> int:
        """Of how many shares of an epoch the loader has one."""
        return self._settings.world_size

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass begin an epoch, from 0 on; a pass that is under way is not changed.

        Raises
        ------
        TypeError, ValueError
            If it is no whole number, or negative.
        """
        self._progress.move_to(Position(parse_epoch(epoch), 0))

    def state_dict(self) -> dict[str, Any]:
        """Return where the pass that is under way stands, or that the next one will begin.

        Returns
        -------
        dict
            Plain values: ``epoch``, ``batch`` (the first that has not been yielded) and what the
            order of batches depends on. Of several passes at once, that which yielded or ended
            last.
        """
        now = self._progress.now
        return {"epoch": now.epoch, "batch": now.batch, "order": self._order}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where another one stood; it yields the same rows.

        Raises
        ------
        ValueError
            If the state is that of a loader of another order: of other slides, rows, weights,
            sizes, seed or share; or of no epoch or batch that there is.
        """
        self._progress.move_to(parse_state(state, self._order, n_batches=len(self)))

    def close(self) -> None:
        """Close the slides that are open, and give up memory; a later pass takes both again."""
        self._shelf.close()
        self._memory.clear()

    def plan(self, epoch: int) -> EpochPlan:
        """Return what an epoch reads in which order: a pure function of seed, rows and sizes."""
        epoch = parse_epoch(epoch)
        return self._plan(epoch, self._draw(epoch))

    def count_decodes(self, epoch: int = 0) -> DecodeCounts:
        """Count the chunks of images that an epoch decodes, and how many different ones they are.

        Neighbouring blocks share chunks at their borders, which the group of each decodes. The more
        `buffer_bytes`, the larger blocks are, and the fewer chunks are decoded twice.

        Parameters
        ----------
        epoch : int, default: 0
            Number of the epoch; its plan is looked at, no pixels are read.

        Returns
        -------
        DecodeCounts
            Of this rank's share.

        Raises
        ------
        StoreError
            If a slide cannot be opened.

        Notes
        -----
        Where tiles are resampled, rows of a slide whose windows in a group take over 32 MiB may
        decode chunks again that the cache did not keep; these are not counted.
        """
        epoch = parse_epoch(epoch)
        draws = self._draw(epoch)
        return count_decodes(self._shelf, self._inventory, self._plan(epoch, draws), draws)

    def iter_share(self, process: int = 0, n_processes: int = 1) -> Generator[Batch]:
        """Return what one of several processes makes of the next epoch.

        Parameters
        ----------
        process, n_processes : int, default: 0 and 1
            Which of how many processes: it makes every so many-th group of batches, in turn.

        Returns
        -------
        generator of dict
            The batches, as from iterating the loader. The epoch is that which is the next when
            this is called, whatever is set before the first batch. A pass that has begun does not
            go on in a process that is forked then: `RuntimeError`.
        """
        here = self._progress.begin()
        return self._progress.follow(here, self._batches(here, process, n_processes))

    def share(self, rank: int, world_size: int) -> Self:
        """Return a loader of the same slides for one of several disjoint shares of each epoch.

        Parameters
        ----------
        rank, world_size : int
            Which of how many shares.

        Returns
        -------
        TileLoader
            It begins with epoch 0. Both use the same open slides.

        Raises
        ------
        ValueError
            If there is no such share.
        """
        shared = copy(self)
        shared._settings = replace(self._settings, rank=rank, world_size=world_size)  # noqa: SLF001 - of this class
        shared._progress = Progress()  # noqa: SLF001 - of this class
        return shared

    def as_torch(self) -> TorchTiles:
        """Return the loader as a dataset of torch, which yields whole batches of tensors.

        Returns
        -------
        TorchTiles
            A ``torch.utils.data.IterableDataset`` for ``DataLoader(dataset, batch_size=None)``;
            see there for epochs, ranks, resuming, and workers on slides at URLs.

        Raises
        ------
        ModuleNotFoundError
            If torch is missing: ``pip install stformat[torch]``.
        """
        from stformat.loader.torch_dataset import TorchTiles  # noqa: PLC0415 - an extra

        return TorchTiles(self, is_on_gpu=self._settings.device == "cuda")

    def _prepare(
        self,
        slides: SlideSources,
        rows: Sequence[RowIndex | None] | None,
        weights: Sequence[float | ArrayLike] | None,
    ) -> None:
        """Open every slide, and check what is asked against what there is."""
        asked = self._settings
        if weights is None and asked.n_draws is not None:
            raise ValueError("n_draws must come with weights, got none")
        self._shelf = SlideShelf(slides, max_open=asked.max_open)
        self._memory = Memory(asked.kept_bytes)
        self._inventory = take_inventory(
            self._shelf,
            self._shelf.rows(rows),
            Wanted(
                tile_px=asked.tile_px,
                mpp=asked.mpp,
                expression=asked.expression,
                genes=asked.genes,
                block_bytes=asked.block_bytes,
            ),
        )
        self._weights = None if weights is None else parse_weights(weights, self._inventory)
        self._order_digest = digest_order(self._inventory, self._weights)
        if self._inventory.tiles is not None:
            asked.check_against(self._inventory.tiles[0])
        self._group_bytes = asked.group_bytes(self._inventory)

    @property
    def _output(self) -> Output:
        asked = self._settings
        return Output(
            expression=asked.expression,
            rule=ExpressionRule(
                n_genes=len(self.gene_keys),
                normalize=asked.normalize,
                target_sum=float(asked.target_sum),
            ),
            has_measured=not (asked.genes is None or isinstance(asked.genes, Sequence)),
            dtype=asked.dtype,
            mean=asked.mean,
            std=asked.std,
            augment=asked.augment,
            group_bytes=self._group_bytes,
            memory=self._memory,
            xp=asked.xp,
            on_device=hold_current(asked.xp, asked.workers),
        )

    @property
    def _order(self) -> Order:
        return order_of(
            self._settings, self._inventory, n_rows=self.n_rows, digest=self._order_digest
        )

    def _batches(self, here: Position, process: int, n_processes: int) -> Generator[Batch]:
        draws = self._draw(here.epoch)
        plan = self._plan(here.epoch, draws)
        output = self._output

        def read(group: int, is_stopped: Callable[[], bool]) -> Group:
            reader = GroupReader(self._shelf, self._inventory, draws, output, is_stopped)
            return reader.read(plan, group)

        first_group = plan.group_of_batch(here.batch)
        groups = [g for g in range(process, plan.n_groups, n_processes) if g >= first_group]
        return stream_batches(
            groups, read, output, first_batch=here.batch, n_readers=self._settings.workers
        )

    def _draw(self, epoch: int) -> list[NDArray[np.int64]] | None:
        if self._weights is None:
            return None
        return draw_rows(self._weights, self.n_rows, seed=self._settings.seed, epoch=epoch)

    def _plan(self, epoch: int, draws: list[NDArray[np.int64]] | None) -> EpochPlan:
        asked, blocks = self._settings, self._inventory.blocks
        if draws is not None:
            bounds = zip(draws, self._inventory.bounds, strict=True)
            blocks = self._inventory.blocks_of([np.searchsorted(*pair) for pair in bounds])
        return plan_epoch(
            blocks,
            seed=asked.seed,
            epoch=epoch,
            batch_size=asked.batch_size,
            group_bytes=self._group_bytes,
            is_shuffled=asked.shuffle,
            drops_last=asked.drop_last,
            rank=asked.rank,
            world_size=asked.world_size,
        )
