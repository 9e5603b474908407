"""How panels of genes are chosen: what all slides measure, what any does, what varies, a list."""

from __future__ import annotations

import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stformat.collection.count_blocks import SlideOpener
from stformat.collection.gene_lists import GeneLists, ListedSlide
from stformat.collection.gene_panel import GenePanel, RuleValue
from stformat.collection.slide_genes import SlideGenes
from stformat.collection.variable_genes import (
    CountSource,
    VariableFlavor,
    VariableRule,
    variable_genes,
)
from stformat.errors import GenePanelError, Problem, SpeciesUnknownWarning
from stformat.genes.vocabulary import SOURCE_KEYS, GeneVocabulary
from stformat.store.reader import Slide
from stformat.store.row_index import RowIndex, row_positions

__all__ = ["gene_panel"]

type RuleName = Literal["intersection", "union", "variable", "given"]

_N_SHOWN = 5


def gene_panel(
    slides: Iterable[Slide | Callable[[], Slide]],
    rule: RuleName = "intersection",
    *,
    genes: Iterable[str] | None = None,
    vocabulary: GeneVocabulary | Literal["source-keys"] | None = None,
    n_top: int | None = None,
    flavor: VariableFlavor = "seurat",
    batches: Literal["together", "slide"] = "together",
    target_sum: float | None = None,
    expressed_only: bool = True,
    rows: Mapping[str, RowIndex] | None = None,
) -> GenePanel:
    """Choose genes that mean the same in every slide.

    Parameters
    ----------
    slides : iterable of Slide or callable
        Slides of one species, each bound to the table that is meant, or functions that open one,
        which is closed again after each use, so that there may be any number. For what a model
        learns from, give the slides of the training side only.
    rule : {"intersection", "union", "variable", "given"}, default: "intersection"
        Genes that every slide measures; that any does; those of the intersection that vary most;
        or those of `genes` that any slide measures.
    genes : iterable of str, optional
        Under ``"given"``: keys, identifiers or symbols.
    vocabulary : GeneVocabulary or "source-keys", optional
        What tells that two columns are the same gene. By default what the slides' own tables say:
        a symbol that stands beside an identifier in one of them means that identifier in all.
        One of another species than the slides is refused. ``"source-keys"`` compares the keys as
        the sources spell them.
    n_top : int, optional
        Under ``"variable"``: how many genes.
    flavor : {"seurat", "cell_ranger", "pearson_residuals"}, default: "seurat"
        Under ``"variable"``: the rule, see Notes.
    batches : {"together", "slide"}, default: "together"
        Under ``"variable"``: compare genes over the rows of all slides at once, or in each slide
        by itself; then genes count first that vary in most slides.
    target_sum : float, optional
        Under ``"variable"``: total that rows are scaled to over the genes of the intersection; by
        default the median of these totals.
    expressed_only : bool, default: True
        Under ``"variable"``: leave out rows, and genes, without any count of the intersection, as
        `scanpy.pp.filter_cells` and `scanpy.pp.filter_genes` with a least of 1 do.
    rows : mapping of str to (mask, array of int or slice), optional
        Under ``"variable"``: rows that count of slides, by identifier, each once; of others all do.
        `Collection.gene_panel` of one side of a split gives those of the side.

    Returns
    -------
    GenePanel
        Genes in the order of the first slide that has them; under ``"given"`` in that of `genes`,
        of flavour ``pearson_residuals`` the most variable first.

    Raises
    ------
    GenePanelError
        If there is no slide, an identifier repeats, slides or vocabulary are of several species, no
        gene is left, a gene of `genes` is measured nowhere or its symbol means several, `rows` are
        not rows of the slides, or the arguments do not fit the rule.
    CorruptStoreError
        If a chunk is missing or damaged.

    Warns
    -----
    SpeciesUnknownWarning
        If some slides say their species and others do not: these are taken for the same.

    Notes
    -----
    A gene that a table has several columns of is read from the first of them; how many columns
    were passed over stands in the panel.

    Names of genes are read once from each slide. Memory is some 500 bytes for each different way
    of calling a gene, and 12 bytes a column of each different list of columns: slides that were
    made with one reference have the same.

    ``"variable"`` reads the counts as a stream, one or two times, in some MiB and 8 bytes a row.
    Flavours ``seurat`` and ``cell_ranger`` choose what `scanpy.pp.highly_variable_genes`
    does of counts that went through `normalize_total` and `log1p` in float64; where several genes
    share the last place all of them are taken, as there. A variance within the error of rounding
    is 0, and such a gene does not vary: which of these, or of genes with the same counts, scanpy
    takes is left to rounding. ``pearson_residuals`` chooses what
    `scanpy.experimental.pp.highly_variable_genes` does; of several batches each is clipped by its
    own number of rows.

    The panels of STimage-1K4M are, for the genes of each slide and for those that overlap::

        gene_panel([slide], "variable", flavor="pearson_residuals", n_top=128,
                   vocabulary="source-keys")
        gene_panel(slides, "variable", flavor="seurat", n_top=100, vocabulary="source-keys")

    Its files put the first panels of different slides under one another column by column, though
    they hold different genes; to join slides, make one panel of all of them.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=400, width=400, n_genes=40, pitch_px=60, seed=0),
    ...                          folder / "S1")
    >>> slide = stf.open_slide(stf.convert_slide(source, folder / "S1.zarr"))
    >>> panel = gene_panel([slide], "variable", n_top=5)
    >>> len(panel), slide.expression(slice(3), panel.keys).shape
    (5, (3, 5))
    """
    how = None
    if n_top is not None:
        how = VariableRule(
            n_top=_whole_number(n_top),
            flavor=flavor,
            batches=batches,
            target_sum=None if target_sum is None else float(target_sum),
            expressed_only=bool(expressed_only),
        )
    _check_arguments(rule, genes=genes, how=how)
    if rows is not None and how is None:
        raise _refused("rows", "rows go with rule 'variable'", f"some with {rule!r}")
    lists = GeneLists.read(_opener(slide) for slide in slides)
    species = _common_species(lists)
    known = SlideGenes(lists, _vocabulary(lists, vocabulary, species), species=species)
    recorded: dict[str, RuleValue] = {"name": rule}
    if rule == "union":
        codes = np.arange(len(known.keys))
    elif rule == "given":
        codes = _given(genes or (), known)
    else:
        codes = _shared(known)
    if how is not None:
        recorded |= asdict(how)
        codes = _variable(known, codes, how, _positions(lists.slides, rows or {}))
    return known.panel(codes, species=species, rule=recorded)


