"""A table as AnnData reads it, and as its bytes stand on disk."""

import dataclasses
import json
from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr

from stformat.metadata.zarr_array import parse_array
from stformat.store import layout, table_writer
from stformat.store.counts_writer import CountsSummary
from stformat.store.table_writer import obs_columns, var_frame, write_table
from stformat.testing.records import make_record

IMAGE_SHAPE = (700, 900)


def summary_of(n_obs):
    return CountsSummary(
        nnz=3, total_counts=np.arange(n_obs, dtype=np.int64), n_genes=np.ones(n_obs, np.int64)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A table of 40 spots on disk: its source, the row order and the folder of the store."""
    root = tmp_path_factory.mktemp("table")
    table = make_record().tables[0]
    order = layout.spatial_order(table.spots.xy)
    write_table(root, table, order, image_shape=IMAGE_SHAPE)
    return table, order, root


def read(root, path):
    with zarr.config.set({"array.read_missing_chunks": False}):
        return anndata.io.read_elem(zarr.open_group(str(root / path), mode="r"))


def dense(counts):
    return np.vstack([block.toarray() for block in counts.iter_blocks()])


def test_anndata_reads_the_table(written):
    table, order, root = written
    read_back = read(root, "tables/expression")
    assert isinstance(read_back, anndata.AnnData)
    np.testing.assert_array_equal(read_back.X.toarray(), dense(table.counts)[order])
    np.testing.assert_array_equal(read_back.obsm["spatial"], table.spots.xy[order])
    assert read_back.obs.index.name == "barcode"
    assert read_back.obs.index.tolist() == table.spots.barcodes[order].tolist()
    assert read_back.var.index.name == "key"
    assert read_back.var.index.tolist() == table.genes.keys.tolist()
    assert read_back.uns["spatialdata_attrs"] == {
        "region": "spots",
        "region_key": "region",
        "instance_key": "spot_id",
    }
    assert not any((read_back.layers, read_back.obsp, read_back.varm, read_back.varp))


def test_obs_says_where_each_row_is_and_what_it_holds(written):
    table, order, root = written
    obs = read(root, "tables/expression/obs")
    spots, values = table.spots, dense(table.counts)[order]
    assert list(obs.columns) == [
        *("region", "spot_id", "x", "y", "array_row", "array_col", "in_tissue", "in_image"),
        *("total_counts", "n_genes", "source_index", "section", "label"),
    ]
    expected = {
        "spot_id": np.arange(40),
        "x": spots.xy[order, 0],
        "y": spots.xy[order, 1],
        "array_row": spots.array_row[order],
        "array_col": spots.array_col[order],
        "in_tissue": spots.in_tissue[order],
        "total_counts": values.sum(axis=1),
        "n_genes": (values > 0).sum(axis=1),
        "source_index": order,
    }
    for name, column in expected.items():
        np.testing.assert_array_equal(obs[name].to_numpy(), column, err_msg=name)
    dtypes = {name: str(dtype) for name, dtype in obs.dtypes.items()}
    assert [dtypes[name] for name in ("spot_id", "array_row", "array_col")] == ["int64"] * 3
    assert [dtypes[name] for name in ("total_counts", "n_genes", "source_index")] == ["int64"] * 3
    assert [dtypes[name] for name in ("x", "y", "in_tissue", "in_image")] == [
        *("float64", "float64", "bool", "bool"),
    ]
    assert [dtypes[name] for name in ("region", "section", "label")] == ["category"] * 3
    assert obs["region"].unique().tolist() == ["spots"]
    assert obs["section"].tolist() == spots.section[order].tolist()
    labels = [None if pd.isna(label) else label for label in obs["label"]]
    assert labels == spots.annotations["label"][order].tolist()
    assert None in labels
    assert obs["label"].cat.categories.tolist() == ["stroma", "tumour"]


def test_source_index_restores_the_order_of_the_source(written):
    table, _, root = written
    read_back = read(root, "tables/expression")
    back = np.argsort(read_back.obs["source_index"].to_numpy())
    assert read_back.obs_names[back].tolist() == table.spots.barcodes.tolist()
    np.testing.assert_array_equal(read_back.X[back].toarray(), dense(table.counts))


def test_in_image_is_the_half_open_rectangle():
    table = make_record(n_obs=6).tables[0]
    xy = np.array([[0, 0], [899.9, 699.9], [900, 10], [10, 700], [-0.1, 5], [5, -0.1]])
    table = dataclasses.replace(table, spots=dataclasses.replace(table.spots, xy=xy))
    order = np.arange(6)
    obs = dict(obs_columns(table, order, summary_of(6), image_shape=IMAGE_SHAPE))
    assert obs["in_image"].tolist() == [True, True, False, False, False, False]
    obs = dict(obs_columns(table, order, summary_of(6), image_shape=None))
    assert not obs["in_image"].any()


def test_var_says_what_is_unknown(written):
    table, _, root = written
    var = read(root, "tables/expression/var")
    assert list(var.columns) == ["gene_id", "gene_name", "feature_type", "genome"]
    for name in var.columns:
        column = [None if pd.isna(value) else value for value in var[name]]
        assert column == getattr(table.genes, name).tolist(), name
    group = zarr.open_group(str(root / "tables/expression/var"), mode="r")
    kinds = {name: group[name].attrs["encoding-type"] for name in (*var.columns, "key")}
    assert kinds == {
        "key": "string-array",
        "gene_id": "nullable-string-array",
        "gene_name": "string-array",
        "feature_type": "string-array",
        "genome": "nullable-string-array",
    }


def test_frames_keep_text_as_objects():
    table = make_record().tables[0]
    assert var_frame(table.genes)["gene_name"].dtype == object
    obs = dict(obs_columns(table, np.arange(40), summary_of(40), image_shape=None))
    assert obs["region"].categories.dtype == object


def test_a_table_of_one_section_has_no_such_column():
    table = make_record().tables[0]
    table = dataclasses.replace(table, spots=dataclasses.replace(table.spots, section=None))
    obs = dict(obs_columns(table, np.arange(40), summary_of(40), image_shape=None))
    assert "section" not in obs


def test_barcodes_of_fixed_width_are_written_like_any_others(written, tmp_path, monkeypatch):
    table, order, root = written
    packed = np.array([name.encode() for name in table.spots.barcodes])
    packed = dataclasses.replace(table, spots=dataclasses.replace(table.spots, barcodes=packed))
    write_table(tmp_path, packed, order, image_shape=IMAGE_SHAPE)
    folder = "tables/expression/obs"
    for path in sorted((root / folder).rglob("*")):
        if path.is_file():
            assert (tmp_path / path.relative_to(root)).read_bytes() == path.read_bytes()
    group = zarr.create_group(tmp_path / "blocks")
    monkeypatch.setattr(table_writer, "_TEXT_SHARD", 16)
    monkeypatch.setattr(layout, "vector_chunks", partial(layout.vector_chunks, chunk=8))
    table_writer._write_barcodes(group, packed.spots.barcodes, order)
    assert group["barcode"].shards == (16,)
    assert group["barcode"][:].tolist() == table.spots.barcodes[order].tolist()


def test_plain_arrays_of_the_spots(written):
    table, order, root = written
    group = zarr.open_group(str(root / "stformat" / "expression" / "spots"), mode="r")
    np.testing.assert_array_equal(group["x"][...], table.spots.xy[order, 0])
    np.testing.assert_array_equal(group["y"][...], table.spots.xy[order, 1])
    np.testing.assert_array_equal(group["radius"][...], table.spots.radius_px[order])


def arrays_below(root):
    for path in sorted(root.rglob("zarr.json")):
        document = json.loads(path.read_bytes())
        if document["node_type"] == "array":
            yield path.parent, document


def checksummed(codecs):
    names = [codec["name"] for codec in codecs]
    if "sharding_indexed" in names:
        inner = codecs[0]["configuration"]
        return checksummed(inner["codecs"]) and checksummed(inner["index_codecs"])
    zstd = [codec for codec in codecs if codec["name"] == "zstd"]
    return "crc32c" in names or any(codec["configuration"]["checksum"] for codec in zstd)


def test_every_array_carries_checksums_and_no_chunk_is_left_out(written):
    _, _, root = written
    kinds = set()
    for directory, document in arrays_below(root):
        assert checksummed(document["codecs"]), directory
        kinds.add((str(document["data_type"]), len(document["shape"])))
        metadata = parse_array(document, str(directory))
        grid = metadata.shards or metadata.chunks
        n_files = np.prod([-(-n // edge) for n, edge in zip(metadata.shape, grid, strict=True)])
        files = [path for path in directory.rglob("*") if path.is_file()]
        assert len(files) == n_files + 1, directory
        with zarr.config.set({"array.read_missing_chunks": False}):
            zarr.open_array(str(directory), mode="r")[...]
    assert {("string", 0), ("string", 1), ("float64", 2), ("bool", 1)} <= kinds


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_totals_have_the_type_of_the_values(tmp_path, dtype):
    table = make_record(count_dtype=dtype, image_px=None).tables[0]
    order = layout.spatial_order(table.spots.xy)
    summary = write_table(tmp_path, table, order, image_shape=None)
    obs = read(tmp_path, "tables/expression/obs")
    expected = dense(table.counts)[order].sum(axis=1, dtype=np.float64)
    assert obs["total_counts"].dtype == (np.int64 if dtype is np.int32 else np.float64)
    np.testing.assert_array_equal(obs["total_counts"], expected)
    assert summary.total == expected.sum()


def test_settings_of_the_user_do_not_reach_the_bytes(written, tmp_path):
    table, order, root = written
    with (
        anndata.settings.override(auto_shard_zarr_v3=False, allow_write_nullable_strings=False),
        zarr.config.set({"array.write_empty_chunks": False}),
    ):
        write_table(tmp_path, table, order, image_shape=IMAGE_SHAPE)
    files = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    assert files
    for path in files:
        assert (tmp_path / path).read_bytes() == (root / path).read_bytes(), path
