"""Look-up of a text in a small table of terms with their synonyms.

The tables stand beside this module as CSV. Species are those of the NCBI Taxonomy
(https://www.ncbi.nlm.nih.gov/taxonomy), tissues those of Uberon
(https://obofoundry.org/ontology/uberon, CC BY 3.0). Labels are joined across studies: the classes
of HER2-positive breast tumours of Andersson et al., Nature Communications 2021, and the layers of
the dorsolateral prefrontal cortex of Maynard et al., Nature Neuroscience 2021.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

__all__ = ["TERMS_VERSION", "Term", "label_term", "species_term", "tissue_term"]

TERMS_VERSION = "1"
"""Version of all tables: another one may give another term for the same text."""

_BETWEEN_WORDS = re.compile(r"[\s_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """What several spellings mean."""

    name: str
    """Preferred spelling."""

    curie: str | None
    """Identifier in an ontology, ``"UBERON:0000310"``, or None where the table gives none."""


def species_term(text: str) -> Term | None:
    """Return the species that a text names.

    Parameters
    ----------
    text : str
        Scientific or common name; case, spaces, hyphens and underscores do not matter.

    Returns
    -------
    Term or None
        None where the table has no such spelling; several species in one text are none.

    Examples
    --------
    >>> species_term("homo_sapiens")
    Term(name='Homo sapiens', curie='NCBITaxon:9606')
    """
    return _table("species").get(_key(text))


def tissue_term(text: str) -> Term | None:
    """Return the organ or tissue that a text names; see `species_term`.

    Examples
    --------
    >>> tissue_term("Breast")
    Term(name='breast', curie='UBERON:0000310')
    """
    return _table("tissue").get(_key(text))


def label_term(text: str) -> Term | None:
    """Return what a pathologist's label means across studies; see `species_term`.

    Labels that say that nothing could be said (``"undetermined"``) have no term.

    Examples
    --------
    >>> label_term("Layer_1") == label_term("L1")
    True
    >>> label_term("undetermined")
    """
    return _table("label").get(_key(text))


def _key(text: str) -> str:
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


@cache
def _table(name: Literal["species", "tissue", "label"]) -> Mapping[str, Term]:
    """Return the terms of a table by every spelling."""
    terms: dict[str, Term] = {}
    content = resources.files("stformat.terms").joinpath(f"{name}.csv").read_text("utf-8")
    for row in csv.DictReader(content.splitlines()):
        term = Term(name=row["name"], curie=row["curie"] or None)
        for spelling in [row["name"], *row["synonyms"].split("|")]:
            if spelling:
                terms[_key(spelling)] = term
    return terms
