from __future__ import annotations

import copy
import json
import pickle
import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from scipy import sparse

from stformat.collection.gene_lists import GeneLists
from stformat.collection.gene_panel import GenePanel, measured_digest
from stformat.collection.panel_rules import gene_panel
from stformat.errors import GenePanelError, SpeciesUnknownWarning
from stformat.genes.mapping_file import read_vocabulary
from stformat.genes.vocabulary import GeneVocabulary
from stformat.loader.loader import TileLoader
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


def test_a_symbol_of_several_genes_is_refused_though_one_slide_has_no_more_than_it(of_genes):
    ids, names = ["ENSG00000116957", "ENSG00000284770", CD4], ["TBCE", "TBCE", "CD4"]
    slides = [of_genes("twins", ids, ids=ids, names=names), of_genes("plain", ["TBCE", "CD4"])]
    of_others = GeneVocabulary.from_pairs([("CD4", CD4)])
    for vocabulary in (None, of_others):
        with pytest.raises(GenePanelError, match=r"TBCE \(which means several\) in none"):
            gene_panel(slides, "given", genes=["TBCE"], vocabulary=vocabulary)
    assert gene_panel(slides, "given", genes=["TBCE"], vocabulary="source-keys").keys == ("TBCE",)
    assert gene_panel(slides, "given", genes=["CD4"]).keys == (CD4,)


def test_a_panel_of_symbols_finds_genes_of_slides_with_identifiers(by_symbol, by_id):
    """And the other way round: what was trained on is not always what has identifiers."""
    of_symbols, of_ids = gene_panel([by_symbol]), gene_panel([by_id])
    assert of_symbols.keys == ("CD4", "ERBB2", "X1")
    assert of_symbols.columns_in(by_id).tolist() == [2, 1, -1]
    assert of_ids.columns_in(by_symbol).tolist() == [-1, 1, 0]
    (batch,) = TileLoader([by_id], tile_px=None, genes=of_symbols, batch_size=12, shuffle=False)
    expected = by_id.counts[:].toarray()[batch["row"]][:, [2, 1]]
    np.testing.assert_array_equal(batch["expression"][:, :2], expected)
    assert batch["measured"].tolist() == [[True, True, False]] * 12


def test_a_loader_refuses_a_slide_with_no_gene_of_a_panel(of_genes, by_symbol):
    unnamed = of_genes("unnamed", [CD4, ERBB2], ids=[CD4, ERBB2])
    with pytest.raises(GenePanelError, match="unnamed"):
        TileLoader([unnamed], tile_px=None, genes=gene_panel([by_symbol]))


def test_a_symbol_that_several_columns_have_is_none_of_them(of_genes, by_symbol):
    ids = ["ENSG00000116957", "ENSG00000284770", ERBB2, f"{ERBB2}-1"]
    slide = of_genes("twins", ids, ids=[*ids[:3], ERBB2], names=["CD4", "CD4", "ERBB2", "ERBB2"])
    assert gene_panel([by_symbol]).columns_in(slide).tolist() == [-1, 2, -1]


def test_a_symbol_that_is_ambiguous_where_the_panel_was_made_is_not_looked_for(of_genes):
    ids, names = ["ENSG00000116957", "ENSG00000284770"], ["TBCE", "TBCE"]
    panel = gene_panel([of_genes("twins", ids, ids=ids, names=names), of_genes("one", ["TBCE"])],
                       "union")  # fmt: skip
    assert panel.keys == (*ids, "TBCE")
    later = of_genes("later", [CD4, "ENSG00000116957"], ids=[CD4, ids[0]], names=["CD4", "TBCE"])
    assert panel.columns_in(later).tolist() == [1, -1, -1]
    other = of_genes("other", [CD4, ERBB2], ids=[CD4, ERBB2], names=["TBCE", "ERBB2"])
    assert not panel.measured_in(other).any()


def test_no_column_stands_for_two_genes_of_a_panel(of_genes, by_id):
    vocabulary = GeneVocabulary.from_pairs([("HER2", ERBB2)], species="human")
    panel = gene_panel([of_genes("both", ["ERBB2", "HER2"])], vocabulary=vocabulary)
    assert panel.keys == ("ERBB2", ERBB2)
    assert panel.columns_in(by_id).tolist() == [-1, 1]


def test_symbols_of_a_graft_are_found_with_their_genome(of_genes):
    symbols = of_genes("symbols", ["mm10_Erbb2", "ERBB2"], names=["Erbb2", "ERBB2"],
                       genomes=["mm10", "GRCh38"])  # fmt: skip
    ids = ["ENSMUSG00000062312", ERBB2]
    other = of_genes("other", ids, ids=ids, names=["Erbb2", "ERBB2"], genomes=["mm10", "GRCh38"])
    assert gene_panel([symbols]).columns_in(other).tolist() == [0, 1]


def test_a_slide_with_no_gene_of_a_panel_is_refused(of_genes, by_symbol, by_id):
    unnamed = of_genes("unnamed", [CD4, ERBB2], ids=[CD4, ERBB2])
    with pytest.raises(GenePanelError, match="unnamed: a slide must measure a gene of the panel"):
        gene_panel([by_symbol]).columns_in(unnamed)
    with pytest.raises(GenePanelError, match=r"symbols: .*with a vocabulary of both kinds"):
        gene_panel([unnamed]).columns_in(by_symbol)
    with pytest.raises(GenePanelError, match="without vocabulary='source-keys'"):
        gene_panel([by_symbol], vocabulary="source-keys").columns_in(by_id)
    assert not gene_panel([by_symbol]).measured_in(unnamed).any()


