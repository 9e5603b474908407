"""What labels mean across studies, in columns of their own beside the labels as given."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from stformat.model import Note, SlideRecord, Spots
from stformat.sources._notes import counted, named
from stformat.terms import label_term

__all__ = ["with_label_terms"]

_SUFFIX = "_term"


def with_label_terms(record: SlideRecord) -> SlideRecord:
    """Add the terms of labels to a record, where the table of terms has any of them.

    Parameters
    ----------
    record : SlideRecord
        The slide; its annotations stay as they are.

    Returns
    -------
    SlideRecord
        The slide with the annotation ``<name>_term`` beside each ``<name>`` that has terms and no
        such annotation yet, and the note ``labels.without-term`` where some of them have none.
    """
    # Tables of one region share their spots, and go on sharing them.
    changed: dict[int, Spots] = {}
    notes: dict[str, Note] = {}
    for spots in (table.spots for table in record.tables):
        if id(spots) not in changed:
            changed[id(spots)] = _with_terms(spots, notes)
    tables = tuple(replace(table, spots=changed[id(table.spots)]) for table in record.tables)
    return replace(record, tables=tables, notes=(*record.notes, *notes.values()))


def _with_terms(spots: Spots, notes: dict[str, Note]) -> Spots:
    annotations = dict(spots.annotations)
    for name, labels in spots.annotations.items():
        target = name + _SUFFIX
        if name.endswith(_SUFFIX) or target in spots.annotations:
            continue
        meanings = {label: label_term(label) for label in set(labels.tolist()) - {None}}
        if not any(meanings.values()):
            continue
        terms = [None if label is None else meanings[label] for label in labels.tolist()]
        annotations[target] = np.array([term and term.name for term in terms], dtype=object)
        without = sorted(label for label, term in meanings.items() if term is None)
        if without:
            n = int(np.isin(labels.astype(str), without).sum())
            notes[name] = Note(
                code="labels.without-term",
                message=f"{counted(n, 'label', 'labels')} of {name!r} ({named(without)}) mean "
                "nothing that could be compared between studies",
                count=n,
            )
    return replace(spots, annotations=MappingProxyType(annotations))
