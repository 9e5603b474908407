"""Every worked number of the specification is what the code computes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from stformat import coords
from stformat.kernels import downsample_2x2, gather_tiles, normalize_log1p, resample_tiles
from stformat.metadata.ngff import level_datasets
from stformat.metadata.strict_json import dump_canonical
from stformat.metadata.zarr_array import array_document
from stformat.metadata.zarr_codecs import ChunkCoding, parse_coding
from stformat.store import layout
from stformat.store.image_codecs import IMAGE_CODECS, ZSTD
from stformat.store.manifest import commit_record, metadata_crc32c, parse_commit

SPEC = (Path(__file__).resolve().parents[2] / "spec" / "stformat-0.1.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", SPEC, re.DOTALL)]
BACKGROUND = 255
PIXELS = (10 * np.arange(4)[:, None] + np.arange(6)).astype(np.uint8)[None]
"""The image of the tile examples: one channel of 6 x 4 pixels, ``10 * row + column``."""


def examples(rule):
    found = [example for example in EXAMPLES if example["rule"] == rule]
    assert found, f"the specification has no example of {rule}"
    return [
        pytest.param(example, id=example.get("name", f"{rule}-{number}"))
        for number, example in enumerate(found)
    ]


def test_every_example_belongs_to_a_rule_that_is_tested():
    assert Counter(example["rule"] for example in EXAMPLES) == {
        "array.document": 1,
        "array.vector": 1,
        "commit.crc32c": 1,
        "crc32c": 1,
        "expression.log1p": 1,
        "image.jpeg-codecs": 1,
        "image.shards": 1,
        "json.canonical": 1,
        "pyramid.shapes": 3,
        "pyramid.spatialdata": 1,
        "pyramid.transform": 1,
        "pyramid.values": 1,
        "rows.key": 1,
        "rows.order": 1,
        "tile": 8,
        "tile.grid": 2,
    }


@pytest.mark.parametrize("example", examples("array.vector"))
def test_vector_chunks(example):
    cut = [layout.vector_chunks(length) for length in example["lengths"]]
    assert [chunks for (chunks,), _ in cut] == example["chunks"]
    assert [shards for _, (shards,) in cut] == example["shards"]


@pytest.mark.parametrize("example", examples("image.shards"))
def test_image_shards(example):
    shards = [layout.image_shards(example["n_c"], *shape) for shape in example["levels"]]
    assert shards == [tuple(shard) for shard in example["shards"]]
    assert layout.image_chunks(example["n_c"]) == (example["n_c"], 256, 256)


@pytest.mark.parametrize("example", examples("image.jpeg-codecs"))
def test_jpeg_codecs(example):
    assert IMAGE_CODECS["jpeg"].codecs(np.dtype(np.uint8)) == example["codecs"]
    coding = parse_coding(example["codecs"], "uint8", (3, 256, 256))
    assert coding == ChunkCoding(compression="jpeg", has_content_checksum=False, has_crc32c=True)


@pytest.mark.parametrize("example", examples("array.document"))
def test_array_document(example):
    n_c, height, width = shape = tuple(example["document"]["shape"])
    document = array_document(
        shape=shape,
        dtype=np.dtype(np.uint8),
        chunks=layout.image_chunks(n_c),
        shards=layout.image_shards(n_c, height, width),
        codecs=ZSTD.codecs(np.dtype(np.uint8)),
        dimension_names=("c", "y", "x"),
    )
    assert document == example["document"]
    assert metadata_crc32c(document) == example["metadata_crc32c"]


@pytest.mark.parametrize("example", examples("pyramid.shapes"))
def test_level_shapes(example):
    shapes = layout.level_shapes(example["height"], example["width"])
    assert shapes == [tuple(shape) for shape in example["levels"]]


@pytest.mark.parametrize("example", examples("pyramid.values"))
def test_pyramid_values(example):
    level = np.array(example["image"], dtype=np.uint8)[None]
    for expected in example["levels"]:
        level = downsample_2x2(level)
        assert level[0].tolist() == expected


@pytest.mark.parametrize("example", examples("pyramid.transform"))
def test_level_scale_and_translation(example):
    datasets = level_datasets(prefix="", n_levels=len(example["level"]), step=1.0)
    steps = [dataset["coordinateTransformations"] for dataset in datasets]
    assert [scale["scale"] for scale, _ in steps] == [[1, s, s] for s in example["scale"]]
    assert [shift["translation"] for _, shift in steps] == [
        [0, t, t] for t in example["translation"]
    ]
    assert [coords.mpp_at(1.0, level) for level in example["level"]] == example["scale"]


@pytest.mark.parametrize("example", examples("pyramid.spatialdata"))
def test_error_of_sizes_taken_as_scale(example):
    height_width = layout.level_shapes(example["width"], example["width"])[example["level"]]
    assert height_width[1] == example["level_width"]
    true_edge = example["level_width"] * 2 ** example["level"]
    assert true_edge == example["true_edge"]
    assert true_edge - example["width"] == example["error_px"]
    assert example["error_px"] / 2 ** example["level"] == example["error_level_px"]
    assert example["error_level_px"] < 1


@pytest.mark.parametrize("example", examples("rows.key"))
def test_key_of_a_row(example):
    pixel = np.floor(example["xy"]).astype(int)
    assert (pixel // 4096).tolist() == example["cell"]
    assert (pixel % 4096).tolist() == example["inside"]
    morton = [
        sum(((u >> bit & 1) | (v >> bit & 1) << 1) << 2 * bit for bit in range(12))
        for u, v in example["inside"]
    ]
    assert morton == example["morton"]
    key = [(*cell[::-1], code) for cell, code in zip(example["cell"], morton, strict=True)]
    by_key = sorted(range(len(key)), key=key.__getitem__)
    assert layout.spatial_order(np.array(example["xy"])).tolist() == by_key


@pytest.mark.parametrize("example", examples("rows.order"))
def test_row_order(example):
    assert layout.spatial_order(np.array(example["xy"])).tolist() == example["source_index"]


def grid_of(example):
    if "radius" in example:
        return coords.grid_for_side(
            example["tile_px"], side_px=2 * example["radius"], n_levels=example["n_levels"]
        )
    return coords.grid_for_mpp(
        example["tile_px"],
        target_mpp=example.get("target_mpp"),
        mpp=example.get("mpp"),
        n_levels=example.get("n_levels", 1),
    )


@pytest.mark.parametrize("example", examples("tile") + examples("tile.grid"))
def test_grid_and_window(example):
    grid = grid_of(example)
    found = {"level": grid.level, "Q": grid.ratio, "S": grid.step}
    assert found == {name: example[name] for name in found}
    window = coords.tile_windows(np.array([example["centre"]]), grid) + grid.margin
    assert window.tolist() == [[example["left"], example["top"]]]


@pytest.mark.parametrize("example", examples("tile"))
def test_tile_values(example):
    grid = grid_of(example)
    level = PIXELS
    for _ in range(grid.level):
        level = downsample_2x2(level)
    xy = np.array([example["centre"]])
    source = gather_tiles(
        level, coords.tile_windows(xy, grid), grid.source_px, fill_value=BACKGROUND
    )
    tile = source
    if not grid.is_copy:
        tile = resample_tiles(source, tile_px=grid.tile_px, step=grid.step)
    assert tile[0, 0].tolist() == example["tile"]
    assert coords.coverage(xy, grid, level.shape[1:]).tolist() == [example["coverage"]]


@pytest.mark.parametrize("example", examples("tile"))
def test_tile_values_by_the_formulas_of_the_text(example):
    level = PIXELS[0].astype(int)
    for _ in range(example["level"]):
        level = downsample_2x2(level[None].astype(np.uint8))[0].astype(int)
    step, size = example["S"], example["tile_px"]

    def pixel(row, column):
        row, column = row + example["top"], column + example["left"]
        inside = 0 <= row < level.shape[0] and 0 <= column < level.shape[1]
        return int(level[row, column]) if inside else BACKGROUND

    def value(i, j):
        if step > 65536:
            total = sum(
                overlap(i, r, step) * overlap(j, c, step) * pixel(r, c)
                for r in range(2 * size)
                for c in range(2 * size)
            )
            return (total + step**2 // 2) // step**2
        if step < 65536:
            (r, g), (c, f) = tap(i, step), tap(j, step)
            upper = (256 - f) * pixel(r, c) + f * pixel(r, c + 1)
            lower = (256 - f) * pixel(r + 1, c) + f * pixel(r + 1, c + 1)
            return ((256 - g) * upper + g * lower + 32768) >> 16
        return pixel(i, j)

    assert [[value(i, j) for j in range(size)] for i in range(size)] == example["tile"]
    if "weights" in example:
        assert example["weights"] == [
            [overlap(j, c, step) for c in range(len(example["weights"][0]))] for j in range(size)
        ]
    if "taps" in example:
        assert example["taps"] == [list(tap(j, step)) for j in range(size)]


def overlap(output, pixel, step):
    low = max(output * step, pixel * 65536)
    return max(0, min((output + 1) * step, (pixel + 1) * 65536) - low)


def tap(output, step):
    place = output * step + ((step - 65536) >> 1)
    return place >> 16, (place & 65535) >> 8


@pytest.mark.parametrize("example", examples("expression.log1p"))
def test_normalised_expression(example):
    rows = np.array(example["rows"], dtype=np.int32)
    indptr = np.append(0, np.cumsum((rows != 0).sum(axis=1)))
    values = normalize_log1p(rows[rows != 0], indptr, target_sum=float(example["target_sum"]))
    expected = np.array(example["values"], dtype=np.float32)
    np.testing.assert_array_max_ulp(values, expected[rows != 0], maxulp=1)
    assert (expected[rows == 0] == 0).all()


@pytest.mark.parametrize("example", examples("crc32c"))
def test_checksum(example):
    assert f"{google_crc32c.value(example['text'].encode()):08x}" == example["crc32c"]


@pytest.mark.parametrize("example", examples("json.canonical"))
def test_canonical_json(example):
    assert dump_canonical(example["value"]) == example["text"].encode()


@pytest.mark.parametrize("example", examples("commit.crc32c"))
def test_commit_record(example):
    record = parse_commit(dump_canonical(example["commit"]))
    assert record.crc32c == example["commit"]["crc32c"]
    # The digests of the example are those of two short files.
    assert record == commit_record(b"hello\n", b"foo\n")
