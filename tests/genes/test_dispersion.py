"""What dispersion rules do where scanpy is no oracle; equality with it: tests/collection."""

from __future__ import annotations

import numpy as np

from stformat.genes.dispersion import normalized_dispersions, variable_in_batches, variable_top


def test_genes_that_share_the_last_place_are_all_taken():
    assert variable_top(np.array([1.0, 3.0, 1.0, 0.0]), 2).tolist() == [True, True, True, False]


def test_genes_without_dispersion_are_never_taken():
    assert not variable_top(np.full(3, np.nan), 2).any()
    assert variable_top(np.array([np.nan, -5.0, np.inf]), 3).tolist() == [False, True, True]


def test_ties_between_batches_are_broken_by_name():
    mean = np.array([1.0, 1.1, 1.2, 1.3])
    same = normalized_dispersions(mean, np.array([1.0, 5.0, 2.0, 1.0]), n_bins=1)
    every = np.ones(4, dtype=bool)
    chosen = variable_in_batches([(every, same), (every, same)], ["d", "c", "b", "a"], 1)
    assert chosen.tolist() == [False, True, False, False]
    equal = np.array([True, False, False, True])
    twice = normalized_dispersions(np.array([1.0, 1.0]), np.array([2.0, 2.0]), n_bins=1)
    chosen = variable_in_batches([(equal, twice)], ["d", "c", "b", "a"], 1)
    assert chosen.sum() == 1
