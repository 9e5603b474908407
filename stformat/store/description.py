"""A record's description as the root attribute ``stformat``.

Specification: spec/stformat-0.1.md, "Attributes".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from stformat.metadata.stformat_v0_1 import (
    FORMAT_VERSION,
    ImageAttributes,
    MppAttributes,
    NoteAttributes,
    SectionAttributes,
    SourceAttributes,
    StformatAttributes,
    TableAttributes,
    TermAttributes,
)
from stformat.model import Image, SlideRecord, Table
from stformat.store import layout
from stformat.terms import TERMS_VERSION, Term, species_term, tissue_term

__all__ = ["describe_ahead", "describe_slide"]

_SOFTWARE = (
    "stformat",
    "numpy",
    "zarr",
    "numcodecs",
    "imagecodecs",  # decodes the pixels of the source
    "anndata",
    "geopandas",
    "pyarrow",
)


_UNREAD = "0" * 64


def describe_ahead(record: SlideRecord) -> StformatAttributes:
    """Return the root attribute of a slide as far as it is known before its sources are read.

    Parameters
    ----------
    record : SlideRecord
        The slide.

    Returns
    -------
    StformatAttributes
        The attribute with sums of 0, and zeros for digests that are not known yet.

    Raises
    ------
    pydantic.ValidationError
        If the record says what the format does not allow.
    """
    return _describe(
        record,
        {},
        [source.sha256 if source.digest.is_known else _UNREAD for source in record.sources],
    )


def describe_slide(
    record: SlideRecord, sums: Mapping[str, tuple[int, float]]
) -> StformatAttributes:
    """Return the root attribute of a slide.

    Parameters
    ----------
    record : SlideRecord
        The slide; nothing is read from its image or counts, but for digests nobody asked for yet.
    sums : mapping
        Name of a table to its number of stored values and their sum.

    Returns
    -------
    StformatAttributes
        The attribute.

    Raises
    ------
    pydantic.ValidationError
        If the record says what the format does not allow.
    """
    return _describe(record, sums, [source.sha256 for source in record.sources])


def _describe(
    record: SlideRecord, sums: Mapping[str, tuple[int, float]], digests: Sequence[str]
) -> StformatAttributes:
    about = record.descriptors
    return StformatAttributes(
        format_version=FORMAT_VERSION,
        slide_id=record.slide_id,
        technology=about.technology,
        stain=about.stain,
        species=about.species,
        tissue=about.tissue,
        disease=about.disease,
        species_term=_describe_term(about.species, species_term),
        tissue_term=_describe_term(about.tissue, tissue_term),
        involves_cancer=about.involves_cancer,
        donor=about.donor,
        study=about.study,
        licence=about.licence,
        citation=about.citation,
        pmid=about.pmid,
        title=about.title,
        keywords=about.keywords,
        sections=tuple(SectionAttributes(name=name) for name in _section_names(record)),
        mpp=MppAttributes(
            value=record.mpp.value, method=record.mpp.method, residual=record.mpp.residual
        ),
        image=None if record.image is None else _describe_image(record.image),
        tables=tuple(
            _describe_table(table, *sums.get(table.name, (0, 0.0))) for table in record.tables
        ),
        default_table=record.default_table,
        sources=tuple(
            SourceAttributes(name=source.name, size=source.size, sha256=digest)
            for source, digest in sorted(
                zip(record.sources, digests, strict=True), key=lambda pair: pair[0].name
            )
        ),
        notes=tuple(
            NoteAttributes(code=note.code, message=note.message, count=note.count)
            for note in record.notes
        ),
        software={name: version(name) for name in _SOFTWARE},
    )


def _describe_term(
    text: str | None, meaning: Callable[[str], Term | None]
) -> TermAttributes | None:
    term = None if text is None else meaning(text)
    if term is None:
        return None
    return TermAttributes(name=term.name, curie=term.curie, table=TERMS_VERSION)


def _describe_image(image: Image) -> ImageAttributes:
    _, height, width = image.shape
    return ImageAttributes(
        element=layout.IMAGE_ELEMENT,
        n_levels=len(layout.level_shapes(height, width)),
        background=image.background,
        orientation=image.orientation,
        source_codec=image.codec,
        source=None if image.source is None else image.source.name,
    )


def _describe_table(table: Table, nnz: int, total: float) -> TableAttributes:
    spots, genes = table.spots, table.genes
    return TableAttributes(
        name=table.name,
        region=spots.region,
        shape=spots.shape,
        diameter_um=spots.diameter_um,
        pitch_um=spots.pitch_um,
        pitch_px=spots.pitch_px,
        gene_key=genes.key_kind,
        n_obs=spots.n_obs,
        n_vars=genes.n_vars,
        nnz=nnz,
        total=total,
    )


def _section_names(record: SlideRecord) -> list[str]:
    labels = (
        label
        for table in record.tables
        if table.spots.section is not None
        for label in table.spots.section.tolist()
    )
    return sorted({label for label in labels if label is not None})
