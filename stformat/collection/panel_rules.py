"""How panels of genes are chosen: what all slides measure, what any does, what varies, a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stformat.collection.gene_panel import (
    GenePanel,
    PanelSlide,
    RuleValue,
    measured_digest,
    species_of,
)
from stformat.collection.variable_genes import (
    CountSource,
    VariableFlavor,
    VariableRule,
    variable_genes,
)
from stformat.errors import GenePanelError, Problem
from stformat.genes.keys import parse_ensembl
from stformat.genes.vocabulary import SOURCE_KEYS, GeneVocabulary, first_columns
from stformat.store.reader import Slide

__all__ = ["gene_panel"]

type RuleName = Literal["intersection", "union", "variable", "given"]

_N_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _SlideGenes:
    """The genes of one slide."""

    slide: Slide
    columns: Mapping[str, int]
    n_passed_over: int


def gene_panel(
    slides: Iterable[Slide],
    rule: RuleName = "intersection",
    *,
    genes: Iterable[str] | None = None,
    vocabulary: GeneVocabulary | Literal["source-keys"] | None = None,
    n_top: int | None = None,
    flavor: VariableFlavor = "seurat",
    batches: Literal["together", "slide"] = "together",
    target_sum: float | None = None,
    expressed_only: bool = True,
    rows: Mapping[str, NDArray[np.bool_]] | None = None,
) -> GenePanel:
    """Choose genes that mean the same in every slide.

    Parameters
    ----------
    slides : iterable of Slide
        Slides of one species, each bound to the table that is meant. For what a model learns from,
        give the slides of the training side only.
    rule : {"intersection", "union", "variable", "given"}, default: "intersection"
        Genes that every slide measures; that any does; those of the intersection that vary most;
        or those of `genes` that any slide measures.
    genes : iterable of str, optional
        Under ``"given"``: keys, identifiers or symbols.
    vocabulary : GeneVocabulary or "source-keys", optional
        What tells that two columns are the same gene. By default what the slides' own tables say:
        a symbol that stands beside an identifier in one of them means that identifier in all.
        ``"source-keys"`` compares the keys as the sources spell them.
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
    rows : mapping of str to (n_obs,) ndarray of bool, optional
        Under ``"variable"``: rows that count of slides, by identifier; of others all do.

    Returns
    -------
    GenePanel
        Genes in the order of the first slide that has them; under ``"given"`` in that of `genes`,
        of flavour ``pearson_residuals`` the most variable first.

    Raises
    ------
    GenePanelError
        If there is no slide, an identifier repeats, slides are of several species, no gene is
        left, a gene of `genes` is measured nowhere, or the arguments do not fit the rule.
    CorruptStoreError
        If a chunk is missing or damaged.

    Notes
    -----
    A gene that a table has several columns of is read from the first of them; how many columns
    were passed over stands in the panel.

    ``"variable"`` reads the slides as a stream, one or two times; memory is some MiB, and 8 bytes
    a row. Flavours ``seurat`` and ``cell_ranger`` choose what `scanpy.pp.highly_variable_genes`
    does of counts that went through `normalize_total` and `log1p` in float64; where several genes
    share the last place all of them are taken, as there. ``pearson_residuals`` chooses what
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
    opened = list(slides)
    species = _checked_slides(opened)
    _check_arguments(rule, genes=genes, n_top=n_top)
    chosen_vocabulary = _vocabulary(opened, vocabulary, species)
    known = [_genes_of(slide, chosen_vocabulary) for slide in opened]
    recorded: dict[str, RuleValue] = {"name": rule}
    if rule == "union":
        keys = tuple(dict.fromkeys(key for each in known for key in each.columns))
    elif rule == "given":
        keys = _given(genes or (), known, chosen_vocabulary)
    else:
        keys = _shared(known)
    if rule == "variable":
        how = VariableRule(
            n_top=n_top or 0,
            flavor=flavor,
            batches=batches,
            target_sum=target_sum,
            expressed_only=expressed_only,
        )
        recorded |= asdict(how)
        keys = _variable(known, keys, how, rows or {})
    return _panel(keys, known, chosen_vocabulary, species=species, rule=recorded)


def _panel(
    keys: tuple[str, ...],
    known: list[_SlideGenes],
    vocabulary: GeneVocabulary,
    *,
    species: str | None,
    rule: Mapping[str, RuleValue],
) -> GenePanel:
    names: dict[str, str] = {}
    slides: list[PanelSlide] = []
    for each in known:
        columns = np.array([each.columns.get(key, -1) for key in keys], dtype=np.int64)
        measured = columns >= 0
        found = each.slide.var["gene_name"].iloc[columns[measured]]
        for key, name in zip(np.array(keys, dtype=object)[measured], found, strict=True):
            if not pd.isna(name):
                names.setdefault(key, name)
        slides.append(
            PanelSlide(
                slide_id=each.slide.slide_id,
                table=each.slide.counts.table,
                manifest_sha256=each.slide.opened.store.commit.manifest_sha256,
                n_measured=int(measured.sum()),
                measured_sha256=measured_digest(measured),
                n_passed_over=each.n_passed_over,
            )
        )
    return GenePanel(
        keys=keys,
        names=tuple(names.get(key) for key in keys),
        species=species,
        rule=MappingProxyType(dict(rule)),
        vocabulary=vocabulary.restricted_to(keys),
        slides=tuple(slides),
    )


