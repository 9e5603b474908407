"""What the OME-XML of a TIFF says of its planes.

OME-TIFF specification 6, https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from stformat.errors import ImageError
from stformat.sources._image_file import image_error
from stformat.sources._image_tags import plausible_mpp

__all__ = ["OmeImage", "pages_of_planes", "parse_ome"]

_MAX_CHARACTERS = 16 * 2**20

_MAX_BLOCKS = 4096
"""Most TiffData elements of an image; there is no need of more than one a plane."""

# The schema's default unit; it is spelled with either of two letters mu.
_MICROMETRE = {"\u00b5m", "\u03bcm", "um"}


class _NotOmeError(ValueError):
    """The text is not what the OME schema allows."""


@dataclass(slots=True, kw_only=True)
class OmeImage:
    """One image of an OME-XML document."""

    sizes: Mapping[str, int]
    """``SizeX``, ``SizeY``, ``SizeZ``, ``SizeC`` and ``SizeT``."""

    channel_names: list[str] = field(default_factory=list)
    """Name of each channel, or its fluorophore; empty where neither is given."""

    samples: list[int] = field(default_factory=list)
    """Samples that a pixel of each channel has."""

    blocks: list[Mapping[str, str]] = field(default_factory=list)
    """Attributes of each TiffData element: which pages hold which planes."""

    is_focus_first: bool = False
    """Whether focal planes come before channels in the order of planes."""

    mpp: float | None = None
    """Microns per pixel, where plausible."""

    files: set[str] = field(default_factory=set)
    """Identifiers of the files that its planes are said to lie in."""

    names_other_files: bool = False
    """Whether planes lie in other files than this one."""


def parse_ome(text: str) -> list[OmeImage] | None:
    """Read the images that OME-XML describes.

    Parameters
    ----------
    text : str
        The description of the first page of a TIFF.

    Returns
    -------
    list of OmeImage or None
        None where the text is no OME-XML, or is not well formed.

    Examples
    --------
    >>> parse_ome('<OME><Image><Pixels SizeX="4" SizeY="3" SizeZ="1" SizeC="2" SizeT="1">'
    ...           '<Channel Name="DAPI"/><Channel/></Pixels></Image></OME>')[0].channel_names
    ['DAPI', '']
    """
    if not text.rstrip("\0 \t\r\n").endswith("OME>") or len(text) > _MAX_CHARACTERS:
        return None
    reader = _Reader()
    try:
        reader.read(text)
    except (expat.ExpatError, _NotOmeError):
        return None
    return reader.images


class _Reader:
    """Collects images while expat walks over the elements; no tree is built."""

    def __init__(self) -> None:
        self.images: list[OmeImage] = []
        self._own_uuid = ""
        self._uuid: list[str] | None = None
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        # OME-XML has no document type, and entities of one could grow without bound.
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser = parser

    def read(self, text: str) -> None:
        """Parse a whole document."""
        self._parser.Parse(text.rstrip("\0"), True)  # noqa: FBT003 - expat's own signature

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if name == "OME":
            self._own_uuid = attributes.get("UUID", "")
        elif name == "Pixels":
            self.images.append(_image(attributes))
        elif not self.images:
            return
        elif name == "Channel":
            names = attributes.get("Name", "").strip() or attributes.get("Fluor", "").strip()
            self.images[-1].channel_names.append(names)
            self.images[-1].samples.append(_size(attributes, "SamplesPerPixel", 1))
        elif name == "TiffData":
            self.images[-1].blocks.append(attributes)
        elif name == "UUID":
            self._uuid = []

    def _text(self, text: str) -> None:
        if self._uuid is not None:
            self._uuid.append(text)

    def _end(self, name: str) -> None:
        if name.rpartition(":")[2] == "UUID" and self._uuid is not None:
            uuid = "".join(self._uuid).strip()
            self._uuid = None
            # Where the document has no identifier, a single file is taken to be this one.
            image = self.images[-1]
            image.files.add(uuid)
            image.names_other_files = len(image.files | {self._own_uuid or uuid}) > 1

    def _refuse_doctype(self, *_: object) -> None:
        raise _NotOmeError("a document type")


def _image(attributes: Mapping[str, str]) -> OmeImage:
    """Read the attributes of a Pixels element."""
    axes = ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT")
    order = attributes.get("DimensionOrder", "")
    return OmeImage(
        sizes={axis: _size(attributes, axis) for axis in axes},
        is_focus_first=order.find("Z") < order.find("C"),
        mpp=_mpp(attributes),
    )


def _mpp(attributes: Mapping[str, str]) -> float | None:
    """Read the size of a pixel, which may be given for one axis only."""
    claims: list[float] = []
    for axis in "XY":
        text = attributes.get(f"PhysicalSize{axis}")
        if text is None:
            continue
        if attributes.get(f"PhysicalSize{axis}Unit", "um") not in _MICROMETRE:
            return None
        try:
            claims.append(float(text))
        except ValueError:
            return None
    return plausible_mpp(claims[0], claims[-1]) if claims else None


def _size(attributes: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = attributes.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise _NotOmeError(f"{name}={text!r}")
    return int(text)


def pages_of_planes(image: OmeImage, n_channels: int, focal_plane: int, where: str) -> list[int]:
    """Find the page of each channel in one focal plane.

    Parameters
    ----------
    image : OmeImage
        ``SizeT`` is 1, so planes are numbered by their focal plane and their channel.
    n_channels : int
        Channels that have pages of their own; 1 where a page holds all of them.
    focal_plane : int
        Which of the focal planes, counted from 0.
    where : str
        The file, for messages.

    Returns
    -------
    list of int
        Index of a page of the file for each channel.

    Raises
    ------
    ImageError
        If a channel has no page, or more than one.
    """
    n_focal = image.sizes["SizeZ"]
    step_z, step_c = (1, n_focal) if image.is_focus_first else (n_channels, 1)
    n_planes = n_focal * n_channels
    wanted = {focal_plane * step_z + channel * step_c: channel for channel in range(n_channels)}
    if not image.blocks:
        return list(wanted)
    if len(image.blocks) > _MAX_BLOCKS:
        raise _broken(where, f"{len(image.blocks)} of them")
    pages: dict[int, int] = {}
    for block in image.blocks:
        # A block without IFD stands for all planes from the first page on, one with IFD for one.
        first_page = _number(block, "IFD", 0, where)
        n_block = _number(block, "PlaneCount", 1 if "IFD" in block else n_planes, where)
        focus = _number(block, "FirstZ", 0, where)
        channel = _number(block, "FirstC", 0, where)
        first = focus * step_z + channel * step_c
        if focus >= n_focal or channel >= n_channels or first + n_block > n_planes:
            raise _broken(where, f"a plane {first + n_block - 1} of {n_planes}")
        for plane, wanted_channel in wanted.items():
            page = first_page + plane - first
            if first <= plane < first + n_block and pages.setdefault(plane, page) != page:
                raise _broken(where, f"two pages for channel {wanted_channel}")
    if len(pages) != n_channels:
        raise _broken(where, f"pages for {len(pages)} of {n_channels} channels")
    return [pages[plane] for plane in wanted]


def _number(block: Mapping[str, str], name: str, default: int, where: str) -> int:
    text = block.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _broken(where, f"{name}={text[:20]!r}")
    return int(text)


def _broken(where: str, found: str) -> ImageError:
    return image_error(
        "corrupt",
        where,
        "the TiffData elements of OME-XML must give each channel one page",
        found,
        "export the image again, one page a channel",
    )
