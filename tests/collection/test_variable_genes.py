"""Variable genes of streamed counts are those that scanpy finds with all of them in memory."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stformat.collection import count_blocks, pearson_residuals
from stformat.collection.gene_panel import GenePanel
from stformat.collection.panel_rules import gene_panel
from stformat.errors import GenePanelError
from stformat.genes.dispersion import normalized_dispersions, variable_top
from stformat.store.reader import open_slide

# Of anndata and scanpy, about their own future.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Some cells have zero counts"),
]

N_GENES = 250
NAMES = [f"G{column}" for column in range(N_GENES)]


@pytest.fixture(scope="module", autouse=True)
def _several_blocks_a_slide():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count_blocks, "BLOCK_VALUES", 3000)
        patch.setattr(pearson_residuals, "_DENSE_VALUES", 5000)
        yield


@pytest.fixture(scope="module")
def matrices(draw_counts):
    found = []
    for seed, n_obs in enumerate((90, 130, 60)):
        counts = draw_counts(n_obs, N_GENES, seed).toarray()
        counts[5] = 0
        counts[:, 7] = 0  # nowhere
        counts[:, 11 + seed] = 0  # in the others
        found.append(sparse.csr_array(counts))
    return found


@pytest.fixture(scope="module")
def slides(write_store_in, matrices, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return [
        open_slide(write_store_in(folder, f"S{place}", counts))
        for place, counts in enumerate(matrices)
    ]


def together(matrices):
    # Dense: scanpy compiles code for sparse matrices, which takes longer than all else here.
    parts = [
        ad.AnnData(counts.toarray().astype(np.float64), var=pd.DataFrame(index=NAMES))
        for counts in matrices
    ]
    keys = [f"S{place}" for place in range(len(parts))]
    return ad.concat(parts, label="slide", keys=keys, index_unique="-")


def by_scanpy(matrices, *, n_top, flavor, batches, expressed_only, target_sum):
    data = together(matrices)
    if expressed_only:
        sc.pp.filter_cells(data, min_genes=1)
        sc.pp.filter_genes(data, min_cells=1)
    sc.pp.normalize_total(data, target_sum=target_sum)
    sc.pp.log1p(data)
    batch_key = "slide" if batches == "slide" else None
    found = sc.pp.highly_variable_genes(
        data, n_top_genes=n_top, flavor=flavor, batch_key=batch_key, inplace=False
    )
    return data.var_names[found["highly_variable"].to_numpy(dtype=bool)].tolist()


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger"])
@pytest.mark.parametrize("batches", ["together", "slide"])
@pytest.mark.parametrize(
    ("expressed_only", "target_sum"), [(True, None), (False, None), (True, 1e4)]
)
def test_panels_are_those_of_scanpy(  # noqa: PLR0917 - four choices
    slides, matrices, flavor, batches, expressed_only, target_sum
):
    options = {
        "n_top": 40,
        "flavor": flavor,
        "batches": batches,
        "expressed_only": expressed_only,
        "target_sum": target_sum,
    }
    panel = gene_panel(slides, "variable", **options)
    assert list(panel.keys) == by_scanpy(matrices, **options)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["seurat", "cell_ranger"]), st.integers(5, 60))
def test_dispersions_are_those_of_scanpy(draw_counts, seed, flavor, n_top):
    counts = draw_counts(40, 120, seed).astype(np.float64)
    counts = counts[:, np.asarray(counts.sum(axis=0)) > 0]
    data = ad.AnnData(counts.toarray())
    sc.pp.normalize_total(data, target_sum=1000.0)
    normalized = data.X.copy()
    sc.pp.log1p(data)
    expected = sc.pp.highly_variable_genes(data, n_top_genes=n_top, flavor=flavor, inplace=False)
    values = normalized if flavor == "seurat" else np.log1p(normalized)
    found = normalized_dispersions(values.mean(axis=0), values.var(axis=0, ddof=1), flavor=flavor)
    np.testing.assert_allclose(found.means, expected["means"], rtol=1e-9)
    np.testing.assert_allclose(found.dispersions, expected["dispersions"], rtol=1e-9)
    np.testing.assert_allclose(found.normalized, expected["dispersions_norm"], rtol=1e-6, atol=1e-8)
    chosen = variable_top(found.normalized, n_top)
    assert chosen.tolist() == expected["highly_variable"].tolist()


def test_residuals_are_those_of_scanpy(slides, matrices):
    data = ad.AnnData(matrices[1].toarray().astype(np.float64), var=pd.DataFrame(index=NAMES))
    sc.pp.filter_cells(data, min_genes=1)
    sc.experimental.pp.highly_variable_genes(data, n_top_genes=30)
    expected = data.var["highly_variable_rank"].sort_values().dropna().index.tolist()
    panel = gene_panel(slides[1:2], "variable", n_top=30, flavor="pearson_residuals")
    assert list(panel.keys) == expected


def test_genes_of_most_batches_come_first_by_residuals(slides, matrices):
    """Of slides of one size, where clipping by the first batch's size is clipping by each's own."""
    same = [slides[0], slides[1]]
    rows = {"S1": np.arange(130) < 90}
    data = together([matrices[0], matrices[1][:90]])
    sc.pp.filter_cells(data, min_genes=1)
    sc.experimental.pp.highly_variable_genes(data, n_top_genes=30, batch_key="slide")
    panel = gene_panel(
        same, "variable", n_top=30, flavor="pearson_residuals", batches="slide",
        rows={name: _stored_order(same[1], mask) for name, mask in rows.items()},
    )  # fmt: skip
    assert set(panel.keys) == set(data.var_names[data.var["highly_variable"]])


def _stored_order(slide, mask):
    """Turn a mask of the source's rows into one of the store's."""
    return mask[slide.obs["source_index"].to_numpy()]


def test_rows_that_do_not_count_are_not_read(slides, matrices):
    mask = np.arange(90) % 3 > 0
    panel = gene_panel(
        slides[:1], "variable", n_top=20, rows={"S0": _stored_order(slides[0], mask)}
    )
    options = {"flavor": "seurat", "batches": "together", "expressed_only": True}
    assert list(panel.keys) == by_scanpy([matrices[0][mask]], n_top=20, target_sum=None, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"batches": "slide"}, {"flavor": "pearson_residuals"}, {"flavor": "cell_ranger"},
     {"batches": "slide", "flavor": "cell_ranger"},
     {"batches": "slide", "flavor": "pearson_residuals"}],
)  # fmt: skip
def test_genes_without_any_count_are_left_out(slides, matrices, options):
    counts = sum(np.asarray(matrix.sum(axis=0)) for matrix in matrices)
    panel = gene_panel(slides, "variable", n_top=10 * N_GENES, **options)
    assert not {"G7"} & set(panel.keys)
    assert len(panel) <= np.count_nonzero(counts)
    if options.get("flavor") != "cell_ranger":
        assert len(panel) == np.count_nonzero(counts)


@pytest.mark.parametrize(
    ("counts", "flavor"),
    [
        pytest.param(np.full((20, 30), 3), "seurat", id="constant genes"),
        pytest.param(np.full((20, 30), 3), "cell_ranger", id="constant genes, bins of number"),
        pytest.param(np.arange(1, 31)[:, None], "seurat", id="one gene"),
        pytest.param(np.arange(1, 61).reshape(30, 2), "cell_ranger", id="two genes"),
        pytest.param(np.arange(1, 91).reshape(30, 3), "cell_ranger", id="three genes"),
    ],
)
@pytest.mark.parametrize("batches", ["together", "slide"])
def test_a_panel_without_a_variable_gene_is_refused(open_store, counts, flavor, batches):
    slide = open_store("S", sparse.csr_array(counts.astype(np.int32)))
    with pytest.raises(GenePanelError, match="counts must tell which genes vary"):
        gene_panel([slide], "variable", n_top=5, flavor=flavor, batches=batches)


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger", "pearson_residuals"])
def test_a_slide_that_cannot_be_a_batch_is_named(open_store, draw_counts, flavor):
    slides = [
        open_store("whole", draw_counts(40, 60, 0)),
        open_store("hollow", sparse.csr_array((3, 60), dtype=np.int32)),
    ]
    options = {"rule": "variable", "n_top": 3, "flavor": flavor, "target_sum": 100.0}
    with pytest.raises(GenePanelError, match=r"with counts.*, in slide hollow"):
        gene_panel(slides, **options, batches="slide")
    assert len(gene_panel(slides, **options)) >= 1


def test_genes_of_one_mean_make_no_bins_of_equal_number(open_store):
    same = open_store("same", sparse.csr_array(np.ones((20, 30), dtype=np.int32)))
    with pytest.raises(GenePanelError, match=r"need genes of different means.*, in slide same"):
        gene_panel([same], "variable", n_top=3, flavor="cell_ranger")


def test_a_gene_that_rounding_alone_varies_is_not_variable(open_store):
    random = np.random.default_rng(0)
    counts = random.permuted(np.tile([2, 3, 7, 9], (20, 1)), axis=1)
    # Each 3 is a thirtieth of its row.
    slide = open_store("S", sparse.csr_array(np.hstack([counts, np.full((20, 23), 3)]), dtype="i4"))
    panel = gene_panel([slide], "variable", n_top=24)
    assert panel.keys == ("G0", "G1", "G2", "G3")


def test_published_panels_are_reproduced(open_store, draw_counts, genes_of):
    """The scripts of STimage-1K4M, on data frames, as published but for columns that they mix."""
    names = [[f"G{k}" for k in range(start, start + 200)] for start in (0, 40)]
    frames = [
        pd.DataFrame(draw_counts(80, 200, seed).toarray(), columns=columns)
        for seed, columns in enumerate(names)
    ]
    slides = [
        open_store(f"S{place}", sparse.csr_array(frame.to_numpy()), genes_of(columns))
        for place, (frame, columns) in enumerate(zip(frames, names, strict=True))
    ]
    overlap = frames[0].columns.intersection(frames[1].columns)
    joined = pd.concat([frame[overlap] for frame in frames], ignore_index=True)
    data = ad.AnnData(joined.astype(np.float64).set_index(joined.index.astype(str)))
    sc.pp.filter_cells(data, min_genes=1)
    sc.pp.filter_genes(data, min_cells=1)
    sc.pp.normalize_total(data)
    sc.pp.log1p(data)
    sc.pp.highly_variable_genes(data, n_top_genes=100)
    panel = gene_panel(slides, "variable", flavor="seurat", n_top=100, vocabulary="source-keys")
    assert list(panel.keys) == data.var_names[data.var["highly_variable"]].tolist()

    for slide, frame in zip(slides, frames, strict=True):
        own = ad.AnnData(frame.astype(np.float64).set_index(frame.index.astype(str)))
        sc.pp.filter_cells(own, min_genes=1)
        sc.experimental.pp.highly_variable_genes(own, n_top_genes=128)
        expected = own.var["highly_variable_rank"].sort_values().dropna().index
        of_slide = gene_panel(
            [slide], "variable", flavor="pearson_residuals", n_top=128, vocabulary="source-keys"
        )
        assert list(of_slide.keys) == expected.tolist()


def test_rows_that_count_are_masks_positions_or_slices(slides):
    rows = np.array([5, 0, 77, 31])
    mask = np.isin(np.arange(slides[0].n_obs), rows)
    expected = gene_panel(slides, "variable", n_top=20, rows={"S0": mask, "S1": slice(0, 60)})
    found = gene_panel(slides, "variable", n_top=20, rows={"S0": rows, "S1": range(60)})
    assert found.digest == expected.digest
    assert found.keys != gene_panel(slides, "variable", n_top=20).keys
    assert gene_panel(slides, "variable", n_top=20, rows={}).digest


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"s0": [0, 1]}, "identifier of a slide, found s0, which none has"),
        ({"S0": np.ones(10, dtype=bool)}, "rows of S0 must be a mask or positions of its"),
        ({"S0": np.ones(1000, dtype=bool)}, "rows of S0 must be a mask or positions of its"),
        ({"S0": [0, 10**6]}, "rows of S0 must be a mask or positions of its"),
        ({"S0": [0.5]}, "rows of S0 must be a mask or positions of its"),
        ({"S0": [3, 4, 3]}, "rows of S0 must be named once"),
    ],
)
def test_rows_of_no_slide_are_refused(slides, rows, message):
    with pytest.raises(GenePanelError, match=message):
        gene_panel(slides, "variable", n_top=20, rows=rows)


def test_rows_without_a_rule_that_reads_them_are_refused(slides):
    with pytest.raises(GenePanelError, match="rows go with rule 'variable'"):
        gene_panel(slides, "intersection", rows={"S0": [0]})


def test_numbers_of_numpy_make_the_same_panel(slides, tmp_path):
    plain = gene_panel(slides, "variable", n_top=5, target_sum=1000, expressed_only=True)
    found = gene_panel(
        slides, "variable", n_top=np.int64(5), target_sum=np.float32(1000),
        expressed_only=np.bool_(True),  # noqa: FBT003 - the type is what is tested
    )  # fmt: skip
    assert found.digest == plain.digest
    assert GenePanel.load(found.save(tmp_path)).digest == plain.digest
    with pytest.raises(GenePanelError, match=r"how many genes is a whole number, found 2\.5"):
        gene_panel(slides, "variable", n_top=2.5)
