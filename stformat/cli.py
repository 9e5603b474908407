"""The command line: arguments in, text and exit codes out; no logic of its own.

Exit codes: 0 done, 1 the operation found problems, 2 wrong usage, 3 bad input, 130 interrupted,
143 terminated.
"""

from __future__ import annotations

import json
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Never, TextIO

import typer

# Everything that imports NumPy is imported by the command that needs it: `stformat --help`
# answers before NumPy could have loaded.
from stformat.errors import ImageCodecWarning, Problem, StformatError, StoreExistsError

if TYPE_CHECKING:
    from stformat.convert.report import CorpusProgress
    from stformat.model import Progress

__all__ = ["app", "main"]

FOUND_PROBLEMS = 1
BAD_INPUT = 3

app = typer.Typer(
    name="stformat",
    help="One chunked Zarr store a slide of spatial transcriptomics: convert, inspect, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class ImageCodecName(StrEnum):
    """How pixels are stored."""

    ZSTD = "zstd"
    BLOSC = "blosc"
    JPEG = "jpeg"


class Stain(StrEnum):
    """How the tissue is stained."""

    HE = "he"
    IF = "if"


Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Store = Annotated[Path, typer.Argument(help="A store: a directory made by stformat convert.")]


@app.command()
def convert(  # noqa: PLR0917 - typer reads one parameter an option
    source: Annotated[
        Path,
        typer.Argument(help="Folder of one slide, or its count matrix; or a tree of slides."),
    ],
    target: Annotated[
        Path,
        typer.Argument(help="Directory to make, such as slide.zarr; or a folder of stores."),
    ],
    kind: Annotated[str, typer.Option(help="Kind of source; auto recognises it.")] = "auto",
    image: Annotated[Path | None, typer.Option(help="Full-resolution image.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the image.")] = None,
    pitch_um: Annotated[
        float | None, typer.Option(help="Microns between neighbouring spots of the array.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Pathologist's label file.")] = None,
    counts: Annotated[
        Path | None, typer.Option(help="Count matrix to take, where a folder has several.")
    ] = None,
    bins: Annotated[
        str | None, typer.Option(help="Sizes of Visium HD bins in microns, such as 2,8,16.")
    ] = None,
    slide_id: Annotated[
        str | None, typer.Option(help="Identifier; selects one of several samples.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Only table to take of a SpatialData container.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Only shapes to take of a SpatialData container.")
    ] = None,
    image_element: Annotated[
        str | None, typer.Option(help="Image to take of a SpatialData container with several.")
    ] = None,
    coordinate_system: Annotated[
        str | None, typer.Option(help="Coordinate system that places SpatialData elements.")
    ] = None,
    stain: Annotated[Stain, typer.Option(help="Brightfield H&E or fluorescence.")] = Stain.HE,
    focal_plane: Annotated[
        int | None,
        typer.Option(help="Focal plane to read of an image with several, counted from 0."),
    ] = None,
    species: Annotated[str | None, typer.Option(help="Species, kept in the store.")] = None,
    tissue: Annotated[str | None, typer.Option(help="Tissue, kept in the store.")] = None,
    image_codec: Annotated[
        ImageCodecName,
        typer.Option(help="zstd, or blosc: lossless, larger, faster; jpeg: lossy, a tenth."),
    ] = ImageCodecName.ZSTD,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Convert every slide of a tree, so many at a time."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Convert every slide of a tree on the dask cluster at an address."),
    ] = None,
    overwrite: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--overwrite", help="Replace an existing store, atomically.")
    ] = False,
    resume: Annotated[  # noqa: FBT002 - a flag of the command line
        bool,
        typer.Option(
            "--resume",
            help="Keep what an interrupted conversion finished, and continue it; of a tree, pass "
            "over slides whose stores are of the same source and options.",
        ),
    ] = False,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Convert one slide, or with --workers or --scheduler every slide of a tree, into stores.

    A store appears whole or not at all. Of a tree each slide goes to TARGET/<slide id>.zarr; the
    exit code is 1 where some could not be converted, which keeps none of the others from it.
    """
    given: dict[str, Any] = {"pitch_um": pitch_um, "labels": labels, "counts": counts}
    given |= {"bins": bins, "focal_plane": focal_plane, "species": species, "tissue": tissue}
    given |= {"image": image, "mpp": mpp, "slide_id": slide_id, "table": table, "region": region}
    given |= {"image_element": image_element, "coordinate_system": coordinate_system}
    options = {name: value for name, value in given.items() if value is not None}
    if stain is not Stain.HE:
        options["stain"] = stain.value
    options |= {"kind": kind, "image_codec": image_codec.value}
    options |= {"overwrite": overwrite, "resume": resume}
    if workers is None and scheduler is None:
        _convert_slide(source, target, options, quiet=quiet, as_json=as_json)
    else:
        options |= {"workers": workers, "scheduler": scheduler}
        _convert_slides(source, target, options, quiet=quiet, as_json=as_json)


def _convert_slide(
    source: Path, target: Path, options: dict[str, Any], *, quiet: bool, as_json: bool
) -> None:
    from stformat.convert import convert_slide  # noqa: PLC0415 - see the head of the module

    with (
        _told_warnings(),
        _shown_progress(quiet=quiet or as_json) as progress,
        _told_interruption(),
    ):
        path = convert_slide(source, target, progress=progress, **options)
    if not quiet:
        _print_summary(path, as_json=as_json)


def _convert_slides(
    tree: Path, out: Path, options: dict[str, Any], *, quiet: bool, as_json: bool
) -> None:
    from stformat.convert import convert_slides  # noqa: PLC0415 - see the head of the module

    with (
        _told_warnings(),
        _shown_corpus_progress(quiet=quiet or as_json) as progress,
        _told_interruption(),
    ):
        report = convert_slides(tree, out, progress=progress, **options)
    for outcome in report.failed:
        name = outcome.slide_id or outcome.source
        text = " | ".join(str(problem) for problem in outcome.problems)
        typer.echo(f"stformat: {name}: {text}", err=True)
    if as_json:
        _print_json(report.to_json())
    elif not quiet:
        typer.echo(
            f"{out}: {len(report.converted)} converted, {len(report.skipped)} skipped, "
            f"{len(report.failed)} failed"
        )
    if report.failed:
        raise typer.Exit(FOUND_PROBLEMS)


@app.command()
def info(
    store: Store,
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Say what a store holds; reads its metadata only."""
    _print_summary(store, as_json=as_json)