def test_genes_given_by_symbol_are_recorded_as_they_are_found(by_symbol, by_id):
    vocabulary = GeneVocabulary.from_pairs([("OTHER", "ENSG00000000003")])
    panel = gene_panel([by_symbol, by_id], "given", genes=["CD4", CD8A], vocabulary=vocabulary)
    assert panel.keys == ("CD4", CD8A)
    assert panel.columns_in(by_id).tolist() == [2, 0]
    assert [slide.n_measured for slide in panel.slides] == [1, 2]
    assert panel.slides[1].measured_sha256 == measured_digest(panel.measured_in(by_id))


@pytest.mark.parametrize("species", ["human", "Homo sapiens", "homo_sapiens", None])
def test_a_vocabulary_may_spell_its_species_as_anyone_does(of_genes, species):
    vocabulary = read_vocabulary({"HER2": ERBB2, "ERBB2": ERBB2}, species=species)
    panel = gene_panel([of_genes("old", ["HER2"]), of_genes("new", ["ERBB2"])],
                       vocabulary=vocabulary)  # fmt: skip
    assert panel.keys == (ERBB2,)


def test_a_vocabulary_of_another_species_is_refused(by_symbol):
    vocabulary = read_vocabulary({"HER2": ERBB2}, species="mouse")
    with pytest.raises(
        GenePanelError, match=r"slides are of Homo sapiens.*found one of Mus muscul"
    ):
        gene_panel([by_symbol], vocabulary=vocabulary)


def test_vocabularies_of_one_version_and_other_content_make_other_panels(by_symbol):
    """Also where they differ in what the panel does not need."""
    pairs = [("CD4", CD4), ("ERBB2", ERBB2)]
    panels = [
        gene_panel([by_symbol], vocabulary=GeneVocabulary.from_pairs(more, version="mine 1"))
        for more in (pairs, [*pairs, ("CD8A", CD8A)])
    ]
    assert panels[0].keys == panels[1].keys
    assert dict(panels[0].vocabulary.ids) == dict(panels[1].vocabulary.ids)
    assert panels[0].vocabulary.sha256 != panels[1].vocabulary.sha256
    assert panels[0].digest != panels[1].digest


def test_slides_of_one_reference_share_their_columns(of_genes, by_symbol):
    slides = [of_genes(name, ["CD4", "ERBB2"]) for name in ("one", "other")]
    lists = GeneLists.read([partial(nullcontext, slide) for slide in [*slides, by_symbol]])
    one, other, symbols = (slide.listed for slide in lists.slides)
    assert one is other
    assert (one.tolist(), symbols.tolist()) == ([0, 1], [0, 1, 2])
    assert lists.names.keys == ["CD4", "ERBB2", "X1"]
    panel = gene_panel([slides[0]])
    for slide in slides:
        panel.columns_in(slide)[:] = 7
        assert panel.columns_in(slide).tolist() == [0, 1]
    assert len(panel._found) == 1


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
    panel = gene_panel([by_symbol])
    assert not panel.measured_in(pig).any()
    with pytest.raises(GenePanelError, match="found one of Sus scrofa, and genes of Homo sapiens"):
        panel.columns_in(pig)


def test_slides_of_unknown_species_are_said_to_be_taken_for_those_of_the_others(of_genes, by_id):
    strays = [of_genes(f"stray {n}", ["CD4", "ERBB2"], species=None) for n in range(2)]
    with pytest.warns(SpeciesUnknownWarning, match="stray 0, stray 1: no species is known"):
        panel = gene_panel([*strays, by_id])
    assert panel.keys == (CD4, ERBB2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gene_panel(strays).species is None
        assert panel.columns_in(strays[0]).tolist() == [0, 1]


def test_what_a_slide_of_another_species_says_makes_no_symbol_ambiguous(of_genes, by_id):
    pig = of_genes("sow", ["ENSSSCG00000017504"], ids=["ENSSSCG00000017504"], names=["ERBB2"],
                   species=None)  # fmt: skip
    symbols = of_genes("letters", ["ERBB2"])
    with pytest.warns(SpeciesUnknownWarning, match="sow"):
        panel = gene_panel([by_id, pig, symbols], "union")
    assert panel.vocabulary.ids["ERBB2"] == ERBB2
    assert panel.measured_in(symbols).sum() == 1


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


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301 - our own
def test_panels_are_pickled_and_copied(by_symbol, by_id, twin_of):
    panel = gene_panel([by_symbol, by_id], "union")
    expected = panel.columns_in(by_id).tolist()
    twin = twin_of(panel)
    assert (twin.digest, repr(twin)) == (panel.digest, repr(panel))
    assert twin.vocabulary.sha256 == panel.vocabulary.sha256
    assert twin.columns_in(by_id).tolist() == expected
    for mapping in (twin.rule, twin.vocabulary.ids):
        with pytest.raises(TypeError):
            mapping["name"] = "other"


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
        ({"rule": "given", "genes": {"CD4", "X1"}}, r"a set, which has none; give sorted\(genes\)"),
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
