"""Several slides, and several tables, as one Dataset; in this process and in others."""

from __future__ import annotations

from dataclasses import replace

import distributed
import numpy as np
import pytest
import xarray as xr

import stformat as stf
from stformat.errors import GeneLookupError, TableLookupError
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

# By identifier in one slide, by another key in the other.
PANEL = ["ENSG00000000004", "ENSG00000000011", "ENSG00000000001"]
JOINED = {
    "engine": "stformat",
    "genes": PANEL,
    "tile_px": 16,
    "mpp": 0.8,
    "drop_variables": ["gene_key", "gene_id", "gene_name"],
    "combine": "nested",
    "concat_dim": "obs",
    "combine_attrs": "drop_conflicts",
}


def rekeyed(record):
    """The record with its genes in another order, under keys of another kind."""
    table = record.tables[0]
    genes = table.genes
    keys = np.array(
        [f"{name}-{number}" if key is None else key
         for number, (key, name) in enumerate(zip(genes.gene_id, genes.gene_name, strict=True))],
        dtype=object,
    )  # fmt: skip
    genes = replace(genes, keys=keys, key_kind="gene_id")
    return replace(record, tables=(replace(table, genes=genes),))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    records = {
        "a": make_record(),
        "b": rekeyed(make_record(n_obs=25, n_vars=50, mpp=0.65, seed=2)),
    }
    for name, record in records.items():
        with replace_store(folder / name) as directory:
            write_slide(replace(record, slide_id=name), directory)
    return [folder / name for name in records]


@pytest.fixture(scope="module")
def expected(paths):
    """Tiles, expression and centres of both slides, one after the other."""
    parts = []
    for path in paths:
        with stf.open_slide(path) as slide:
            parts.append(
                (
                    slide.tiles(16, mpp=0.8)[:],
                    slide.expression(slice(None), PANEL),
                    slide.obs["x"].to_numpy() * slide.mpp,
                )
            )
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def assert_holds(joined, expected):
    tiles, expression, x_um = expected
    np.testing.assert_array_equal(joined["tiles"], tiles)
    np.testing.assert_array_equal(joined["expression"], expression)
    np.testing.assert_array_equal(joined["x_um"], x_um)


def test_slides_of_different_genes_join_on_a_panel(paths, expected):
    with xr.open_mfdataset(paths, **JOINED) as joined:
        assert joined["slide"].to_numpy().tolist() == ["a"] * 40 + ["b"] * 25
        assert joined["gene"].to_numpy().tolist() == PANEL
        assert joined["expression"].dims == ("obs", "var")
        # What differs between the slides is nobody's attribute.
        assert joined.attrs == {"technology": "ST", "tile_mpp": 0.8}
        assert_holds(joined, expected)


def test_a_gene_is_chosen_across_slides(paths, expected):
    with xr.open_mfdataset(paths, **JOINED) as joined:
        one = joined["expression"].set_xindex("gene").sel(gene=PANEL[1])
        np.testing.assert_array_equal(one, expected[1][:, 1])


def test_a_panel_that_a_slide_lacks_is_refused(paths):
    with pytest.raises(GeneLookupError, match="ENSG00000000049"):
        xr.open_mfdataset(paths, **{**JOINED, "genes": ["ENSG00000000049"]})


def count_reopened():
    """Count from here on, in a worker, how often a pickled slide is opened."""
    from stformat.store import reader

    original = reader._reopen
    reader.n_reopened = 0

    def spy(*args):
        reader.n_reopened += 1
        return original(*args)

    reader._reopen = spy


def n_reopened():
    from stformat.store import reader

    return reader.n_reopened


def test_processes_of_a_cluster_read_for_themselves(paths, expected):
    with (
        xr.open_mfdataset(paths, **JOINED) as joined,
        stf.open_slide(paths[0]) as slide,
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert_holds(joined.compute(), expected)
        image = stf.open_datatree(slide, chunks={})["s0"].image
        np.testing.assert_array_equal(
            image.sel(x_um=slice(100, 200)), slide.read_region(0, 0, 200, 700, 200)
        )
        client.run(count_reopened)
        blocks = stf.counts_as_dask(slide, rows_per_block=4)
        np.testing.assert_array_equal(blocks.compute().toarray(), slide.counts[:].toarray())
        # Ten blocks, and one slide a process.
        assert max(client.run(n_reopened).values()) == 1


def test_tables_are_chosen_by_name(tmp_path):
    record = make_record(n_obs=30)
    table = record.tables[0]
    few = make_record(n_obs=30, n_vars=12).tables[0]
    other = replace(few, name="antibody_capture", spots=table.spots)
    with replace_store(tmp_path / "two") as directory:
        write_slide(replace(record, tables=(table, other)), directory)
    with (
        stf.open_slide(tmp_path / "two", table="antibody_capture") as slide,
        xr.open_dataset(tmp_path / "two", engine="stformat", table="antibody_capture") as by_path,
        stf.open_dataset(slide, table="expression") as by_slide,
    ):
        assert slide.tables == ("expression", "antibody_capture")
        assert by_path.sizes["var"] == 12
        xr.testing.assert_identical(by_path.load(), stf.open_dataset(slide).load())
        assert by_slide.sizes["var"] == 30
    with pytest.raises(TableLookupError, match="no_such"):
        stf.open_dataset(tmp_path / "two", table="no_such")
