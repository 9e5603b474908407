"""What a read of a file costs beside its bytes, by which reads are planned."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReadCosts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCosts:
    """How files are best read: what a read costs beside its bytes.

    The default is that of a local disk, where a read costs nothing else.
    """

    n_in_flight: int = 0
    """Reads that wait at once, in threads of their own; 0: whoever decodes reads for itself."""

    gap_bytes: int = 0
    """Two ranges of one file no further apart are read as one."""

    request_bytes: int = 0
    """Ranges are not joined beyond this size."""

    can_list: bool = True
    """Whether `StoreFiles.walk` tells which files there are."""
