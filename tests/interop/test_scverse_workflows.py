"""What people do with a slide in scanpy, squidpy, SpatialData and spatialdata-plot, end to end."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

import stformat as stf
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

mpl.use("Agg")
spatialdata = pytest.importorskip("spatialdata")

pytestmark = [
    # anndata sets options of pandas that are gone in pandas 4, whoever's data it copies or writes.
    pytest.mark.filterwarnings("ignore:The '.*' option is deprecated:DeprecationWarning"),
    # Colour maps of scanpy, squidpy and spatialdata-plot, set up for matplotlib before 3.11.
    pytest.mark.filterwarnings("ignore:The set_bad function will be:PendingDeprecationWarning"),
]


@pytest.fixture(scope="module", params=["generated", "real"])
def slide(request, small_store, tmp_path_factory):
    """A generated slide of legacy ST, and a real one of Visium with its reduced image."""
    store = small_store
    if request.param == "real":
        source = request.getfixturevalue("real_data") / "seurat_visium"
        store = stf.convert_slide(source, tmp_path_factory.mktemp("real") / "visium.zarr")
    with stf.open_slide(store) as slide:
        yield slide


@pytest.fixture
def table(slide):
    return stf.to_anndata(slide)


def most_counted(slide) -> str:
    totals = np.asarray(slide.counts[:].sum(axis=0)).ravel()
    return str(slide.var.index[totals.argmax()])


def preprocessed(scanpy, table):
    scanpy.pp.filter_cells(table, min_counts=1)
    scanpy.pp.normalize_total(table, target_sum=1e4)
    scanpy.pp.log1p(table)
    scanpy.pp.highly_variable_genes(table, n_top_genes=20)
    scanpy.pp.pca(table, n_comps=5)
    return np.abs(np.asarray(table.obsm["X_pca"]))


def test_scanpy_preprocesses_in_memory_and_from_the_store_alike(slide, table):
    scanpy = pytest.importorskip("scanpy")
    backed = stf.to_anndata(slide, backed=True)
    in_memory, from_store = preprocessed(scanpy, table), preprocessed(scanpy, backed)
    assert table.var["highly_variable"].sum() == 20
    assert backed.var["highly_variable"].tolist() == table.var["highly_variable"].tolist()
    # Axes of a decomposition point either way; sums of dask are in another order.
    np.testing.assert_allclose(from_store, in_memory, atol=2e-3 * in_memory.max())
    rows = slide.rows(table.obs_names)
    np.testing.assert_allclose(
        table.X.toarray(), slide.expression(rows, normalize="log1p"), rtol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Calling `spatial_neighbors` is deprecated:FutureWarning")
def test_squidpy_finds_neighbours(table):
    squidpy = pytest.importorskip("squidpy")
    squidpy.gr.spatial_neighbors(table, coord_type="generic", n_neighs=6)
    distances = table.obsp["spatial_distances"]
    first = int(np.flatnonzero(np.diff(distances.indptr))[0])
    xy = table.obsm["spatial"]
    nearest = np.sort(np.hypot(*(xy - xy[first]).T))[1:7]
    np.testing.assert_allclose(np.sort(distances[first].toarray().ravel())[-6:], nearest)


# squidpy reads a column of obs by a method that anndata has another name for.
@pytest.mark.filterwarnings("ignore:The method obs_vector is deprecated:FutureWarning")
def test_squidpy_draws_spots_on_the_image(slide, table):
    squidpy = pytest.importorskip("squidpy")
    axis = squidpy.pl.spatial_scatter(table, color=most_counted(slide), return_ax=True)
    (image,) = axis.images
    library = table.uns["spatial"][slide.slide_id]
    np.testing.assert_array_equal(image.get_array(), library["images"]["hires"])
    scale = library["scalefactors"]["tissue_hires_scalef"]
    (spots,) = axis.collections
    centres = [path.vertices.mean(axis=0) for path in spots.get_paths()]
    assert len(centres) == table.n_obs
    low, high = np.min(centres, axis=0), np.max(centres, axis=0)
    xy = table.obsm["spatial"] * scale
    radius = library["scalefactors"]["spot_diameter_fullres"] * scale / 2
    np.testing.assert_allclose([low, high], [xy.min(axis=0), xy.max(axis=0)], atol=radius)


# squidpy and scanpy, as above; scanpy would have its users go to squidpy.
@pytest.mark.filterwarnings("ignore:The method obs_vector is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The function spatial is deprecated:FutureWarning")
def test_spots_without_an_image_are_drawn(tmp_path):
    scanpy, squidpy = pytest.importorskip("scanpy"), pytest.importorskip("squidpy")
    with replace_store(tmp_path / "bare") as directory:
        write_slide(make_record(image_px=None), directory)
    with stf.open_slide(tmp_path / "bare") as slide:
        table = stf.to_anndata(slide)
    points = squidpy.pl.spatial_scatter(table, color="G3", shape=None, return_ax=True)
    np.testing.assert_array_equal(points.collections[0].get_offsets(), table.obsm["spatial"])
    (circles,) = scanpy.pl.spatial(table, color="G3", spot_size=20, show=False)
    assert len(circles.collections[0].get_paths()) == 40


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("system", ["global", "microns"])
def test_a_box_is_cut_out_of_image_and_spots(slide, system, backed):
    sdata = stf.to_spatialdata(slide, backed=backed)
    scale = 1.0 if system == "global" else slide.mpp
    low, high = np.array([200, 300]), np.array([700, 800])
    part = spatialdata.bounding_box_query(
        sdata,
        axes=("x", "y"),
        min_coordinate=low * scale,
        max_coordinate=high * scale,
        target_coordinate_system=system,
    )
    xy = slide.obs[["x", "y"]].to_numpy()
    radius = slide.radius_px[0]
    n_inside = ((xy >= low) & (xy <= high)).all(axis=1).sum()
    n_touching = ((xy >= low - radius) & (xy <= high + radius)).all(axis=1).sum()
    assert 0 < n_inside <= part["expression"].n_obs <= n_touching < slide.n_obs
    image = part["he"]
    pixels = image["scale0"].image if "scale0" in getattr(image, "children", {}) else image
    np.testing.assert_array_equal(pixels, slide.read_region(0, 300, 200, 500, 500))
    rows = slide.rows(list(part["expression"].obs_names))
    np.testing.assert_array_equal(
        part["expression"].to_memory().X.toarray(), slide.counts[rows].toarray()
    )


@pytest.mark.parametrize("system", ["global", "microns"])
def test_spatialdata_plot_draws_image_spots_and_a_gene(slide, system):
    pytest.importorskip("spatialdata_plot")
    from matplotlib import pyplot as plt

    sdata = stf.to_spatialdata(slide)
    figure, axis = plt.subplots()
    try:
        (
            sdata.pl.render_images("he")
            .pl.render_shapes("spots", color=most_counted(slide), table_name="expression")
            .pl.show(coordinate_systems=system, ax=axis)
        )
        scale = 1.0 if system == "global" else slide.mpp
        top = slide.levels[0]
        (image,) = axis.images
        drawn = image.get_window_extent().transformed(axis.transData.inverted())
        size = [top.width * scale, top.height * scale]
        # It may be drawn from a reduced level, which ends within a pixel of its own.
        np.testing.assert_allclose(sorted(drawn.intervalx), [0, size[0]], atol=2 * scale)
        np.testing.assert_allclose(sorted(drawn.intervaly), [0, size[1]], atol=2 * scale)
        (spots,) = axis.collections
        xy = slide.obs[["x", "y"]].to_numpy() * scale
        boxes = np.array([path.get_extents().get_points() for path in spots.get_paths()])
        np.testing.assert_allclose(
            [boxes.min(axis=(0, 1)), boxes.max(axis=(0, 1))],
            [xy.min(axis=0), xy.max(axis=0)],
            atol=1.01 * slide.radius_px[0] * scale,
        )
    finally:
        plt.close(figure)
