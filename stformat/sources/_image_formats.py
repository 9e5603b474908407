"""What a file that is neither JPEG, PNG nor TIFF seems to be, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from stformat.errors import ImageError
from stformat.sources._image_file import image_error

__all__ = ["not_an_image", "refuse_slide_index"]

_CONVERT = "convert it to an 8-bit RGB TIFF"
_DOWNLOAD = "download it again, or name the image that belongs to the slide"
_EXPORT_SLIDE = (
    "install OpenSlide (pip install 'stformat[openslide]') if it reads this format, or write the "
    "largest level as a TIFF: bfconvert -series 0 slide.czi slide.ome.tif"
)
_FETCH_LFS = "fetch the file itself: git lfs pull"

# What such a file starts with, in lower case, what to call it, and the remedy.
_OTHER_FORMATS = (
    (b"version https://git-lfs", "text: a git-LFS pointer", _FETCH_LFS),
    (b"<!doctype html", "HTML", _DOWNLOAD),
    (b"<html", "HTML", _DOWNLOAD),
    (b"<?xml", "XML", _DOWNLOAD),
    (b"<svg", "SVG", _DOWNLOAD),
    (b"{", "text: JSON", _DOWNLOAD),
    (b"%pdf", "PDF", _CONVERT),
    (b"gif8", "a GIF image", _CONVERT),
    (b"bm", "a BMP image", _CONVERT),
    (b"\0\0\0\x0cjp  ", "a JPEG 2000 image", _CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 code stream", _CONVERT),
    (b"\0\0\0\x0cjxl ", "a JPEG XL image", _CONVERT),
    (b"\xff\x0a", "a JPEG XL code stream", _CONVERT),
    (b"8bps", "a Photoshop document", _CONVERT),
    (b"zisrawfile", "a Zeiss CZI slide", _EXPORT_SLIDE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file, such as a Zeiss ZVI slide", _EXPORT_SLIDE),
    (b"[virtual microscope specimen]", "the index of a Hamamatsu VMS slide", _EXPORT_SLIDE),
    (b"[uncompressed virtual microscope", "the index of a Hamamatsu VMU slide", _EXPORT_SLIDE),
    (b"sqlite format 3\0", "an SQLite file, such as a Sakura slide", _EXPORT_SLIDE),
    (b"\x89hdf\r\n\x1a\n", "HDF5", _DOWNLOAD),
    (b"pk\3\4", "a zip archive", "unpack it"),
    (b"\x1f\x8b", "gzip data", "unpack it"),
)
# What stands further on: offset, bytes, name, remedy.
_INNER_MARKS = (
    (8, b"WEBP", "a WebP image", _CONVERT),
    (4, b"ftypavif", "an AVIF image", _CONVERT),
    (4, b"ftypheic", "a HEIC image", _CONVERT),
    (128, b"DICM", "a DICOM file", _EXPORT_SLIDE),
)


def not_an_image(head: bytes, where: str) -> ImageError:
    """Make the error of a file that is not read as an image.

    Parameters
    ----------
    head : bytes
        The first bytes of the file.
    where : str
        The file, for messages.

    Returns
    -------
    ImageError
        It names the format that was seen.

    Examples
    --------
    >>> not_an_image(b"BM6", "slide.png").problems[0].found
    'a BMP image'
    """
    found, remedy = _describe(head)
    kind = "slide-format" if remedy == _EXPORT_SLIDE else "not-an-image"
    return image_error(kind, where, "an image must be JPEG, PNG or TIFF", found, remedy)


def refuse_slide_index(path: Path) -> None:
    """Refuse a small image that stands for a slide whose pixels lie in a directory beside it.

    Parameters
    ----------
    path : Path
        A file with the bytes of an image.

    Raises
    ------
    ImageError
        If it is the thumbnail of a 3DHISTECH MRXS slide or the overview of an Olympus VSI slide.
    """
    if path.with_suffix("").joinpath("Slidedat.ini").is_file():
        found = "the thumbnail of a 3DHISTECH MRXS slide"
    elif path.with_name(f"_{path.stem}_").joinpath("stack1").is_dir():
        found = "the overview of an Olympus VSI slide"
    else:
        return
    raise image_error(
        "slide-format", path.name, "an image must hold its own pixels", found, _EXPORT_SLIDE
    )


def _describe(head: bytes) -> tuple[str, str]:
    """Name what a file that is no image seems to be, and say what to do."""
    if not head:
        return "an empty file", _DOWNLOAD
    starts = head.lower(), head.lstrip().lower()
    for signature, name, remedy in _OTHER_FORMATS:
        if any(start.startswith(signature) for start in starts):
            return name, remedy
    for offset, mark, name, remedy in _INNER_MARKS:
        if head.startswith(mark, offset):
            return name, remedy
    if not any(head):
        return "zero bytes", _DOWNLOAD
    if all(byte in b"\t\n\r" or byte >= 32 for byte in head if byte != 127):
        return "text", _DOWNLOAD
    return f"unknown data that start with {head[:8].hex(' ')}", _DOWNLOAD
