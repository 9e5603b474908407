"""Which files of a folder make up one slide of Space Ranger Visium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stformat.errors import (
    CountsError,
    InputError,
    PositionsError,
    Problem,
    UnknownSourceError,
)
from stformat.sources._counts_h5 import is_counts_h5
from stformat.sources._counts_mtx import MtxFiles, find_mtx
from stformat.sources._kinds import FoundSlide
from stformat.sources._notes import named
from stformat.sources._positions import is_positions
from stformat.sources._scalefactors import is_scalefactors, read_scalefactors
from stformat.sources._visium_samples import has_word, of_sample, sample_of, samples_of

__all__ = [
    "CountsChoice",
    "VisiumFiles",
    "evidence",
    "find_files",
    "folders_of",
    "hd_sign",
    "outputs_of",
    "scan_folder",
    "select_counts",
    "slide_name",
    "slides_in",
]

OUTS = "outs"
MAX_COUNTS_DEPTH = 2
"""Folders below the outputs that are searched for matrices:
``filtered_gene_bc_matrices/<genome>``."""

_HD_FOLDERS = re.compile(r"binned_outputs|segmented_outputs|square_\d+um")
_PASSED_OVER = {"analysis", "deconvolution", "spatial_enrichment", "microscope_image"}
_IMAGE = r"(.*[-_.])?{}\.(png|jpe?g|tiff?|btf)(\.gz)?"
_SMALL = {
    size: re.compile(_IMAGE.format(f"tissue_{size}_image"), re.IGNORECASE)
    for size in ("hires", "lowres")
}
_FULL = re.compile(_IMAGE.format("(tissue_)?image"), re.IGNORECASE)
# Data sets of 10x begin with CytAssist_: _image of them is the instrument's, _tissue_image is not.
_DERIVED = re.compile(r"hires|lowres|detected|aligned|cytassist(?!.*tissue_image)", re.IGNORECASE)
_POSITIONS = re.compile(
    r"(.*[-_.])?tissue_positions(_list)?\.(csv|tsv|txt|parquet)(\.gz)?", re.IGNORECASE
)
_SCALEFACTORS = re.compile(r"(.*[-_.])?scalefactors(_json)?\.json(\.gz)?", re.IGNORECASE)
_OWN_NAME = re.compile(r"tissue|scalefactors|image", re.IGNORECASE)
"""Names as Space Ranger gives them, without that of a sample before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsChoice:
    """A count matrix: one HDF5 file or a Matrix Market folder."""

    source: Path | MtxFiles
    """Where it is."""

    @property
    def path(self) -> Path:
        """The file of values, which names it."""
        return self.source if isinstance(self.source, Path) else self.source.matrix

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of it."""
        if isinstance(self.source, Path):
            return (self.source,)
        parts = (self.source.matrix, self.source.barcodes, self.source.features)
        return tuple(path for path in parts if path is not None)

    @property
    def content(self) -> str:
        """``"filtered"``, ``"raw"``, ``"probes"`` or ``"unnamed"``, as names of it say."""
        folders = [folder.name for folder in self.path.parents[:2] if "bc_matri" in folder.name]
        words = " ".join([self.path.name, *folders]).lower()
        if "raw_probe" in words:
            return "probes"
        return next((word for word in ("filtered", "raw") if has_word(word, words)), "unnamed")


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumFiles:
    """The files of one slide."""

    name: str
    """Name of the folder, or of the one that has it as ``outs``."""

    folder: Path
    """Folder of the outputs."""

    counts: tuple[CountsChoice, ...]
    """Every count matrix."""

    positions: tuple[Path, ...]
    """Every table of tissue positions."""

    scalefactors: tuple[Path, ...]
    """Every document of scale factors."""

    hires: tuple[Path, ...]
    """``tissue_hires_image``."""

    lowres: tuple[Path, ...]
    """``tissue_lowres_image``."""

    full: tuple[Path, ...]
    """Images that by their name are the full-resolution one, which Space Ranger does not write."""


def evidence(path: Path) -> str | None:
    """Say why a path looks like Space Ranger's outputs.

    Parameters
    ----------
    path : pathlib.Path
        Folder or file.

    Returns
    -------
    str or None
        What was recognised, or None, as of Visium HD, which is another kind.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    if path.is_file():
        is_matrix = is_counts_h5(path) or _is_mtx(path)
        is_alone = is_matrix and not hd_sign(_folder_of(path))
        return f"count matrix {path.name}" if is_alone else None
    folder = outputs_of(path)
    if hd_sign(folder):
        return None
    files = scan_folder(folder)
    seen = [
        *(f"tissue positions {file.name}" for file in files.positions[:1]),
        *(f"count matrix {choice.path.name}" for choice in files.counts[:1]),
    ]
    return ", ".join(seen) or None


