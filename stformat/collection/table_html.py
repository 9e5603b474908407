"""How a collection shows itself in a notebook: its first slides."""

from __future__ import annotations

import html

import pyarrow as pa

__all__ = ["table_html"]

_N_SHOWN = 10
_SHOWN_COLUMNS = ("slide_id", "technology", "species", "tissue", "study", "n_obs", "n_vars", "mpp")


def table_html(caption: str, table: pa.Table) -> str:
    """Return the first rows of a catalogue as HTML.

    Parameters
    ----------
    caption : str
        What to write above.
    table : pyarrow.Table
        Columns of a catalogue, a row a slide.

    Returns
    -------
    str
        Text of the catalogue is no markup in it.
    """
    rows = table.slice(0, _N_SHOWN).select([*_SHOWN_COLUMNS]).to_pylist()
    head = "".join(f"<th>{name}</th>" for name in _SHOWN_COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(value))}</td>" for value in row.values())
        + "</tr>"
        for row in rows
    )  # fmt: skip
    n_more = table.num_rows - len(rows)
    more = f"<p>and {n_more} more</p>" if n_more else ""
    return (
        f"<p>{html.escape(caption)}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{more}"
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
