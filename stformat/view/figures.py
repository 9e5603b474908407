"""Pictures of a slide: its image, a gene over its spots, its tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stformat.store.reader import Slide

__all__ = ["draw_overview"]

THUMBNAIL_PX = 1200


def draw_overview(
    slide: Slide, gene: str, path: Path, *, tile_px: int = 224, n_tiles: int = 16
) -> Path:
    """Draw the image, the image with its spots coloured by a gene, and a grid of tiles.

    Parameters
    ----------
    slide : Slide
        A slide with an image.
    gene : str
        Key or unambiguous name of a gene; its log-normalised expression is shown.
    path : pathlib.Path
        PNG file to write.
    tile_px : int, default: 224
        Edge of a tile in full-resolution pixels.
    n_tiles : int, default: 16
        Number of tiles in the grid, a square; those of the spots where the gene is highest.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    NoImageError
        If the slide has no image.
    GeneLookupError
        If no gene, or more than one, answers to `gene`.
    """
    thumbnail = _as_rgb(slide.thumbnail(max_px=THUMBNAIL_PX))
    level_0 = slide.levels[0]
    extent = (0.0, float(level_0.width), float(level_0.height), 0.0)
    every_row = np.arange(slide.n_obs)
    values = slide.expression(every_row, [gene], normalize="log1p")[:, 0]

    figure = Figure(figsize=(15, 5.4), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].imshow(thumbnail, extent=extent)
    axes[0].set_title(f"{slide.slide_id}: {level_0.width} x {level_0.height} px")
    axes[1].imshow(thumbnail, extent=extent, alpha=0.45)
    _draw_spots(axes[1], slide, values)
    axes[1].set_title(f"{gene}, log1p of counts per 10,000")
    _draw_tiles(axes[2], slide, values, tile_px=tile_px, n_tiles=n_tiles)
    axes[2].set_title(f"{tile_px} px tiles where {gene} is highest")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    return path


def _draw_spots(axis: Axes, slide: Slide, values: NDArray[np.float32]) -> None:
    diameters = 2 * slide.radius_px
    spots = EllipseCollection(
        widths=diameters,
        heights=diameters,
        angles=np.zeros(len(diameters)),
        units="xy",
        offsets=slide.obs[["x", "y"]].to_numpy(),
        transOffset=axis.transData,
        array=values,
        cmap="viridis",
    )
    axis.add_collection(spots)
    axis.figure.colorbar(spots, ax=axis, shrink=0.8)


def _draw_tiles(
    axis: Axes, slide: Slide, values: NDArray[np.float32], *, tile_px: int, n_tiles: int
) -> None:
    edge = max(1, int(np.sqrt(n_tiles)))
    rows = np.argsort(-values, kind="stable")[: edge * edge]
    gap = max(2, tile_px // 28)
    pitch = tile_px + gap
    sheet = np.full((edge * pitch - gap, edge * pitch - gap, 3), 255, np.uint8)
    for place, tile in enumerate(slide.tiles(tile_px, rows=rows)[:]):
        top, left = (index * pitch for index in divmod(place, edge))
        sheet[top : top + tile_px, left : left + tile_px] = _as_rgb(tile)
    axis.imshow(sheet)


def _as_rgb(image: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """Turn (c, y, x) samples into what imshow takes: three channels, eight bits, last axis."""
    shown = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    if shown.dtype == np.uint16:
        shown = shown >> 8
    return np.ascontiguousarray(shown.transpose(1, 2, 0), dtype=np.uint8)