@app.command()
def verify(
    store: Store,
    shallow: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--shallow", help="Check metadata and sizes, not every byte.")
    ] = False,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Check that a store is whole; exit code 1 if it is not."""
    from stformat.store.verify import verify_store  # noqa: PLC0415 - see the head of the module

    problems = verify_store(store, deep=not shallow)
    _print_problems(store, problems, none="whole", quiet=quiet, as_json=as_json)


@app.command()
def check(
    store: Store,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Look for content that makes no sense, in a store that is whole; exit code 1 if there is."""
    from stformat.check.slide import check_store  # noqa: PLC0415 - see the head of the module

    _print_problems(store, check_store(store), none="nothing found", quiet=quiet, as_json=as_json)


@app.command()
def seal(
    store: Store,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Commit a store anew after another tool has edited it."""
    from stformat.store.commit import seal_store  # noqa: PLC0415 - see the head of the module

    seal_store(store)
    if not quiet:
        typer.echo(f"{store}: sealed")


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Argument(help="Directory to make; everything the demo writes is in it.")
    ] = Path("stformat-demo"),
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Make a small slide, convert it, read it back and draw it: the first five minutes."""
    from stformat.demo import run_demo  # noqa: PLC0415 - see the head of the module

    with _shown_progress(quiet=quiet) as progress:
        lines = run_demo(directory, progress=progress)
    if not quiet:
        typer.echo("\n".join(lines))


@app.command()
def warmup(
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Compile what is fast ahead of time, so that no first call has to wait for it."""
    from stformat import kernels  # noqa: PLC0415 - see the head of the module

    def told(kernel: kernels.WarmKernel) -> None:
        typer.echo(f"{kernel.name:<24} {kernel.seconds:6.2f} s  {', '.join(kernel.dtypes)}")

    warm = kernels.warmup(report=None if quiet else told)
    if not quiet:
        typer.echo(f"{'all':<24} {sum(kernel.seconds for kernel in warm):6.2f} s")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Parameters
    ----------
    arguments : list of str, optional
        Arguments without the program's name; those of the process by default.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        app(args=arguments, standalone_mode=True)
    except StoreExistsError as error:
        _fail(error, hint="pass --overwrite to replace it")
    except StformatError as error:
        _fail(error)
    except KeyboardInterrupt:  # before a command began, or after it ended
        sys.exit(130)


def _fail(error: StformatError, *, hint: str = "") -> Never:
    text = " | ".join(str(problem) for problem in error.problems)
    more = [*([hint] if hint and hint not in text else []), *getattr(error, "__notes__", ())]
    typer.echo("; ".join([f"stformat: {text}", *more]), err=True)
    sys.exit(BAD_INPUT)


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Say what the library warns of in one line; warnings of other libraries stay as they are."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(  # noqa: PLR0917 - as Python calls it
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, ImageCodecWarning):
                typer.echo(f"stformat: warning: {message}", err=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = tell
        warnings.simplefilter("always", ImageCodecWarning)
        yield


@contextmanager
def _told_interruption() -> Iterator[None]:
    """Say what an interrupted conversion left; the interruption goes on to end the process."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        left = getattr(error, "__notes__", ["nothing was left behind"])
        typer.echo("; ".join(["stformat: interrupted", *left]), err=True)
        raise


def _raise_terminated(signum: int, _frame: FrameType | None) -> Never:
    # SystemExit unwinds through the writer, which removes what is unfinished.
    raise SystemExit(128 + signum)


def _print_problems(
    store: Path, problems: list[Problem], *, none: str, quiet: bool, as_json: bool
) -> None:
    """Print one line a problem, or what `none` stands for; exit with a code that tells."""
    if as_json:
        _print_json({"store": str(store), "problems": [item.to_json() for item in problems]})
    elif problems:
        for problem in problems:
            typer.echo(str(problem))
    elif not quiet:
        typer.echo(f"{store}: {none}")
    if problems:
        raise typer.Exit(FOUND_PROBLEMS)


def _print_summary(store: Path, *, as_json: bool) -> None:
    from stformat.store.reader import open_slide  # noqa: PLC0415 - see the head of the module

    with open_slide(store) as slide:
        attributes = slide.metadata
        if as_json:
            levels = slide.levels
            _print_json(
                {
                    "store": str(store),
                    "levels": [[level.height, level.width] for level in levels],
                    "image_codec": levels[0].codec if levels else None,
                    **attributes.model_dump(mode="json"),
                }
            )
            return
        lines = [f"{store}  {attributes.slide_id}  {attributes.technology}"]
        if attributes.image is None:
            lines.append("image    none")
        else:
            top = slide.levels[0]
            size = f"{top.width} x {top.height} px, {len(slide.levels)} levels"
            lines.append(f"image    {size}, {top.codec}")
        mpp = attributes.mpp
        scale = "unknown" if mpp.value is None else f"{mpp.value:.4g} um/px ({mpp.method})"
        lines.append(f"mpp      {scale}")
        lines.extend(
            f"table    {table.name}: {table.n_obs} x {table.n_vars}, {table.nnz} counts stored, "
            f"total {table.total:.0f}"
            for table in attributes.tables
        )
        lines.extend(f"note     {note.message}" for note in attributes.notes)
    typer.echo("\n".join(lines))


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def _shown_progress(*, quiet: bool) -> Iterator[Progress | None]:
    """Show steps as bars on a terminal, as one line a step elsewhere, not at all when quiet."""
    if quiet:
        yield None
        return
    from stformat.view.progress import shown_progress  # noqa: PLC0415 - see the head of the module

    with shown_progress() as progress:
        yield progress


@contextmanager
def _shown_corpus_progress(*, quiet: bool) -> Iterator[CorpusProgress | None]:
    """Show slides as bars on a terminal, as one line a slide elsewhere, not at all when quiet."""
    if quiet:
        yield None
        return
    from stformat.view.corpus_progress import (  # noqa: PLC0415 - see the head of the module
        shown_corpus_progress,
    )

    with shown_corpus_progress() as progress:
        yield progress


if __name__ == "__main__":
    main()
