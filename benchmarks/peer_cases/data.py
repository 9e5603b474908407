"""The slides and matrices that are measured, from a seed: files are made once a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import sparse

import stformat as stf
from stformat.kernels._pool import map_chunks
from stformat.model import Counts, Descriptors, Genes, Mpp, SlideRecord, Spots, Table
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing import SyntheticSlide, VisiumQuirks, make_slide, write_visium

__all__ = ["FULL", "N_VARS", "SMALL", "TINY", "Data", "Scale", "TableSize"]

N_VARS = 18_085
_SEED = 0
_TIFF_TILE_PX = 256
_BAND_PX = 1024
_JPEG_QUALITY = 85
_STRIP_ROWS = 100
_PITCH_PX = 250.0
# Tiles of 448 px lie wholly on the image: peers differ in what is outside.
_MARGIN_PX = 300
_BIN_PX = 20.0
_ROWS_AT_ONCE = 2048
# Probability of a gene is lognormal; molecules of a row are lognormal about their median.
_GENE_SPREAD = {"visium": 1.6, "hd": 1.9}
_MEDIAN_TOTAL = {"visium": 12_350, "hd": 400}
_TOTAL_SPREAD = 0.5


type TableSize = Literal["small", "middle", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the data are."""

    name: str
    """Name on the command line."""

    image_px: int
    """Edge of the slide that tiles are cut from."""

    conversion_px: int
    """Edge of the images that are converted."""

    large_height: int
    """Height of the large one among them."""

    large_width: int
    """Width of the large one."""

    n_spots: int
    """Rows of the matrix like Visium's."""

    n_bins: int
    """Rows of the matrix like Visium HD's."""

    small: int
    """Rows of the smallest of three stores of such counts."""

    middle: int
    """Rows of the one between."""

    large: int
    """Rows of the largest."""

    n_few: int
    """Tiles, or batches, that slow peers are given."""

    n_some: int
    """Tiles that peers of middling speed are given."""


FULL = Scale(
    name="full",
    image_px=20_000,
    conversion_px=20_000,
    large_height=46_371,
    large_width=36_587,
    n_spots=4992,
    n_bins=300_000,
    small=5000,
    middle=100_000,
    large=500_000,
    n_few=60,
    n_some=300,
)
SMALL = Scale(
    name="small",
    image_px=5000,
    conversion_px=3000,
    large_height=6000,
    large_width=5000,
    n_spots=400,
    n_bins=20_000,
    small=1000,
    middle=5000,
    large=20_000,
    n_few=12,
    n_some=100,
)
TINY = Scale(
    name="tiny",
    image_px=1400,
    conversion_px=1100,
    large_height=1300,
    large_width=1200,
    n_spots=60,
    n_bins=600,
    small=300,
    middle=400,
    large=600,
    n_few=3,
    n_some=6,
)