def _opener(slide: Slide | Callable[[], Slide]) -> SlideOpener:
    if isinstance(slide, Slide):
        return lambda: nullcontext(slide)
    return slide


def _common_species(lists: GeneLists) -> str | None:
    """Return the species of the slides; refuse what makes no panel."""
    if not lists.slides:
        raise _refused("slides", "a panel needs one slide at least", "none")
    ids = Counter(slide.slide_id for slide in lists.slides)
    repeated = sorted(name for name, n in ids.items() if n > 1)
    if repeated:
        raise _refused(
            "slides", "slides must have different identifiers", f"several {', '.join(repeated)}"
        )
    found = {slide.species for slide in lists.slides if slide.species is not None}
    if len(found) > 1:
        raise _refused(
            "slides",
            "genes mean the same in slides of one species",
            ", ".join(sorted(found)),
            'choose one, as with collection.where(species="human")',
        )
    species = next(iter(found), None)
    unknown = [slide.slide_id for slide in lists.slides if slide.species is None]
    if species is not None and unknown:
        warnings.warn(
            f"{_shown(unknown)}: no species is known, and genes are taken for those of {species}; "
            "convert with the species given, or leave these slides out",
            SpeciesUnknownWarning,
            stacklevel=3,
        )
    return species


def _shown(names: list[str]) -> str:
    rest = f" and {len(names) - _N_SHOWN} more" if len(names) > _N_SHOWN else ""
    return f"{', '.join(names[:_N_SHOWN])}{rest}"


def _check_arguments(rule: str, *, genes: Iterable[str] | None, how: VariableRule | None) -> None:
    if rule not in get_args(RuleName.__value__):
        expected = "a rule is 'intersection', 'union', 'variable' or 'given'"
        raise _refused("rule", expected, repr(rule))
    if isinstance(genes, set | frozenset):
        raise _refused(
            "genes", "genes must be in an order", "a set, which has none", "give sorted(genes)"
        )
    if (rule == "given") != (genes is not None) or isinstance(genes, str):
        raise _refused(
            "genes", "a list of genes goes with rule 'given'", f"{genes!r} with {rule!r}"
        )
    if (rule == "variable") != (how is not None) or (how is not None and how.n_top < 1):
        raise _refused(
            "n_top",
            "a number of genes, at least 1, goes with rule 'variable'",
            f"{None if how is None else how.n_top} with {rule!r}",
        )
    if how is None:
        return
    flavors = get_args(VariableFlavor.__value__)
    if how.flavor not in flavors:
        raise _refused("flavor", f"a flavor is one of {', '.join(flavors)}", repr(how.flavor))
    if how.batches not in {"together", "slide"}:
        raise _refused("batches", "batches are 'together' or 'slide'", repr(how.batches))
    if how.target_sum is not None and not 0 < how.target_sum < math.inf:
        raise _refused(
            "target_sum", "what rows are scaled to is positive and finite", f"{how.target_sum}"
        )


