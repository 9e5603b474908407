"""What is probably wrong with the content of a slide: every check, as a list of problems."""

from __future__ import annotations

import os
from collections.abc import Iterator

from stformat.check.counts import count_problems
from stformat.check.geometry import (
    duplicate_position_problems,
    resolution_problems,
    spacing_problems,
)
from stformat.check.identity import (
    barcode_problems,
    gene_problems,
    label_problems,
    shape_problems,
)
from stformat.check.placement import placement_problems
from stformat.check.table_view import TableView
from stformat.check.tissue import SmallImage, find_tissue, read_small_image
from stformat.errors import Problem
from stformat.store.location import parse_location
from stformat.store.open_store import OpenStore

__all__ = ["check_store"]


def check_store(path: str | os.PathLike[str]) -> list[Problem]:
    """Look for what is wrong in a slide although its store is whole.

    `stformat.verify_store` says whether the bytes are those that were written. This says whether
    what was written makes sense: spots on the tissue, resolution and pitch in agreement, counts
    that are counts, names that join.

    Parameters
    ----------
    path : path
        Directory of the store.

    Returns
    -------
    list of Problem
        Empty where nothing was found. Codes:

        ``check.blank-image``
            The image is of one colour.
        ``check.channels``
            The image is not what its stain says: gray, dark, or not of three channels.
        ``check.mpp-contradiction``
            Microns per pixel, pitch and size of spots contradict one another, or are implausible.
        ``check.scale``
            Positions are of another resolution than the image.
        ``check.axis-swap``
            Spots would lie on the tissue if the axes were swapped, mirrored or turned.
        ``check.spots-outside``
            Spots in tissue, or most spots, lie outside the image.
        ``check.duplicate-positions``
            Several spots lie at one place.
        ``check.id-mismatch``
            Rows and shapes do not join, or barcodes repeat or are of several formats.
        ``check.duplicate-genes``, ``check.gene-key``
            Genes repeat an identifier; a spreadsheet rewrote symbols.
        ``check.counts``, ``check.zero-count-spots``
            Values are no raw counts; spots in tissue have none.
        ``check.labels``
            A column of labels has fewer than two or more than 50.

    Raises
    ------
    StoreError
        If the store cannot be opened or read: `stformat.verify_store` says why.

    Notes
    -----
    Read are the last level of the image, the places of spots, single columns of obs, the names of
    genes, the shapes, and the values of the counts in blocks. Memory: about 160 bytes a row of the
    largest table, besides one column of labels. Findings are hints: a rare slide has a reason to
    be as it is.

    Examples
    --------
    The wrong resolution was given:

    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> slide = make_slide(height=600, width=700, n_genes=50, seed=0)
    >>> source = write_legacy_st(slide, folder / "source")
    >>> store = stf.convert_slide(source, folder / "slide.zarr", mpp=3.0)
    >>> [problem.code for problem in stf.check_store(store)]
    ['check.mpp-contradiction']
    """
    opened = OpenStore(parse_location(path))
    try:
        return list(_problems(opened))
    finally:
        opened.close()


def _problems(opened: OpenStore) -> Iterator[Problem]:
    attributes = opened.store.attributes
    image = None
    if attributes.image is not None:
        image = read_small_image(opened.engine, f"images/{attributes.image.element}")
        yield from _image_problems(image, attributes.stain)
    yield from resolution_problems(attributes)
    regions: set[str] = set()
    for name in opened.tables:
        table = TableView(opened.store, opened.tables[name])
        if not table.n_obs:
            continue
        if table.attributes.region not in regions:
            regions.add(table.attributes.region)
            yield from _spot_problems(table, image, attributes.mpp.value)
        yield from shape_problems(opened.store.files, table)
        yield from barcode_problems(table)
        yield from gene_problems(table)
        yield from count_problems(table)
        yield from label_problems(table)


def _spot_problems(
    table: TableView, image: SmallImage | None, mpp: float | None
) -> Iterator[Problem]:
    """Yield what concerns places alone, which tables of one region share."""
    yield from spacing_problems(table, mpp)
    yield from duplicate_position_problems(table)
    if image is not None:
        mask = find_tissue(image, radius_px=float(table.radii().max()))
        yield from placement_problems(table, image, mask)


def _image_problems(image: SmallImage, stain: str) -> Iterator[Problem]:
    if image.is_blank:
        low, high = image.low.min(), image.high.max()
        yield Problem(
            "check.blank-image",
            image.path,
            "an image must show tissue",
            f"values from {low:g} to {high:g} only",
            "check that the image file is the slide's and was exported whole, and convert the "
            "slide again with --image",
        )
    elif stain == "he":
        found = _unlike_he(image)
        if found:
            yield Problem(
                "check.channels",
                image.path,
                "a slide of stain he must have a bright image in colour: red, green and blue",
                found,
                "if it is fluorescence, convert the slide again with --stain if; if it lost its "
                "colours, with the original image",
            )
    elif not _unlike_he(image):
        yield Problem(
            "check.channels",
            image.path,
            f"a slide of stain {stain} must have a dark image, whose channels differ as markers do",
            "a bright image in colour: red, green and blue",
            "if it is brightfield, convert the slide again with --stain he",
        )


def _unlike_he(image: SmallImage) -> str:
    """Say what is not as in a brightfield image in colour; nothing where all is."""
    n_c = len(image.pixels)
    if n_c != 3:
        return f"{n_c} channels"
    if image.is_dark:
        return "a dark background"
    if image.is_grayscale:
        return "three channels that are nearly equal"
    return ""
