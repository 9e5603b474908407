"""Whose a file is, where the files of several Visium samples lie side by side, as in GEO."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["has_word", "of_sample", "sample_of", "samples_of"]

_MATRIX_PARTS = "matrix|barcodes|features|genes"
_OWN_NAME = (
    r"tissue_positions(?:_list)?|scalefactors(?:_json)?|tissue_(?:hires|lowres)_image"
    r"|(?:tissue_)?image|(?:filtered|raw)_(?:feature|gene|probe)_(?:bc|cell)_matri[a-z]+"
    rf"(?:[-_.](?:{_MATRIX_PARTS}))?|{_MATRIX_PARTS}"
)
_OF_SAMPLE = re.compile(rf"(.+?)[-_.](?:{_OWN_NAME})(?:\.[a-z0-9]+)+", re.IGNORECASE)


def sample_of(name: str) -> str | None:
    """Return what stands before the name that Space Ranger gives a file.

    Parameters
    ----------
    name : str
        Name of a file.

    Returns
    -------
    str or None
        The name of the sample, without what parts the two; None where there is none.

    Examples
    --------
    >>> sample_of("GSM1_A_tissue_positions_list.csv.gz"), sample_of("tissue_positions.csv")
    ('GSM1_A', None)
    """
    match = _OF_SAMPLE.fullmatch(name)
    return match[1] if match else None


def samples_of(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the samples that files are named for, by name."""
    return tuple(sorted({sample for path in paths if (sample := sample_of(path.name))}))


def of_sample(paths: Sequence[Path], sample: str, samples: Sequence[str]) -> tuple[Path, ...]:
    """Take the files of one sample.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        Files of one role.
    sample : str
        Name of the sample.
    samples : sequence of str
        Every sample that files of the folder are named for.

    Returns
    -------
    tuple of pathlib.Path
        Files that are named for it; and those that have it as a word of their name, if they are
        named for no other of `samples`.

    Examples
    --------
    >>> paths = [Path("A_tissue_hires_image.png"), Path("A_2_tissue_hires_image.png")]
    >>> of_sample(paths, "A", ["A", "A_2"])
    (PosixPath('A_tissue_hires_image.png'),)
    """
    others = {other for other in samples if other != sample}
    if sample not in samples:
        # It may be a part of the names of several: whoever gave it must have meant that.
        others = set()
    return tuple(
        path for path in paths if sample_of(path.name) not in others and has_word(sample, path.name)
    )


def has_word(word: str, text: str) -> bool:
    """Say whether a name has another as a word of its own; an underscore ends a word.

    Examples
    --------
    >>> has_word("A1", "GSM1_A1_image.tif"), has_word("A1", "A10_image.tif")
    (True, False)
    """
    return bool(re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text))