def _vocabulary(
    lists: GeneLists,
    vocabulary: GeneVocabulary | Literal["source-keys"] | None,
    species: str | None,
) -> GeneVocabulary:
    if vocabulary is None:
        return GeneVocabulary.from_tables([lists.names], species=species)
    if vocabulary == "source-keys":
        return SOURCE_KEYS
    if not isinstance(vocabulary, GeneVocabulary):
        raise _refused(
            "vocabulary", "a GeneVocabulary or 'source-keys' is needed", repr(vocabulary)
        )
    if None not in {species, vocabulary.species} and species != vocabulary.species:
        raise _refused(
            "vocabulary",
            f"the slides are of {species}, and a vocabulary must be of the same species",
            f"one of {vocabulary.species}",
        )
    return vocabulary


def _whole_number(n_top: int) -> int:
    """Return a plain number: that of NumPy is not what a document holds."""
    try:
        return operator.index(n_top)
    except TypeError:
        raise _refused("n_top", "how many genes is a whole number", repr(n_top)) from None


def _positions(
    slides: Sequence[ListedSlide], rows: Mapping[str, RowIndex]
) -> dict[str, NDArray[np.int64]]:
    """Return the rows that count of each slide that is named, ascending."""
    found: dict[str, NDArray[np.int64]] = {}
    for listed in slides:
        name = listed.slide_id
        if name not in rows:
            continue
        with listed.opened() as slide:
            n_obs = slide.n_obs
        try:
            found[name] = np.sort(row_positions(rows[name], n_obs))
        except IndexError as error:
            expected = f"rows of {name} must be a mask or positions of its {n_obs} rows"
            raise _refused("rows", expected, str(error)) from error
        if (found[name][1:] == found[name][:-1]).any():
            raise _refused("rows", f"rows of {name} must be named once", "one several times")
    unknown = sorted(set(rows) - set(found))
    if unknown:
        found_none = f"{_shown(unknown)}, which none has"
        raise _refused("rows", "rows go with the identifier of a slide", found_none)
    return found


def _shared(known: SlideGenes) -> NDArray[np.int64]:
    codes = known.shared()
    if not len(codes):
        raise _refused(
            "slides",
            "a gene must be measured in every slide",
            "none that is",
            "give a vocabulary, where some slides name genes by symbols and others by identifiers",
        )
    return codes


def _given(genes: Iterable[str], known: SlideGenes) -> NDArray[np.int64]:
    codes: list[int] = []
    unknown: list[str] = []
    for gene in genes:
        code = known.find(gene)
        if code is None:
            means_several = known.is_ambiguous(gene)
            unknown.append(f"{gene} (which means several)" if means_several else gene)
        else:
            codes.append(code)
    if unknown:
        raise _refused(
            "genes", "a gene must be measured in one slide", f"{_shown(unknown)} in none"
        )
    repeated = [known.keys[code] for code, n in Counter(codes).items() if n > 1]
    if repeated or not codes:
        found = f"several that mean {', '.join(repeated[:_N_SHOWN])}" if repeated else "none"
        raise _refused("genes", "a panel lists different genes", found)
    return np.array(codes, dtype=np.int64)


def _variable(
    known: SlideGenes,
    codes: NDArray[np.int64],
    rule: VariableRule,
    rows: Mapping[str, NDArray[np.int64]],
) -> NDArray[np.int64]:
    sources = [
        CountSource(
            slide_id=slide.slide_id,
            opened=slide.opened,
            columns=partial(known.columns_of, slide, codes),
            rows=rows.get(slide.slide_id),
        )
        for slide in known.slides
    ]
    try:
        return codes[variable_genes(sources, [known.keys[code] for code in codes], rule)]
    except ValueError as error:
        raise _refused("slides", "counts must tell which genes vary", str(error)) from error


def _refused(where: str, expected: str, found: str, remedy: str = "") -> GenePanelError:
    return GenePanelError(Problem(f"gene-panel.{where}", where, expected, found, remedy))
