"""Where the spots of a slide of HEST-1k lie, how large they are, and the scale of the slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.model import Mpp, MppMethod, Note
from stformat.sources._anndata import (
    ArrayNode,
    Frame,
    GroupNode,
    array_of,
    group_of,
    read_frame,
    read_scalar,
)
from stformat.sources._hest_metadata import HestMetadata
from stformat.sources._lattice import nearest_distance
from stformat.sources._visium_grid import VisiumGrid, fit_grid

__all__ = ["PLACE_COLUMNS", "HestPlaces", "HestScale", "measure", "read_places"]

PLACE_COLUMNS = frozenset(
    {"array_row", "array_col", "in_tissue", "pxl_row_in_fullres", "pxl_col_in_fullres"}
)
"""Columns of obs that say where spots are."""

NO_PLACE = -1
"""Row and column of a spot of which no place on an array is known."""

MAX_SHIFT_PX = 1.0
"""Two columns of pixels may differ by rounding."""

CONTRADICTION = 0.05
"""Relative difference of two values that is reported."""

_LARGEST = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class HestPlaces:
    """Places of the rows of an AnnData file."""

    obs: Frame
    """The rows."""

    xy: NDArray[np.float64]
    """(n, 2) centres in full-resolution pixels, columns ``(x, y)``."""

    array_row: NDArray[np.int64]
    """(n,) row on the array, or -1."""

    array_col: NDArray[np.int64]
    """(n,) column on the array, or -1."""

    in_tissue: NDArray[np.bool_]
    """(n,) column ``in_tissue``; all True without it."""

    has_array: bool
    """Whether rows and columns are known."""

    diameter_px: float | None
    """``spot_diameter_fullres``."""

    notes: tuple[Note, ...]
    """What a user of the places should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HestScale:
    """Sizes in pixels and, where they are known, in microns."""

    mpp: Mpp
    """Microns per pixel."""

    pitch_px: float | None
    """Distance of neighbouring centres in pixels."""

    pitch_um: float | None
    """Distance of neighbouring centres in microns."""

    diameter_px: float
    """Diameter of a spot, or side of a bin, in pixels."""

    diameter_um: float | None
    """The same in microns."""


def read_places(root: GroupNode) -> HestPlaces:
    """Read where rows lie.

    Parameters
    ----------
    root : GroupNode
        The AnnData object.

    Returns
    -------
    HestPlaces
        Centres as ``obsm["spatial"]`` has them. Where ``pxl_col_in_fullres`` and
        ``pxl_row_in_fullres`` hold the same numbers under each other's names, as scanpy once
        named them, a note ``positions.pixels-swapped`` says so.

    Raises
    ------
    CountsError
        If the file is damaged, or is no AnnData.
    PositionsError
        If there are no centres, or two columns contradict each other.
    """
    obs = read_frame(group_of(root, "obs"))
    xy = _read_centres(root, len(obs))
    notes = list(_compare_pixels(obs, xy))
    array = [obs.numbers(name) for name in ("array_row", "array_col")]
    has_array = all(values is not None and np.isfinite(values).all() for values in array)
    if not has_array:
        message = f"{obs.where} has no array_row and array_col: both are {NO_PLACE}."
        notes.append(Note(code="positions.no-array", message=message, count=len(obs)))
    rows, columns = (
        np.rint(values).astype(np.int64)
        if values is not None and has_array
        else np.full(len(obs), NO_PLACE, dtype=np.int64)
        for values in array
    )
    return HestPlaces(
        obs=obs,
        xy=xy,
        array_row=rows,
        array_col=columns,
        in_tissue=_read_in_tissue(obs),
        has_array=has_array,
        diameter_px=_read_diameter(root),
        notes=tuple(notes),
    )


