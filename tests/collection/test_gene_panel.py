from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

from stformat.collection.gene_panel import GenePanel, measured_digest
from stformat.collection.panel_rules import gene_panel
from stformat.errors import GenePanelError
from stformat.genes.vocabulary import GeneVocabulary
from stformat.store.reader import open_slide

ERBB2, CD4, CD8A = "ENSG00000141736", "ENSG00000010610", "ENSG00000153563"


@pytest.fixture
def of_genes(open_store, draw_counts, genes_of):
    """Write and open a slide of some genes."""

    def make(name, keys, *, ids=None, names=None, genomes=None, **descriptors):
        genes = genes_of(keys, ids=ids, names=names, genomes=genomes)
        return open_store(name, draw_counts(12, len(keys), len(name)), genes, **descriptors)

    return make


@pytest.fixture
def by_symbol(of_genes):
    return of_genes("symbols", ["CD4", "ERBB2", "X1"])


@pytest.fixture
def by_id(of_genes):
    return of_genes("ids", [CD8A, ERBB2, CD4], ids=[CD8A, ERBB2, CD4],
                    names=["CD8A", "ERBB2", "CD4"])  # fmt: skip


def test_intersection_joins_symbols_and_identifiers(by_symbol, by_id):
    panel = gene_panel([by_symbol, by_id])
    assert panel.keys == (CD4, ERBB2)
    assert panel.names == ("CD4", "ERBB2")
    assert panel.columns_in(by_symbol).tolist() == [0, 1]
    assert panel.columns_in(by_id).tolist() == [2, 1]
    assert panel.columns_in(by_id).dtype == np.int64


def test_union_tells_what_was_not_measured(by_symbol, by_id):
    panel = gene_panel([by_symbol, by_id], "union")
    assert panel.keys == (CD4, ERBB2, "X1", CD8A)
    assert panel.columns_in(by_symbol).tolist() == [0, 1, 2, -1]
    assert panel.measured_in(by_id).tolist() == [True, True, False, True]
    first, second = panel.slides
    assert (first.n_measured, second.n_measured) == (3, 3)
    assert second.measured_sha256 == measured_digest(panel.measured_in(by_id))
    assert first.measured_sha256 != second.measured_sha256


def test_given_genes_keep_their_order(by_symbol, by_id):
    panel = gene_panel([by_symbol, by_id], "given", genes=["X1", "CD8A", f"{ERBB2}.13"])
    assert panel.keys == ("X1", CD8A, ERBB2)


def test_counts_of_a_panel_are_those_of_its_genes(by_symbol, by_id):
    panel = gene_panel([by_symbol, by_id])
    columns = panel.columns_in(by_id)
    expected = by_id.expression(slice(None), [CD4, ERBB2])
    np.testing.assert_array_equal(by_id.counts[:].toarray()[:, columns], expected)


def test_source_keys_are_compared_as_they_are(of_genes):
    first = of_genes("one", ["hg38_A", "B"], names=["A", "B"], genomes=["hg38", None])
    second = of_genes("other", ["A", "B"])
    assert gene_panel([first, second], vocabulary="source-keys").keys == ("B",)
    assert gene_panel([first, second]).keys == ("A", "B")


def test_first_of_repeated_genes_is_read_and_the_others_are_counted(of_genes):
    slide = of_genes("repeats", ["TBCE", "A", "TBCE-1"], names=["TBCE", "A", "TBCE"])
    panel = gene_panel([slide], "union")
    assert panel.keys == ("TBCE", "A")
    assert panel.slides[0].n_passed_over == 1
    assert panel.columns_in(slide).tolist() == [0, 1]


def test_ambiguous_symbols_are_refused_by_name(of_genes, by_id):
    names = ["TBCE", "TBCE"]
    twins = of_genes("twins", ["ENSG00000116957", "ENSG00000284770"], names=names,
                     ids=["ENSG00000116957", "ENSG00000284770"])  # fmt: skip
    with pytest.raises(GenePanelError, match=r"TBCE \(which means several\) in none"):
        gene_panel([twins, by_id], "given", genes=["TBCE", "CD4"])


def test_a_vocabulary_of_the_user_joins_what_slides_cannot(of_genes):
    first, second = of_genes("old", ["HER2"]), of_genes("new", ["ERBB2"])
    with pytest.raises(GenePanelError, match="a gene must be measured in every slide"):
        gene_panel([first, second])
    vocabulary = GeneVocabulary.from_pairs(
        [("HER2", ERBB2), ("ERBB2", ERBB2)], species="Homo sapiens", version="mine 1"
    )
    panel = gene_panel([first, second], vocabulary=vocabulary)
    assert panel.keys == (ERBB2,)
    assert panel.vocabulary.version == "mine 1"
    assert panel.columns_in(second).tolist() == [0]


