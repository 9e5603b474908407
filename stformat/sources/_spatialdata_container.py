"""A SpatialData container on disk: its elements, and what stformat once said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from stformat.errors import InputError, Problem
from stformat.metadata.stformat_v0_1 import StformatAttributes
from stformat.sources._anndata import GroupNode
from stformat.sources._notes import named
from stformat.sources._spatialdata_image import Raster, read_raster
from stformat.sources._spatialdata_shapes import ShapesElement, read_shapes
from stformat.sources._zarr_nodes import is_node, open_group

__all__ = ["Container", "evidence", "open_container", "table_node"]

_SECTIONS = ("images", "labels", "points", "shapes", "tables")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Elements by name; those that are not read are only named."""

    path: Path
    """Directory."""

    images: Mapping[str, Raster | InputError]
    """Images, or why one cannot be read."""

    shapes: Mapping[str, ShapesElement | InputError]
    """Shapes, or why some cannot be read."""

    tables: tuple[str, ...]
    """Names of the tables."""

    others: tuple[str, ...]
    """Elements of other types, as ``labels/<name>``."""

    stformat: StformatAttributes | None
    """What the root says where it was a store of stformat, or is a copy of one."""


def evidence(path: Path) -> str | None:
    """Say why a path looks like a SpatialData container.

    Parameters
    ----------
    path : pathlib.Path
        Folder or file.

    Returns
    -------
    str or None
        What was recognised, or None.
    """
    if not path.is_dir() or not is_node(path):
        return None
    try:
        root = open_group(path, path.name)
    except InputError:
        # A damaged one is reported when it is read, not when kinds of sources are told apart.
        return None
    found = [section for section in (*_SECTIONS, "table") if section in root.names]
    if "spatialdata_attrs" in root.attributes or "table" in found or "tables" in found:
        return f"SpatialData with {', '.join(found) or 'no elements'}"
    return None


def open_container(path: Path) -> Container:
    """Open a container.

    Parameters
    ----------
    path : pathlib.Path
        Its directory, in Zarr format 2 or 3.

    Returns
    -------
    Container
        Its elements; nothing is read but their metadata, each from its own.

    Raises
    ------
    InputError
        If it is no Zarr group.
    """
    if not path.is_dir():
        raise InputError(
            Problem(
                "spatialdata.container",
                str(path),
                "a SpatialData container is a directory",
                "a file",
                "unpack it first",
            )
        )
    root = open_group(path, path.name)
    images: dict[str, Raster | InputError] = {}
    shapes: dict[str, ShapesElement | InputError] = {}
    for name in _names(root, path, "images"):
        try:
            images[name] = read_raster(path / "images" / name, name)
        except InputError as error:
            images[name] = error
    for name in _names(root, path, "shapes"):
        try:
            shapes[name] = read_shapes(path / "shapes" / name, name)
        except InputError as error:
            shapes[name] = error
    return Container(
        path=path,
        images=images,
        shapes=shapes,
        tables=tuple(_names(root, path, "tables") or _names(root, path, "table")),
        others=tuple(
            f"{section}/{name}"
            for section in ("labels", "points")
            for name in _names(root, path, section)
        ),
        stformat=_own_attribute(root),
    )


def table_node(container: Container, name: str) -> GroupNode:
    """Open a table of a container.

    Raises
    ------
    InputError
        If it is damaged.
    """
    section = "tables" if (container.path / "tables" / name).is_dir() else "table"
    return open_group(container.path / section / name, f"{section}/{name}")


def _names(root: GroupNode, path: Path, section: str) -> list[str]:
    if section not in root.names:
        return []
    names = open_group(path / section, section).names
    # Hidden ones are what a writer left, or is still writing.
    return [name for name in names if not name.startswith(".")]


def _own_attribute(root: GroupNode) -> StformatAttributes | None:
    value = root.attributes.get("stformat")
    if not isinstance(value, dict):
        return None
    try:
        return StformatAttributes.model_validate_json(json.dumps(value))
    except ValidationError as error:
        details = [".".join(map(str, detail["loc"])) for detail in error.errors()]
        raise InputError(
            Problem(
                "spatialdata.stformat",
                root.where,
                "the attribute stformat must be valid where it is there",
                f"errors in {named(details)}",
                "remove it: the container is then read like any other",
            )
        ) from error
