"""Every comparison of peers.py once, on the smallest data: outputs agree, rows are complete."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import peers
import pytest
from peer_cases import lookup
from peer_cases.case import Comparison, Peer, Work, at_least, at_most, reported
from peer_cases.clock import take_turns
from peer_cases.data import TINY, Data
from peer_cases.measure import compare
from peer_cases.table import Report, write

COMPARISONS = [comparison for topic in peers.TOPICS.values() for comparison in topic]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data(scale=TINY, folder=tmp_path_factory.mktemp("peers"))


@pytest.mark.parametrize(
    ("comparison", "peer"),
    [
        pytest.param(comparison, peer, id=f"{comparison.what}: {peer.name}")
        for comparison in COMPARISONS
        for peer in comparison.peers
    ],
)
def test_peer_does_the_same_work(comparison, peer, data):
    comparison = dataclasses.replace(comparison, peers=(peer,))
    rows = compare(comparison, data, rounds=1, tries=1, measures_memory=False)
    if rows[0].status == "not installed":
        pytest.skip(rows[0].detail)
    assert [row.status for row in rows] == ["measured"] * len(rows), rows[0].detail
    assert all(row.ratio > 0 for row in rows)


def of_numbers(*peers, ours=(1, 2)):
    return Comparison(
        what="numbers", unit="number", ours=lambda _: work(np.array(ours)), peers=peers
    )


def work(output):
    return Work(run=lambda: output, n_units=1)


def test_peer_that_differs_is_a_row_and_is_not_timed(data):
    peer = Peer(name="wrong", prepare=lambda _: work(np.array([1, 3])), target=at_least(2))
    (row,) = compare(of_numbers(peer), data)
    assert (row.status, row.detail, row.ratio) == ("differs", "50.00% of the values differ", None)
    assert Report(rows=(row,), scale=TINY, rounds=1, seconds=0.0).wrong == [row]


def test_peer_that_is_missing_or_breaks_is_a_row(data):
    def absent(_):
        raise ModuleNotFoundError(name="nothing_of_the_kind")

    def broken(_):
        raise OSError("the disk is on fire")

    rows = compare(
        of_numbers(Peer(name="absent", prepare=absent), Peer(name="broken", prepare=broken)), data
    )
    assert [(row.status, row.detail) for row in rows] == [
        ("not installed", "no module nothing_of_the_kind"),
        ("failed", "OSError: the disk is on fire"),
    ]


def test_slow_peer_runs_on_a_part_of_our_output(data):
    part = np.array([1])
    peer = Peer(
        name="slow", prepare=lambda _: Work(run=lambda: np.array([2]), n_units=1, part=part)
    )
    (row,) = compare(of_numbers(peer), data, rounds=3)
    assert (row.status, row.detail, row.runs) == ("measured", "equal", 3)


def test_targets_are_of_peers_and_of_bounds():
    assert at_least(4).ratio(ours=1.0, other=5.0) == 5.0
    assert at_least(4).is_reached(5.0)
    assert not at_least(4).is_reached(3.9)
    assert at_most(2).ratio(ours=5.0, other=2.0) == 2.5
    assert not at_most(2).is_reached(2.5)
    assert at_most(2).is_reached(1.9)
    assert reported().is_reached(0.1) is None


def test_sides_take_turns_and_are_prepared_each_time():
    told = []
    sides = {
        name: Work(
            run=lambda name=name: told.append(name),
            n_units=1,
            before=lambda name=name: told.append(f"before {name}"),
        )
        for name in "ab"
    }
    timings = take_turns(sides, rounds=2, tries=1)
    assert told == ["before a", "a", "before b", "b"] * 2
    assert all(len(timing.seconds) == 2 for timing in timings.values())


def test_memory_that_a_work_adds_is_a_row_of_its_own(data):
    def of_memory(n_bytes):
        return Work(run=lambda: np.zeros(1), n_units=1, added_bytes=lambda: n_bytes)

    peer = Peer(name="hungry", prepare=lambda _: of_memory(3 * 2**20))
    comparison = dataclasses.replace(of_numbers(peer), ours=lambda _: of_memory(2**10))
    time_row, memory_row = compare(comparison, data, rounds=1)
    assert (memory_row.what, memory_row.unit) == ("numbers: memory that it adds", "byte")
    assert (memory_row.theirs, memory_row.ratio) == (3 * 2**20, 3.0)
    assert time_row.unit == "number"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory as Linux counts it")
def test_memory_is_measured_in_a_process_of_its_own(data):
    (comparison, *_) = (one for one in lookup.COMPARISONS if "random rows" in one.what)
    assert 0 <= comparison.ours(data).added_bytes() < 2**28


def test_table_says_which_targets_are_missed(data, tmp_path):
    slower = Peer(name="limit", prepare=lambda _: work(0), target=at_least(1e9), agrees=None)
    faster = Peer(name="snail", prepare=lambda _: work(0), target=at_least(1e-9), agrees=None)
    rows = compare(of_numbers(slower, faster), data, rounds=1)
    report = Report(rows=tuple(rows), scale=TINY, rounds=1, seconds=1.0)
    write(report, tmp_path)
    text = (tmp_path / "peers.md").read_text(encoding="utf-8")
    assert "1 of 2 targets reached" in text
    assert [line.split("|")[7].strip() for line in text.splitlines() if "numbers" in line] == [
        "**no**", "yes",
    ]  # fmt: skip
    document = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert [row["is_reached"] for row in document["rows"]] == [False, True]
    assert document["scale"]["name"] == "tiny"
