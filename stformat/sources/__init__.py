"""Vendors' and studies' files as slide records, one module a kind of source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from stformat.errors import InputError, Problem, UnknownSourceError
from stformat.model import SlideRecord
from stformat.sources import hest, legacy_st, spatialdata_zarr, stimage, visium, visium_hd
from stformat.sources._kinds import (
    DESCRIPTOR_OPTIONS,
    FoundSlide,
    SourceKind,
    SourceRequest,
    descriptors,
    positive,
)
from stformat.sources._label_terms import with_label_terms
from stformat.sources._trees import Listing, walk_tree

__all__ = ["KINDS", "FoundSlide", "Listing", "check_options", "list_slides", "read_slide"]

KINDS: tuple[SourceKind, ...] = (
    hest.KIND,
    legacy_st.KIND,
    spatialdata_zarr.KIND,
    stimage.KIND,
    visium.KIND,
    visium_hd.KIND,
)
"""Every kind of source that is read."""

_SHOWN_ENTRIES = 8


def read_slide(
    source: str | Path,
    *,
    kind: str = "auto",
    image: Path | None = None,
    mpp: float | None = None,
    slide_id: str | None = None,
    scratch: Path | None = None,
    options: Mapping[str, object] = MappingProxyType({}),
) -> SlideRecord:
    """Read one slide from a vendor's or a study's files.

    Parameters
    ----------
    source : path
        Folder of one slide, or its count matrix.
    kind : str, default: "auto"
        Name of one of `KINDS`. ``"auto"`` takes the only one that recognises the content of
        `source`.
    image : pathlib.Path, optional
        Full-resolution image; takes precedence over one found in `source`.
    mpp : float, optional
        Microns per full-resolution pixel; takes precedence over what the files say.
    slide_id : str, optional
        Identifier of the slide; in a folder of several samples, the name of one.
    scratch : pathlib.Path, optional
        Directory for temporary files.
    options : mapping, optional
        The fields of `stformat.model.Descriptors`, and what the kind itself knows. None stands for
        not given.

    Returns
    -------
    SlideRecord
        Positions, counts and metadata in memory; the image is decoded only when it is asked for.
        Beside labels ``<name>`` that `stformat.terms` knows stands ``<name>_term``.

    Raises
    ------
    UnknownSourceError
        If no kind recognises `source`, or several do, or `kind` is no kind.
    InputError
        If the source is not what it must be, or an argument does not fit it.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp()) / "source"
    >>> slide = make_slide(height=400, width=400, n_genes=20, pitch_px=60.0, seed=0)
    >>> record = read_slide(write_legacy_st(slide, folder), options={"species": "human"})
    >>> record.tables[0].name, record.tables[0].counts.shape[1]
    ('expression', 20)
    """
    path = Path(source)
    if not path.exists():
        raise UnknownSourceError(
            Problem("source.missing", str(source), "a folder or a file must exist", "neither")
        )
    chosen = _choose(path, kind)
    given = _known_options(chosen, options)
    record = chosen.read(
        SourceRequest(
            path=path,
            image=image,
            mpp=None if mpp is None else positive("mpp", mpp),
            slide_id=slide_id,
            scratch=scratch,
            options=given,
        )
    )
    if record.image is None and "focal_plane" in given:
        raise InputError(
            Problem(
                "option.no-image",
                "focal_plane",
                "a focal plane is one of an image",
                "a slide without an image",
                "name the image with image=, or leave the option out",
            )
        )
    return with_label_terms(record)


def list_slides(tree: str | Path, *, kind: str = "auto", excluded: Iterable[Path] = ()) -> Listing:
    """Find every slide of a tree of folders; reads names, and the beginnings of files.

    Parameters
    ----------
    tree : path
        Folder of slides, folders of slides, and so on; or one slide.
    kind : str, default: "auto"
        Name of one of `KINDS`, to find slides of that kind only.
    excluded : iterable of pathlib.Path
        Folders that are not looked into.

    Returns
    -------
    Listing
        Slides in the order of a walk by name, and the folders that could not be listed. The walk
        enters neither hidden folders, nor folders that hold a slide, nor a Zarr hierarchy; it
        follows links and comes to each folder once.

    Raises
    ------
    UnknownSourceError
        If `tree` is no folder, or `kind` is no kind.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> tree = Path(tempfile.mkdtemp())
    >>> slide = make_slide(height=400, width=400, n_genes=20, pitch_px=60.0, seed=0)
    >>> folder = write_legacy_st(slide, tree / "study" / "sample")
    >>> [(found.kind, found.slide_id) for found in list_slides(tree).slides]
    [('legacy_st', 'S1')]
    """
    path = Path(tree)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise UnknownSourceError(
            Problem("source.no-folder", str(tree), "a tree of slides is a folder", found)
        )
    return walk_tree(path, KINDS if kind == "auto" else (_named(kind),), excluded=excluded)


def check_options(kind: str, options: Mapping[str, object]) -> None:
    """Check options before anything is read.

    Parameters
    ----------
    kind : str
        Name of one of `KINDS`.
    options : mapping
        As for `read_slide`.

    Raises
    ------
    UnknownSourceError
        If `kind` is no kind.
    InputError
        If the kind does not take an option, or a descriptor is not of its type.

    Examples
    --------
    >>> check_options("legacy_st", {"species": "human", "pitch_um": 150})
    """
    descriptors(_known_options(_named(kind), options), technology="any")


def _known_options(kind: SourceKind, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that are given, all of which the kind takes."""
    given = {name: value for name, value in options.items() if value is not None}
    known = (*DESCRIPTOR_OPTIONS, *kind.options)
    for name in given:
        if name not in known:
            raise InputError(
                Problem(
                    "option.unknown",
                    name,
                    f"a source of kind {kind.name!r} takes {', '.join(known)}",
                    repr(name),
                )
            )
    return given


def _named(name: str) -> SourceKind:
    for kind in KINDS:
        if kind.name == name:
            return kind
    names = ", ".join(kind.name for kind in KINDS)
    raise UnknownSourceError(
        Problem("source.kind", name, f"the kinds of source are {names}", repr(name))
    )


def _choose(path: Path, name: str) -> SourceKind:
    if name != "auto":
        return _named(name)
    evidence = {kind: found for kind in KINDS if (found := kind.looks_like(path))}
    if not evidence:
        raise UnknownSourceError(
            Problem(
                "source.unknown",
                str(path),
                f"a source must be of one of the kinds {', '.join(kind.name for kind in KINDS)}",
                _contents(path),
                "name the folder of one slide, or its count matrix",
            )
        )
    if len(evidence) > 1:
        raise UnknownSourceError(
            Problem(
                "source.ambiguous",
                str(path),
                "the content must fit one kind of source",
                "; ".join(f"{kind.name} ({found})" for kind, found in evidence.items()),
                "choose one with --kind",
            )
        )
    return next(iter(evidence))


def _contents(path: Path) -> str:
    if not path.is_dir():
        return f"a file of {path.stat().st_size} bytes that is none of them"
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    more = len(entries) - _SHOWN_ENTRIES
    if not entries:
        return "an empty folder"
    return ", ".join(entries[:_SHOWN_ENTRIES]) + (f" and {more} more" if more > 0 else "")
