"""The root attribute ``stformat``, the manifest and the commit record of format 0.1.

Specification: spec/stformat-0.1.md, "Attributes" and "Integrity". The JSON Schemas under
spec/schemas are generated from these models; a test holds them equal.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "FORMAT_VERSION",
    "ArrayEntry",
    "Commit",
    "FileEntry",
    "ImageAttributes",
    "Manifest",
    "MppAttributes",
    "NoteAttributes",
    "SectionAttributes",
    "SourceAttributes",
    "StformatAttributes",
    "TableAttributes",
    "TermAttributes",
    "json_schemas",
]

FORMAT_VERSION: Final = "0.1"

_UNLISTED = frozenset({"stformat/manifest.json", "stformat/commit.json"})

type Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
type Crc32c = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]


def _is_no_json_file(name: str) -> str:
    # An element stands beside zarr.json, and below stformat/ beside manifest.json and commit.json.
    if name.lower().endswith(".json"):
        raise ValueError("the name of an element must not end in '.json'")
    return name


def _stays_inside(path: str) -> str:
    if any(part in {".", ".."} for part in path.split("/")):
        raise ValueError("a path must not contain the parts '.' or '..'")
    return path


type ElementName = Annotated[
    str,
    Field(
        pattern=r"^(_?[A-Za-z0-9-][A-Za-z0-9_.-]*|_)$",
        max_length=128,
        json_schema_extra={"not": {"pattern": r"\.[Jj][Ss][Oo][Nn]$"}},
    ),
    AfterValidator(_is_no_json_file),
]
type RelativePath = Annotated[
    str,
    Field(
        pattern=r"^[^/\\\x00-\x1f]+(/[^/\\\x00-\x1f]+)*$",
        max_length=1024,
        json_schema_extra={"not": {"pattern": r"(^|/)\.\.?(/|$)"}},
    ),
    AfterValidator(_stays_inside),
]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MppAttributes(_Document):
    """Microns per full-resolution pixel, and how it is known."""

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """Microns per pixel, or null where unknown."""

    method: Literal["given", "file", "lattice", "fiducial", "image-tags", "unknown"]
    """Where the value comes from."""

    residual: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Root mean square residual of the lattice fit over the pitch."""

    @model_validator(mode="after")
    def _unknown_has_no_value(self) -> Self:
        if (self.value is None) != (self.method == "unknown"):
            raise ValueError("mpp.value must be null exactly where mpp.method is 'unknown'")
        return self


class ImageAttributes(_Document):
    """The histology image."""

    element: ElementName
    """Name of the element under ``images/``."""

    n_levels: Annotated[int, Field(ge=1, le=32)]
    """Number of pyramid levels."""

    background: Annotated[int, Field(ge=0, le=65535)]
    """Sample value outside the image."""

    orientation: Annotated[int, Field(ge=1, le=8)]
    """Orientation tag of the source file; recorded, never applied."""

    source_codec: str
    """Compression of the source file."""

    source: str | None
    """Name of the source file."""


class TableAttributes(_Document):
    """One count matrix and the capture areas of its rows."""

    name: ElementName
    """Name of the element under ``tables/``."""

    region: ElementName
    """Name of the element under ``shapes/`` that the rows lie in."""

    shape: Literal["circle", "square", "polygon"]
    """Outline of a capture area."""

    diameter_um: Annotated[float, Field(gt=0)] | None
    """Diameter (circle) or side (square) in microns."""

    pitch_um: Annotated[float, Field(gt=0)] | None
    """Distance of neighbouring centres in microns."""

    pitch_px: Annotated[float, Field(gt=0)] | None
    """Distance of neighbouring centres in full-resolution pixels."""

    gene_key: Literal["gene_id", "gene_name"]
    """What the index of var holds."""

    n_obs: Annotated[int, Field(ge=0)]
    """Rows."""

    n_vars: Annotated[int, Field(ge=0)]
    """Columns."""

    nnz: Annotated[int, Field(ge=0)]
    """Stored values."""

    total: Annotated[float, Field(allow_inf_nan=False)]
    """Sum of all values; exact below 2**53."""


class SectionAttributes(_Document):
    """One tissue section of a slide that holds several."""

    name: str
    """Value of obs["section"]."""

    licence: str | None = None
    """Licence of this section's data, where it differs from the slide's."""

    citation: str | None = None
    """How to cite this section's data, where it differs from the slide's."""


class SourceAttributes(_Document):
    """A file that the slide was made from."""

    name: str
    """File name without directories."""

    size: Annotated[int, Field(ge=0)]
    """Bytes."""

    sha256: Sha256
    """Digest of the content."""


class TermAttributes(_Document):
    """What a spelling of the source means, by a table of terms."""

    name: Annotated[str, Field(min_length=1)]
    """Preferred spelling."""

    curie: Annotated[str, Field(pattern=r"^[A-Za-z]+:[0-9]+$")] | None
    """Identifier in an ontology, ``"UBERON:0000310"``."""

    table: Annotated[str, Field(min_length=1)]
    """Version of the table."""


class NoteAttributes(_Document):
    """Something about the conversion that a user should know."""

    code: str
    """Stable machine-readable kind."""

    message: str
    """One sentence for a person."""

    count: Annotated[int, Field(ge=0)]
    """Rows, genes or pixels concerned."""


