"""Preferred spellings of species, tissues and pathologists' labels, beside those of the sources."""

from __future__ import annotations

from stformat.terms.tables import TERMS_VERSION, Term, label_term, species_term, tissue_term

__all__ = ["TERMS_VERSION", "Term", "label_term", "species_term", "tissue_term"]