def slides_in(folder: Path) -> tuple[FoundSlide, ...]:
    """List the slides of a folder, where it has any.

    Parameters
    ----------
    folder : pathlib.Path
        Any folder.

    Returns
    -------
    tuple of FoundSlide
        One slide where the folder is, or has as ``outs``, outputs with tissue positions or a count
        matrix in HDF5; one a sample where positions are named for several, as in GEO. Matrix
        Market folders alone are none: the outputs are above them.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    outputs = outputs_of(folder)
    if hd_sign(outputs):
        return ()
    # Before the search for matrices, which goes into folders below: they may be slides themselves.
    has_positions = any(map(_may_be_positions, _small_files(outputs)))
    if not has_positions and not any(map(_is_hdf5, _files(outputs, "."))):
        return ()
    files = scan_folder(outputs)
    samples = samples_of(files.positions)
    if len(samples) < 2:
        return (_found(folder, files, None),)
    return tuple(_found(folder, _of_sample(files, sample), sample) for sample in samples)


def _found(folder: Path, files: VisiumFiles, sample: str | None) -> FoundSlide:
    filtered = [choice for choice in files.counts if choice.content == "filtered"]
    counts = tuple(path for choice in filtered or files.counts for path in choice.files)
    images = files.full or files.hires or files.lowres
    return FoundSlide(
        kind="visium",
        path=folder,
        slide_id=sample or files.name,
        sample=sample,
        files=(*counts, *files.positions, *files.scalefactors, *images),
    )


def _is_mtx(path: Path) -> bool:
    return any(files.matrix == path for files in find_mtx(path.parent))


def outputs_of(path: Path) -> Path:
    """Return the folder of the outputs: ``outs`` where a folder has it, or the folder itself."""
    return path / OUTS if (path / OUTS).is_dir() else path


def hd_sign(folder: Path) -> str | None:
    """Return what shows that outputs are of Visium HD, or None."""
    for name in (folder.name, *(entry.name for entry in folders_of(folder))):
        if _HD_FOLDERS.fullmatch(name):
            return f"folder {name}"
    for path in _small_files(folder):
        if _may_be_factors(path) and _has_bins(path):
            return f"bin_size_um in {path.name}"
    return None


def _has_bins(path: Path) -> bool:
    try:
        return read_scalefactors(path).bin_size_um is not None
    except PositionsError:
        return False


def find_files(source: Path, *, sample: str | None) -> VisiumFiles:
    """Find the files of one slide.

    Parameters
    ----------
    source : pathlib.Path
        The outputs of Space Ranger, a folder that has them as ``outs``, one with files of the same
        content under other names, or the count matrix of one of these.
    sample : str or None
        Name of the slide: where several files could be meant, those with this name in their own.

    Returns
    -------
    VisiumFiles
        Tables and documents are recognised by their content, images and matrices by the ends of
        their names. A matrix that is named outright is the only one.

    Raises
    ------
    UnknownSourceError
        If the outputs are of Visium HD.
    InputError
        If the folder cannot be read.
    """
    matrix = _matrix_of(source)
    folder = outputs_of(source) if matrix is None else _folder_of(matrix.path)
    hd = hd_sign(folder)
    if hd:
        raise UnknownSourceError(
            Problem(
                "source.visium-hd",
                str(source),
                "the kind 'visium' is read: an array of spots",
                f"Visium HD, an array of bins ({hd})",
                "leave kind= out, or name visium_hd",
            )
        )
    files = scan_folder(folder)
    if matrix is not None:
        files = replace(files, counts=(matrix,))
    return files if sample is None else _of_sample(files, sample)


def _matrix_of(source: Path) -> CountsChoice | None:
    """Return the matrix that a source is, a file or a folder of nothing else."""
    if source.is_file():
        return _choice(source)
    is_folder = len(find_mtx(source)) == 1 and not scan_folder(source).positions
    return _choice(source) if is_folder else None


def _folder_of(matrix: Path) -> Path:
    """Return the outputs that a matrix belongs to: the nearest folder with tissue positions."""
    folder = matrix.parent
    for _ in range(MAX_COUNTS_DEPTH + 1):
        if scan_folder(folder).positions:
            return folder
        folder = folder.parent
    return matrix.parent


def _of_sample(files: VisiumFiles, sample: str) -> VisiumFiles:
    """Leave the files of one sample where a folder has several, by the names of the files."""
    samples = samples_of(files.positions)
    matrices = [one.path for one in files.counts]
    named_for_it = of_sample(matrices, sample, samples)
    counts = tuple(one for one in files.counts if one.path in named_for_it)
    unnamed = [path for path in matrices if sample_of(path.name) not in samples]
    roles = (files.positions, files.scalefactors, files.hires, files.lowres, files.full)
    found = [of_sample(paths, sample, samples) for paths in roles]
    has_others = any(
        0 < len(some) < len(every)
        for some, every in zip([counts, *found], [files.counts, *roles], strict=True)
    )
    if not has_others:
        return files
    # Barcodes are the same on every slide: the files of another sample would join without a word.
    positions, scalefactors, hires, lowres, full = (
        some or tuple(path for path in every if _OWN_NAME.match(path.name))
        for some, every in zip(found, roles, strict=True)
    )
    return replace(
        files,
        counts=counts or tuple(one for one in files.counts if one.path in unnamed),
        positions=positions,
        scalefactors=scalefactors,
        hires=hires,
        lowres=lowres,
        full=full,
    )


def scan_folder(folder: Path) -> VisiumFiles:
    """Find every file of outputs that may be part of a slide."""
    plain = list(_files(folder, "."))
    small = _small_files(folder)
    microscope = list(_files(folder, "microscope_image"))
    return VisiumFiles(
        name=slide_name(folder),
        folder=folder,
        counts=tuple(_counts(folder)),
        positions=tuple(path for path in small if _may_be_positions(path)),
        scalefactors=tuple(path for path in small if _may_be_factors(path)),
        hires=tuple(path for path in small if _SMALL["hires"].fullmatch(path.name)),
        lowres=tuple(path for path in small if _SMALL["lowres"].fullmatch(path.name)),
        full=tuple(
            path
            for path in [*plain, *microscope]
            if _FULL.fullmatch(path.name) and not _DERIVED.search(path.name)
        ),
    )


def slide_name(folder: Path) -> str:
    """Return the name of the folder of outputs, or of the one that has it as ``outs``."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == OUTS else resolved.name


