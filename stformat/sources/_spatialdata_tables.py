"""Which tables of a SpatialData container annotate which shapes, and their rows joined to these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stformat.errors import InputError, PositionsError, Problem
from stformat.model import Note
from stformat.sources._anndata import Frame, GroupNode, array_of, group_of, read_frame, read_rows
from stformat.sources._anndata_matrix import Matrix, open_matrix, summarize
from stformat.sources._anndata_tables import AnnDataParts
from stformat.sources._notes import named, unmatched_notes
from stformat.sources._packed_text import texts_of
from stformat.sources._spatialdata_container import Container, table_node

__all__ = ["Annotation", "JoinedRows", "choose_annotations", "join_rows", "table_parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A table that annotates a shapes element."""

    table: str
    """Name of the table."""

    region: str
    """Name of the shapes."""

    region_key: str
    """Column of obs that names the shapes of a row."""

    instance_key: str
    """Column of obs that holds the index of a row's shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRows:
    """Rows of a table that have a place, ascending."""

    rows: NDArray[np.int64]
    """(n,) rows of the table."""

    places: NDArray[np.int64]
    """(n,) rows of the shapes element."""

    notes: tuple[Note, ...]
    """``counts.without-position``, ``spots.without-counts``."""


def choose_annotations(
    container: Container, *, table: str | None, region: str | None
) -> list[Annotation]:
    """Choose the tables that become tables of a slide.

    Parameters
    ----------
    container : Container
        The container.
    table, region : str or None
        Names of the only table, or of the only shapes, to take.

    Returns
    -------
    list of Annotation
        Each table with its shapes, by name.

    Raises
    ------
    InputError
        If there is none, or a table annotates several shapes and none is named.
    """
    found: list[Annotation] = []
    for name in container.tables:
        if table in {None, name}:
            found += _annotations(container, name, is_needed=table is not None)
    listed = [f"{one.table} of {one.region}" for one in found]
    chosen = [
        one for one in found if region in {None, one.region} and one.region in container.shapes
    ]
    if not chosen:
        wanted = " and ".join(
            f"{what} {name!r}" for what, name in (("table", table), ("region", region)) if name
        )
        raise InputError(
            Problem(
                "spatialdata.no-table",
                container.path.name,
                f"a table that annotates shapes is needed{wanted and ', ' + wanted}",
                f"the tables {named(listed or list(container.tables)) or '(none)'} and the shapes "
                f"{named(list(container.shapes)) or '(none)'}",
            )
        )
    several = sorted({one.table for one in chosen if _count(chosen, one.table) > 1})
    if several:
        regions = [one.region for one in chosen if one.table in several]
        raise InputError(
            Problem(
                "spatialdata.several-regions",
                f"tables/{several[0]}",
                "a table of a slide annotates one shapes element",
                named(regions),
                "name one with region=",
            )
        )
    return sorted(chosen, key=lambda one: one.table)


def _count(annotations: list[Annotation], table: str) -> int:
    return sum(one.table == table for one in annotations)


def _annotations(container: Container, name: str, *, is_needed: bool) -> Iterator[Annotation]:
    node = table_node(container, name)
    association = _association(node)
    if association is None:
        if is_needed:
            raise InputError(
                Problem(
                    "spatialdata.unannotated",
                    node.where,
                    "a table must say which shapes it annotates",
                    "no uns/spatialdata_attrs",
                )
            )
        return
    regions, region_key, instance_key = association
    for region in regions:
        yield Annotation(
            table=name, region=region, region_key=region_key, instance_key=instance_key
        )


def _association(node: GroupNode) -> tuple[list[str], str, str] | None:
    """Regions, region key and instance key."""
    uns = group_of(node, "uns") if "uns" in node.names else None
    if uns is None or "spatialdata_attrs" not in uns.names:
        return None
    attributes = group_of(uns, "spatialdata_attrs")
    region = attributes.child("region")
    if isinstance(region, GroupNode):
        values = array_of(region, "values", n_axes=1).read(0, 1 << 16)
    else:
        values = region.read(0, region.shape[0] if region.shape else 1)
    keys = [
        str(array_of(attributes, key, n_axes=0).read(0, 1)[0])
        for key in ("region_key", "instance_key")
    ]
    return [str(value) for value in np.asarray(values).tolist()], keys[0], keys[1]


def table_parts(container: Container, name: str) -> AnnDataParts:
    """Open the AnnData object of a table.

    Raises
    ------
    CountsError
        If it is damaged, or has no matrix X.
    """
    node = table_node(container, name)
    matrix = open_matrix(node, "X")

    @contextmanager
    def opened() -> Iterator[Matrix]:
        yield matrix

    return AnnDataParts(
        where=node.where,
        obs=read_rows(group_of(node, "obs")),
        var=read_frame(group_of(node, "var")),
        opened=opened,
        shape=matrix.shape,
        summary=summarize(matrix),
    )


def join_rows(obs: Frame, annotation: Annotation, index: pd.Index[Any]) -> JoinedRows:
    """Give each row of a table its shape.

    Parameters
    ----------
    obs : Frame
        Rows of the table.
    annotation : Annotation
        The keys.
    index : pandas.Index
        Index of the shapes, unique.

    Returns
    -------
    JoinedRows
        Rows of the region that have a shape.

    Raises
    ------
    PositionsError
        If a column is missing, no row has a shape, or two rows have the same.
    """
    for key in (annotation.region_key, annotation.instance_key):
        if key not in obs.names:
            raise _join_error(obs, f"the column {key} is needed", named(list(obs.names)))
    regions = obs.text(annotation.region_key)
    instances = obs.read(annotation.instance_key)
    rows = np.flatnonzero(regions == np.array(annotation.region, dtype=object))
    if instances.dtype == object and index.dtype.kind in "iu":
        keys = pd.Index(pd.to_numeric(pd.Series(instances[rows]), errors="coerce"))
    elif instances.dtype != object and index.dtype == object:
        keys = pd.Index([str(value) for value in instances[rows].tolist()], dtype=object)
    else:
        keys = pd.Index(instances[rows])
    places = index.get_indexer(keys).astype(np.int64)
    has_place = places >= 0
    if not has_place.any():
        raise _join_error(
            obs,
            f"{annotation.instance_key} must hold the index of shapes/{annotation.region}",
            f"{len(rows)} rows of this region, none with a shape",
        )
    joined = places[has_place]
    if len(np.unique(joined)) < len(joined):
        raise _join_error(obs, "a shape must have one row", "two rows of one shape")
    without_place = texts_of(obs.index[rows[~has_place]])
    is_counted = np.zeros(len(index), dtype=np.bool_)
    is_counted[joined] = True
    without_counts = [str(key) for key in index[~is_counted].tolist()]
    return JoinedRows(
        rows=rows[has_place].astype(np.int64),
        places=joined,
        notes=unmatched_notes(without_place, without_counts),
    )


def _join_error(obs: Frame, expected: str, found: str) -> PositionsError:
    return PositionsError(Problem("spatialdata.join", obs.where, expected, found))
