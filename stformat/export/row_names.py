"""Barcodes as a command line is given them."""

from __future__ import annotations

from pathlib import Path

from stformat.errors import ExportError, Problem

__all__ = ["read_row_names"]


def read_row_names(text: str) -> list[str]:
    """Read barcodes from a file, or from the text itself.

    Parameters
    ----------
    text : str
        Path of a file with one barcode a line, or barcodes with commas between them.

    Returns
    -------
    list of str
        Barcodes, at least one.

    Raises
    ------
    ExportError
        If there are none, or the file is no text.

    Examples
    --------
    >>> read_row_names("10x13, 10x14")
    ['10x13', '10x14']
    """
    path = Path(text)
    try:
        is_file = path.is_file()
        listed = path.read_text(encoding="utf-8-sig").splitlines() if is_file else text.split(",")
    except (OSError, ValueError) as error:
        raise ExportError(
            Problem("export.rows", text, "one barcode a line is needed", str(error))
        ) from error
    names = [name.strip() for name in listed if name.strip()]
    if not names:
        raise ExportError(Problem("export.rows", text, "at least one barcode is needed", "none"))
    return names
