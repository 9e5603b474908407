"""What the catalogue of STimage-1K4M says of a slide: one row of ``meta/*.csv``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stformat.errors import InputError, Problem
from stformat.model import Note
from stformat.sources._sniff import read_head
from stformat.sources._stimage_files import TECHNOLOGIES
from stformat.sources._text import read_text

__all__ = ["SlideMeta", "read_meta"]

STUDY = "STimage-1K4M"

MAX_BYTES = 1 << 26
"""Largest catalogue that is read: 64 MiB of text; the published one has 1.4 MB."""

_MISSING = {"", "na", "nan", "none"}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideMeta:
    """A slide's row of the catalogue."""

    fields: Mapping[str, str]
    """Column to what stands in it; empty where the catalogue has no such slide."""

    files: tuple[Path, ...]
    """Catalogues that were read."""

    notes: tuple[Note, ...]
    """No row, or rows that contradict each other."""

    @property
    def technology(self) -> str | None:
        """Technology, spelled as descriptors do."""
        name = self.fields.get("tech")
        return None if name is None else TECHNOLOGIES.get(name, name)

    def descriptors(self) -> dict[str, object]:
        """Return what the row says as descriptors by name.

        Returns
        -------
        dict
            ``involves_cancer`` is what the catalogue has, which looked for words of cancer in
            titles, abstracts and key words.
        """
        if not self.fields:
            return {}
        found: dict[str, object] = {"study": STUDY}
        for target, column in (("species", "species"), ("tissue", "tissue"), ("title", "title")):
            if column in self.fields:
                found[target] = self.fields[column]
        flag = _FLAGS.get(self.fields.get("involve_cancer", "").casefold())
        if flag is not None:
            found["involves_cancer"] = flag
        pmids = re.findall(r"\d+", re.sub(r"\.0\b", "", self.fields.get("pmid", "")))
        if pmids:
            found["pmid"] = pmids[0]
        if len(pmids) > 1:
            found["citation"] = ", ".join(f"PMID {pmid}" for pmid in pmids)
        keywords = _keywords(self.fields.get("keywords", ""))
        if keywords:
            found["keywords"] = keywords
        return found

    def size_notes(self, *, n_spots: int, n_genes: int) -> tuple[Note, ...]:
        """Say where the catalogue counts other spots or genes than the count matrix has."""
        notes = []
        for column, what, n in (("spot_num", "spots", n_spots), ("gene_num", "genes", n_genes)):
            given = self.fields.get(column, "")
            if given.isdigit() and int(given) != n:
                message = f"The catalogue has {given} {what} for the slide, its counts have {n}."
                notes.append(Note(code="meta.contradiction", message=message, count=n))
        return tuple(notes)


def read_meta(paths: Sequence[Path], *, slide_id: str) -> SlideMeta:
    """Read what catalogues say of a slide.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        Tables in the order of their names. Those without a column ``slide`` are no catalogues.
    slide_id : str
        Name of the slide.

    Returns
    -------
    SlideMeta
        The last row of the last catalogue that has the slide: corrections are published as files
        of later names.

    Raises
    ------
    InputError
        If a catalogue is damaged.
    """
    catalogues = [path for path in paths if _is_catalogue(path)]
    rows = [row for path in catalogues for row in _rows(path) if row.get("slide") == slide_id]
    if not rows:
        message = f"No catalogue has the slide {slide_id}: what is known of it are its files."
        return SlideMeta(
            fields={},
            files=tuple(catalogues),
            notes=(Note(code="meta.none", message=message),) if catalogues else (),
        )
    last = rows[-1]
    changed = sorted({column for row in rows for column in row if row[column] != last.get(column)})
    message = f"Catalogues differ in {', '.join(changed)}: the last one is taken."
    notes = (Note(code="meta.contradiction", message=message, count=len(changed)),)
    return SlideMeta(
        fields={
            column: value for column, value in last.items() if value.casefold() not in _MISSING
        },
        files=tuple(catalogues),
        notes=notes if changed else (),
    )


def _is_catalogue(path: Path) -> bool:
    head = read_head(path)
    return head is not None and "slide" in head.header


def _rows(path: Path) -> list[dict[str, str]]:
    text = read_text(path, topic="meta", error=InputError, max_bytes=MAX_BYTES)
    head = read_head(path)
    delimiter = (head and head.delimiter) or ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        header = next(reader)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise InputError(
                    Problem(
                        "meta.ragged",
                        f"{path.name}, line {reader.line_num}",
                        f"every row needs {len(header)} fields",
                        str(len(fields)),
                    )
                )
            values = (field.strip() for field in fields)
            rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise InputError(
            Problem(
                "meta.damaged",
                f"{path.name}, line {reader.line_num}",
                "a catalogue must be delimited text",
                str(error),
            )
        ) from error
    return rows


def _keywords(text: str) -> tuple[str, ...]:
    """Cut at semicolons, or at commas without them; several papers number theirs."""
    text = re.sub(r"Keywords \d+:", ";", text)
    words = text.split(";") if ";" in text else text.split(",")
    return tuple(dict.fromkeys(word for part in words if (word := part.strip(" .\n"))))
