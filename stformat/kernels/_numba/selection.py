"""Compiled twin of the kernel that keeps chosen genes, defined in `_reference`."""

from __future__ import annotations

import numpy as np

from stformat.kernels._numba._compile import Array, compiled

__all__ = ["select_genes"]


@compiled
def select_genes(data: Array, indices: Array, indptr: Array, targets: Array, lengths: Array) -> int:
    """Return the position of the first column index that has no gene, or -1.

    What is kept of all rows lies side by side from where the first of them begins. Which values
    these are is as good as random: no branch depends on it.
    """
    n_vars = np.uint64(targets.size)
    to = indptr[0]
    for row in range(lengths.size):
        first = to
        for k in range(indptr[row], indptr[row + 1]):
            gene = np.uint64(indices[np.uint64(k)])
            if gene >= n_vars:
                return k
            target = targets[gene]
            data[np.uint64(to)] = data[np.uint64(k)]
            indices[np.uint64(to)] = target
            to += target >= 0
        lengths[row] = to - first
    return -1
