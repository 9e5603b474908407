"""Slides like those of STimage-1K4M, made from a seed: ST, Visium and Visium HD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.digests import Digest
from stformat.model import Descriptors, Genes, Image, Mpp, SlideRecord, SourceFile, Spots, Table
from stformat.store.commit import replace_store
from stformat.store.image_codecs import IMAGE_CODECS
from stformat.store.writer import write_slide
from stformat.testing import make_slide
from stformat.testing.records import make_counts

__all__ = ["FULL", "PANEL", "SMALL", "TINY", "Corpus", "Kind", "Scale"]

N_VARS = 18_085
PANEL = tuple(f"G{number}" for number in range(0, N_VARS, 9))
"""2,010 genes that every slide has."""

_TISSUE_PX = 3000

type Kind = Literal["ST", "Visium", "Visium HD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    pitch_px: float
    radius_px: float
    pitch_um: float
    n_vars: int
    genes_of_row: int


_LAYOUTS: dict[Kind, _Layout] = {
    "ST": _Layout(pitch_px=300, radius_px=75, pitch_um=200, n_vars=12_060, genes_of_row=2000),
    "Visium": _Layout(pitch_px=200, radius_px=55, pitch_um=100, n_vars=N_VARS, genes_of_row=4000),
    "Visium HD": _Layout(pitch_px=16, radius_px=8, pitch_um=8, n_vars=N_VARS, genes_of_row=370),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Sizes of a corpus."""

    name: str
    """Name on the command line."""

    n_slides: dict[Kind, int]
    """Slides of each kind."""

    edge: dict[Kind, int]
    """Spots or bins along each side of a slide."""

    n_few: int
    """Rows that slow peers are given."""

    n_files: int
    """Rows of all slides that are written as files."""


SMALL = Scale(
    name="small",
    n_slides={"ST": 3, "Visium": 2, "Visium HD": 1},
    edge={"ST": 14, "Visium": 25, "Visium HD": 120},
    n_few=128,
    n_files=512,
)
FULL = Scale(
    name="full",
    n_slides={"ST": 30, "Visium": 18, "Visium HD": 5},
    edge={"ST": 18, "Visium": 60, "Visium HD": 300},
    n_few=512,
    n_files=4096,
)
TINY = Scale(
    name="tiny",
    n_slides={"ST": 1, "Visium": 1, "Visium HD": 1},
    edge={"ST": 4, "Visium": 5, "Visium HD": 20},
    n_few=16,
    n_files=64,
)


