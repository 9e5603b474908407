"""Which pages of a TIFF are the image: one page, or one page a channel, of one focal plane."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import tifffile

from stformat.errors import ImageError
from stformat.sources._image_file import image_error
from stformat.sources._image_ome import OmeImage, pages_of_planes, parse_ome
from stformat.sources._image_tiff_directories import MAX_DIRECTORIES

__all__ = ["MAX_CHANNELS", "Planes", "choose_focal_plane", "choose_planes", "unique_names"]

MAX_CHANNELS = 128
"""Most channels of an image; the panels of cyclic immunofluorescence have 40 to 100."""

_MAX_NAME = 100
_REDUCED_OR_MASK = 0b101
_PAGE_NAME = 285
_UIC2_TAG = 33629

_IMAGEJ_SIZE = re.compile(r"^(images|channels|slices|frames)=(\d{1,9})\s*$", re.MULTILINE)

# TIFF in name, but the tiles overlap, regions lie beside each other, or offsets are 64 bits in 32.
_SLIDE_FORMATS = {
    "is_ndpi": "a Hamamatsu NDPI slide",
    "is_bif": "a Ventana BIF slide",
    "is_scn": "a Leica SCN slide",
    "is_trestle": "a Trestle slide",
}
_SLIDE_REMEDY = (
    "install OpenSlide (pip install 'stformat[openslide]'), or write the largest level as a TIFF: "
    "vips copy slide.ndpi slide.tif[compression=deflate,tile,bigtiff]"
)
_FOCUS_REMEDY = (
    "name the one in focus with --focal-plane, counted from 0, or save a maximum projection of all "
    "(ImageJ: Image > Stacks > Z Project)"
)
_TIME_REMEDY = "save one time point (ImageJ: Image > Stacks > Tools > Make Substack)"
_CHANNELS_REMEDY = "if its planes are channels of fluorescence pass --stain if, else save one page"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes:
    """The pages that make up the image, all of one layout."""

    pages: tuple[tifffile.TiffPage, ...]
    """One page, or one a channel, in the order of the channels."""

    names: tuple[str, ...] = ()
    """One name a channel where the file gives any, else empty; a name may be missing (``""``)."""

    n_focal: int = 1
    """Focal planes that the file has, of which the pages are one."""

    mpp: float | None = None
    """Microns per pixel by OME-XML, where plausible."""


def choose_focal_plane(n_focal: int, given: int | None, where: str) -> int:
    """Choose the focal plane to read.

    Parameters
    ----------
    n_focal : int
        Focal planes that the file says it has.
    given : int or None
        What the user chose, counted from 0; None where there is nothing to choose.
    where : str
        The file, for messages.

    Returns
    -------
    int
        `given`, or 0.

    Raises
    ------
    ImageError
        If there is no such focal plane, or there are several and none is given.

    Examples
    --------
    >>> choose_focal_plane(5, 2, "slide.tif")
    2
    """
    if given is None and n_focal > 1:
        raise image_error(
            "unsupported",
            where,
            "an image must have one focal plane, or one of them be named",
            f"several planes: {n_focal} focal planes",
            _FOCUS_REMEDY,
        )
    if given is not None and not 0 <= given < n_focal:
        raise image_error(
            "focal-plane",
            where,
            f"the file tells of {n_focal} focal plane{'s' * (n_focal > 1)}, counted from 0",
            f"focal plane {given}",
        )
    return given or 0


def choose_planes(
    tiff: tifffile.TiffFile,
    *,
    stain: Literal["he", "if"],
    focal_plane: int | None,
    where: str,
) -> Planes:
    """Choose the pages that are the image at full resolution.

    Parameters
    ----------
    tiff : tifffile.TiffFile
        An open file.
    stain : {"he", "if"}
        Several planes of the largest size are channels of fluorescence, and refused of
        brightfield.
    focal_plane : int or None
        Which focal plane to read, counted from 0; see `choose_focal_plane`.
    where : str
        The file, for messages.

    Returns
    -------
    Planes
        The largest page, which is the first one in every common layout: reduced levels, masks,
        labels and thumbnails are smaller or marked; levels in sub-IFDs are never looked at. Of
        fluorescence all pages of its kind: in the order that OME-XML gives, else as they lie in
        the file.

    Raises
    ------
    ImageError
        If there are several focal planes and none is chosen, several time points, several planes of
        brightfield, planes behind one page or in other files, more than `MAX_CHANNELS` channels or
        1000 pages, or if the file is a slide of another format that only looks like a TIFF.
    """
    pages = _main_pages(tiff, where)
    first = pages[0]
    for flag, name in _SLIDE_FORMATS.items():
        if getattr(first, flag):
            raise image_error("slide-format", where, "an image must be a TIFF", name, _SLIDE_REMEDY)
    largest, alike = _largest(pages, where)
    ome = _ome_image(parse_ome(first.description), largest, where)
    if ome is not None:
        return _ome_planes(ome, pages, alike, stain=stain, focal_plane=focal_plane, where=where)
    n_focal, n_channels = _stack_sizes(largest, len(alike), where)
    first_page = choose_focal_plane(n_focal, focal_plane, where) * n_channels
    chosen = alike[first_page : first_page + n_channels]
    if n_channels > 1:
        _check_channels(n_channels, stain, where)
    return Planes(pages=tuple(chosen), names=_page_names(chosen), n_focal=n_focal)


def _main_pages(tiff: tifffile.TiffFile, where: str) -> list[tifffile.TiffPage]:
    """List the pages of the main chain."""
    pages: list[tifffile.TiffPage] = []
    offsets: set[int] = set()
    for page in tiff.pages:
        if len(pages) == MAX_DIRECTORIES:
            raise _unsupported(where, f"more than {MAX_DIRECTORIES} pages")
        if not isinstance(page, tifffile.TiffPage):
            raise _unsupported(where, "a page without tags of its own")
        if page.offset in offsets:
            raise image_error(
                "corrupt", where, "the pages of a TIFF must come to an end", "a circle of pages"
            )
        offsets.add(page.offset)
        pages.append(page)
    if not pages:
        raise image_error("corrupt", where, "a TIFF must hold an image", "no page")
    return pages


def _largest(
    pages: list[tifffile.TiffPage], where: str
) -> tuple[tifffile.TiffPage, list[tifffile.TiffPage]]:
    """Find the first page with the most pixels, and all pages that are written like it."""
    full = [
        page
        for index, page in enumerate(pages)
        if index == 0 or not int(page.subfiletype) & _REDUCED_OR_MASK
    ]
    largest = max(full, key=lambda page: page.imagewidth * page.imagelength)
    # Planes of a stack are written alike; a thumbnail of a tiny image is not.
    alike = [page for page in full if page.hash == largest.hash]
    if largest.imagewidth < 1 or largest.imagelength < 1:
        raise image_error(
            "corrupt",
            where,
            "a TIFF page must declare its size",
            f"{largest.imagewidth} x {largest.imagelength} pixels",
        )
    return largest, alike


def _ome_image(
    images: list[OmeImage] | None, largest: tifffile.TiffPage, where: str
) -> OmeImage | None:
    """Find the image that OME-XML describes in the size of the largest page."""
    size = largest.imagewidth, largest.imagelength
    fitting = [
        image for image in images or () if (image.sizes["SizeX"], image.sizes["SizeY"]) == size
    ]
    if len(fitting) > 1:
        raise _unsupported(where, f"{len(fitting)} images of the same size, several planes each")
    return fitting[0] if fitting else None


def _ome_planes(
    ome: OmeImage,
    pages: list[tifffile.TiffPage],
    alike: list[tifffile.TiffPage],
    *,
    stain: Literal["he", "if"],
    focal_plane: int | None,
    where: str,
) -> Planes:
    """Choose pages as OME-XML says."""
    largest = alike[0]
    _refuse_times(ome.sizes["SizeT"], where)
    n_focal = ome.sizes["SizeZ"]
    focal_plane = choose_focal_plane(n_focal, focal_plane, where)
    if ome.names_other_files:
        raise _unsupported(where, "several planes, some of them in other files")
    # A page holds all channels, or one.
    n_channels = 1 if ome.sizes["SizeC"] == largest.samplesperpixel else ome.sizes["SizeC"]
    n_found = max(n_channels, -(-len(alike) // n_focal))
    if n_found > 1:
        _check_channels(n_found, stain, where)
    if n_channels > 1 and (largest.samplesperpixel != 1 or any(n != 1 for n in ome.samples)):
        raise _unsupported(where, "several planes of more than one sample a pixel")
    names = tuple(ome.channel_names)
    n_planes = n_focal * n_channels
    if n_planes == len(alike) == 1:
        return Planes(pages=(largest,), names=names, mpp=ome.mpp)
    indices = pages_of_planes(ome, n_channels, focal_plane, where)
    if n_planes > len(pages) or max(indices) >= len(pages):
        raise image_error(
            "truncated",
            where,
            f"OME-XML promises {n_planes} planes",
            f"{len(pages)} pages",
            "copy the file again from its source",
        )
    chosen = [pages[index] for index in indices]
    if (
        any(page.hash != largest.hash for page in chosen)
        or len(set(indices)) != n_channels
        or len(alike) != n_planes
    ):
        raise _unsupported(where, "several planes that are not written alike")
    return Planes(pages=tuple(chosen), names=names, n_focal=n_focal, mpp=ome.mpp)


def _stack_sizes(page: tifffile.TiffPage, n_pages: int, where: str) -> tuple[int, int]:
    """Return how many focal planes there are, and pages in each, by a page's own description."""
    if page.is_stk and _UIC2_TAG in page.tags:
        _refuse_missing(page.tags[_UIC2_TAG].count - n_pages, where)
    if not page.is_imagej:
        return 1, n_pages
    sizes = {name: int(size) for name, size in _IMAGEJ_SIZE.findall(page.description)}
    _refuse_times(sizes.get("frames", 1), where)
    _refuse_missing(sizes.get("images", 1) - n_pages, where)
    n_focal = sizes.get("slices", 1)
    if n_focal <= 1:
        return 1, n_pages
    n_channels, n_left = divmod(n_pages, n_focal)
    if n_left or sizes.get("channels", n_channels) != n_channels:
        raise _unsupported(
            where, f"{n_pages} pages of several planes: {n_focal} focal planes of {n_channels}"
        )
    return n_focal, n_channels


