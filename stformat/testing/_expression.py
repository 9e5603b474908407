"""Counts that follow tissue: marker genes of regions, overdispersed, with library sizes."""

from __future__ import annotations

from itertools import chain, zip_longest

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing._histology import REGIONS

__all__ = ["draw_counts", "gene_names"]

_MARKERS = {
    "invasive cancer": (
        "ERBB2", "KRT8", "KRT18", "EPCAM", "KRT19", "MUC1", "GATA3", "MKI67", "CDH1", "ESR1",
    ),
    "connective tissue": (
        "COL1A1", "COL3A1", "DCN", "LUM", "FN1", "VIM", "SPARC", "ACTA2", "POSTN", "COL1A2",
    ),
    "adipose tissue": (
        "ADIPOQ", "FABP4", "PLIN1", "LPL", "CIDEC", "LEP", "PLIN4", "CD36", "ADH1B", "G0S2",
    ),
    "immune infiltrate": (
        "CD3E", "PTPRC", "CD74", "MS4A1", "CD79A", "IGKC", "CD8A", "LTB", "CD3D", "IGHG1",
    ),
}  # fmt: skip
_EVERYWHERE = (
    "ACTB", "EEF1A1", "GAPDH", "B2M", "RPLP0", "TMSB10", "FTL", "RPS27", "MALAT1", "TPT1",
)  # fmt: skip

_RATIO_IN_REGION, _RATIO_ELSEWHERE = 14.0, 0.5
_RATIO_EVERYWHERE = 25.0
_DISPERSION = 2.5  # shape of the gamma distribution that rates vary by
_LIBRARY = np.array([6500.0, 3200.0, 900.0, 4800.0, 60.0])  # by region, of 2000 genes
_ROWS_PER_BLOCK = 256


def gene_names(n_genes: int) -> tuple[str, ...]:
    """Symbols of real markers, a few of each region first, then ``GENE0001`` and so on."""
    known = [
        name for name in chain(*zip_longest(*_MARKERS.values(), _EVERYWHERE)) if name is not None
    ]
    made_up = (f"GENE{number:04d}" for number in range(1, n_genes - len(known) + 1))
    return (*known[:n_genes], *made_up)


def draw_counts(
    names: tuple[str, ...], weights: NDArray[np.float32], random: np.random.Generator
) -> sparse.csr_array:
    """Draw counts of spots whose tissue is a mixture of regions.

    Parameters
    ----------
    names : tuple of str
        Names of the genes.
    weights : (n_spots, n_regions) ndarray of float32
        Shares of `REGIONS` in each spot.
    random : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    (n_spots, n_genes) csr_array of int32
        Gamma-Poisson counts without explicit zeros, column indices ascending.
    """
    profiles = _profiles(names, random)
    # Fewer genes than a transcriptome catch fewer molecules.
    depth = 1.5 * len(names) / (len(names) + 1000)
    library = weights @ _LIBRARY * depth * random.lognormal(0.0, 0.3, len(weights))
    blocks = []
    for start in range(0, len(weights), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        mean = library[rows, None] * (weights[rows] @ profiles)
        rate = random.gamma(_DISPERSION, mean / _DISPERSION)
        blocks.append(sparse.csr_array(random.poisson(rate).astype(np.int32)))
    return sparse.vstack(blocks, format="csr")


def _profiles(names: tuple[str, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """(n_regions, n_genes) expected share of each gene in a region's counts."""
    abundance = random.lognormal(0.0, 1.4, len(names))
    profiles = np.tile(abundance, (len(REGIONS), 1))
    column_of = {name: column for column, name in enumerate(names)}
    for region, markers in _MARKERS.items():
        columns = [column_of[name] for name in markers if name in column_of]
        profiles[:, columns] *= _RATIO_ELSEWHERE
        profiles[REGIONS.index(region), columns] *= _RATIO_IN_REGION / _RATIO_ELSEWHERE
    profiles[:, [column_of[name] for name in _EVERYWHERE if name in column_of]] *= _RATIO_EVERYWHERE
    return profiles / profiles.sum(axis=1, keepdims=True)
