"""The catalogue of a folder of slides: one Parquet file, one row a slide.

Specification: spec/decisions/0020; fingerprints: spec/decisions/0030.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from stformat.errors import CatalogueError, Problem
from stformat.metadata.stformat_v0_1 import StformatAttributes, TableAttributes, TermAttributes
from stformat.store.reader import Slide

__all__ = [
    "CATALOGUE_NAME",
    "COLUMNS",
    "FINGERPRINTS",
    "FINGERPRINT_VERSION",
    "Catalogue",
    "Column",
    "dump_catalogue",
    "parse_catalogue",
]

CATALOGUE_NAME = "catalogue.parquet"
CATALOGUE_VERSION = "0.1"

FINGERPRINT_VERSION = "2"
"""Fingerprints of different versions do not compare."""

_VERSION_KEY = b"stformat_catalogue"
_TEXTS = pa.list_(pa.string())
_HASHES = pa.list_(pa.uint64())


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a catalogue."""

    name: str
    """Name."""

    type: pa.DataType
    """Arrow type."""

    meaning: str
    """What it says, in one line."""

    value: Callable[[Slide], Any]
    """Returns the value of a slide; None where there is none."""


def _known(slide: Slide) -> StformatAttributes:
    return slide.metadata


def _default(slide: Slide) -> TableAttributes:
    known = slide.metadata
    (table,) = (each for each in known.tables if each.name == known.default_table)
    return table


def _json(value: Any) -> str:  # noqa: ANN401 - what a model dumps
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _dumped(values: Iterable[Any]) -> str:
    return _json([value.model_dump(mode="json") for value in values])


def _of_attribute(name: str, meaning: str, type_: pa.DataType | None = None) -> Column:
    return Column(
        name=name,
        type=pa.string() if type_ is None else type_,
        meaning=meaning,
        value=lambda slide: getattr(_known(slide), name),
    )


def _of_term(name: str) -> tuple[Column, Column]:
    def term(slide: Slide) -> TermAttributes | None:
        found: TermAttributes | None = getattr(_known(slide), f"{name}_term")
        return found

    def member(of: str) -> Callable[[Slide], str | None]:
        return lambda slide: None if term(slide) is None else getattr(term(slide), of)

    return (
        Column(
            name=f"{name}_term",
            type=pa.string(),
            meaning=f"preferred spelling of {name}",
            value=member("name"),
        ),
        Column(
            name=f"{name}_curie",
            type=pa.string(),
            meaning=f"identifier of {name} in an ontology",
            value=member("curie"),
        ),
    )


def _of_image(name: str, meaning: str, type_: pa.DataType | None = None) -> Column:
    def value(slide: Slide) -> Any:  # noqa: ANN401 - as the attribute has it
        image = _known(slide).image
        return None if image is None else getattr(image, name.removeprefix("image_"))

    return Column(
        name=name, type=pa.string() if type_ is None else type_, meaning=meaning, value=value
    )


def _of_pixels(
    name: str, meaning: str, type_: pa.DataType, value: Callable[[Slide], Any]
) -> Column:
    return Column(
        name=name,
        type=type_,
        meaning=meaning,
        value=lambda slide: value(slide) if slide.has_image else None,
    )


def _of_table(name: str, meaning: str, type_: pa.DataType | None = None) -> Column:
    return Column(
        name=name,
        type=pa.string() if type_ is None else type_,
        meaning=f"{meaning} of the default table",
        value=lambda slide: getattr(_default(slide), name),
    )


_STATED: tuple[Column, ...] = (
    _of_attribute("slide_id", "identifier of the slide"),
    _of_attribute("format_version", "version of the format of the store"),
    _of_attribute("technology", "ST, Visium, Visium HD"),
    _of_attribute("stain", "he or if"),
    _of_attribute("species", "species, as the source spells it"),
    *_of_term("species"),
    _of_attribute("tissue", "organ or tissue, as the source spells it"),
    *_of_term("tissue"),
    _of_attribute("disease", "disease, or healthy"),
    _of_attribute("involves_cancer", "whether the tissue holds cancer", pa.bool_()),
    _of_attribute("donor", "donor or patient, unique within the study"),
    _of_attribute("study", "study or data set"),
    _of_attribute("licence", "licence of the data"),
    _of_attribute("citation", "how to cite the data"),
    _of_attribute("pmid", "PubMed identifier of the paper"),
    _of_attribute("title", "title of the paper or data set"),
    _of_attribute("keywords", "key words, in the order of the study", _TEXTS),
)

