from __future__ import annotations

import csv
import io
import json
import tarfile

import imagecodecs
import numpy as np
import pytest
import xarray as xr
import zarr

import stformat as stf
from stformat.errors import BarcodeLookupError, ExportError, GeneLookupError, NoImageError
from stformat.export import _tile_arrays, _tile_set

FORMATS = ["png", "npy", "zarr", "webdataset"]


def read_rows(folder):
    with (folder / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def png(data):
    pixels = imagecodecs.png_decode(data)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def samples_of(folder):
    """Members of every sample by its key, in the order of the shards."""
    samples = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                key, ending = member.name.split(".", 1)
                samples.setdefault(key, {})[ending] = archive.extractfile(member).read()
    return samples


def read_tiles(folder, kind):
    """Return tiles, barcodes and expression, in the order in which they were written."""
    if kind == "webdataset":
        samples = samples_of(folder).values()
        documents = [json.loads(sample["json"]) for sample in samples]
        expression = [np.load(io.BytesIO(s["expression.npy"])) for s in samples if len(s) == 3]
        tiles = [png(sample["png"]) for sample in samples]
        return np.array(tiles), [d["barcode"] for d in documents], np.array(expression)
    if kind == "zarr":
        with xr.open_zarr(folder) as dataset:
            return (
                dataset["tiles"].to_numpy(),
                dataset["barcode"].to_numpy().tolist(),
                dataset["expression"].to_numpy() if "expression" in dataset else np.array([]),
            )
    rows = read_rows(folder)
    if kind == "png":
        tiles = np.array([png((folder / row["file"]).read_bytes()) for row in rows])
    else:
        tiles = np.load(folder / "tiles.npy", mmap_mode="r")
    file = folder / "expression.npy"
    expression = np.load(file) if file.exists() else np.array([])
    return tiles, [row["barcode"] for row in rows], expression


@pytest.mark.parametrize("name", ["ST", "Visium HD", "fluorescence", "one channel"])
@pytest.mark.parametrize("kind", FORMATS)
def test_tiles_are_those_that_the_slide_reads(store_of, kind, name, tmp_path, monkeypatch):
    monkeypatch.setattr(_tile_set, "BATCH_BYTES", 1 << 16)  # several batches
    monkeypatch.setattr(_tile_arrays, "BATCH_BYTES", 1 << 16)
    with stf.open_slide(store_of(name)) as slide:
        genes = list(slide.var.index[[3, 1]])
        out = stf.export_tiles(slide, tmp_path / "out", format=kind, tile_px=40, genes=genes)
        tiles, barcodes, expression = read_tiles(out, kind)
        assert barcodes == list(slide.obs.index)
        assert tiles.dtype == slide.dtype
        assert np.array_equal(tiles, slide.tiles(40)[:])
        assert np.array_equal(expression, slide.expression(slice(None), genes))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_arguments_give_the_same_bytes(store_of, kind, tmp_path, digest_of):
    made = [
        stf.export_tiles(
            store_of("ST"), tmp_path / name, format=kind, tile_px=32, mpp=3.0, genes="all"
        )
        for name in ("first", "second")
    ]
    assert digest_of(made[0]) == digest_of(made[1])


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_arrays_hold_any_number_of_channels(store_of, kind, tmp_path):
    with stf.open_slide(store_of("five channels")) as slide:
        out = stf.export_tiles(slide, tmp_path / "out", format=kind, tile_px=24)
        assert np.array_equal(read_tiles(out, kind)[0], slide.tiles(24)[:])


@pytest.mark.parametrize("kind", ["png", "webdataset"])
def test_png_cannot_hold_five_channels_and_the_error_names_what_can(store_of, kind, tmp_path):
    with pytest.raises(ExportError, match=r"5 channels of uint16; write them as npy or zarr"):
        stf.export_tiles(store_of("five channels"), tmp_path / "out", format=kind)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_chosen_by_barcode_in_that_order_and_by_tissue_and_coverage(store_of, tmp_path):
    with stf.open_slide(store_of("two tables")) as slide:
        chosen = list(slide.obs.index[[9, 2, 5]])
        out = stf.export_tiles(slide, tmp_path / "some", tile_px=16, rows=chosen)
        rows = read_rows(out)
        assert [row["barcode"] for row in rows] == chosen
        assert [int(row["row"]) for row in rows] == [9, 2, 5]
        xy = [(float(row["x"]), float(row["y"])) for row in rows]
        assert xy == [tuple(place) for place in slide.centers_px([9, 2, 5]).tolist()]
        whole = slide.tiles(60).coverage == 1.0
        on_tissue = slide.obs["in_tissue"].to_numpy()
        assert 0 < np.count_nonzero(whole & on_tissue) < np.count_nonzero(on_tissue) < slide.n_obs
        out = stf.export_tiles(
            slide, tmp_path / "whole", tile_px=60, in_tissue_only=True, min_coverage=1.0
        )
        assert [int(row["row"]) for row in read_rows(out)] == np.flatnonzero(
            whole & on_tissue
        ).tolist()
        said = json.loads((out / "export.json").read_text())
        assert said["n_below_coverage"] == np.count_nonzero(on_tissue & ~whole)


def test_another_table_and_the_field_of_a_spot(store_of, tmp_path):
    with stf.open_slide(store_of("two tables")) as slide:
        bins = slide.table("expression_square_008um")
        out = stf.export_tiles(
            slide, tmp_path / "out", format="npy", table="expression_square_008um", tile_px=20,
            field="spot",
        )  # fmt: skip
        assert np.array_equal(np.load(out / "tiles.npy"), bins.tiles(20, field="spot")[:])
        assert json.loads((out / "export.json").read_text())["field"] == "spot"


def test_shards_end_before_they_are_too_large(store_of, tmp_path):
    out = stf.export_tiles(
        store_of("fluorescence"), tmp_path / "out", format="webdataset", shard_bytes=1 << 16,
        tile_px=64,
    )  # fmt: skip
    shards = sorted(out.glob("*.tar"))
    assert [shard.name for shard in shards] == [f"{n:06d}.tar" for n in range(len(shards))]
    assert len(shards) > 1
    # tarfile ends an archive at a record of 10,240 bytes, with two empty blocks at least.
    assert all(shard.stat().st_size <= (1 << 16) + 10_240 for shard in shards)
    samples = samples_of(out)
    assert len(samples) == 40
    document = json.loads(samples["synthetic-0_0x0"]["json"])
    assert document["slide_id"] == "synthetic-0"
    assert document["barcode"] == "0x0"


def test_zarr_tiles_lie_in_shards_of_checked_chunks(store_of, tmp_path):
    out = stf.export_tiles(store_of("ST"), tmp_path / "out", format="zarr", tile_px=160)
    array = zarr.open_group(out, mode="r")["tiles"]
    in_chunk = (1 << 18) // (3 * 160 * 160)
    assert array.chunks == (in_chunk, 3, 160, 160)
    assert array.shards == (-(-array.shape[0] // in_chunk) * in_chunk, 3, 160, 160)
    codecs = json.loads((out / "tiles" / "zarr.json").read_text())["codecs"]
    (sharding,) = codecs
    assert sharding["configuration"]["codecs"][-1]["configuration"]["checksum"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mpp": 0.5}, "own mpp is known"),
        ({"size_um": 50.0}, "mpp"),
        ({"mpp": 1.0, "size_um": 5.0}, "mpp"),
        ({"min_coverage": 1.5}, "a share from 0 to 1"),
        ({"rows": [1, 1]}, "1 repeated"),
        ({"rows": []}, "none of 40 rows is left"),
        ({"genes": []}, "at least one gene"),
        ({"normalize": "log1p"}, "genes must be chosen"),
        ({"format": "gif"}, "one of png, npy, zarr, webdataset"),
        ({"shard_bytes": 1}, "at least 65536"),
        ({"tile_px": 0}, "at least 1"),
    ],
)
def test_what_is_not_possible_is_refused_and_leaves_nothing(store_of, arguments, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        stf.export_tiles(store_of("unknown mpp"), tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_unknown_rows_and_genes_and_a_slide_without_image(store_of, tmp_path):
    store, out = store_of("unknown mpp"), tmp_path / "out"
    with pytest.raises(BarcodeLookupError):
        stf.export_tiles(store, out, rows=["nowhere"])
    with pytest.raises(GeneLookupError):
        stf.export_tiles(store, out, genes=["NOGENE"])
    with pytest.raises(NoImageError):
        stf.export_tiles(store_of("no image"), out)
    assert list(tmp_path.iterdir()) == []