def _refuse_times(n_times: int, where: str) -> None:
    if n_times > 1:
        raise image_error(
            "unsupported",
            where,
            "an image must have one time point",
            f"several planes: {n_times} time points",
            _TIME_REMEDY,
        )


def _refuse_missing(n_missing: int, where: str) -> None:
    """Refuse planes that follow their page without pages of their own."""
    if n_missing > 0:
        raise _unsupported(where, f"several planes, {n_missing} of them without a page")


def _check_channels(n_channels: int, stain: Literal["he", "if"], where: str) -> None:
    """Refuse planes that are no channels, or too many."""
    if stain == "he":
        raise image_error(
            "unsupported",
            where,
            "a brightfield image must be one plane",
            f"several planes of the same size: {n_channels}",
            _CHANNELS_REMEDY,
        )
    if n_channels > MAX_CHANNELS:
        raise _unsupported(where, f"several planes: {n_channels}, of which {MAX_CHANNELS} are read")


def _page_names(pages: list[tifffile.TiffPage]) -> tuple[str, ...]:
    """Read the PageName tag of every page."""
    values = [page.tags.valueof(_PAGE_NAME) for page in pages]
    return tuple(value if isinstance(value, str) else "" for value in values)


def unique_names(names: tuple[str, ...], n_channels: int) -> tuple[str, ...]:
    """Name every channel, each differently.

    Parameters
    ----------
    names : tuple of str
        What the file says; taken where there is one a channel.
    n_channels : int
        How many names are needed.

    Returns
    -------
    tuple of str
        A missing name becomes ``"ch0"`` by its place; of a name that repeats every one gets its
        place too, or all names do where that leaves two alike.

    Examples
    --------
    >>> unique_names(("DAPI", "", "DAPI"), 3)
    ('DAPI (0)', 'ch1', 'DAPI (2)')
    """
    if len(names) != n_channels:
        names = ("",) * n_channels
    printable = ("".join(filter(str.isprintable, name[:_MAX_NAME])).strip() for name in names)
    named = [name or f"ch{index}" for index, name in enumerate(printable)]
    counts = Counter(named)
    numbered = tuple(
        name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(named)
    )
    if len(set(numbered)) == n_channels:
        return numbered
    # A name ends like the place of another one: with every place written, none can.
    return tuple(f"{name} ({index})" for index, name in enumerate(named))


def _unsupported(where: str, found: str) -> ImageError:
    return image_error(
        "unsupported",
        where,
        "a TIFF must hold one image, or one page a channel of fluorescence",
        found,
        "save the image alone, at full resolution, as a TIFF",
    )