def _checked_slides(slides: list[Slide]) -> str | None:
    """Return the species of the slides; refuse what makes no panel."""
    if not slides:
        raise _refused("slides", "a panel needs one slide at least", "none")
    ids = [slide.slide_id for slide in slides]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise _refused(
            "slides", "slides must have different identifiers", f"several {', '.join(repeated)}"
        )
    species = sorted({name for slide in slides if (name := species_of(slide)) is not None})
    if len(species) > 1:
        raise _refused(
            "slides",
            "genes mean the same in slides of one species",
            ", ".join(species),
            'choose one, as with collection.where(species="human")',
        )
    return species[0] if species else None


def _check_arguments(rule: str, *, genes: Iterable[str] | None, n_top: int | None) -> None:
    if rule not in {"intersection", "union", "variable", "given"}:
        expected = "a rule is 'intersection', 'union', 'variable' or 'given'"
        raise _refused("rule", expected, repr(rule))
    if (rule == "given") != (genes is not None) or isinstance(genes, str):
        raise _refused(
            "genes", "a list of genes goes with rule 'given'", f"{genes!r} with {rule!r}"
        )
    if (rule == "variable") != (n_top is not None) or (n_top is not None and n_top < 1):
        raise _refused(
            "n_top",
            "a number of genes, at least 1, goes with rule 'variable'",
            f"{n_top} with {rule!r}",
        )


def _vocabulary(
    slides: list[Slide],
    vocabulary: GeneVocabulary | Literal["source-keys"] | None,
    species: str | None,
) -> GeneVocabulary:
    if vocabulary is None:
        return GeneVocabulary.from_tables((slide.var for slide in slides), species=species)
    if vocabulary == "source-keys":
        return SOURCE_KEYS
    if not isinstance(vocabulary, GeneVocabulary):
        raise _refused(
            "vocabulary", "a GeneVocabulary or 'source-keys' is needed", repr(vocabulary)
        )
    return vocabulary


def _genes_of(slide: Slide, vocabulary: GeneVocabulary) -> _SlideGenes:
    keys = vocabulary.keys_of(slide.var, species=species_of(slide))
    columns, n_passed_over = first_columns(keys)
    return _SlideGenes(slide=slide, columns=columns, n_passed_over=n_passed_over)


def _shared(known: list[_SlideGenes]) -> tuple[str, ...]:
    first, *others = known
    keys = tuple(key for key in first.columns if all(key in each.columns for each in others))
    if not keys:
        raise _refused(
            "slides",
            "a gene must be measured in every slide",
            "none that is",
            "give a vocabulary, where some slides name genes by symbols and others by identifiers",
        )
    return keys


def _given(
    genes: Iterable[str], known: list[_SlideGenes], vocabulary: GeneVocabulary
) -> tuple[str, ...]:
    names: dict[str, str] = {}
    for each in known:
        var = each.slide.var
        for key, column in each.columns.items():
            names.setdefault(var.index[column], key)
    keys: list[str] = []
    unknown: list[str] = []
    for gene in genes:
        key = vocabulary.ids.get(gene, parse_ensembl(gene) or gene)
        if not any(key in each.columns for each in known):
            key = names.get(gene, "")
        meaning = " (which means several)" if gene in vocabulary.ambiguous else ""
        (keys if key else unknown).append(key or f"{gene}{meaning}")
    if unknown:
        shown = ", ".join(unknown[:_N_SHOWN])
        rest = f" and {len(unknown) - _N_SHOWN} more" if len(unknown) > _N_SHOWN else ""
        raise _refused("genes", "a gene must be measured in one slide", f"{shown}{rest} in none")
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated or not keys:
        found = f"several that mean {', '.join(repeated[:_N_SHOWN])}" if repeated else "none"
        raise _refused("genes", "a panel lists different genes", found)
    return tuple(keys)


def _variable(
    known: list[_SlideGenes],
    keys: tuple[str, ...],
    rule: VariableRule,
    rows: Mapping[str, NDArray[np.bool_]],
) -> tuple[str, ...]:
    sources = [
        CountSource(
            slide=each.slide,
            columns=np.array([each.columns[key] for key in keys], dtype=np.int64),
            rows=rows.get(each.slide.slide_id),
        )
        for each in known
    ]
    try:
        places = variable_genes(sources, keys, rule)
    except ValueError as error:
        raise _refused("slides", "counts must tell which genes vary", str(error)) from error
    return tuple(keys[place] for place in places)


def _refused(where: str, expected: str, found: str, remedy: str = "") -> GenePanelError:
    return GenePanelError(Problem(f"gene-panel.{where}", where, expected, found, remedy))
