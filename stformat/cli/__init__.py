"""The command line: arguments in, text and exit codes out; no logic of its own.

Exit codes: 0 done, 1 the operation found problems, 2 wrong usage, 3 bad input, 130 interrupted,
143 terminated. Everything that imports NumPy is imported by the command that needs it:
``stformat --help`` answers before NumPy could have loaded.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Never

import typer

# Importing a module registers its commands.
from stformat.cli import collect as _collect  # noqa: F401
from stformat.cli import convert as _convert  # noqa: F401
from stformat.cli import export as _export  # noqa: F401
from stformat.cli import first_steps as _first_steps  # noqa: F401
from stformat.cli import store as _store  # noqa: F401
from stformat.cli import tiles as _tiles  # noqa: F401
from stformat.cli._app import BAD_INPUT, app
from stformat.errors import StformatError, StoreExistsError

__all__ = ["app", "main"]


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


def _raise_terminated(signum: int, _frame: FrameType | None) -> Never:
    # SystemExit unwinds through the writer, which removes what is unfinished.
    raise SystemExit(128 + signum)
