"""``stformat info``, ``verify``, ``check`` and ``seal``: one store, looked at."""

from __future__ import annotations

from typing import Annotated

import typer

from stformat.cli._app import AsJson, Quiet, Store, StoreOrUrl, app
from stformat.cli._shown import print_problems, print_summary

__all__ = ["check", "info", "seal", "verify"]


@app.command()
def info(
    store: StoreOrUrl,
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Say what a store holds; reads its metadata only."""
    print_summary(store, as_json=as_json)


@app.command()
def verify(
    store: StoreOrUrl,
    shallow: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--shallow", help="Check metadata and sizes, not every byte.")
    ] = False,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Check that a store is whole; exit code 1 if it is not."""
    from stformat.store.verify import verify_store  # noqa: PLC0415 - see stformat.cli

    problems = verify_store(store, deep=not shallow)
    print_problems(store, problems, none="whole", quiet=quiet, as_json=as_json)


@app.command()
def check(
    store: StoreOrUrl,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
    as_json: AsJson = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Look for content that makes no sense, in a store that is whole; exit code 1 if there is."""
    from stformat.check.slide import check_store  # noqa: PLC0415 - see stformat.cli

    print_problems(store, check_store(store), none="nothing found", quiet=quiet, as_json=as_json)


@app.command()
def seal(
    store: Store,
    quiet: Quiet = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Commit a store anew after another tool has edited it."""
    from stformat.store.commit import seal_store  # noqa: PLC0415 - see stformat.cli

    seal_store(store)
    if not quiet:
        typer.echo(f"{store}: sealed")
