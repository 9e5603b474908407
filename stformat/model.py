"""One slide in memory, between any source and any store: frozen dataclasses, no I/O, no JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.digests import Digest

__all__ = [
    "Counts",
    "Descriptors",
    "Genes",
    "Image",
    "JpegTiles",
    "Mpp",
    "MppMethod",
    "Note",
    "OutlineBatch",
    "OutlineColumn",
    "Outlines",
    "Progress",
    "ProgressEvent",
    "SlideRecord",
    "SourceFile",
    "Spots",
    "Table",
    "silent",
]

type MppMethod = Literal["given", "file", "lattice", "fiducial", "image-tags", "unknown"]
type OutlineColumn = Literal["text", "integer", "number", "flag"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """A step of a conversion began or went on."""

    step: str
    """Name of the step; stable, so that tests can interrupt a conversion at each."""

    done: int = 0
    """Units of work done so far in this step; 0 announces that the step begins."""

    total: int = 0
    """Units of work of the whole step, or 0 where the step is one act."""

    unit: str = ""
    """What is counted: ``"rows"``, ``"px rows"``, ``"files"``."""


class Progress(Protocol):
    """Whatever wants to know how far a conversion is."""

    def __call__(self, event: ProgressEvent, /) -> None:
        """Take note of `event`; an exception raised here aborts the conversion cleanly."""


def silent(event: ProgressEvent, /) -> None:
    """Ignore the progress of a conversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that a slide was made from."""

    name: str
    """File name without its directory: a store holds no path of the machine that wrote it."""

    size: int
    """Size in bytes."""

    digest: Digest
    """Digest of the content, which for a large file is worked out when it is needed."""

    @property
    def sha256(self) -> str:
        """Digest of the content, lower-case hexadecimal; reads the file if nobody has."""
        return self.digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something about a conversion that a user of the slide should know."""

    code: str
    """Stable machine-readable kind, such as ``"spots.without-counts"``."""

    message: str
    """One sentence for a person."""

    count: int = 1
    """How many rows, genes or pixels are concerned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mpp:
    """Microns per full-resolution pixel, and how it is known."""

    value: float | None = None
    """Microns per pixel, or None where unknown."""

    method: MppMethod = "unknown"
    """Where the value comes from."""

    residual: float | None = None
    """Root mean square residual of the lattice fit over the pitch, where a lattice was fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegTiles:
    """The tiles of a source that holds its image as JPEG, undecoded."""

    edge_px: int
    """Rows and columns of a tile; the first one has the image's first pixel as its first."""

    read: Callable[[int, int], bytes | None]
    """``read(row, column)`` returns a tile as a whole JPEG stream, tables included, which decodes
    to the pixels of the image: one sequential scan of `edge_px` x `edge_px` pixels, whatever the
    image overhangs. None where the source has no such stream for this tile. Safe for threads.
    Raises ImageError if the file turns out to be broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A source image, read top to bottom in bands of rows, never as a whole."""

    shape: tuple[int, int, int]
    """Channels, height and width of level 0: axes ``('c', 'y', 'x')``."""

    dtype: np.dtype[np.uint8] | np.dtype[np.uint16]
    """Type of a sample."""

    channel_names: tuple[str, ...]
    """One name a channel; ``("r", "g", "b")`` for brightfield."""

    background: int
    """Sample value outside the image: white for brightfield; for fluorescence 0, or the offset of
    samples that were signed."""

    iter_bands: Callable[[int], Iterator[NDArray[np.unsignedinteger]]]
    """``iter_bands(height)`` yields C-contiguous ``(c, height, x)`` arrays from the top, the last
    one with what rows remain. Each source pixel is decoded once a call. A consumer may keep a band
    only until it asks for the next. Raises ImageError if the file turns out to be broken."""

    codec: str
    """Compression of the source: ``"jpeg"``, ``"png"``, ``"tiff/none"``, ``"tiff/deflate"``."""

    orientation: int = 1
    """Orientation tag of the source (EXIF values 1 to 8). Pixels are taken as stored in the file;
    the tag is recorded and never applied."""

    tag_mpp: float | None = None
    """Microns per pixel as the image's own tags claim it, if they do."""

    source: SourceFile | None = None
    """The file the image is read from."""

    notes: tuple[Note, ...] = ()
    """What a user of the image should know: ``"image.alpha-dropped"``."""

    jpeg_tiles: JpegTiles | None = None
    """The tiles that `iter_bands` decodes, where a store can keep them as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spots:
    """Capture areas of one table, in the order of the source."""

    region: str
    """Name of the shapes element: ``"spots"``, ``"square_008um"``."""

    shape: Literal["circle", "square", "polygon"]
    """Outline of a capture area; polygons are cells, and each has its own."""

    barcodes: NDArray[np.object_] | NDArray[np.bytes_]
    """(n_obs,) str, or UTF-8 of fixed width where rows are too many for an object each; unique: the
    source's own identifiers."""

    xy: NDArray[np.float64]
    """(n_obs, 2) centres in full-resolution pixels, columns ``(x, y)``, finite; may lie outside
    the image."""

    radius_px: NDArray[np.float64]
    """(n_obs,) radius of the circle, half the side of the square, or for a polygon the radius of
    the circle that is as large, in full-resolution pixels."""

    array_row: NDArray[np.int32] | NDArray[np.int64]
    """(n_obs,) row on the capture array; -1 for cells, which have none."""

    array_col: NDArray[np.int32] | NDArray[np.int64]
    """(n_obs,) column on the capture array; -1 for cells."""

    in_tissue: NDArray[np.bool_]
    """(n_obs,) True where the source says that tissue covers the spot."""

    section: NDArray[np.object_] | None = None
    """(n_obs,) name of the tissue section, where a slide has several."""

    pitch_px: float | None = None
    """Distance of neighbouring centres in full-resolution pixels, as fitted."""

    pitch_um: float | None = None
    """Distance of neighbouring centres on the capture array in microns, where known."""

    diameter_um: float | None = None
    """Diameter (circle) or side (square) of a capture area in microns, where known."""

    outlines: NDArray[np.object_] | None = None
    """(n_obs,) bytes: the polygons as WKB, in full-resolution pixels, where `shape` says so."""

    annotations: Mapping[str, NDArray[np.object_]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Column name to (n_obs,) of str or None: labels given by a pathologist."""

    @property
    def n_obs(self) -> int:
        """Number of capture areas."""
        return len(self.barcodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genes:
    """Columns of a count matrix, in the order of the source."""

    keys: NDArray[np.object_]
    """(n_vars,) str, unique: the source's own key, suffixed only where it repeats."""

    key_kind: Literal["gene_id", "gene_name"]
    """What the keys are."""

    gene_id: NDArray[np.object_]
    """(n_vars,) Ensembl identifier without version, or None."""

    gene_name: NDArray[np.object_]
    """(n_vars,) symbol as the source spells it, or None."""

    feature_type: NDArray[np.object_]
    """(n_vars,) ``"Gene Expression"``, ``"Antibody Capture"``, ..."""

    genome: NDArray[np.object_]
    """(n_vars,) reference genome, or None."""

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return len(self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A count matrix, read in blocks of whole rows."""

    shape: tuple[int, int]
    """``(n_obs, n_vars)``."""

    dtype: np.dtype[np.int32] | np.dtype[np.float32]
    """int32 for counts; float32 only where a source holds values that are no integers."""

    iter_blocks: Callable[[], Iterator[sparse.csr_array]]
    """Yields csr_array blocks that stack to the matrix: column indices ascending in a row, no
    explicit zeros, no duplicates. May be called more than once."""

    nnz: int | None = None
    """Stored values, at most; None where it is not known before they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One count matrix with its rows' places and its columns' genes."""

    name: str
    """Name of the table element: ``"expression"``, ``"expression_square_008um"``."""

    spots: Spots
    """Rows."""

    genes: Genes
    """Columns."""

    counts: Counts
    """Values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineBatch:
    """Some polygons of a set of outlines."""

    geometry: NDArray[np.object_]
    """(n,) shapely Polygon or MultiPolygon in full-resolution pixels, none of them empty."""

    columns: Mapping[str, NDArray[Any]]
    """Every column of the set by name: (n,) of str or None, int64, float64 or bool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """Polygons that are no capture areas: tissue, cells, what people drew."""

    name: str
    """Name of the shapes element: ``"tissue"``, ``"cells"``."""

    columns: Mapping[str, OutlineColumn]
    """Name of a column to its type."""

    iter_batches: Callable[[], Iterator[OutlineBatch]]
    """Yields at least one polygon, in batches. May be called more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """What is known of a slide beyond its pixels and counts; None where it is not."""

    technology: str
    """``"ST"``, ``"Visium"``, ``"Visium HD"``."""

    stain: Literal["he", "if"] = "he"
    """Brightfield haematoxylin and eosin, or immunofluorescence."""

    species: str | None = None
    """Species, as the study names it."""

    tissue: str | None = None
    """Organ or tissue."""

    disease: str | None = None
    """Disease, or ``"healthy"``."""

    involves_cancer: bool | None = None
    """Whether the tissue holds cancer, as the study says."""

    donor: str | None = None
    """Donor or patient, unique within the study."""

    study: str | None = None
    """Study or data set."""

    licence: str | None = None
    """Licence of the data."""

    citation: str | None = None
    """How to cite the data."""

    pmid: str | None = None
    """PubMed identifier of the paper, digits only."""

    title: str | None = None
    """Title of the paper or the data set."""

    keywords: tuple[str, ...] = ()
    """Key words, in the order of the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideRecord:
    """All of one slide: what every source produces and the store writer consumes."""

    slide_id: str
    """Identifier of the slide."""

    descriptors: Descriptors
    """Study, tissue, technology."""

    tables: tuple[Table, ...]
    """At least one table; names are unique."""

    default_table: str
    """Name of the table that `open_slide` binds when none is asked for."""

    image: Image | None
    """The histology image, or None."""

    mpp: Mpp
    """Microns per full-resolution pixel."""

    sources: tuple[SourceFile, ...]
    """Every file read, in the order of their names."""

    notes: tuple[Note, ...] = ()
    """What a user should know about the conversion."""

    outlines: tuple[Outlines, ...] = ()
    """Shapes elements that are no regions of tables."""
