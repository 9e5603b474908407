from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import geopandas
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

import stformat as stf
from stformat.digests import Digest
from stformat.errors import CorruptStoreError, NotAStoreError
from stformat.model import Descriptors, Genes, Mpp, Note, SlideRecord, SourceFile, Spots, Table
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing.records import make_counts, make_image

HEIGHT, WIDTH = 900, 1200
PITCH_PX, PITCH_UM = 40.0, 100.0
TISSUE = np.s_[60:300, 80:560]
"""Off centre and longer than it is high: no symmetry of the image leaves it in place."""
WHITE, PINK = (242, 241, 243), (205, 120, 175)

type Change = Callable[[SlideRecord], SlideRecord]


def objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def paint(background: tuple[int, ...], tissue: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    pixels = np.empty((len(background), HEIGHT, WIDTH), dtype=np.int16)
    pixels[:] = np.array(background)[:, None, None]
    pixels[:, *TISSUE] = np.array(tissue)[:, None, None]
    pixels += np.random.default_rng(seed).integers(-3, 4, (HEIGHT, WIDTH), dtype=np.int16)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def barcode(row: int) -> str:
    return "".join("ACGT"[row // 4**place % 4] for place in range(10)) + "-1"


def healthy_record() -> SlideRecord:
    """72 spots on the tissue and 24 below it, counts, names and labels as they should be."""
    x, y = np.meshgrid(100 + PITCH_PX * np.arange(12), 80 + PITCH_PX * np.arange(8))
    xy = np.stack([x.ravel(), y.ravel()], axis=1)
    n_obs, n_vars = len(xy), 30
    in_tissue = xy[:, 1] < 300
    rng = np.random.default_rng(1)
    spots = Spots(
        region="spots",
        shape="circle",
        barcodes=objects([barcode(row) for row in range(n_obs)]),
        xy=xy,
        radius_px=np.full(n_obs, 11.0),
        array_row=np.arange(n_obs) // 12,
        array_col=np.arange(n_obs) % 12,
        in_tissue=in_tissue,
        pitch_px=PITCH_PX,
        pitch_um=PITCH_UM,
        diameter_um=55.0,
        annotations={"label": objects([("tumour", "stroma", None)[i % 3] for i in range(n_obs)])},
    )
    names = objects([f"G{i}" for i in range(n_vars)])
    genes = Genes(
        keys=names,
        key_kind="gene_name",
        gene_id=objects([None if i % 7 == 0 else f"ENSG{i:011d}" for i in range(n_vars)]),
        gene_name=names,
        feature_type=objects(["Gene Expression"] * n_vars),
        genome=objects([None] * n_vars),
    )
    matrix = sparse.csr_array(rng.poisson(3.0, (n_obs, n_vars)).astype(np.int32))
    image = make_image(paint(WHITE, PINK))
    return SlideRecord(
        slide_id="painted",
        descriptors=Descriptors(technology="Visium"),
        tables=(Table(name="expression", spots=spots, genes=genes, counts=make_counts(matrix)),),
        default_table="expression",
        image=image,
        mpp=Mpp(value=PITCH_UM / PITCH_PX, method="given"),
        sources=(
            image.source or SourceFile(name="image.tif", size=0, digest=Digest.known("0" * 64)),
        ),
    )


def with_table(record: SlideRecord, **changes: Any) -> SlideRecord:
    return replace(record, tables=(replace(record.tables[0], **changes), *record.tables[1:]))


def with_spots(record: SlideRecord, **changes: Any) -> SlideRecord:
    return with_table(record, spots=replace(record.tables[0].spots, **changes))


def with_genes(record: SlideRecord, **changes: Any) -> SlideRecord:
    return with_table(record, genes=replace(record.tables[0].genes, **changes))


def with_counts(record: SlideRecord, change: Callable[[np.ndarray], np.ndarray]) -> SlideRecord:
    dense = np.concatenate([block.toarray() for block in record.tables[0].counts.iter_blocks()])
    return with_table(record, counts=make_counts(sparse.csr_array(change(dense))))


def with_image(pixels: np.ndarray) -> Change:
    return lambda record: replace(record, image=make_image(pixels))


def declared(stain: str) -> Change:
    return lambda record: replace(record, descriptors=replace(record.descriptors, stain=stain))


def edited(values: np.ndarray, rows: slice, new: Any) -> np.ndarray:
    copy = values.copy()
    copy[rows] = new
    return copy


@pytest.fixture
def check(fast_path: Path) -> Callable[[SlideRecord], list[stf.errors.Problem]]:
    def write_and_check(record: SlideRecord):
        return stf.check_store(write(record, fast_path / "slide.zarr"))

    return write_and_check


def write(record: SlideRecord, target: Path) -> Path:
    with replace_store(target) as directory:
        write_slide(record, directory)
    return target


def moved_spots(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def move(record: SlideRecord) -> SlideRecord:
        return with_spots(record, xy=change(record.tables[0].spots.xy))

    return move


def with_more_spots(record: SlideRecord, n_more: int, left: float) -> SlideRecord:
    """Repeat spots beyond the left edge of the image, none of them in tissue."""
    spots = record.tables[0].spots
    rows = np.append(np.arange(spots.n_obs), np.arange(n_more))
    is_new = np.arange(len(rows)) >= spots.n_obs
    return with_spots(
        with_counts(record, lambda dense: dense[rows]),
        xy=spots.xy[rows] - np.where(is_new, left, 0.0)[:, None] * [1.0, 0.0],
        barcodes=objects([barcode(row) for row in range(len(rows))]),
        radius_px=spots.radius_px[rows],
        array_row=spots.array_row[rows],
        array_col=spots.array_col[rows],
        in_tissue=spots.in_tissue[rows] & ~is_new,
        annotations={},
    )


def normalised(dense: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True)).astype(np.float32)


def thinned(dense: np.ndarray) -> np.ndarray:
    return np.eye(dense.shape[1], dtype=np.int32)[np.arange(len(dense)) % dense.shape[1]] * 500


def in_duplicate(record: SlideRecord) -> SlideRecord:
    ids = record.tables[0].genes.gene_id
    return with_genes(record, gene_id=edited(ids, slice(2, 4), ids[1]))


def suffixes_lost(record: SlideRecord) -> SlideRecord:
    barcodes = record.tables[0].spots.barcodes
    bare = objects([name.removesuffix("-1") for name in barcodes[:5]])
    return with_spots(record, barcodes=edited(barcodes, slice(5), bare))


GRAY = paint((240,) * 3, (130,) * 3)

DEFECTS: dict[str, tuple[Change, str, str]] = {
    "mpp": (
        lambda record: replace(record, mpp=Mpp(value=2.7, method="given")),
        "check.mpp-contradiction",
        "2.7 um/px",
    ),
    "mpp-coarse": (
        lambda record: with_spots(
            replace(record, mpp=Mpp(value=12.0, method="given")), pitch_um=None
        ),
        "check.mpp-contradiction",
        "12 um/px (given)",
    ),
    "mpp-fine": (
        lambda record: with_spots(
            replace(record, mpp=Mpp(value=0.04, method="given")), pitch_um=None
        ),
        "check.mpp-contradiction",
        "0.04 um/px (given)",
    ),
    "radius": (
        lambda record: with_spots(record, radius_px=np.full(96, 41.0)),
        "check.mpp-contradiction",
        "41 px",
    ),
    "hires-positions": (
        moved_spots(lambda xy: xy / 6),
        "check.scale",
        "up to x = 90, y = 47 on an image of 1200 x 900 px; multiplied by about 5.6",
    ),
    "hires-image": (
        moved_spots(lambda xy: xy * 4),
        "check.scale",
        "multiplied by about 0.2",
    ),
    "outside-in-tissue": (
        moved_spots(lambda xy: edited(xy, slice(3), [[-9.0, 80.0], [-1.0, 99.0], [1200.0, 1.0]])),
        "check.spots-outside",
        "3 of 72 outside the image of 1200 x 900 px",
    ),
    "outside-mostly": (
        lambda record: with_more_spots(
            with_spots(
                record,
                xy=record.tables[0].spots.xy - [700.0, 0.0] * (np.arange(96)[:, None] < 72),
                in_tissue=np.arange(96) >= 72,
            ),
            n_more=72,
            left=2000.0,
        ),
        "check.spots-outside",
        "144 of 168 not in tissue and outside the image of 1200 x 900 px",
    ),
    "axes": (
        moved_spots(lambda xy: xy[:, ::-1]),
        "check.axis-swap",
        "on it; with x and y swapped, 100%",
    ),
    "one-place": (
        moved_spots(lambda xy: edited(xy, slice(10, 12), xy[9])),
        "check.duplicate-positions",
        "2 of 96 spots at the place of another, such as x = 460, y = 80",
    ),
    "barcode-formats": (suffixes_lost, "check.id-mismatch", "91 with a suffix such as -1, and 5"),
    "gene-ids": (in_duplicate, "check.duplicate-genes", "2 columns that repeat one, such as"),
    "spreadsheet": (
        lambda record: with_genes(
            record,
            keys=edited(record.tables[0].genes.keys, slice(3), ["1-Mar", "Sep-02", "2.31E+13"]),
        ),
        "check.gene-key",
        "3 dates or numbers where symbols were, such as '1-Mar', 'Sep-02', '2.31E+13'",
    ),
    "no-counts": (
        lambda record: with_counts(record, lambda dense: edited(dense, slice(4), 0)),
        "check.zero-count-spots",
        "4 of 72 without any",
    ),
    "normalised": (
        lambda record: with_counts(record, normalised),
        "check.counts",
        "stored values that are not, such as",
    ),
    "one-depth": (
        lambda record: with_counts(record, thinned),
        "check.counts",
        "500 in all of 72 rows",
    ),
    "absurd": (
        lambda record: with_counts(record, lambda dense: edited(dense, slice(1), 1_000_001)),
        "check.counts",
        "1000001",
    ),
    "blank": (with_image(paint(WHITE, WHITE)), "check.blank-image", "values from 238 to 246 only"),
    "gray": (with_image(GRAY), "check.channels", "three channels that are nearly equal"),
    "dark": (
        with_image(paint((6, 5, 7), (90, 40, 160))),
        "check.channels",
        "a dark background",
    ),
    "two-channels": (
        with_image(paint((240, 240), (130, 90))),
        "check.channels",
        "2 channels",
    ),
    "brightfield-as-if": (declared("if"), "check.channels", "a bright image in colour"),
    "one-label": (
        lambda record: with_spots(record, annotations={"region_name": objects(["x"] * 96)}),
        "check.labels",
        "1 in 96 rows",
    ),
    "no-label": (
        lambda record: with_spots(record, annotations={"region_name": objects([None] * 96)}),
        "check.labels",
        "0 in 96 rows",
    ),
    "identifiers": (
        lambda record: with_spots(
            record, annotations={"name": objects([str(i % 51) for i in range(96)])}
        ),
        "check.labels",
        "51 in 96 rows",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_found_and_nothing_else(name, check):
    change, code, found = DEFECTS[name]
    problems = check(change(healthy_record()))
    assert [problem.code for problem in problems] == [code]
    assert found in problems[0].found
    assert problems[0].remedy


def low_resolution(record: SlideRecord) -> SlideRecord:
    note = Note(code="image.lowres-fallback", message="The image is small.")
    record = with_spots(record, pitch_um=None)
    return replace(record, mpp=Mpp(value=23.0, method="given"), notes=(note,))


def probes(record: SlideRecord) -> SlideRecord:
    ids = objects([f"ENSG{i // 3:011d}" for i in range(30)])
    keys = objects([f"{gene}|G|{i:07x}" for i, gene in enumerate(ids)])
    return with_genes(record, gene_id=ids, keys=keys)


def fluorescence(record: SlideRecord) -> SlideRecord:
    record = declared("if")(record)
    return replace(record, image=make_image(paint((6, 5, 7, 4), (90, 40, 160, 4))))


def unusual(record: SlideRecord) -> SlideRecord:
    """What is at the edge of the normal, all at once."""
    names = record.tables[0].genes.gene_name
    record = with_spots(
        record,
        pitch_um=None,
        annotations={
            "marked": objects([("yes", None)[i % 2] for i in range(96)]),
            "name": objects([str(i % 50) for i in range(96)]),
        },
    )
    record = with_genes(record, gene_name=edited(names, slice(4), ["G9", "G9", "G9", "jun-1"]))
    record = with_counts(record, lambda dense: edited(dense, slice(1), 1_000_000))
    return with_counts(record, lambda dense: edited(dense, slice(72, 96), 0))


def fine_bins(record: SlideRecord) -> SlideRecord:
    record = with_spots(record, shape="square", region="square_002um", diameter_um=2.0)
    return with_counts(record, lambda dense: edited(dense, slice(4), 0))


def without_rows(record: SlideRecord) -> SlideRecord:
    spots = record.tables[0].spots
    per_row = ("barcodes", "xy", "radius_px", "array_row", "array_col", "in_tissue")
    none = {name: getattr(spots, name)[:0] for name in per_row}
    record = with_counts(record, lambda dense: dense[:0])
    return with_spots(record, **none, annotations={})


HEALTHY: dict[str, Change] = {
    "as-it-is": lambda record: record,
    "no-image": lambda record: replace(record, image=None, mpp=Mpp()),
    "unusual": unusual,
    "reduced-image": low_resolution,
    "fluorescence": fluorescence,
    "some-outside": lambda record: with_more_spots(record, n_more=24, left=1001.0),
    "probes": probes,
    "fine-bins": fine_bins,
    "no-rows": without_rows,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_healthy_slide(name, check):
    assert check(HEALTHY[name](healthy_record())) == []


def test_problems_of_places_are_said_once_for_tables_that_share_them(check):
    record = moved_spots(lambda xy: edited(xy, slice(10, 12), xy[9]))(healthy_record())
    proteins = replace(
        record.tables[0],
        name="antibody_capture",
        genes=replace(record.tables[0].genes, feature_type=objects(["Antibody Capture"] * 30)),
    )
    problems = check(replace(record, tables=(record.tables[0], proteins)))
    assert [problem.code for problem in problems] == ["check.duplicate-positions"]


def test_empty_rows_of_other_features_than_genes_are_normal(check):
    record = with_counts(healthy_record(), lambda dense: edited(dense, slice(4), 0))
    features = objects(["Antibody Capture"] * 30)
    assert check(with_genes(record, feature_type=features)) == []


def swap_barcode(store: Path) -> None:
    barcodes = zarr.open_array(str(store / "tables/expression/obs/barcode"), mode="r+")
    barcodes[3] = barcodes[0]
    barcodes[4] = barcodes[0]


def repeat_spot_id(store: Path) -> None:
    zarr.open_array(str(store / "tables/expression/obs/spot_id"), mode="r+")[3] = 2


def lose_spot(store: Path) -> None:
    zarr.open_array(str(store / "tables/expression/obs/spot_id"), mode="r+")[3] = 5000


def rename_region(store: Path) -> None:
    region = zarr.open_group(str(store / "tables/expression/obs/region"), mode="r+")
    region["codes"][:7] = -1


def edit_shapes(change: Callable[[geopandas.GeoDataFrame], object]) -> Callable[[Path], None]:
    def edit(store: Path) -> None:
        path = store / "shapes/spots/shapes.parquet"
        frame = geopandas.read_parquet(path)
        changed = change(frame)
        changed.to_parquet(path)

    return edit


def shuffled(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    return frame.set_axis(frame.index[[1, 0, *range(2, len(frame))]], axis=0)


def emptied(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    geometry = frame.geometry.to_numpy().copy()
    geometry[3] = None
    return frame.set_geometry(geopandas.GeoSeries(geometry, index=frame.index))


def repeated(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    return frame.iloc[[*range(len(frame)), 0]]


EDITS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "barcodes": (swap_barcode, ["2 that repeat, such as "]),
    "spot-id": (repeat_spot_id, ["1 of 96 rows with the spot_id of another"]),
    "no-shape": (lose_spot, ["1 of 96 rows whose spot_id no shape has"]),
    "region": (rename_region, ["7 of 96 rows whose region is another than 'spots'"]),
    "shapes-shuffled": (
        edit_shapes(shuffled),
        ["2 of 96 rows whose shape lies at another place"],
    ),
    "shapes-lost": (
        edit_shapes(lambda frame: frame.iloc[2:]),
        ["2 of 96 rows whose spot_id no shape has"],
    ),
    "shapes-renumbered": (
        edit_shapes(lambda frame: frame.iloc[1:].reset_index(drop=True)),
        ["1 of 96 rows whose spot_id no shape has", "95 of 96 rows whose shape lies at another"],
    ),
    "shapes-emptied": (edit_shapes(emptied), ["1 of 96 rows whose shape lies at another place"]),
    "shapes-repeated": (edit_shapes(repeated), ["shapes that repeat the index of another: 1"]),
}


@pytest.mark.parametrize("name", EDITS)
def test_rows_that_another_tool_tore_from_their_shapes(name, fast_path):
    store = write(healthy_record(), fast_path / "slide.zarr")
    edit, found = EDITS[name]
    edit(store)
    stf.seal_store(store)
    problems = stf.check_store(store)
    assert {problem.code for problem in problems} == {"check.id-mismatch"}
    assert len(problems) == len(found)
    for problem, text in zip(problems, found, strict=True):
        assert text in problem.found


def test_rows_of_which_another_tool_forgot_whether_they_are_in_tissue_are_not(fast_path):
    record = with_counts(healthy_record(), lambda dense: edited(dense, slice(4), 0))
    store = write(record, fast_path / "slide.zarr")
    with stf.open_slide(store) as slide:
        is_empty = (slide.obs["total_counts"] == 0).to_numpy()
        in_tissue = slide.obs["in_tissue"].astype("boolean").array
    assert is_empty.sum() == 4
    in_tissue[is_empty] = pd.NA
    obs = zarr.open_group(str(store / "tables/expression/obs"), mode="r+")
    anndata.io.write_elem(obs, "in_tissue", in_tissue)
    stf.seal_store(store)
    assert stf.check_store(store) == []


def test_a_store_that_cannot_be_read_is_an_error(fast_path):
    with pytest.raises(NotAStoreError):
        stf.check_store(fast_path / "nothing.zarr")
    store = write(healthy_record(), fast_path / "slide.zarr")
    (store / "shapes/spots/shapes.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(CorruptStoreError, match=r"shapes\.parquet"):
        stf.check_store(store)
