"""Cells and nuclei as Space Ranger 4 segments them: outlines in GeoJSON, counts added up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing.synthetic import SyntheticSlide

__all__ = [
    "NUCLEUS_SHARE",
    "SegmentedCells",
    "areas_of_rings",
    "cell_names",
    "cells_of",
    "cluster_names",
    "shrunk",
    "write_rings",
]

CELL_BINS = 3
"""Bins along the edge of a block that is a cell."""

NUCLEUS_SHARE = 0.5
"""Width of a nucleus for one of its cell."""

_N_CLUSTERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedCells:
    """Blocks of bins that are cells, numbered from 1."""

    centres: NDArray[np.float64]
    """(n_cells, 2) centres in pixels of the slide, columns ``(x, y)``."""

    rings: NDArray[np.float64]
    """(n_cells, 7, 2) closed outlines."""

    counts: sparse.csr_array
    """(n_cells, n_vars) int32."""


def cells_of(slide: SyntheticSlide) -> SegmentedCells:
    """Return a slide's spots as cells, three by three; each is larger than the one before."""
    places = (slide.array_xy - slide.array_xy.min(axis=0)) // CELL_BINS
    _, group = np.unique(places[:, ::-1], axis=0, return_inverse=True)
    member = sparse.csr_array((np.ones(len(group), np.int32), (group, np.arange(len(group)))))
    n_members = np.bincount(group)
    centres = np.stack([np.bincount(group, slide.xy[:, axis]) / n_members for axis in (0, 1)], 1)
    turns = np.linspace(0, 2 * np.pi, 7)[:-1]
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1) * slide.pitch_px
    ring = np.concatenate([ring, ring[:1]])
    counts = sparse.csr_array(member @ slide.counts).astype(np.int32)
    counts.sort_indices()
    growth = 1 + np.arange(len(centres)) / len(centres)
    rings = centres[:, None] + growth[:, None, None] * ring
    return SegmentedCells(centres=centres, rings=rings, counts=counts)


def shrunk(cells: SegmentedCells, share: float) -> NDArray[np.float64]:
    """Return the outlines, a share as wide about the same centres."""
    centres = cells.centres[:, None]
    return centres + share * (cells.rings - centres)


def areas_of_rings(rings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (n,) areas inside closed outlines."""
    x, y = np.moveaxis(rings - rings[:, :1], -1, 0)
    area: NDArray[np.float64] = (
        np.abs((x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]).sum(axis=1)) / 2
    )
    return area


def cell_names(n_cells: int) -> list[str]:
    """Return the barcodes of cells."""
    return [f"cellid_{number:09d}-1" for number in range(1, n_cells + 1)]


def cluster_names(n_cells: int) -> list[str | None]:
    """Return the cluster of each cell; the first cell is in none."""
    return [None, *(f"Cluster {1 + cell % _N_CLUSTERS}" for cell in range(1, n_cells))]


def write_rings(
    folder: Path,
    what: Literal["cell", "nucleus"],
    rings: NDArray[np.float64],
    *,
    are_named: bool,
    nuclei: str,
) -> None:
    """Write outlines; where `nuclei` is ``"clustered"`` also those annotated by cluster."""
    n_cells = len(rings)
    ids = cell_names(n_cells) if are_named else list(range(1, n_cells + 1))
    features: list[dict[str, object]] = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]},
            "properties": {"cell_id": cell},
        }
        for cell, ring in zip(ids, rings, strict=True)
    ]
    _write_features(folder / f"{what}_segmentations.geojson", features)
    if nuclei == "clustered":
        clustered: list[dict[str, object]] = [
            feature
            | {
                "properties": {
                    "cell_id": cell,
                    "classification": {"name": cluster, "color": [1, 2, 3]},
                }
            }
            for feature, cell, cluster in zip(features, ids, cluster_names(n_cells), strict=True)
            if cluster is not None
        ]
        _write_features(folder / f"graphclust_annotated_{what}_segmentations.geojson", clustered)


def _write_features(path: Path, features: list[dict[str, object]]) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