class StformatAttributes(_Document):
    """The root attribute ``stformat``."""

    format_version: Literal["0.1"]
    """Version of the format."""

    slide_id: Annotated[str, Field(min_length=1, max_length=256)]
    """Identifier of the slide."""

    technology: Annotated[str, Field(min_length=1)]
    """``"ST"``, ``"Visium"``, ``"Visium HD"``."""

    stain: Literal["he", "if"]
    """Brightfield haematoxylin and eosin, or immunofluorescence."""

    species: str | None
    """Species."""

    tissue: str | None
    """Organ or tissue."""

    disease: str | None
    """Disease, or ``"healthy"``."""

    species_term: TermAttributes | None = None
    """What `species` means."""

    tissue_term: TermAttributes | None = None
    """What `tissue` means."""

    involves_cancer: bool | None = None
    """Whether the tissue holds cancer, as the study says."""

    donor: str | None
    """Donor or patient."""

    study: str | None
    """Study or data set."""

    licence: str | None
    """Licence of the data."""

    citation: str | None
    """How to cite the data."""

    pmid: Annotated[str, Field(pattern=r"^[0-9]+$")] | None = None
    """PubMed identifier of the paper."""

    title: str | None = None
    """Title of the paper or the data set."""

    keywords: tuple[str, ...] = ()
    """Key words, in the order of the study."""

    sections: tuple[SectionAttributes, ...]
    """Tissue sections, where there are several; else empty."""

    mpp: MppAttributes
    """Microns per full-resolution pixel."""

    image: ImageAttributes | None
    """The image, or null."""

    # pydantic's own min_length would count only the tables that are valid.
    tables: Annotated[tuple[TableAttributes, ...], Field(json_schema_extra={"minItems": 1})]
    """Every table that stformat wrote."""

    default_table: ElementName
    """The table that a reader binds when none is asked for."""

    sources: tuple[SourceAttributes, ...]
    """Every file the slide was made from, by name."""

    notes: tuple[NoteAttributes, ...]
    """What a user should know about the conversion."""

    software: dict[str, str]
    """Version of stformat and of each library that shaped the bytes."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if not self.tables:
            raise ValueError("tables must not be empty")
        tables = [table.name for table in self.tables]
        if self.default_table not in tables:
            raise ValueError("default_table must be the name of one of the tables")
        # Several tables may share a region; any other two elements may not share a name.
        images = [] if self.image is None else [self.image.element]
        names = [*images, *{table.region for table in self.tables}, *tables]
        if len({name.lower() for name in names}) != len(names):
            raise ValueError("names of elements must be unique over all types, ignoring case")
        files = {source.name for source in self.sources}
        if self.image is not None and self.image.source not in {None, *files}:
            raise ValueError("image.source must be the name of one of the sources")
        return self


class FileEntry(_Document):
    """One file of a store."""

    path: RelativePath
    """Path from the root of the store, with ``/``."""

    size: Annotated[int, Field(ge=0)]
    """Bytes."""

    crc32c: Crc32c
    """CRC-32C of the content, lower-case hexadecimal."""


class ArrayEntry(_Document):
    """One array of a store: what must stay as it was when another tool edits the store."""

    path: RelativePath
    """Path of the array from the root of the store."""

    shape: tuple[Annotated[int, Field(ge=0)], ...]
    """Shape."""

    data_type: str
    """Zarr data type."""

    metadata_crc32c: Crc32c
    """CRC-32C of the canonical JSON of shape, data_type, chunk_grid, chunk_key_encoding,
    fill_value and codecs of the array's zarr.json."""


class Manifest(_Document):
    """``stformat/manifest.json``: every file of a store but the manifest and the commit."""

    format_version: Literal["0.1"]
    """Version of the format."""

    files: tuple[FileEntry, ...]
    """Every file, ascending by path."""

    arrays: tuple[ArrayEntry, ...]
    """Every array, ascending by path."""

    @model_validator(mode="after")
    def _paths_ascend(self) -> Self:
        for entries in (self.files, self.arrays):
            paths = [entry.path.encode() for entry in entries]
            if any(first >= second for first, second in pairwise(paths)):
                raise ValueError("paths must ascend and must not repeat")
        if not {entry.path for entry in self.files}.isdisjoint(_UNLISTED):
            raise ValueError("a manifest must not list itself or the commit record")
        return self


class Commit(_Document):
    """``stformat/commit.json``: the last file written; without it there is no store."""

    format_version: Literal["0.1"]
    """Version of the format."""

    manifest_sha256: Sha256
    """Digest of manifest.json."""

    root_sha256: Sha256
    """Digest of the root zarr.json."""

    crc32c: Crc32c
    """CRC-32C of the canonical JSON of the other members: damage to this record itself is seen."""


def json_schemas() -> dict[str, dict[str, object]]:
    """Return the JSON Schema of each document, by the stem of its file under spec/schemas."""
    models: dict[str, type[_Document]] = {
        "stformat-attributes": StformatAttributes,
        "manifest": Manifest,
        "commit": Commit,
    }
    return {
        stem: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(),
        }
        for stem, model in models.items()
    }
