"""A slide in the layouts of other tools and data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from stformat.errors import ExportError, Problem
from stformat.export._h5ad import write_h5ad
from stformat.export._hest import OUTLINES, write_hest
from stformat.export._pyramid_tiff import write_ome_tiff
from stformat.export._source import opened_slide, table_of
from stformat.export._stimage import write_stimage
from stformat.export._whole import OutputKind, appearing
from stformat.export._zip import write_zip
from stformat.export.description import write_description
from stformat.model import Progress, silent
from stformat.store.reader import Slide

__all__ = ["SLIDE_FORMATS", "export_slide"]

type SlideFormat = Literal["stimage", "hest", "h5ad", "ome-tiff", "zip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """One layout."""

    write: Callable[..., None]
    """``write(slide, path, progress, **options)``."""

    kind: OutputKind
    """What it makes."""

    suffixes: tuple[str, ...] = ()
    """Ends of the names that a file may have."""

    has_table: bool = True
    """Whether it is of one table of the slide."""

    options: tuple[str, ...] = ()
    """Options of its own."""

    outlines: frozenset[str] = frozenset()
    """Shapes that are no capture areas and have a place in it."""


_FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        "stimage": _Format(write=write_stimage, kind="directory"),
        "hest": _Format(
            write=write_hest,
            kind="directory",
            options=("patch_px", "patch_mpp"),
            outlines=frozenset(OUTLINES),
        ),
        "h5ad": _Format(write=write_h5ad, kind="file", suffixes=(".h5ad",)),
        "ome-tiff": _Format(
            write=write_ome_tiff, kind="file", suffixes=(".ome.tif", ".ome.tiff"), has_table=False
        ),
        "zip": _Format(write=write_zip, kind="file", suffixes=(".zip",), has_table=False),
    }
)

SLIDE_FORMATS = tuple(_FORMATS)
"""Names of the layouts."""


def export_slide(
    slide: Slide | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: SlideFormat,
    table: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: object,
) -> Path:
    """Write a slide in the layout of another tool or data set, whole or not at all.

    Parameters
    ----------
    slide : Slide or path
        An open slide, or the path of a store.
    target : path
        Directory or file to make.
    to : {"stimage", "hest", "h5ad", "ome-tiff", "zip"}
        ``"stimage"``: a directory as STimage-1K4M has them, with coordinates, dense counts as text,
        the image (PNG; TIFF where it is larger than 178 million pixels), labels, a row of the
        catalogue. ``"hest"``: a directory as HEST-1k has them: AnnData, pyramidal TIFF,
        description, patches, outlines of tissue and cells. `stformat.convert_slide` reads both.
        ``"h5ad"``: one AnnData file. ``"ome-tiff"``: the image alone, pyramidal, lossless.
        ``"zip"``: the store itself in one file, not compressed, to be read as it is.
    table : str, optional
        Table to take, for the layouts that hold one; by default the one that the slide is bound to.
    overwrite : bool, default: False
        Replace a file, or a directory that an earlier export made.
    progress : callable, optional
        Called with a `stformat.model.ProgressEvent` at each step.
    **options
        For ``"hest"``: ``patch_px`` (default 224) and ``patch_mpp`` (default 0.5, or where the
        slide's mpp is unknown its own pixels), edge and microns per pixel of patches.

    Returns
    -------
    pathlib.Path
        `target`. A directory holds ``export.json`` too, which says what was written, and what of
        the slide has no place in the layout.

    Raises
    ------
    ExportError
        If the slide does not fit the layout, such as an image of five channels STimage-1K4M; an
        option does not belong to it; the name of a file does not end as it must; or what is at
        `target` is not what an export made.
    NoImageError
        If the layout is an image, and the slide has none.
    TableLookupError
        If there is no such table.
    StoreExistsError
        If `target` exists and `overwrite` is False.
    StoreWriteError
        If the file system refuses.
    CorruptStoreError
        If a chunk is missing or damaged.

    Notes
    -----
    Rows stand in the order of the store. What is written is streamed: memory is that of a few
    hundred rows of the image or of a block of rows of the table, the cache of the slide, and the
    table's ``obs`` and ``var``. The same slide gives the same bytes.

    What layouts have no place for: in ``"stimage"`` and ``"hest"`` the other tables; in
    ``"stimage"`` also ``in_tissue``, outlines, mpp but in the image's tags, and identifiers of
    genes beside their symbols; in ``"hest"`` radii that differ.

    Examples
    --------
    >>> import tempfile
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> store = stf.convert_slide(source, folder / "slide.zarr")
    >>> out = export_slide(store, folder / "stimage", to="stimage")
    >>> sorted(path.relative_to(out).as_posix() for path in out.rglob("*.csv"))
    ['ST/coord/S1_coord.csv', 'ST/gene_exp/S1_count.csv', 'meta/meta_all_gene.csv']
    """
    layout = _layout(to, Path(target), table, options)
    progress = silent if progress is None else progress
    path = Path(target)
    with ExitStack() as stack:
        opened = stack.enter_context(opened_slide(slide, table))
        place = stack.enter_context(
            appearing(path, layout.kind, overwrite=overwrite, progress=progress)
        )
        layout.write(opened, place, progress, **options)
        if layout.kind == "directory":
            write_description(place, {"format": to, **_describe(opened, layout)})
    return path


def _layout(name: str, target: Path, table: str | None, options: Mapping[str, object]) -> _Format:
    """Return the layout of a name, where what is asked of it is possible."""
    layout = _FORMATS.get(name)
    if layout is None:
        raise _refused("to", f"one of {', '.join(_FORMATS)}", repr(name))
    unknown = [option for option in options if option not in layout.options]
    if unknown:
        known = ", ".join(layout.options) or "no options"
        raise _refused(", ".join(unknown), f"{name} has {known}", "other options")
    if table is not None and not layout.has_table:
        raise _refused("table", f"{name} is of the whole slide", f"a table, {table!r}")
    if layout.suffixes and not target.name.endswith(layout.suffixes):
        ends = " or ".join(layout.suffixes)
        raise _refused(str(target), f"the name of {name} must end in {ends}", repr(target.name))
    return layout


def _describe(slide: Slide, layout: _Format) -> dict[str, Any]:
    table = table_of(slide).name
    return {
        "slide_id": slide.slide_id,
        "technology": slide.metadata.technology,
        "table": table,
        "n_rows": slide.n_obs,
        "n_genes": slide.n_vars,
        "has_image": slide.has_image,
        "left_out": {
            "tables": [name for name in slide.tables if name != table],
            "shapes": [name for name in slide.annotations if name not in layout.outlines],
        },
    }


def _refused(where: str, expected: str, found: str) -> ExportError:
    return ExportError(Problem("export.arguments", where, expected, found))
