"""The loader beside the tile engine, beside datasets of files, and beside annbatch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from peer_cases.case import Comparison, Peer, Work, at_least, at_most, close, equal, reported
from scipy import sparse

import stformat as stf
from loader_cases.corpus import PANEL, Corpus
from loader_cases.files import (
    TARGET_SUM,
    TILE_PX,
    ReadsPng,
    TileFiles,
    by_imagecodecs,
    by_pillow,
    files_of_sample,
    files_of_slide,
    sample_rows,
)

__all__ = ["COMPARISONS"]

_BATCH = 256
_PER_SLIDE = 20_000
_AT_ONCE = 1024
_NORMALIZED: dict[str, Any] = {"normalize": "log1p", "target_sum": TARGET_SUM}


def _loader(paths: list[Path], **options: Any) -> stf.TileLoader:
    return stf.TileLoader(paths, batch_size=_BATCH, max_open=64, **options)


def _epoch(loader: stf.TileLoader, weigh: Callable[[dict[str, Any]], Any]) -> Callable[[], Any]:
    """Return a pass over an epoch that adds up what batches weigh."""

    def run() -> Any:
        return sum(weigh(batch) for batch in loader)

    return run


# ---- tiles alone, of all slides ------------------------------------------------------------------


def _of_slides(corpus: Corpus) -> list[NDArray[np.int64]]:
    rows = []
    for path in corpus.paths:
        with stf.open_slide(path) as slide:
            rows.append(np.arange(min(slide.n_obs, _PER_SLIDE)))
    return rows


def _streamed_tiles(corpus: Corpus) -> Work:
    rows = _of_slides(corpus)
    loader = _loader(corpus.paths, rows=rows, tile_px=TILE_PX, expression=None)
    return Work(
        run=_epoch(loader, lambda batch: batch["tile"][:, :, 0, 0].sum(dtype=np.int64)),
        n_units=loader.n_rows,
    )


def _engine(corpus: Corpus) -> Work:
    rows = _of_slides(corpus)
    out = np.empty((_AT_ONCE, 3, TILE_PX, TILE_PX), np.uint8)

    def run() -> int:
        total = 0
        for path, wanted in zip(corpus.paths, rows, strict=True):
            with stf.open_slide(path) as slide:
                tiles = slide.tiles(TILE_PX, rows=wanted)
                for start in range(0, len(tiles), _AT_ONCE):
                    stop = min(start + _AT_ONCE, len(tiles))
                    some = tiles.take(slice(start, stop), out=out[: stop - start])
                    total += int(some[:, :, 0, 0].sum(dtype=np.int64))
        return total

    return Work(run=run, n_units=sum(map(len, rows)))


# ---- tiles and a panel of genes ------------------------------------------------------------------


def _in_order(batches: Iterable[dict[str, Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    listed = list(batches)
    order = np.argsort(np.concatenate([np.asarray(batch["row"]) for batch in listed]))
    tiles, values = (
        np.concatenate([np.asarray(batch[key]) for batch in listed])[order]
        for key in ("tile", "expression")
    )
    return tiles, values


def _weigh(batches: Iterable[dict[str, Any]]) -> float:
    """Touch what batches hold."""
    return sum(
        float(batch["tile"][:, :, ::16, ::16].sum()) + float(batch["expression"].sum())
        for batch in batches
    )


def _visium(corpus: Corpus, n: int | None) -> tuple[Path, NDArray[np.int64]]:
    path = corpus.paths_of("Visium")[0]
    with stf.open_slide(path) as slide:
        return path, np.arange(slide.n_obs)[:n]


def _work(batches: Callable[[], Iterable[dict[str, Any]]], n_units: int) -> Work:
    """Time an epoch after one that is not timed.

    Workers of a DataLoader are forks of this process, whose memory has to be claimed anew, page by
    page, by whoever writes to it next.
    """
    return Work(
        run=lambda: _weigh(batches()),
        output=lambda: _in_order(batches()),
        before=lambda: _weigh(batches()),
        n_units=n_units,
    )


def _streamed_all(corpus: Corpus) -> Work:
    """Read a part of all slides, of which the output is a part again: those with files."""
    rows = _of_slides(corpus)
    sample = sample_rows(corpus, rows)
    loader = _loader(corpus.paths, rows=rows, tile_px=TILE_PX, genes=PANEL, **_NORMALIZED)

    def in_sample(batch: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(batch["slide"].tolist(), batch["row"].tolist(), strict=True)
        known = np.array([sample.get(pair, -1) for pair in pairs])
        is_in = known >= 0
        chosen = {name: batch[name][is_in] for name in ("tile", "expression")}
        return {"row": known[is_in], **chosen}

    work = _work(lambda: loader, loader.n_rows)
    return dataclasses.replace(work, output=lambda: _in_order(map(in_sample, loader)))


def _streamed(corpus: Corpus) -> Work:
    return _streamed_rows(*_visium(corpus, None))


def _fast_streamed(corpus: Corpus) -> Work:
    return _streamed_rows(corpus.fast_path, _visium(corpus, None)[1])


def _few_streamed(corpus: Corpus) -> Work:
    return _streamed_rows(*_visium(corpus, corpus.scale.n_few))


def _streamed_rows(path: Path, rows: NDArray[np.int64]) -> Work:
    loader = _loader([path], rows=[rows], tile_px=TILE_PX, genes=PANEL, **_NORMALIZED)
    return _work(lambda: loader, len(rows))


def _torch_batches(dataset: Any, n_workers: int) -> Iterable[dict[str, Any]]:
    from torch.utils.data import DataLoader

    return DataLoader(dataset, batch_size=_BATCH, shuffle=True, num_workers=n_workers)


def _image_tiles(corpus: Corpus) -> Work:
    import spatialdata
    from spatialdata.dataloader.datasets import ImageTilesDataset

    path, rows = _visium(corpus, corpus.scale.n_few)
    dataset = ImageTilesDataset(
        spatialdata.read_zarr(path),
        regions_to_images={"spots": "he"},
        regions_to_coordinate_systems={"spots": "global"},
        table_name="expression",
        tile_dim_in_units=float(TILE_PX),
        return_annotations="total_counts",
        transform=lambda tile_and_value: np.asarray(tile_and_value[0].data),
    )
    with stf.open_slide(path) as slide:
        expression = slide.expression(rows, PANEL, **_NORMALIZED)

    class Rows:
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"tile": dataset[index], "expression": expression[index], "row": index}

    return _work(lambda: _torch_batches(Rows(), 0), len(rows))


def _same_tiles_and_values(ours: Any, theirs: Any) -> str:
    tiles = theirs[0][:, :, :TILE_PX, :TILE_PX]
    equal(ours[0], tiles)
    values = close(1e-5)(ours[1], theirs[1])
    longer = "" if tiles.shape == theirs[0].shape else f", but {theirs[0].shape[3]} px"
    return f"tiles equal{longer}, expression {values}"


# ---- expression alone, of Visium HD slides -------------------------------------------------------


def _streamed_counts(corpus: Corpus) -> Work:
    loader = _loader(corpus.paths_of("Visium HD"), tile_px=None, expression="csr")
    return Work(
        run=_epoch(loader, lambda batch: int(batch["expression"].data.sum())),
        n_units=loader.n_rows,
    )


def _streamed_panel(corpus: Corpus) -> Work:
    loader = _loader(corpus.paths_of("Visium HD"), tile_px=None, genes=PANEL, **_NORMALIZED)
    return Work(
        run=_epoch(loader, lambda batch: batch["expression"].sum(dtype=np.float64)),
        n_units=loader.n_rows,
    )


def _annbatch(kind: Literal["csr", "panel"], pipeline: str, corpus: Corpus) -> Work:
    import annbatch
    import anndata
    import zarr

    paths = corpus.paths_of("Visium HD")
    groups = [_annbatch_store(corpus, path) for path in paths]
    with stf.open_slide(paths[0]) as slide:
        columns = slide.gene_columns(PANEL)
    n_obs = sum(int(group["X"].attrs["shape"][0]) for group in groups)

    def weigh(batch: Any) -> Any:
        counts = sparse.csr_array(batch["X"] if isinstance(batch, dict) else batch.X)
        if kind == "csr":
            return int(counts.data.sum())
        totals = counts.sum(axis=1)
        chosen = counts[:, columns].toarray()
        return np.log1p(chosen * (TARGET_SUM / totals[:, np.newaxis])).sum(dtype=np.float64)

    def run() -> Any:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            loader = annbatch.Loader(
                shuffle=True, chunk_size=512, preload_nchunks=32, batch_size=_BATCH
            )
            loader.add_datasets([anndata.io.sparse_dataset(group["X"]) for group in groups])
            return sum(weigh(batch) for batch in loader)

    if pipeline.startswith("zarrs"):
        import zarrs  # noqa: F401 - that it is there
    return Work(run=run, n_units=n_obs)


def _annbatch_store(corpus: Corpus, path: Path) -> Any:
    """Return a slide's counts in a store as annbatch writes it."""
    import annbatch
    import anndata
    import zarr

    folder = corpus.folder / f"annbatch-{path.stem}"
    if not folder.exists():
        with stf.open_slide(path) as slide:
            table = anndata.AnnData(sparse.csr_matrix(slide.counts[:].astype(np.float32)))
            table.var_names = slide.var.index
        annbatch.write_sharded(zarr.open_group(folder, mode="w", zarr_format=3), table)
    return zarr.open_group(folder, mode="r")


