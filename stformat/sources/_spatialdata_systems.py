"""Coordinate systems of SpatialData elements: transformations as affine maps of the plane.

Specification: https://spatialdata.scverse.org/en/stable/design_doc.html, transformations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import InputError, Problem
from stformat.sources._notes import named

__all__ = ["Systems", "area_scale", "map_between", "parse_systems"]

type Affine = NDArray[np.float64]
type Systems = Mapping[str, Affine | Problem]
"""Coordinate system to the affine map into it, for column vectors ``(x, y, 1)``; what is no such
map says why, and is an error only where it is needed."""

GLOBAL = "global"
_PLANE = ("x", "y")
_SAME = 1e-9


def parse_systems(transformations: object, *, axes: Sequence[str], where: str) -> Systems:
    """Read the transformations of an element.

    Parameters
    ----------
    transformations : object
        ``coordinateTransformations`` of its attributes.
    axes : sequence of str
        Its own axes, such as ``("c", "y", "x")``.
    where : str
        The element, for messages.

    Returns
    -------
    Systems
        A map into each system: identities, scales, translations, affine maps, exchanged axes and
        sequences of these.

    Raises
    ------
    InputError
        If the document is none of transformations.
    """
    if not isinstance(transformations, list):
        raise _invalid(where, repr(transformations))
    systems: dict[str, Affine | Problem] = {}
    for transformation in transformations:
        try:
            name = str(transformation["output"]["name"])
        except (KeyError, TypeError) as error:
            raise _invalid(where, repr(transformation)) from error
        try:
            systems[name] = _affine(transformation, tuple(axes))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            systems[name] = Problem(
                "spatialdata.transformation",
                f"{where}, to {name!r}",
                "a transformation must be an affine map of x and y",
                f"{transformation.get('type')!r}: {error}"[:200],
            )
    return systems


def _affine(transformation: Mapping[str, Any], default: tuple[str, ...]) -> Affine:
    """Restrict a transformation to x and y."""
    axes = _axes(transformation.get("input"), default)
    match transformation["type"]:
        case "identity":
            return np.eye(3)
        case "scale":
            factors = dict(zip(axes, transformation["scale"], strict=True))
            return _finite(np.diag([factors["x"], factors["y"], 1.0]))
        case "translation":
            shift = dict(zip(axes, transformation["translation"], strict=True))
            affine = np.eye(3)
            affine[:2, 2] = shift["x"], shift["y"]
            return _finite(affine)
        case "mapAxis":
            sources = transformation["mapAxis"]
            affine = np.zeros((3, 3))
            affine[2, 2] = 1.0
            for row, axis in enumerate(_PLANE):
                affine[row, _PLANE.index(sources[axis])] = 1.0
            return affine
        case "affine":
            outputs = _axes(transformation.get("output"), axes)
            return _plane(np.array(transformation["affine"], dtype=np.float64), axes, outputs)
        case "sequence":
            affine = np.eye(3)
            for part in transformation["transformations"]:
                affine = _affine(part, axes) @ affine
                axes = _axes(part.get("output"), axes)
            return _finite(affine)
        case other:
            raise ValueError(f"the type {other!r} is not read")


def _plane(matrix: Affine, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Affine:
    if matrix.shape == (len(outputs) + 1, len(inputs) + 1):
        matrix = matrix[:-1]
    if matrix.shape != (len(outputs), len(inputs) + 1):
        raise ValueError(f"a matrix of the shape {matrix.shape}")
    rows = [outputs.index(axis) for axis in _PLANE]
    others = [column for column, axis in enumerate(inputs) if axis not in _PLANE]
    if matrix[np.ix_(rows, others)].any():
        raise ValueError("x and y depend on another axis")
    columns = [*(inputs.index(axis) for axis in _PLANE), len(inputs)]
    return _finite(np.vstack([matrix[np.ix_(rows, columns)], [0.0, 0.0, 1.0]]))


def _axes(system: object, default: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(system, dict) or not system.get("axes"):
        return default
    return tuple(str(axis["name"]) for axis in system["axes"])


def _finite(affine: Affine) -> Affine:
    affine = affine.astype(np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:2, :2])) < 1e-300:
        raise ValueError("a map that cannot be inverted")
    return affine


def map_between(
    source: Systems, target: Systems, *, wanted: str | None, where: str
) -> Affine | None:
    """Map one element into the coordinates of another.

    Parameters
    ----------
    source, target : Systems
        Their coordinate systems.
    wanted : str or None
        The system through which they are mapped; by default ``global``, or the only one that both
        have, or any where all of them agree.
    where : str
        The two, for messages.

    Returns
    -------
    (3, 3) ndarray of float64 or None
        None where they have no system in common.

    Raises
    ------
    InputError
        If the systems that both have disagree, or the one to be used is no affine map.
    """
    shared = sorted(source.keys() & target.keys())
    if wanted is not None:
        shared = [wanted] if wanted in shared else []
    elif GLOBAL in shared:
        shared = [GLOBAL]
    if not shared:
        return None
    maps = [_through(_known(source[name]), _known(target[name])) for name in shared]
    if any(not np.allclose(maps[0], other, rtol=_SAME, atol=_SAME) for other in maps[1:]):
        raise InputError(
            Problem(
                "spatialdata.systems",
                where,
                "coordinate systems that both have must agree on where they lie",
                f"different places by {named(shared)}",
                "name one with coordinate_system=",
            )
        )
    return maps[0]


def _through(into: Affine, other: Affine) -> Affine:
    # The inverse of a product with itself is no exact identity.
    return np.eye(3) if np.array_equal(into, other) else np.linalg.solve(other, into)


def _known(affine: Affine | Problem) -> Affine:
    if isinstance(affine, Problem):
        raise InputError(affine)
    return affine


def area_scale(affine: Affine) -> tuple[float, bool]:
    """Say by how much a map enlarges lengths, and whether alike in all directions.

    Examples
    --------
    >>> import numpy as np
    >>> area_scale(np.diag([2.0, -2.0, 1.0]))
    (2.0, True)
    """
    small, large = sorted(np.linalg.svd(affine[:2, :2], compute_uv=False).tolist())
    # Twelve digits: the last ones depend on the machine's linear algebra, and a store must not.
    scale = float(f"{np.sqrt(small * large):.12g}")
    return scale, large <= small * (1 + 1e-6)


def _invalid(where: str, found: str) -> InputError:
    return InputError(
        Problem(
            "spatialdata.transformation",
            where,
            "coordinateTransformations must be a list of transformations into systems",
            found[:200],
        )
    )
