"""``export.json``: what an exported directory says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stformat.metadata.strict_json import JsonError, parse_object

__all__ = ["DESCRIPTION", "read_description", "write_description"]

DESCRIPTION = "export.json"
"""Name of the file."""

_MAX_BYTES = 1 << 24
_MAKER = "stformat"


def write_description(directory: Path, content: Mapping[str, Any]) -> None:
    """Say in a directory what it holds, and that an export made it.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.
    content : mapping
        What JSON can hold.
    """
    document = {"made_by": f"{_MAKER} {version(_MAKER)}", **content}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def read_description(directory: Path) -> dict[str, Any] | None:
    """Read what a directory says of itself.

    Parameters
    ----------
    directory : pathlib.Path
        Any directory.

    Returns
    -------
    dict or None
        The description, or None where no export made the directory.
    """
    try:
        with (directory / DESCRIPTION).open("rb") as file:
            document = parse_object(file.read(_MAX_BYTES))
    except (OSError, JsonError):
        return None
    return document if str(document.get("made_by")).startswith(_MAKER) else None
