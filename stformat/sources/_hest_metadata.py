"""What HEST-1k says of a slide, in ``metadata/<id>.json`` or in its catalogue of all slides."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stformat.errors import PositionsError, Problem
from stformat.sources._text import read_text

__all__ = ["HestMetadata", "read_metadata"]

MAX_BYTES = 1 << 24
"""Longest document that is read; the catalogue of 1,229 slides has less than 1 MiB."""

_TECHNOLOGIES = {"spatial transcriptomics": "ST"}
_INVOLVES_CANCER = {"Cancer": True, "Tumor": True, "Healthy": False}
_PUBMED = re.compile(r"pubmed\.ncbi\.nlm\.nih\.gov/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class HestMetadata:
    """What is said of a slide; None where nothing is."""

    descriptors: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Descriptors by the names of their fields."""

    mpp: float | None = None
    """Microns per full-resolution pixel, as HEST-1k found them: ``pixel_size_um_estimated``."""

    embedded_mpp: float | None = None
    """Microns per pixel that the tags of the original image claim: ``pixel_size_um_embedded``."""

    spot_um: float | None = None
    """Diameter of a spot in microns."""

    pitch_um: float | None = None
    """Distance of neighbouring spots in microns."""

    width_px: float | None = None
    """Width of the image."""

    height_px: float | None = None
    """Height of the image."""


def read_metadata(path: Path, slide_id: str) -> HestMetadata:
    """Read the description of a slide.

    Parameters
    ----------
    path : pathlib.Path
        A JSON object, or a CSV table with the column ``id``; either may begin with a byte order
        mark.
    slide_id : str
        Which row of a table.

    Returns
    -------
    HestMetadata
        What it says. Empty texts, null and NaN say nothing.

    Raises
    ------
    PositionsError
        If the file is damaged, or a number is none.
    """
    text = read_text(path, topic="metadata", error=PositionsError, max_bytes=MAX_BYTES)
    document = _row(path, text, slide_id) if path.suffix == ".csv" else _object(path, text)
    numbers = {
        name: _number(path, document, key)
        for name, key in (
            ("mpp", "pixel_size_um_estimated"),
            ("embedded_mpp", "pixel_size_um_embedded"),
            ("spot_um", "spot_diameter"),
            ("pitch_um", "inter_spot_dist"),
            ("width_px", "fullres_px_width"),
            ("height_px", "fullres_px_height"),
        )
    }
    return HestMetadata(descriptors=_descriptors(document), **numbers)


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _error(path, "the file must be JSON", str(error)) from error
    if not isinstance(document, dict):
        raise _error(path, "the document must be an object", type(document).__name__)
    return document


def _row(path: Path, text: str, slide_id: str) -> dict[str, Any]:
    try:
        rows = [row for row in csv.DictReader(text.splitlines()) if row.get("id") == slide_id]
    except csv.Error as error:
        raise _error(path, "the file must be CSV", str(error)) from error
    if len(rows) != 1:
        raise _error(path, f"one row with the id {slide_id} is needed", str(len(rows)))
    return rows[0]


def _number(path: Path, document: Mapping[str, Any], key: str) -> float | None:
    value = document.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else math.inf
    except (ValueError, OverflowError):
        number = math.inf
    if math.isnan(number):
        return None
    if isinstance(value, bool) or not 0 < number < 1e9:
        raise PositionsError(
            Problem(
                "metadata.value", f"{path.name}, {key}", "a positive number is needed", repr(value)
            )
        )
    return number


def _descriptors(document: Mapping[str, Any]) -> dict[str, object]:
    def text(*keys: str) -> str | None:
        for key in keys:
            value = document.get(key)
            if isinstance(value, str) and value.strip() and value.strip().casefold() != "nan":
                return value.strip()
        return None

    technology = text("st_technology")
    if technology is not None:
        technology = _TECHNOLOGIES.get(technology.casefold(), technology)
    state = text("disease_state")
    disease = "healthy" if state == "Healthy" else text("disease_comment") or state
    link = text("study_link", "download_page_link1")
    pmid = _PUBMED.search(link or "")
    values = {
        "technology": technology,
        "species": text("species"),
        "tissue": text("tissue", "organ"),
        "disease": disease,
        "involves_cancer": _INVOLVES_CANCER.get(state or ""),
        "donor": text("patient"),
        "study": text("dataset_title"),
        "licence": text("license"),
        "citation": link,
        "pmid": pmid and pmid[1],
        "title": text("dataset_title"),
    }
    return {name: value for name, value in values.items() if value is not None}


def _error(path: Path, expected: str, found: str) -> PositionsError:
    return PositionsError(Problem("metadata.content", path.name, expected, found[:200]))