def _small_files(folder: Path) -> list[Path]:
    """Files that may be tables and documents: beside the matrices, or in ``spatial``."""
    return [path for name in (".", *_spatial_folders(folder)) for path in _files(folder, name)]


def _may_be_positions(path: Path) -> bool:
    """Whether a file is a table of positions, or is named like one: damage is then reported."""
    if _POSITIONS.fullmatch(path.name):
        return True
    # Not worth while to look into gigabytes of images and reads.
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".csv", ".tsv", ".txt", ".parquet")) and is_positions(path)


def _may_be_factors(path: Path) -> bool:
    """Whether a file has scale factors, or is named as if: damage is then reported."""
    if _SCALEFACTORS.fullmatch(path.name):
        return True
    return ".json" in path.name.lower() and is_scalefactors(path)


def _counts(folder: Path) -> Iterator[CountsChoice]:
    for path in filter(_is_hdf5, _files(folder, ".")):
        yield CountsChoice(source=path)
    pending = [(folder, 0)]
    while pending:
        here, depth = pending.pop(0)
        for files in find_mtx(here):
            yield CountsChoice(source=files)
        if depth < MAX_COUNTS_DEPTH:
            pending.extend((below, depth + 1) for below in folders_of(here))


def _is_hdf5(path: Path) -> bool:
    """Whether a file is a matrix, or is named like one: damage is then reported by the reader."""
    if path.suffix.lower() not in {".h5", ".hdf5"}:
        return False
    is_named = re.search(r"(feature|gene)_(bc|cell)_matri\w*\.h5$", path.name) is not None
    return is_named or is_counts_h5(path)