# No slots: what is made is kept.
@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """All that is measured; each part is made when it is first asked for."""

    scale: Scale
    """Sizes."""

    folder: Path
    """Where files are made, or found again."""

    @cached_property
    def synthetic(self) -> SyntheticSlide:
        """The Visium slide: 224 px tiles at a pitch of 250 px."""
        return _slide(self.scale.image_px)

    @cached_property
    def tiff(self) -> Path:
        """The slide's image: JPEG of quality 85 with halved colour, in TIFF tiles of 256 px."""
        slide = self.synthetic
        return self._made(
            "slide.tif",
            lambda path: _write_jpeg_tiff(slide.iter_bands(_BAND_PX), slide.height, path),
        )

    @cached_property
    def store(self) -> Path:
        """The slide, converted."""
        source = self._made("visium", lambda path: _write_spots(self.synthetic, path))
        return self._made(
            "slide.zarr", lambda path: stf.convert_slide(source, path, image=self.tiff)
        )

    @cached_property
    def centers_px(self) -> NDArray[np.float64]:
        """(n, 2) centres of the spots in the order of the store, columns ``(x, y)``."""
        with stf.open_slide(self.store) as slide:
            return slide.centers_px(slice(None))

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(3, y, x) pixels of the slide, in memory."""
        edge = self.scale.image_px
        with stf.open_slide(self.store) as slide:
            return slide.read_region(0, 0, 0, edge, edge)

    @cached_property
    def spatialdata_store(self) -> Path:
        """The slide as SpatialData writes it, in chunks of 512 px."""
        return self._made("spatialdata.zarr", self._write_spatialdata)

    @cached_property
    def visium(self) -> sparse.csr_array:
        """(n_spots, 18085) float32 counts like Visium's: 5,200 genes a row."""
        return _draw_matrix("visium", self.scale.n_spots)

    @cached_property
    def hd(self) -> sparse.csr_array:
        """(n_bins, 18085) float32 counts like Visium HD's: 370 genes a row."""
        return _draw_matrix("hd", self.scale.n_bins)

    def table_store(self, size: TableSize) -> Path:
        """Return a store of counts like Visium HD's, without an image."""
        n_obs = getattr(self.scale, size)

        def write(path: Path) -> None:
            with replace_store(path) as directory:
                write_slide(_hd_record(n_obs), directory)

        return self._made(f"table-{n_obs}.zarr", write)

    @cached_property
    def spots_to_convert(self) -> Path:
        """Spots beside the images that are converted: as few as a slide may have."""
        slide = _slide(self.scale.conversion_px)
        return self._made(
            f"visium-{self.scale.conversion_px}", lambda path: _write_spots(slide, path)
        )

    @cached_property
    def images_to_convert(self) -> dict[str, Path]:
        """One image as three files, and a large one."""
        slide = _slide(self.scale.conversion_px)
        large_px = self.scale.large_height, self.scale.large_width
        return {
            "JPEG in tiles": self._made(
                f"jpeg-{self.scale.conversion_px}.tif",
                lambda path: _write_jpeg_tiff([slide.image], slide.height, path),
            ),
            "deflate in strips": self._made(
                f"deflate-{self.scale.conversion_px}.tif", lambda path: _deflate(slide, path)
            ),
            "uncompressed": self._made(
                f"raw-{self.scale.conversion_px}.tif", lambda path: _uncompressed(slide, path)
            ),
            "uncompressed, large": self._made(
                f"raw-{large_px[0]}.tif", lambda path: _large(large_px, path)
            ),
        }

    @cached_property
    def first_to_convert(self) -> tuple[Path, Path]:
        """Spots and image of a small slide, to be converted before a clock starts."""
        slide = _slide(TINY.conversion_px)
        spots = self._made("visium-first", lambda path: _write_spots(slide, path))
        image = self._made(
            "first.tif", lambda path: _write_jpeg_tiff([slide.image], slide.height, path)
        )
        return spots, image

    def _made(self, name: str, write: Callable[[Path], object]) -> Path:
        """Return a file of the folder, which is made under another name where it is missing."""
        path = self.folder / name
        if not path.exists():
            unfinished = self.folder / f"unfinished-{name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            write(unfinished)
            unfinished.rename(path)
        return path

    def _write_spatialdata(self, path: Path) -> None:
        import spatialdata
        from spatialdata.models import Image2DModel

        ours = spatialdata.read_zarr(self.store)
        image = Image2DModel.parse(
            self.pixels, dims=("c", "y", "x"), chunks=(3, 512, 512), scale_factors=[2, 2, 2, 2]
        )
        parts = {"he": image, "spots": ours.shapes["spots"], "expression": ours["expression"]}
        spatialdata.SpatialData.init_from_elements(parts).write(path)


def _slide(edge_px: int) -> SyntheticSlide:
    return make_slide(
        height=edge_px,
        width=edge_px,
        seed=_SEED,
        n_genes=50,
        pitch_px=_PITCH_PX,
        rotation_deg=0.0,
        jitter=0.0,
        array_shape=_array_shape(edge_px),
        lattice="hexagonal",
    )


def _array_shape(edge_px: int) -> tuple[int, int]:
    """Return rows and columns of spots that lie well inside an image, at most those of Visium."""
    inside = edge_px - 2 * _MARGIN_PX
    return min(78, int(inside / (_PITCH_PX * 3**0.5 / 2))), min(64, int(inside / _PITCH_PX))


def _write_spots(slide: SyntheticSlide, folder: Path) -> None:
    # Rounded centres, as Space Ranger wrote them until version 3, are cut alike by every peer.
    quirks = VisiumQuirks(content="raw", images="none", is_rounded=True)
    write_visium(slide, folder, quirks=quirks)


# ---- images --------------------------------------------------------------------------------------


def _write_jpeg_tiff(bands: Iterable[NDArray[np.uint8]], edge_px: int, path: Path) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            _jpeg_tiles(bands),
            shape=(edge_px, edge_px, 3),
            dtype=np.uint8,
            tile=(_TIFF_TILE_PX, _TIFF_TILE_PX),
            photometric="ycbcr",
            compression="jpeg",
            subsampling=(2, 2),
        )


def _jpeg_tiles(bands: Iterable[NDArray[np.uint8]]) -> Iterator[bytes]:
    """Yield encoded tiles row by row; those at the edge repeat the last pixels."""
    edge = _TIFF_TILE_PX
    for band in bands:
        missing = [(0, -size % edge) for size in band.shape[1:]]
        pixels = np.pad(band.transpose(1, 2, 0), (*missing, (0, 0)), mode="edge")
        corners = np.ndindex(pixels.shape[0] // edge, pixels.shape[1] // edge)
        tiles = [
            pixels[row * edge : (row + 1) * edge, col * edge : (col + 1) * edge]
            for row, col in corners
        ]
        yield from map_chunks(_encode_jpeg, tiles)


def _encode_jpeg(tile: NDArray[np.uint8]) -> bytes:
    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile), level=_JPEG_QUALITY, subsampling="420"
    )


