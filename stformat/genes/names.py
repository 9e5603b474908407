"""What the columns of a table are called, as plain lists of text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GeneNames"]

# Neither stands in a name.
_SEPARATOR, _MISSING = "\x00", "\x01"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneNames:
    """Keys, identifiers and names of the columns of one table.

    Examples
    --------
    >>> names = GeneNames(keys=["ERBB2"], gene_id=[None], gene_name=["ERBB2"], genome=[None])
    >>> len(names), names.digest.hex()[:12]
    (1, '7a7a80f5caf5')
    """

    keys: list[str]
    """Key of each column, as the source spells it."""

    gene_id: list[str | None]
    """Ensembl identifier, where known."""

    gene_name: list[str | None]
    """Symbol, where known."""

    genome: list[str | None]
    """Reference genome, where the source names it."""

    @classmethod
    def from_frame(cls, var: pd.DataFrame) -> Self:
        """Take them from ``var`` of a slide: its index and columns gene_id, gene_name, genome."""
        columns = (var[name].astype(object) for name in ("gene_id", "gene_name", "genome"))
        texts = [column.where(column.notna(), None).tolist() for column in columns]
        return cls(keys=var.index.tolist(), gene_id=texts[0], gene_name=texts[1], genome=texts[2])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> bytes:
        """32 bytes that tell tables apart whose columns, or their order, differ."""
        return _digest(self.keys, self.gene_id, self.gene_name, self.genome)

    @property
    def keys_digest(self) -> bytes:
        """32 bytes that tell tables apart whose keys, or their order, differ."""
        return _digest(self.keys)


def _digest(*columns: Sequence[str | None]) -> bytes:
    state = hashlib.blake2b(digest_size=32)
    for texts in columns:
        column = _SEPARATOR.join([_MISSING if text is None else text for text in texts])
        state.update(f"{len(texts)}{_SEPARATOR}{column}{_SEPARATOR}".encode())
    return state.digest()
