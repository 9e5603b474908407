"""Vendors' and studies' files as slide records, one module a kind of source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from stformat.errors import InputError, Problem, UnknownSourceError
from stformat.model import SlideRecord
from stformat.sources import hest, legacy_st, stimage, visium, visium_hd
from stformat.sources._kinds import DESCRIPTOR_OPTIONS, SourceKind, SourceRequest, positive
from stformat.sources._label_terms import with_label_terms

__all__ = ["KINDS", "read_slide"]

KINDS: tuple[SourceKind, ...] = (hest.KIND, legacy_st.KIND, stimage.KIND, visium.KIND, visium_hd.KIND)
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
    given = {name: value for name, value in options.items() if value is not None}
    known = (*DESCRIPTOR_OPTIONS, *chosen.options)
    for name in given:
        if name not in known:
            raise InputError(
                Problem(
                    "option.unknown",
                    name,
                    f"a source of kind {chosen.name!r} takes {', '.join(known)}",
                    repr(name),
                )
            )
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
    return with_label_terms(record)


def _choose(path: Path, name: str) -> SourceKind:
    names = ", ".join(kind.name for kind in KINDS)
    if name != "auto":
        for kind in KINDS:
            if kind.name == name:
                return kind
        raise UnknownSourceError(
            Problem("source.kind", name, f"the kinds of source are {names}", repr(name))
        )
    evidence = {kind: found for kind in KINDS if (found := kind.looks_like(path))}
    if not evidence:
        raise UnknownSourceError(
            Problem(
                "source.unknown",
                str(path),
                f"a source must be of one of the kinds {names}",
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