def _read_centres(root: GroupNode, n_obs: int) -> NDArray[np.float64]:
    obsm = group_of(root, "obsm") if "obsm" in root.names else None
    if obsm is None or "spatial" not in obsm.names:
        raise PositionsError(
            Problem(
                "positions.missing",
                root.where,
                "centres are needed in obsm['spatial'], columns (x, y)",
                "none",
            )
        )
    node = array_of(obsm, "spatial", n_axes=2)
    if node.shape != (n_obs, 2) or node.dtype.kind not in "iuf":
        raise PositionsError(
            Problem(
                "positions.shape",
                node.where,
                f"centres must be numbers of the shape ({n_obs}, 2)",
                f"{node.dtype} of shape {node.shape}",
            )
        )
    xy = node.read(0, n_obs).astype(np.float64)
    if not (np.abs(xy) < _LARGEST).all():
        raise PositionsError(
            Problem("positions.not-a-number", node.where, "centres must be finite", "NaN or beyond")
        )
    return xy


def _compare_pixels(obs: Frame, xy: NDArray[np.float64]) -> list[Note]:
    """Hold the columns of pixels to the centres."""
    columns = [obs.numbers("pxl_col_in_fullres"), obs.numbers("pxl_row_in_fullres")]
    if columns[0] is None or columns[1] is None:
        return []
    pixels = np.stack([columns[0], columns[1]], axis=1)
    if (np.abs(pixels - xy) <= MAX_SHIFT_PX).all():
        return []
    if (np.abs(pixels[:, ::-1] - xy) <= MAX_SHIFT_PX).all():
        message = (
            "pxl_col_in_fullres and pxl_row_in_fullres hold each other's numbers: centres are "
            "those of obsm['spatial']."
        )
        return [Note(code="positions.pixels-swapped", message=message, count=len(xy))]
    shift = np.abs(pixels - xy).max(axis=1)
    first = int(np.flatnonzero(~(shift <= MAX_SHIFT_PX))[0])
    raise PositionsError(
        Problem(
            "positions.contradiction",
            f"{obs.where}, row {first + 1}",
            "pxl_col_in_fullres, pxl_row_in_fullres must be obsm['spatial']",
            f"({pixels[first, 0]:.6g}, {pixels[first, 1]:.6g}) and "
            f"({xy[first, 0]:.6g}, {xy[first, 1]:.6g})",
            "remove the one that is wrong",
        )
    )


def _read_in_tissue(obs: Frame) -> NDArray[np.bool_]:
    values = obs.numbers("in_tissue")
    if values is None:
        return np.ones(len(obs), dtype=np.bool_)
    if not np.isin(values, (0.0, 1.0)).all():
        raise PositionsError(
            Problem("positions.not-a-flag", f"{obs.where}/in_tissue", "0 or 1 is needed", "others")
        )
    return values.astype(np.bool_)


def _read_diameter(root: GroupNode) -> float | None:
    """``uns["spatial"][<library>]["scalefactors"]["spot_diameter_fullres"]``, where it is there."""
    found = set()
    for library in _libraries(root):
        if "scalefactors" in library.names:
            factors = group_of(library, "scalefactors")
            if "spot_diameter_fullres" in factors.names:
                found.add(read_scalar(factors, "spot_diameter_fullres"))
    if not found:
        return None
    diameter = found.pop()
    is_number = isinstance(diameter, int | float) and 0 < diameter < _LARGEST
    if found or not is_number:
        raise PositionsError(
            Problem(
                "positions.spot-size",
                f"{root.where}/uns/spatial",
                "spot_diameter_fullres must be one positive number",
                ", ".join(map(repr, sorted(map(str, {diameter, *found})))),
            )
        )
    return float(diameter)


def _libraries(root: GroupNode) -> list[GroupNode]:
    group = root
    for name in ("uns", "spatial"):
        if name not in group.names:
            return []
        group = group_of(group, name)
    members = [group.child(name) for name in group.names]
    return [member for member in members if not isinstance(member, ArrayNode)]