def _annbatch_peers(kind: Literal["csr", "panel"], least: float) -> tuple[Peer, ...]:
    pipelines = {
        "zarrs": ("zarrs.ZarrsCodecPipeline", {"target": at_least(least)}),
        "zarr-python": ("zarr.core.codec_pipeline.BatchedCodecPipeline", {}),
    }
    return tuple(
        Peer(
            name=f"annbatch with {name}",
            prepare=partial(_annbatch, kind, pipeline),
            agrees=lambda ours, theirs: close(1e-6)(np.array([ours]), np.array([theirs])),
            note="its own store; blocks of 512 rows, 32 at a time",
            **settings,
        )
        for name, (pipeline, settings) in pipelines.items()
    )


def _peers_of_files(files: Callable[[Corpus], TileFiles], note: str) -> tuple[Peer, ...]:
    def prepare(read: ReadsPng, n_workers: int, corpus: Corpus) -> Work:
        found = files(corpus).read_by(read)
        return _work(lambda: _torch_batches(found, n_workers), len(found))

    return tuple(
        Peer(
            name=f"PNG files by {name} and a CSV in a DataLoader, {n_workers} workers",
            prepare=partial(prepare, read, n_workers),
            target=target,
            agrees=_same_tiles_and_values,
            note=f"{by}; the CSV is in memory{note}",
        )
        for name, read, target, by in (
            ("Pillow", by_pillow, at_least(10.0), "as the paper's own code"),
            ("imagecodecs", by_imagecodecs, reported(), "a faster decoder"),
        )
        for n_workers in (0, 2)
    )