# No slots: what is made is kept.
@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """The slides, each made when it is first asked for."""

    scale: Scale
    """Sizes."""

    folder: Path
    """Where they are made, or found again."""

    @cached_property
    def paths(self) -> list[Path]:
        """Every slide."""
        return [path for kind in _LAYOUTS for path in self.paths_of(kind)]

    def paths_of(self, kind: Kind) -> list[Path]:
        """Return the slides of a kind."""
        return [self._made(kind, number) for number in range(self.scale.n_slides[kind])]

    @cached_property
    def fast_path(self) -> Path:
        """The first slide of Visium once more, its image under the codec that decodes fastest."""
        return self._made("Visium", 0, codec="blosc")

    def _made(self, kind: Kind, number: int, *, codec: str = "zstd") -> Path:
        ending = "zarr" if codec == "zstd" else f"{codec}.zarr"
        path = self.folder / f"{kind}-{number}.{ending}".replace(" ", "-")
        if not path.exists():
            with replace_store(path) as directory:
                write_slide(self._record(kind, number), directory, codec=IMAGE_CODECS[codec])
        return path

    @cached_property
    def _tissue(self) -> NDArray[np.uint8]:
        edge = _TISSUE_PX
        return make_slide(height=edge, width=edge, seed=0, n_genes=2).image

    def _image(self, edge_px: int, rng: np.random.Generator) -> Image:
        """Repeat the tissue, from another place for every slide."""
        tissue = np.roll(self._tissue, rng.integers(0, _TISSUE_PX, 2), axis=(1, 2))
        wide = np.tile(tissue, (1, 1, -(-edge_px // _TISSUE_PX)))[:, :, :edge_px]

        def iter_bands(height: int) -> Iterator[NDArray[np.uint8]]:
            for top in range(0, edge_px, height):
                rows = np.arange(top, min(top + height, edge_px)) % _TISSUE_PX
                yield np.ascontiguousarray(wide[:, rows])

        return Image(
            shape=(3, edge_px, edge_px),
            dtype=np.dtype(np.uint8),
            channel_names=("r", "g", "b"),
            background=255,
            iter_bands=iter_bands,
            codec="none",
            source=SourceFile(name="image.tif", size=3 * edge_px**2, digest=Digest.known("0" * 64)),
        )

    def _record(self, kind: Kind, number: int) -> SlideRecord:
        layout, edge = _LAYOUTS[kind], self.scale.edge[kind]
        rng = np.random.default_rng((list(_LAYOUTS).index(kind), number))
        row, col = np.divmod(np.arange(edge**2), edge)
        is_hd = kind == "Visium HD"
        name = "square_008um" if is_hd else "spots"
        spots = Spots(
            region=name,
            shape="square" if is_hd else "circle",
            barcodes=np.array([f"{r}x{c}" for r, c in zip(row, col, strict=True)], dtype=object),
            xy=np.column_stack([col + 1, row + 1]) * layout.pitch_px,
            radius_px=np.full(edge**2, layout.radius_px),
            array_row=row,
            array_col=col,
            in_tissue=np.full(edge**2, fill_value=True),
            pitch_px=layout.pitch_px,
            pitch_um=layout.pitch_um,
            diameter_um=2 * layout.radius_px * layout.pitch_um / layout.pitch_px,
        )
        # Slides of ST lack a third of the genes, but none of the panel.
        numbers = np.arange(N_VARS)
        if kind == "ST":
            numbers = numbers[numbers % 3 != 1]
        keys = np.array([f"G{gene}" for gene in numbers], dtype=object)
        nothing = np.full(len(keys), None, dtype=object)
        genes = Genes(
            keys=keys,
            key_kind="gene_name",
            gene_id=nothing,
            gene_name=keys,
            feature_type=np.full(len(keys), "Gene Expression", dtype=object),
            genome=nothing,
        )
        counts = make_counts(_counts(edge**2, len(keys), layout.genes_of_row, rng), block_rows=4096)
        table_name = "expression_square_008um" if is_hd else "expression"
        table = Table(name=table_name, spots=spots, genes=genes, counts=counts)
        return SlideRecord(
            slide_id=f"{kind}-{number}".replace(" ", "-"),
            descriptors=Descriptors(technology=kind),
            tables=(table,),
            default_table=table.name,
            image=self._image(int((edge + 1) * layout.pitch_px), rng),
            mpp=Mpp(value=layout.pitch_um / layout.pitch_px, method="given"),
            sources=(SourceFile(name="image.tif", size=1, digest=Digest.known("0" * 64)),),
        )


def _counts(
    n_obs: int, n_vars: int, genes_of_row: int, rng: np.random.Generator
) -> sparse.csr_array:
    """Draw how many genes a row has, which these are, and small counts."""
    lengths = np.minimum(rng.poisson(genes_of_row, n_obs), n_vars)
    # Genes as evenly apart as a random step makes them: sorted, different, drawn at once.
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    width = np.repeat(n_vars / np.maximum(lengths, 1), lengths)
    indices = np.floor((place + rng.random(len(place))) * width).astype(np.int64)
    indices = np.minimum(indices, n_vars - 1)
    data = rng.geometric(0.6, len(indices)).astype(np.int32)
    matrix = sparse.csr_array((data, indices.astype(np.int32), indptr), shape=(n_obs, n_vars))
    matrix.sum_duplicates()
    return matrix
