"""Tiles of a slide from disk: all of them in two orders, some of them one by one."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

import stformat as stf
from peer_cases.case import (
    Comparison,
    OutputsDifferError,
    Peer,
    Target,
    Work,
    at_least,
    at_most,
    equal,
    reported,
)
from peer_cases.data import Data
from stformat.kernels._pool import map_chunks, thread_count

__all__ = ["COMPARISONS", "TILE_PX", "squidpy_crops", "tiles_of"]

TILE_PX = 224
_LEVEL_0 = "images/he/s0"
_CACHE_BYTES = 200_000_000
_IN_FLIGHT = 256
_FRAMES_AT_ONCE = 8

type Order = Literal["spot", "random"]


def rows_in(order: Order, data: Data) -> NDArray[np.int64]:
    """Return all rows of the store, in the order of the store or in a random one."""
    rows = np.arange(len(data.centers_px))
    return rows if order == "spot" else np.random.default_rng(1).permutation(rows)


def part_of(data: Data, n: int) -> NDArray[np.int64]:
    """Return places of `n` consecutive tiles from the middle of a request."""
    n_tiles = len(data.centers_px)
    start = max(0, (n_tiles - n) // 2)
    return np.arange(start, min(start + n, n_tiles))


def corners(data: Data, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the first row and column of the tile of each spot."""
    left, top = np.floor(data.centers_px[rows] - TILE_PX / 2 + 0.5).astype(int).T
    return list(zip(top.tolist(), left.tolist(), strict=True))


def tiles_of(data: Data, rows: NDArray[np.int64], **settings: float) -> NDArray[np.uint8]:
    """Open the slide and cut the tiles of some rows in one request."""
    with stf.open_slide(data.store) as slide:
        return slide.tiles(TILE_PX, **settings)[rows]


def _ours(order: Order, data: Data) -> Work:
    rows = rows_in(order, data)
    # Into an array that exists, as tensorstore's: the system takes as long to clear new memory as
    # the tiles take to be cut.
    out = np.zeros_like(tiles_of(data, rows))

    def run() -> NDArray[np.uint8]:
        with stf.open_slide(data.store) as slide:
            return slide.tiles(TILE_PX).take(rows, out=out)

    return Work(run=run, n_units=len(rows))


# ---- the bound -----------------------------------------------------------------------------------


def _decode_once(order: Order, data: Data) -> Work:
    """Decode every chunk that a tile touches, its bytes in memory already, and do nothing else."""
    frames, n_bytes = _touched_frames(data)
    blocks = [frames[at : at + _FRAMES_AT_ONCE] for at in range(0, len(frames), _FRAMES_AT_ONCE)]

    def decode(block: list[bytes]) -> None:
        chunk = bytearray(n_bytes)
        for frame in block:
            imagecodecs.zstd_decode(frame, out=chunk)

    return Work(run=lambda: map_chunks(decode, blocks), n_units=len(rows_in(order, data)))


def _touched_frames(data: Data) -> tuple[list[bytes], int]:
    """Read the bytes of the chunks under all tiles, by the index at the end of each shard."""
    folder = data.store / _LEVEL_0
    metadata = json.loads((folder / "zarr.json").read_text())
    (sharding,) = metadata["codecs"]
    chunk_shape = sharding["configuration"]["chunk_shape"]
    edge = chunk_shape[1]
    in_shard = metadata["chunk_grid"]["configuration"]["chunk_shape"][1] // edge
    starts = np.array(corners(data, rows_in("spot", data)))
    first, last = starts // edge, (starts + TILE_PX - 1) // edge
    touched = sorted(
        {
            (row, col)
            for (top, left), (bottom, right) in zip(first.tolist(), last.tolist(), strict=True)
            for row in range(top, bottom + 1)
            for col in range(left, right + 1)
        }
    )
    shards: dict[tuple[int, int], tuple[bytes, NDArray[np.uint64]]] = {}
    frames = []
    for row, col in touched:
        place = row // in_shard, col // in_shard
        if place not in shards:
            content = (folder / "c" / "0" / str(place[0]) / str(place[1])).read_bytes()
            index = np.frombuffer(content[-16 * in_shard**2 - 4 : -4], "<u8")
            shards[place] = content, index.reshape(in_shard, in_shard, 2)
        content, index = shards[place]
        start, length = index[row % in_shard, col % in_shard].tolist()
        frames.append(content[start : start + length])
    return frames, int(np.prod(chunk_shape))


# ---- readers of Zarr -----------------------------------------------------------------------------


def _open_tensorstore(data: Data) -> Any:
    import tensorstore

    threads = {"limit": thread_count()}
    context = tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": _CACHE_BYTES},
            "data_copy_concurrency": threads,
            "file_io_concurrency": threads,
        }
    )
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(data.store / _LEVEL_0)},
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
    }
    return tensorstore.open(spec, context=context, read=True).result()