def _files(folder: Path, below: str) -> Iterator[Path]:
    """Files of a folder below another, in the order of their names."""
    return (path for path in _entries(folder / below) if path.is_file())


def folders_of(folder: Path) -> list[Path]:
    """Return the folders of a folder that may hold matrices, by name."""
    return [path for path in _entries(folder) if path.name not in _PASSED_OVER and path.is_dir()]


def _spatial_folders(folder: Path) -> list[str]:
    return [path.name for path in folders_of(folder) if path.name.lower().endswith("spatial")]


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(
            Problem("source.unreadable", str(folder), "the folder must be readable", str(error))
        ) from error


def _choice(path: Path) -> CountsChoice:
    """Return a matrix that is named outright: HDF5, Matrix Market, or the folder of the latter."""
    if path.is_dir():
        found = find_mtx(path)
        if len(found) != 1:
            raise CountsError(
                Problem(
                    "counts.missing",
                    str(path),
                    "one matrix.mtx is needed in the folder",
                    named([files.matrix.name for files in found]) or "none",
                )
            )
        return CountsChoice(source=found[0])
    for files in find_mtx(path.parent):
        if files.matrix == path:
            return CountsChoice(source=files)
    return CountsChoice(source=path)


def select_counts(files: VisiumFiles, given: object) -> CountsChoice:
    """Choose the count matrix of a slide.

    Parameters
    ----------
    files : VisiumFiles
        From `find_files`.
    given : path or None
        The matrix that the user names: an HDF5 file, a Matrix Market file or its folder.

    Returns
    -------
    CountsChoice
        As given; else the only filtered one, or the only one that no name calls filtered or raw,
        or the only raw one, or the only one of probes; HDF5 rather than text, which lacks genomes.

    Raises
    ------
    CountsError
        If there is none, or none is the only one.
    InputError
        If `given` is no path of a file or folder.
    """
    if given is not None:
        if not isinstance(given, str | Path) or not Path(given).exists():
            raise InputError(
                Problem(
                    "option.path", "counts", "the path of a count matrix is needed", repr(given)
                )
            )
        return _choice(Path(given))
    for content in ("filtered", "unnamed", "raw", "probes"):
        for is_h5 in (True, False):
            found = [
                choice
                for choice in files.counts
                if choice.content == content and isinstance(choice.source, Path) == is_h5
            ]
            if len(found) > 1:
                raise CountsError(
                    Problem(
                        "counts.several",
                        str(files.folder),
                        "one count matrix is needed",
                        ", ".join(
                            choice.path.relative_to(files.folder).as_posix() for choice in found
                        ),
                        "name one with counts=, or the slide with slide_id=",
                    )
                )
            if found:
                return found[0]
    raise CountsError(
        Problem(
            "counts.missing",
            str(files.folder),
            "a count matrix is needed: filtered_feature_bc_matrix.h5, or a folder "
            "filtered_feature_bc_matrix with matrix.mtx, barcodes.tsv and features.tsv",
            "tissue positions without one" if files.positions else "none",
            "name it with counts= if it lies elsewhere",
        )
    )
