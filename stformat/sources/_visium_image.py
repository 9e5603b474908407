"""Which image a Visium slide is stored with, and whether its spots can lie on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, Problem
from stformat.model import Image, Note
from stformat.sources._image import open_image
from stformat.sources._scalefactors import ScaleFactors
from stformat.sources._visium_files import VisiumFiles

__all__ = ["ChosenImage", "check_image", "choose_image"]

MAX_OUTSIDE = 0.25
"""Share of the spots on tissue beyond which an image cannot be theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenImage:
    """The image that becomes level 0."""

    image: Image | None
    """The image, or None."""

    scale: float
    """Its pixels for one full-resolution pixel of the tissue positions; 1 without an image."""

    is_reduced: bool
    """Whether it is one of Space Ranger's reduced images, in place of the full-resolution one."""

    notes: tuple[Note, ...]
    """What a user of the image should know."""


def choose_image(
    files: VisiumFiles,
    factors: ScaleFactors,
    *,
    given: Path | None,
    stain: Literal["he", "if"],
    focal_plane: int | None,
    scratch: Path | None,
) -> ChosenImage:
    """Open the image of a slide.

    Parameters
    ----------
    files : VisiumFiles
        Files of the slide.
    factors : ScaleFactors
        Scale factors of the slide.
    given : pathlib.Path or None
        Full-resolution image that the user names.
    stain : {"he", "if"}
        Brightfield or fluorescence.
    focal_plane : int or None
        Which one to read of an image with several focal planes; see `open_image`.
    scratch : pathlib.Path or None
        Directory for temporary files.

    Returns
    -------
    ChosenImage
        The given image; else the only one in the folder that is named as the full-resolution one;
        else ``tissue_hires_image`` or, where that or its scale factor is missing,
        ``tissue_lowres_image``, with a note ``image.hires-fallback`` or
        ``image.lowres-fallback``; else none, with a note ``image.none``.

    Raises
    ------
    ImageError
        If an image cannot be read, or several could be meant.
    """
    path = given or _only(files.full, "full-resolution image")
    if path is not None:
        image = _open(path, stain=stain, focal_plane=focal_plane, scratch=scratch)
        return ChosenImage(image=image, scale=1.0, is_reduced=False, notes=image.notes)
    for size, candidates, scale in (
        ("hires", files.hires, factors.hires_scale),
        ("lowres", files.lowres, factors.lowres_scale),
    ):
        path = _only(candidates, f"tissue_{size}_image")
        if path is None or scale is None:
            continue
        image = _open(path, stain=stain, focal_plane=focal_plane, scratch=scratch)
        _, height, width = image.shape
        message = (
            f"No full-resolution image was given: {path.name} of {width} x {height} px stands for "
            f"it, and positions, radii and pitch are multiplied by its scale factor {scale:.8g}."
        )
        note = Note(code=f"image.{size}-fallback", message=message)
        return ChosenImage(image=image, scale=scale, is_reduced=True, notes=(note, *image.notes))
    unscaled = [path.name for path in (*files.hires, *files.lowres)]
    message = (
        f"The scale factor of {', '.join(unscaled)} is not known, so the slide has no image."
        if unscaled
        else "The source has no image: the slide has no tiles."
    )
    note = Note(code="image.no-scale" if unscaled else "image.none", message=message)
    return ChosenImage(image=None, scale=1.0, is_reduced=False, notes=(note,))


def _only(candidates: tuple[Path, ...], what: str) -> Path | None:
    if len(candidates) > 1:
        raise ImageError(
            Problem(
                "image.several",
                what,
                "one image is needed",
                ", ".join(path.name for path in candidates),
                "name the full-resolution image with image=, or the slide with slide_id=",
            )
        )
    return candidates[0] if candidates else None


def _open(
    path: Path, *, stain: Literal["he", "if"], focal_plane: int | None, scratch: Path | None
) -> Image:
    if path.suffix.lower() == ".gz":
        raise ImageError(
            Problem(
                "image.compressed",
                path.name,
                "an image must not be compressed a second time",
                "a name that ends in .gz",
                "decompress it with gunzip -k",
            )
        )
    return open_image(path, scratch=scratch, stain=stain, focal_plane=focal_plane)


def check_image(
    chosen: ChosenImage,
    factors: ScaleFactors,
    *,
    xy: NDArray[np.float64],
    in_tissue: NDArray[np.bool_],
) -> None:
    """Refuse an image that the spots cannot lie on.

    Parameters
    ----------
    chosen : ChosenImage
        From `choose_image`.
    factors : ScaleFactors
        Scale factors of the slide.
    xy : (n, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``.
    in_tissue : (n,) ndarray of bool
        Spots on tissue; where there are none, all are looked at.

    Raises
    ------
    ImageError
        If more than a quarter of the spots on tissue lie outside. The message says so where the
        image is one of Space Ranger's reduced ones under the name of the full-resolution image.
    """
    if chosen.image is None:
        return
    on_tissue = xy[in_tissue] if in_tissue.any() else xy
    _, height, width = chosen.image.shape
    outside = _share_outside(on_tissue * chosen.scale, width, height)
    if outside <= MAX_OUTSIDE:
        return
    right, bottom = (on_tissue * chosen.scale).max(axis=0)
    remedy = "check that image and positions are of the same slide, or name another with image="
    for size, scale in (("hires", factors.hires_scale), ("lowres", factors.lowres_scale)):
        if not chosen.is_reduced and scale and not _share_outside(on_tissue * scale, width, height):
            remedy = (
                f"times tissue_{size}_scalef ({scale:.6g}) they fit: if this is the reduced image, "
                "name the full-resolution one, or leave image= out"
            )
            break
    name = chosen.image.source.name if chosen.image.source else "image"
    raise ImageError(
        Problem(
            "image.contradicts-positions",
            name,
            "spots on tissue must lie on the image",
            f"an image of {width} x {height} px with {outside:.0%} of them outside, up to "
            f"({right:.0f}, {bottom:.0f})",
            remedy,
        )
    )


def _share_outside(xy: NDArray[np.float64], width: int, height: int) -> float:
    return float(np.mean(((xy < 0) | (xy >= (width, height))).any(axis=1)))
