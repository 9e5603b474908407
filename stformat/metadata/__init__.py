"""Metadata documents, one module a specification: JSON in, JSON out, no arrays, no I/O."""
