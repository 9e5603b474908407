"""Every comparison of loader.py once, on the smallest slides, and its table of mixing."""

from __future__ import annotations

import dataclasses

import pytest
from loader_cases.comparisons import COMPARISONS
from loader_cases.corpus import TINY, Corpus
from loader_cases.quality import quality_table
from peer_cases.measure import compare


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus(scale=TINY, folder=tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(
    ("comparison", "peer"),
    [
        pytest.param(comparison, peer, id=f"{comparison.what}: {peer.name}")
        for comparison in COMPARISONS
        for peer in comparison.peers
    ],
)
def test_peer_does_the_same_work(comparison, peer, corpus):
    (row,) = compare(dataclasses.replace(comparison, peers=(peer,)), corpus, rounds=1, tries=1)
    if row.status == "not installed":
        pytest.skip(row.detail)
    assert row.status == "measured", row.detail


def test_a_larger_buffer_mixes_as_a_true_shuffle_does(corpus):
    line = quality_table(corpus, [2048])[-1]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    # 441 rows make two batches: what is left to chance is large.
    assert cells[3] == "3.0 (3.0)"
    assert 0.2 < float(cells[4].split()[0]) < 5
    assert 0.8 < float(cells[5].split()[0]) < 1.2
