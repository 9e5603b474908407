"""Source to record to store: the one road into the format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from stformat.errors import ImageCodecWarning, InputError, Problem
from stformat.model import Progress, silent
from stformat.sources import read_slide
from stformat.store.commit import replace_store
from stformat.store.image_codecs import IMAGE_CODECS, ImageCodec
from stformat.store.writer import resume_slide

__all__ = ["convert_slide", "convert_with", "parse_image_codec"]


def convert_slide(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    kind: str = "auto",
    image: str | os.PathLike[str] | None = None,
    mpp: float | None = None,
    slide_id: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    image_codec: str = "zstd",
    progress: Progress | None = None,
    **metadata: object,
) -> Path:
    """Convert one slide from a vendor's or a study's files into a store.

    The store appears at `target` whole, or not at all: it is written beside it under a hidden
    name, synced to disk and renamed. The same source gives the same bytes.

    Parameters
    ----------
    source : path
        Folder of one slide, or its count matrix.
    target : path
        Directory to make, by convention ``<slide>.zarr``.
    kind : str, default: "auto"
        Kind of source: ``"visium"``, ``"visium_hd"`` (outputs of Space Ranger), ``"hest"``,
        ``"stimage"``, ``"legacy_st"``, ``"spatialdata"``. ``"auto"`` recognises it by content and
        refuses to guess.
    image : path, optional
        Full-resolution histology image, where the source does not name it.
    mpp : float, optional
        Microns per pixel of the image; takes precedence over what the files say.
    slide_id : str, optional
        Identifier of the slide; also selects one of several samples of `source`.
    overwrite : bool, default: False
        Replace an existing store at `target`, in one atomic exchange.
    resume : bool, default: False
        Keep what an interrupted conversion to `target` finished, and continue it; and keep what
        this one finishes, should it be interrupted. The result is the same, byte for byte, as
        that of a conversion without interruption. What was finished is kept only where its
        checksums still fit, and only for the same source, options and software; finished are the
        rows of shards of an image, the shapes of a region, and a table.
    image_codec : {"zstd", "blosc", "jpeg"}, default: "zstd"
        How pixels are stored. ``"zstd"`` and ``"blosc"`` are lossless; the one is smaller, the
        other decodes faster. ``"jpeg"``, for 8-bit images of 1 or 3 channels, takes about a tenth
        of the size. It keeps the JPEG tiles of a TIFF as they are, where they have 256 or 512
        pixels on a side; all else it encodes, and pixels are then close to the source's, not
        equal. A note says which. JPEG is no codec of the Zarr specification, so tools other than
        those of Python with stformat installed may not read the pixels.
    progress : callable, optional
        Called with a `stformat.model.ProgressEvent` at each step; an exception that it raises
        aborts the conversion and leaves nothing behind, unless `resume`.
    **metadata
        ``species``, ``tissue``, ``disease``, ``donor``, ``study``, ``licence``, ``citation``,
        ``technology``, ``stain`` (``"he"`` or ``"if"``), and what the kind of source knows:
        ``pitch_um``, ``labels``, ``focal_plane`` (which one to read of an image that has several,
        counted from 0), for Visium ``counts``, the matrix to take where a folder has several, and
        for Visium HD ``bins``, sizes of bins in microns.

    Returns
    -------
    pathlib.Path
        `target`.

    Raises
    ------
    InputError
        If the source is not what it must be, or an argument does not fit it.
    StoreExistsError
        If `target` exists and `overwrite` is False, or is something other than a store.
    StoreLockedError
        If another process is writing to `target`.
    StoreWriteError
        If the file system refuses a write.

    Warns
    -----
    ImageCodecWarning
        Under ``image_codec="jpeg"``.

    Notes
    -----
    Memory: a few hundred rows of the image at every level; then about 100 bytes for each row of a
    table, and 64 MiB of counts, beyond which they are put in order on disk, beside `target`. Some
    kinds of source hold their counts in memory as CSR (8 bytes a non-zero count).

    Conversions keep a journal of what is finished while they run, so one that was killed can be
    resumed whether or not it was begun with `resume`; an image that is resumed is decoded from its
    top again, and only what is missing of it is encoded and written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> convert_slide(source, folder / "slide.zarr", species="human").name
    'slide.zarr'
    """
    target = Path(target)
    convert_with(
        parse_image_codec(image_codec),
        Path(source),
        target,
        kind=kind,
        image=None if image is None else Path(image),
        mpp=mpp,
        slide_id=slide_id,
        overwrite=overwrite,
        resume=resume,
        progress=silent if progress is None else progress,
        options=metadata,
    )
    return target


def convert_with(
    codec: ImageCodec,
    source: Path,
    target: Path,
    *,
    kind: str,
    slide_id: str | None,
    overwrite: bool,
    resume: bool,
    progress: Progress,
    options: Mapping[str, object],
    image: Path | None = None,
    mpp: float | None = None,
) -> None:
    """Convert one slide under a codec that is known; all else as `convert_slide`."""
    with replace_store(
        target,
        overwrite=overwrite,
        unfinished="keep" if resume else "discard",
        progress=progress,
    ) as directory:
        record = read_slide(
            source,
            kind=kind,
            image=image,
            mpp=mpp,
            slide_id=slide_id,
            scratch=directory.parent,
            options=options,
        )
        resume_slide(record, directory, codec=codec, progress=progress)


def parse_image_codec(name: str) -> ImageCodec:
    """Return the codec of a name, and warn of one that other tools do not have.

    Parameters
    ----------
    name : str
        As `convert_slide` takes it.

    Returns
    -------
    ImageCodec
        The codec.

    Raises
    ------
    InputError
        If there is none of that name.

    Warns
    -----
    ImageCodecWarning
        For ``"jpeg"``, in the name of the caller's caller.
    """
    codec = IMAGE_CODECS.get(name)
    if codec is None:
        raise InputError(
            Problem(
                "convert.image-codec",
                "image_codec",
                f"one of {', '.join(IMAGE_CODECS)} is needed",
                repr(name),
            )
        )
    if codec.name == "jpeg":
        warnings.warn(
            "pixels are stored as JPEG, under a codec that the Zarr specification does "
            "not have: zarr-python and SpatialData read them where stformat is installed, other "
            "tools only with imagecodecs_jpeg of their own",
            ImageCodecWarning,
            stacklevel=3,
        )
    return codec