def _tensorstore(order: Order, data: Data) -> Work:
    places = corners(data, rows_in(order, data))
    _open_tensorstore(data)
    out = np.zeros((len(places), 3, TILE_PX, TILE_PX), np.uint8)

    def run() -> NDArray[np.uint8]:
        array = _open_tensorstore(data)
        for start in range(0, len(places), _IN_FLIGHT):
            futures = [
                array[:, top : top + TILE_PX, left : left + TILE_PX].read()
                for top, left in places[start : start + _IN_FLIGHT]
            ]
            for at, future in enumerate(futures, start):
                out[at] = future.result()
        return out

    return Work(run=run, n_units=len(places))


def _one_at_a_time(
    order: Order, data: Data, n: int, cut: Callable[[int, int], NDArray[np.uint8]]
) -> Work:
    """Cut `n` tiles by ``cut(top, left)``, which returns ``(c, y, x)``."""
    part = part_of(data, n)
    places = corners(data, rows_in(order, data)[part])
    return Work(
        run=lambda: np.stack([cut(top, left) for top, left in places]),
        n_units=len(places),
        part=part,
    )


def _cut_slices(array: Any) -> Callable[[int, int], NDArray[np.uint8]]:
    return lambda top, left: array[:, top : top + TILE_PX, left : left + TILE_PX]


def _open_zarr(data: Data) -> Any:
    import zarr

    return zarr.open_array(data.store / _LEVEL_0, mode="r")


def _zarr(order: Order, data: Data) -> Work:
    return _one_at_a_time(order, data, data.scale.n_some, _cut_slices(_open_zarr(data)))


def _zarrs(order: Order, data: Data) -> Work:
    import zarr
    import zarrs  # noqa: F401 - so that its absence is told

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return _zarr(order, data)


def _dask(order: Order, data: Data) -> Work:
    import dask.array

    array = _open_zarr(data)
    cut = _cut_slices(dask.array.from_array(array, chunks=array.chunks))
    return _one_at_a_time(order, data, data.scale.n_few, lambda top, left: cut(top, left).compute())


# ---- readers of TIFF -----------------------------------------------------------------------------


def _openslide(order: Order, data: Data) -> Work:
    import openslide

    image = openslide.OpenSlide(data.tiff)

    def cut(top: int, left: int) -> NDArray[np.uint8]:
        tile = image.read_region((left, top), 0, (TILE_PX, TILE_PX)).convert("RGB")
        return np.asarray(tile).transpose(2, 0, 1)

    return _one_at_a_time(order, data, data.scale.n_some, cut)


def _tiffslide(order: Order, data: Data) -> Work:
    import tiffslide

    image = tiffslide.TiffSlide(data.tiff)

    def cut(top: int, left: int) -> NDArray[np.uint8]:
        tile = image.read_region((left, top), 0, (TILE_PX, TILE_PX), as_array=True)
        return tile.transpose(2, 0, 1)

    return _one_at_a_time(order, data, data.scale.n_some, cut)


def _tifffile(order: Order, data: Data) -> Work:
    import tifffile
    import zarr

    store = tifffile.imread(data.tiff, aszarr=True)
    array = zarr.open_array(store, mode="r")
    # It would be closed whenever its memory is given up, with a warning.
    weakref.finalize(array, store.close)

    def cut(top: int, left: int) -> NDArray[np.uint8]:
        return array[top : top + TILE_PX, left : left + TILE_PX].transpose(2, 0, 1)

    return _one_at_a_time(order, data, data.scale.n_some, cut)


# ---- libraries of the field ----------------------------------------------------------------------


def squidpy_crops(
    data: Data, centers_px: NDArray[Any], edge_px: int, **settings: float
) -> Callable[[], list[NDArray[np.uint8]]]:
    """Return a call that cuts crops of `edge_px` + 1 pixels around spots: squidpy's are odd."""
    import anndata
    import pandas as pd
    import squidpy

    factors = {"spot_diameter_fullres": float(edge_px + 1), "tissue_hires_scalef": 1.0}
    table = anndata.AnnData(
        np.zeros((len(centers_px), 1), np.float32),
        obs=pd.DataFrame(index=[f"s{number}" for number in range(len(centers_px))]),
    )
    table.obsm["spatial"] = centers_px
    table.uns["spatial"] = {"slide": {"scalefactors": factors, "images": {}}}
    pixels = np.ascontiguousarray(data.pixels.transpose(1, 2, 0))
    image = squidpy.im.ImageContainer(pixels, layer="image", lazy=True)

    def crops() -> list[NDArray[np.uint8]]:
        found = image.generate_spot_crops(table, as_array="image", **settings)
        return [np.asarray(crop).squeeze() for crop in found]

    return crops