_SCALE_AND_IMAGE: tuple[Column, ...] = (
    Column(
        name="mpp",
        type=pa.float64(),
        meaning="microns per full-resolution pixel",
        value=lambda slide: _known(slide).mpp.value,
    ),
    Column(
        name="mpp_method",
        type=pa.string(),
        meaning="where mpp comes from",
        value=lambda slide: _known(slide).mpp.method,
    ),
    Column(
        name="mpp_residual",
        type=pa.float64(),
        meaning="root mean square residual of the lattice fit over the pitch",
        value=lambda slide: _known(slide).mpp.residual,
    ),
    Column(
        name="has_image",
        type=pa.bool_(),
        meaning="whether there is an image",
        value=lambda slide: slide.has_image,
    ),
    _of_pixels("image_height", "px", pa.int64(), lambda slide: slide.levels[0].height),
    _of_pixels("image_width", "px", pa.int64(), lambda slide: slide.levels[0].width),
    _of_pixels("image_channels", "channels", pa.int64(), lambda slide: len(slide.channel_names)),
    _of_pixels("image_dtype", "type of a sample", pa.string(), lambda slide: slide.dtype.name),
    _of_pixels(
        "image_codec", "how pixels are stored", pa.string(), lambda slide: slide.levels[0].codec
    ),
    _of_image("image_element", "name of the image under images/"),
    _of_image("image_n_levels", "levels of the pyramid", pa.int64()),
    _of_image("image_background", "sample value outside the image", pa.int64()),
    _of_image("image_orientation", "orientation tag of the source file", pa.int64()),
    _of_image("image_source_codec", "compression of the source file"),
    _of_image("image_source", "name of the source file"),
)

_COUNTED: tuple[Column, ...] = (
    _of_attribute("default_table", "table that a reader binds when none is asked for"),
    _of_table("region", "shapes element"),
    _of_table("shape", "outline of a capture area"),
    _of_table("diameter_um", "diameter or side in microns of a capture area", pa.float64()),
    _of_table("pitch_um", "distance of neighbouring centres in microns", pa.float64()),
    _of_table("pitch_px", "distance of neighbouring centres in pixels", pa.float64()),
    _of_table("gene_key", "what the keys of genes are: gene_id or gene_name"),
    _of_table("n_obs", "rows", pa.int64()),
    _of_table("n_vars", "genes", pa.int64()),
    _of_table("nnz", "stored values", pa.int64()),
    _of_table("total", "sum of all values", pa.float64()),
    Column(
        name="section_names",
        type=_TEXTS,
        meaning="tissue sections, where a slide has several",
        value=lambda slide: [section.name for section in _known(slide).sections],
    ),
)

_WHOLE: tuple[Column, ...] = (
    Column(
        name="tables_json",
        type=pa.string(),
        meaning="every table, as in the root attribute",
        value=lambda slide: _dumped(_known(slide).tables),
    ),
    Column(
        name="sections_json",
        type=pa.string(),
        meaning="every section, as in the root attribute",
        value=lambda slide: _dumped(_known(slide).sections),
    ),
    Column(
        name="sources_json",
        type=pa.string(),
        meaning="every source file with size and digest",
        value=lambda slide: _dumped(_known(slide).sources),
    ),
    Column(
        name="notes_json",
        type=pa.string(),
        meaning="what a user should know about the conversion",
        value=lambda slide: _dumped(_known(slide).notes),
    ),
    Column(
        name="software_json",
        type=pa.string(),
        meaning="versions of what shaped the bytes",
        value=lambda slide: _json(_known(slide).software),
    ),
)