def measure(
    places: HestPlaces,
    metadata: HestMetadata,
    *,
    mpp: float | None,
    pitch_um: float | None,
    tag_mpp: float | None,
) -> tuple[HestScale, tuple[Note, ...]]:
    """Find microns per pixel, and the sizes of array and spots.

    Parameters
    ----------
    places : HestPlaces
        From `read_places`.
    metadata : HestMetadata
        What HEST-1k says of the slide.
    mpp : float or None
        Microns per pixel as given.
    pitch_um : float or None
        Distance of neighbouring spots in microns as given.
    tag_mpp : float or None
        Microns per pixel as the image's tags say.

    Returns
    -------
    HestScale
        Microns per pixel are as given, else as HEST-1k says, else from the array, else from the
        tags. The diameter is that of the AnnData file, else the one that HEST-1k says in microns.
    tuple of Note
        ``mpp.embedded`` with what tags of the image and of the original image say,
        ``mpp.contradiction``, ``mpp.unknown``, ``spots.size-contradiction``.

    Raises
    ------
    PositionsError
        If nothing says how large a spot is.
    """
    grid = _fit(places)
    known_um = pitch_um if pitch_um is not None else metadata.pitch_um
    is_own = grid is not None and known_um is not None
    candidates: dict[MppMethod, float | None] = {
        "given": mpp,
        "file": metadata.mpp,
        "lattice": known_um / grid.pitch_px if grid and known_um and is_own else None,
        "image-tags": tag_mpp,
    }
    known = {method: value for method, value in candidates.items() if value is not None}
    unknown: tuple[MppMethod, None] = ("unknown", None)
    method, value = next(iter(known.items()), unknown)
    notes = list(_embedded_notes(metadata, tag_mpp))
    if value is None:
        message = "Microns per pixel are unknown: pass --pitch-um, the distance of spots, or --mpp."
        notes.append(Note(code="mpp.unknown", message=message))
    else:
        others: list[tuple[str, float]] = [
            (name, other) for name, other in known.items() if name != method
        ]
        if metadata.embedded_mpp is not None:
            others.append(("pixel_size_um_embedded", metadata.embedded_mpp))
        notes.extend(_contradictions(method, value, others))
    diameter_px, size_notes = _diameter(places, metadata, value)
    pitch_px = grid.pitch_px if grid else nearest_distance(places.xy)
    is_pitch = pitch_px and value and known_um and _is_close(pitch_px * value, known_um)
    return (
        HestScale(
            mpp=Mpp(value=value, method=method, residual=grid.residual if grid else None),
            pitch_px=pitch_px,
            pitch_um=known_um if is_pitch else None,
            diameter_px=diameter_px,
            diameter_um=None if value is None else float(f"{diameter_px * value:.9g}"),
        ),
        (*notes, *size_notes),
    )


def _fit(places: HestPlaces) -> VisiumGrid | None:
    if not places.has_array:
        return None
    return fit_grid(np.stack([places.array_col, places.array_row], axis=1), places.xy, None)


def _is_close(first: float, second: float) -> bool:
    return abs(first / second - 1) <= CONTRADICTION


def _embedded_notes(metadata: HestMetadata, tag_mpp: float | None) -> list[Note]:
    said = [
        f"{value:.6g} ({where})"
        for where, value in (
            ("tags of the image", tag_mpp),
            ("pixel_size_um_embedded", metadata.embedded_mpp),
        )
        if value is not None
    ]
    if not said:
        return []
    message = f"Microns per pixel that image files claim: {', '.join(said)}."
    return [Note(code="mpp.embedded", message=message)]


def _contradictions(method: str, value: float, others: list[tuple[str, float]]) -> list[Note]:
    return [
        Note(
            code="mpp.contradiction",
            message=(
                f"Microns per pixel: {value:.5g} ({method}) is taken, {other:.5g} ({name}) "
                f"differs by {abs(other / value - 1):.0%}."
            ),
        )
        for name, other in others
        if not _is_close(other, value)
    ]


def _diameter(
    places: HestPlaces, metadata: HestMetadata, mpp: float | None
) -> tuple[float, list[Note]]:
    said_px = metadata.spot_um / mpp if metadata.spot_um and mpp else None
    diameter_px = places.diameter_px or said_px
    if diameter_px is None:
        raise PositionsError(
            Problem(
                "positions.spot-size",
                places.obs.where,
                "spot_diameter_fullres, or spot_diameter in microns with a scale, is needed",
                "neither",
                "pass mpp",
            )
        )
    if said_px is None or _is_close(said_px, diameter_px):
        return diameter_px, []
    message = (
        f"Spots are {diameter_px:.5g} px wide by spot_diameter_fullres, which is taken, and "
        f"{said_px:.5g} px by the description ({metadata.spot_um:g} um)."
    )
    return diameter_px, [Note(code="spots.size-contradiction", message=message)]