_PEERS_OF_FILES = _peers_of_files(lambda corpus: files_of_slide(corpus, *_visium(corpus, None)), "")

COMPARISONS = (
    Comparison(
        what="shuffled tiles of all slides",
        unit="tile",
        ours=_streamed_tiles,
        peers=(
            Peer(
                name="bound: the tile engine in the order of rows",
                prepare=_engine,
                target=at_most(1.25),
                agrees=lambda ours, theirs: equal([ours], [theirs]),
            ),
        ),
    ),
    Comparison(
        what="shuffled tiles and 2,010 genes of all slides",
        unit="row",
        ours=_streamed_all,
        peers=_peers_of_files(
            lambda corpus: files_of_sample(corpus, _of_slides(corpus)), "; of a random part of rows"
        ),
    ),
    Comparison(
        what="shuffled tiles and 2,010 genes of a Visium slide",
        unit="row",
        ours=_streamed,
        peers=_PEERS_OF_FILES,
    ),
    Comparison(
        what="shuffled tiles and 2,010 genes of a Visium slide converted with --image-codec blosc",
        unit="row",
        ours=_fast_streamed,
        peers=_PEERS_OF_FILES,
    ),
    Comparison(
        what="shuffled tiles and 2,010 genes of a few spots",
        unit="row",
        ours=_few_streamed,
        peers=(
            Peer(
                name="spatialdata ImageTilesDataset in a DataLoader",
                prepare=_image_tiles,
                target=at_least(50.0),
                agrees=_same_tiles_and_values,
                note="its expression is in memory, dense and normalised",
            ),
        ),
    ),
    Comparison(
        what="shuffled expression of Visium HD, sparse",
        unit="row",
        ours=_streamed_counts,
        peers=_annbatch_peers("csr", 1.0),
    ),
    Comparison(
        what="shuffled expression of Visium HD, 2,010 genes, dense, normalised",
        unit="row",
        ours=_streamed_panel,
        peers=_annbatch_peers("panel", 2.5),
    ),
)