def _interleaved(slide: SyntheticSlide) -> NDArray[np.uint8]:
    return np.ascontiguousarray(slide.image.transpose(1, 2, 0))


def _deflate(slide: SyntheticSlide, path: Path) -> None:
    tifffile.imwrite(
        path,
        _interleaved(slide),
        bigtiff=True,
        photometric="rgb",
        rowsperstrip=64,
        compression="zlib",
        compressionargs={"level": 3},
        predictor=True,
    )


def _uncompressed(slide: SyntheticSlide, path: Path) -> None:
    tifffile.imwrite(path, _interleaved(slide), bigtiff=True, photometric="rgb", rowsperstrip=16)


def _large(shape: tuple[int, int], path: Path) -> None:
    """Write one strip again and again: an image of any size from little memory."""
    height, width = shape
    ramp = (np.arange(width) // 120 % 256).astype(np.uint8)
    strip = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (_STRIP_ROWS, width, 3)))
    tifffile.imwrite(
        path,
        (strip[: height - top] for top in range(0, height, _STRIP_ROWS)),
        shape=(height, width, 3),
        dtype=np.uint8,
        bigtiff=True,
        photometric="rgb",
        rowsperstrip=_STRIP_ROWS,
    )


# ---- counts --------------------------------------------------------------------------------------


def _draw_matrix(kind: str, n_obs: int) -> sparse.csr_array:
    """Draw the molecules of each row one by one, and count them."""
    return sparse.vstack(map_chunks(lambda draw: draw(), _draws(kind, n_obs)), format="csr")


def _draws(kind: str, n_obs: int) -> list[Callable[[], sparse.csr_array]]:
    """Return what draws each block of rows."""
    rng = np.random.default_rng(_SEED)
    share = rng.lognormal(0.0, _GENE_SPREAD[kind], N_VARS)
    up_to = np.cumsum(share / share.sum())
    totals = np.exp(rng.normal(np.log(_MEDIAN_TOTAL[kind]), _TOTAL_SPREAD, n_obs)).astype(int)
    # A block holds about as many molecules whatever the kind of matrix.
    step = max(1, _ROWS_AT_ONCE * _MEDIAN_TOTAL["hd"] // _MEDIAN_TOTAL[kind])

    def draw(start: int) -> sparse.csr_array:
        rng = np.random.default_rng((_SEED, start))
        return _draw_rows(rng, up_to, totals[start : start + step])

    return [partial(draw, start) for start in range(0, n_obs, step)]


def _draw_rows(
    rng: np.random.Generator, up_to: NDArray[np.float64], totals: NDArray[np.int64]
) -> sparse.csr_array:
    row = np.repeat(np.arange(len(totals)), totals)
    gene = np.searchsorted(up_to, rng.random(len(row), dtype=np.float32) * up_to[-1])
    seen, count = np.unique(row * N_VARS + np.minimum(gene, N_VARS - 1), return_counts=True)
    row, gene = np.divmod(seen, N_VARS)
    indptr = np.searchsorted(row, np.arange(len(totals) + 1))
    return sparse.csr_array(
        (count.astype(np.float32), gene.astype(np.int32), indptr.astype(np.int32)),
        shape=(len(totals), N_VARS),
    )


def _hd_record(n_obs: int) -> SlideRecord:
    edge = int(np.ceil(np.sqrt(n_obs)))
    row, col = np.divmod(np.arange(n_obs), edge)
    keys = np.array([f"G{number}" for number in range(N_VARS)], dtype=object)
    nothing = np.full(N_VARS, None, dtype=object)
    spots = Spots(
        region="square_008um",
        shape="square",
        barcodes=np.array(
            [f"s_008um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)], dtype=object
        ),
        xy=np.column_stack([col + 0.5, row + 0.5]) * _BIN_PX,
        radius_px=np.full(n_obs, _BIN_PX / 2),
        array_row=row,
        array_col=col,
        in_tissue=np.full(n_obs, fill_value=True),
        pitch_px=_BIN_PX,
        pitch_um=8.0,
        diameter_um=8.0,
    )
    genes = Genes(
        keys=keys,
        key_kind="gene_name",
        gene_id=nothing,
        gene_name=keys,
        feature_type=np.full(N_VARS, "Gene Expression", dtype=object),
        genome=nothing,
    )
    counts = Counts(
        shape=(n_obs, N_VARS),
        dtype=np.dtype(np.int32),
        iter_blocks=lambda: (draw().astype(np.int32) for draw in _draws("hd", n_obs)),
    )
    table = Table(name="expression_square_008um", spots=spots, genes=genes, counts=counts)
    return SlideRecord(
        slide_id="hd",
        descriptors=Descriptors(technology="Visium HD"),
        tables=(table,),
        default_table=table.name,
        image=None,
        mpp=Mpp(value=0.4, method="given"),
        sources=(),
    )