def _squidpy(order: Order, data: Data) -> Work:
    part = part_of(data, data.scale.n_few)
    crops = squidpy_crops(data, data.centers_px[rows_in(order, data)[part]], TILE_PX)
    return Work(
        run=lambda: np.stack([crop.transpose(2, 0, 1) for crop in crops()]),
        n_units=len(part),
        part=part,
    )


def _but_for_the_last_pixels(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> str:
    """Compare with tiles whose edge is one longer."""
    if theirs.shape[2:] == ours.shape[2:]:
        return equal(ours, theirs)
    if theirs.shape[2:] != (TILE_PX + 1, TILE_PX + 1):
        raise OutputsDifferError(f"tiles of {theirs.shape[2:]} px")
    equal(ours, theirs[:, :, :TILE_PX, :TILE_PX])
    return "equal, but 225 px"


def _image_tiles(store: Literal["ours", "theirs"], order: Order, data: Data) -> Work:
    import spatialdata
    from spatialdata.dataloader.datasets import ImageTilesDataset

    slide = spatialdata.read_zarr(data.store if store == "ours" else data.spatialdata_store)
    dataset = ImageTilesDataset(
        slide,
        regions_to_images={"spots": "he"},
        regions_to_coordinate_systems={"spots": "global"},
        table_name="expression",
        tile_dim_in_units=float(TILE_PX),
        return_annotations="total_counts",
        transform=lambda tile_and_value: np.asarray(tile_and_value[0].data),
    )
    part = part_of(data, data.scale.n_few)
    rows = rows_in(order, data)[part].tolist()
    return Work(run=lambda: np.stack([dataset[row] for row in rows]), n_units=len(rows), part=part)


# ---- comparisons ---------------------------------------------------------------------------------


def _all_tiles(order: Order, over_tensorstore: float) -> Comparison:
    def peer(
        name: str,
        prepare: Callable[[Order, Data], Work],
        target: Target | None = None,
        **settings: Any,
    ) -> Peer:
        return Peer(
            name=name, prepare=partial(prepare, order), target=target or reported(), **settings
        )

    return Comparison(
        what=f"tiles of a slide from disk, {order} order",
        unit="tile",
        ours=partial(_ours, order),
        peers=(
            peer(
                "bound: decoding each chunk once", _decode_once, at_most(1.2), agrees=None,
                note="bytes in memory already, nothing is cut",
            ),
            peer(
                "tensorstore, asynchronous", _tensorstore, at_least(over_tensorstore),
                note="256 reads in flight, cache of 200 MB",
            ),
            peer("OpenSlide", _openslide, at_least(7), note="JPEG TIFF of the same pixels"),
            peer("tiffslide", _tiffslide, note="the same TIFF"),
            peer("tifffile through zarr", _tifffile, note="the same TIFF"),
            peer("zarr-python", _zarr, at_least(15)),
            peer("zarr-python with zarrs", _zarrs),
            peer("dask", _dask, note="`compute` for each tile"),
            peer(
                "squidpy generate_spot_crops", _squidpy, agrees=_but_for_the_last_pixels,
                note="image in memory",
            ),
            peer(
                "spatialdata ImageTilesDataset", partial(_image_tiles, "theirs"), at_least(60),
                agrees=_but_for_the_last_pixels, note="its own store, chunks of 512 px",
            ),
            peer(
                "spatialdata ImageTilesDataset, our store", partial(_image_tiles, "ours"),
                at_least(60), agrees=_but_for_the_last_pixels,
            ),
        ),
    )  # fmt: skip


def _ours_one_by_one(data: Data) -> Work:
    rows = rows_in("random", data)[part_of(data, data.scale.n_some)].tolist()

    def run() -> NDArray[np.uint8]:
        with stf.open_slide(data.store) as slide:
            tiles = slide.tiles(TILE_PX)
            return np.stack([tiles[row] for row in rows])

    return Work(run=run, n_units=len(rows))


def _tensorstore_one_by_one(data: Data) -> Work:
    places = corners(data, rows_in("random", data)[part_of(data, data.scale.n_some)])
    _open_tensorstore(data)

    def run() -> NDArray[np.uint8]:
        cut = _cut_slices(_open_tensorstore(data))
        return np.stack([cut(top, left).read().result() for top, left in places])

    return Work(run=run, n_units=len(places))


def _zarr_one_by_one(data: Data) -> Work:
    # The same tiles, which are all of ours here.
    return dataclasses.replace(_zarr("random", data), part=slice(None))


COMPARISONS = (
    _all_tiles("spot", over_tensorstore=1.5),
    _all_tiles("random", over_tensorstore=3.5),
    Comparison(
        what="tiles one by one, random rows",
        unit="tile",
        ours=_ours_one_by_one,
        peers=(
            Peer(name="tensorstore", prepare=_tensorstore_one_by_one, note="cache of 200 MB"),
            Peer(name="zarr-python", prepare=_zarr_one_by_one),
        ),
    ),
)