_IDENTITY: tuple[Column, ...] = (
    Column(
        name="manifest_sha256",
        type=pa.string(),
        meaning="digest of the manifest: two stores of one have the same files",
        value=lambda slide: slide.opened.store.commit.manifest_sha256,
    ),
    Column(
        name="root_sha256",
        type=pa.string(),
        meaning="digest of the root zarr.json that was committed",
        value=lambda slide: slide.opened.store.commit.root_sha256,
    ),
    Column(
        name="commit_crc32c",
        type=pa.string(),
        meaning="checksum of the commit record",
        value=lambda slide: slide.opened.store.commit.crc32c,
    ),
    Column(
        name="is_changed",
        type=pa.bool_(),
        meaning="whether another tool changed the store after it was committed",
        value=lambda slide: slide.opened.store.is_changed,
    ),
    Column(
        name="fingerprint_version",
        type=pa.string(),
        meaning="fingerprints of different versions do not compare",
        value=lambda _slide: FINGERPRINT_VERSION,
    ),
)

FINGERPRINTS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("fingerprint_rows", _HASHES, "smallest hashes of runs of the largest values of rows"),
    ("fingerprint_genes", _HASHES, "the largest totals of genes"),
    ("fingerprint_image", pa.binary(), "perceptual hash of the image, 32 bytes"),
)
"""Columns that are read only where slides are compared: name, type, meaning."""

COLUMNS: tuple[Column, ...] = (*_STATED, *_SCALE_AND_IMAGE, *_COUNTED, *_WHOLE, *_IDENTITY)
"""Columns that follow from a store's metadata; beside them are ``path``, the path of the store
below the folder with ``/``, and `FINGERPRINTS`."""

_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        *(pa.field(column.name, column.type) for column in COLUMNS),
        *(pa.field(name, type_) for name, type_, _ in FINGERPRINTS),
    ],
    metadata={_VERSION_KEY: CATALOGUE_VERSION.encode()},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Catalogue:
    """A catalogue that was read."""

    table: pa.Table
    """Every column but fingerprints, a row a slide, ascending by identifier and path."""

    data: bytes
    """The file."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def fingerprints(self) -> pa.Table:
        """Return the columns of fingerprints, read now."""
        names = [name for name, _, _ in FINGERPRINTS]
        return parquet.read_table(io.BytesIO(self.data), columns=names)

    def rows(self) -> list[dict[str, Any]]:
        """Return every row with every column."""
        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(self.data)).to_pylist()
        return rows


def dump_catalogue(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the Parquet file of rows.

    Parameters
    ----------
    rows : sequence of mapping
        From `slide_row`, in any order.

    Returns
    -------
    bytes
        The same for the same rows, by the same version of pyarrow.
    """
    ordered = sorted(rows, key=lambda row: (row["slide_id"], row["path"]))
    table = pa.Table.from_pylist([dict(row) for row in ordered], schema=_SCHEMA)
    out = io.BytesIO()
    parquet.write_table(table, out, compression="zstd", compression_level=3)
    return out.getvalue()


def parse_catalogue(data: bytes, where: str) -> Catalogue:
    """Read a catalogue.

    Parameters
    ----------
    data : bytes
        The Parquet file.
    where : str
        What to call it in messages.

    Raises
    ------
    CatalogueError
        If it is no catalogue, or one of another version.
    """
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"").decode()
        if version != CATALOGUE_VERSION:
            raise CatalogueError(
                Problem(
                    "catalogue.version",
                    where,
                    f"this version reads catalogues of version {CATALOGUE_VERSION}",
                    repr(version) if version else "a Parquet file that is none",
                    "make it anew with stformat collect",
                )
            )
        table = file.read(columns=["path", *(column.name for column in COLUMNS)])
    except (pa.ArrowException, OSError) as error:
        raise CatalogueError(
            Problem(
                "catalogue.damaged",
                where,
                "a catalogue is a Parquet file that stformat collect wrote",
                str(error).splitlines()[0],
                "make it anew with stformat collect",
            )
        ) from error
    missing = [name for name in _SCHEMA.names if name not in file.schema_arrow.names]
    if missing:
        raise CatalogueError(
            Problem(
                "catalogue.columns",
                where,
                f"a catalogue has the columns {', '.join(_SCHEMA.names)}",
                f"no {', '.join(missing)}",
                "make it anew with stformat collect",
            )
        )
    return Catalogue(table=table, data=data)
