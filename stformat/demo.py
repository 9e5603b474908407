"""The first five minutes: a small slide made, converted, verified, read back and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stformat.convert import convert_slide
from stformat.errors import CorruptStoreError, InputError, Problem
from stformat.lazy.dataset import open_dataset
from stformat.model import Progress
from stformat.store.reader import open_slide
from stformat.store.verify import verify_store
from stformat.testing import VisiumQuirks, make_slide, write_visium
from stformat.view.figures import draw_overview

__all__ = ["run_demo"]

SEED = 20260101
IMAGE_PX = 2560
PITCH_PX = 100.0
GENE = "ERBB2"


def run_demo(directory: Path, *, progress: Progress | None = None) -> list[str]:
    """Make a synthetic slide and take it through everything stformat does with one.

    Parameters
    ----------
    directory : pathlib.Path
        Directory to make; it must not exist or be empty.
    progress : callable, optional
        Called with each step of the conversion.

    Returns
    -------
    list of str
        What was done and what to try next, a line each.

    Raises
    ------
    InputError
        If `directory` holds something already.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InputError(
            Problem(
                "demo.directory",
                str(directory),
                "the demo needs a new or empty directory",
                "a directory that holds files",
                "name another: stformat demo OTHER",
            )
        )
    directory.mkdir(parents=True, exist_ok=True)
    slide = make_slide(
        height=IMAGE_PX, width=IMAGE_PX, pitch_px=PITCH_PX, seed=SEED, lattice="hexagonal"
    )
    source = write_visium(slide, directory / "source", quirks=VisiumQuirks(images="full"))
    store = convert_slide(
        source,
        directory / "demo.zarr",
        slide_id="demo",
        species="human",
        tissue="breast (synthetic)",
        progress=progress,
    )
    problems = verify_store(store)
    if problems:
        raise CorruptStoreError(*problems)
    return [
        f"source      {source}  (outputs of Space Ranger and an H&E image; synthetic)",
        f"store       {store}  (verified whole)",
        *_read_back(store, directory / "demo.png"),
        "",
        "Try next (in a clone, with `uv run` before each):",
        f"  stformat info {store}",
        f"  stformat verify {store}",
        f"  stformat check {store}",
        (
            f'  python -c "import xarray as xr; '
            f"print(xr.open_dataset('{store}', engine='stformat'))\""
        ),
        "  stformat convert YOUR_SLIDE slide.zarr",
    ]


def _read_back(store: Path, picture: Path) -> list[str]:
    with open_slide(store) as slide, open_dataset(slide, normalize="log1p") as dataset:
        first = dataset.isel(obs=slice(0, 64))
        tiles = first["tiles"].to_numpy()
        expression = first["expression"].to_numpy()
        order = np.argsort(-expression.mean(axis=0), kind="stable")
        top = slide.var["gene_name"].iloc[order[:3]]
        draw_overview(slide, GENE, picture)
        level = slide.levels[0]
        return [
            (
                f"slide       {slide.n_obs} spots x {slide.n_vars} genes, "
                f"{level.width} x {level.height} px at {slide.mpp:.3f} um/px"
            ),
            f"tiles       {tiles.shape} {tiles.dtype} for 64 spots, mean {tiles.mean():.1f}",
            f"expression  {expression.shape} {expression.dtype}, highest: {', '.join(top)}",
            f"picture     {picture}",
        ]