def test_species_are_not_mixed(of_genes, by_symbol):
    pig = of_genes("pig", ["CD4", "ERBB2"], species="pig")
    with pytest.raises(GenePanelError, match="Homo sapiens, Sus scrofa"):
        gene_panel([by_symbol, pig])
    assert gene_panel([by_symbol]).columns_in(pig).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("options", [{"rule": "union"}, {"rule": "variable", "n_top": 1}])
def test_slides_may_be_opened_when_needed_and_are_closed_again(by_symbol, by_id, options):
    opened = []

    def opener(slide):
        def opens():
            opened.append(open_slide(slide.opened.location.address))
            return opened[-1]

        return opens

    lazily = gene_panel([opener(by_symbol), opener(by_id)], **options)
    assert lazily.digest == gene_panel([by_symbol, by_id], **options).digest
    for slide in opened:
        with pytest.raises(ValueError, match="closed"):
            slide.opened.store.files.read("zarr.json")


def test_panels_are_saved_by_digest(by_symbol, by_id, tmp_path):
    panel = gene_panel([by_symbol, by_id], "union")
    path = panel.save(tmp_path)
    assert path.name == f"gene-panel-{panel.digest[:12]}.json"
    again = GenePanel.load(path)
    assert again.digest == panel.digest
    assert (again.keys, again.names, again.slides) == (panel.keys, panel.names, panel.slides)
    assert again.columns_in(by_id).tolist() == panel.columns_in(by_id).tolist()
    before = path.read_bytes()
    assert again.save(tmp_path) == path
    assert path.read_bytes() == before


def test_a_changed_or_damaged_panel_is_refused(by_symbol, tmp_path):
    path = gene_panel([by_symbol]).save(tmp_path / "panel.json")
    text = path.read_text()
    swapped = json.loads(text)
    swapped["keys"] = swapped["keys"][::-1]
    for content in (json.dumps(swapped), text[:-9], "[]", "{}", '{"digest": "x"}'):
        path.write_text(content)
        with pytest.raises(GenePanelError, match="a gene panel is a file that its save"):
            GenePanel.load(path)
    with pytest.raises(GenePanelError, match="a gene panel is a file"):
        GenePanel.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "a rule is 'intersection'"),
        ({"rule": "variable"}, "a number of genes, at least 1, goes with rule 'variable'"),
        ({"rule": "variable", "n_top": 0}, "at least 1"),
        ({"rule": "union", "n_top": 3}, "goes with rule 'variable'"),
        ({"rule": "variable", "n_top": 2, "flavor": "seurat_v3"}, "a flavor is one of seurat, "),
        ({"rule": "variable", "n_top": 2, "batches": "donor"}, "batches are 'together' or"),
        ({"rule": "variable", "n_top": 2, "target_sum": 0.0}, "positive and finite, found 0.0"),
        ({"rule": "given"}, "a list of genes goes with rule 'given'"),
        ({"rule": "given", "genes": "CD4"}, "a list of genes goes with rule 'given'"),
        ({"rule": "given", "genes": []}, "a panel lists different genes, found none"),
        ({"rule": "given", "genes": ["CD4", "CD4"]}, "several that mean CD4"),
        ({"rule": "given", "genes": ["CD5", "CD4"]}, "CD5 in none"),
        ({"vocabulary": "ensembl"}, "a GeneVocabulary or 'source-keys'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(by_symbol, options, message):
    with pytest.raises(GenePanelError, match=message):
        gene_panel([by_symbol], **options)


def test_no_slide_and_one_slide_twice_are_refused(by_symbol):
    with pytest.raises(GenePanelError, match="one slide at least"):
        gene_panel([])
    with pytest.raises(GenePanelError, match="several symbols"):
        gene_panel([by_symbol, by_symbol])


def test_slides_without_counts_have_no_variable_genes(open_store):
    slide = open_store("empty", sparse.csr_array((5, 4), dtype=np.int32))
    for flavor in ("seurat", "cell_ranger", "pearson_residuals"):
        with pytest.raises(GenePanelError, match="must tell which genes vary"):
            gene_panel([slide], "variable", n_top=2, flavor=flavor)
