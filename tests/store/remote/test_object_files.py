"""Servers that fail, in every way that they do, and what a reader makes of it."""

from __future__ import annotations

import numpy as np
import pytest

import stformat as stf
from stformat.errors import (
    CorruptStoreError,
    StoreError,
    StoreReadError,
    StoreReplaced,
    UnsupportedStoreError,
)
from stformat.store.location import parse_location
from stformat.store.object_files import TAIL_BYTES, open_objects

FIRST_SHARD = "images/he/s0/c/0/0/0"


@pytest.fixture
def files(server):
    """The served store as its files."""
    return open_objects(parse_location(f"{server.url}/slide.zarr"))


@pytest.fixture
def shard(small_store):
    return (small_store / FIRST_SHARD).read_bytes()


def read_pixels(slide):
    return slide.read_region(0, 200, 200, 400, 400)


@pytest.mark.parametrize("has_etag", [True, False])
@pytest.mark.parametrize("fault", ["reset", "truncate", 429, 500, 503])
def test_what_fails_once_is_asked_for_again(server, open_url, small_store, fault, has_etag):
    server.has_etag = has_etag
    server.fault = lambda _path, nth: fault if nth % 2 == 0 else None
    with open_url() as slide, stf.open_slide(small_store) as local:
        np.testing.assert_array_equal(read_pixels(slide), read_pixels(local))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (401, "store.denied"),
        (403, "store.denied"),
        (400, "store.server"),
        (500, "store.server"),
        (503, "store.server"),
        (429, "store.server"),
        ("reset", "store.unreachable"),
        ("truncate", "store.truncated"),
        ("stall", "store.timeout"),
    ],
)
def test_what_keeps_failing_says_why(server, open_url, fault, code):
    # Only who waits for what never comes should be impatient.
    with open_url(timeout="1s" if fault == "stall" else "30s") as slide:
        server.fault = lambda _path, _nth: fault
        with pytest.raises(StoreReadError) as caught:
            read_pixels(slide)
    (problem,) = caught.value.problems
    assert problem.code == code
    assert problem.remedy
    assert "slide.zarr" in problem.where
    if isinstance(fault, int):
        assert str(fault) in problem.found
    # The cause would show the URL as it is.
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("http://no-such-host.invalid/slide.zarr", "store.unreachable"),
        ("http://127.0.0.1:1/slide.zarr", "store.unreachable"),
    ],
)
def test_a_server_that_is_not_there_is_named(address, code):
    options = {"retry_config": {"max_retries": 0}}
    with pytest.raises(StoreReadError) as caught:
        stf.open_slide(address, storage_options=options)
    assert caught.value.problems[0].code == code


def test_a_server_that_does_not_speak_tls_is_told_from_others(url):
    options = {"retry_config": {"max_retries": 0}}
    with pytest.raises(StoreReadError) as caught:
        stf.open_slide(url.replace("http:", "https:"), storage_options=options)
    assert caught.value.problems[0].code == "store.tls"


@pytest.mark.parametrize(
    "lack", ["has_ranges", "has_suffixes", "has_content_ranges", "shifts_ranges"]
)
def test_a_server_without_ranges_is_refused_and_nothing_read_as_one(server, open_url, lack):
    with open_url() as slide:
        setattr(server, lack, lack == "shifts_ranges")
        with pytest.raises(UnsupportedStoreError) as caught:
            read_pixels(slide)
        assert caught.value.problems[0].code == "store.no-ranges"
        assert len(server.seen(FIRST_SHARD)) == 1


def test_a_server_that_does_not_say_how_long_its_answers_are_is_refused(server, open_url):
    server.has_lengths = False
    with pytest.raises(UnsupportedStoreError) as caught:
        open_url()
    assert caught.value.problems[0].code == "store.no-length"


def test_files_are_read_as_they_are(files, server, shard):
    n = len(shard)
    assert files.read(FIRST_SHARD) == shard
    assert files.read(FIRST_SHARD, at_most=100) == shard[:100]
    assert files.find(FIRST_SHARD, at_most=0) == b""
    assert files.read_range(FIRST_SHARD, 1000, 5000) == shard[1000:6000]
    assert files.read_range(FIRST_SHARD, 7, 0) == b""
    assert files.read_tail(FIRST_SHARD, 20) == (shard[-20:], n)
    assert files.read_tail(FIRST_SHARD, n + 1) == (shard, n)
    assert files.size(FIRST_SHARD) == n
    assert files.exists("zarr.json")
    assert not files.exists("nothing")
    assert files.find("nothing") is None
    assert {request.method for request in server.requests} == {"GET"}


def test_the_end_of_an_object_is_read_once(files, server, shard):
    files.read_tail(FIRST_SHARD, 4)
    server.requests.clear()
    n = len(shard)
    assert files.read_range(FIRST_SHARD, n - TAIL_BYTES, 9) == shard[n - TAIL_BYTES :][:9]
    assert files.read_tail(FIRST_SHARD, 40)[0] == shard[-40:]
    assert files.size(FIRST_SHARD) == n
    assert server.requests == []


def test_ends_are_kept_up_to_a_bound(files, server, own_copy):
    for number in range(80):
        (own_copy / f"{number}").write_bytes(bytes([number]) * TAIL_BYTES)
    for number in range(80):
        files.read_tail(f"{number}", 1)
    server.requests.clear()
    assert files.read_range("79", 0, 1) == bytes([79])
    assert server.requests == []
    assert files.read_range("0", 0, 1) == bytes([0])
    assert len(server.requests) == 1


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 10**12), (9, -1)])
def test_ranges_beyond_an_object_are_refused(files, start, length):
    with pytest.raises(CorruptStoreError):
        files.read_range(FIRST_SHARD, start, length)
    files.size(FIRST_SHARD)
    with pytest.raises(CorruptStoreError):
        files.read_range(FIRST_SHARD, start, length)


def test_an_empty_object_is_short(files, own_copy):
    (own_copy / "empty").touch()
    assert files.read("empty") == b""
    with pytest.raises(StoreError):
        files.read_tail("empty", 4)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../outside", "a/../b", "a//c", "a/.", "x\0"])
def test_paths_that_leave_the_store_are_refused(files, server, path):
    for method in (files.read, files.exists, files.size):
        with pytest.raises(UnsupportedStoreError):
            method(path)
    assert server.requests == []


def test_the_files_at_a_url_are_not_listed(files):
    assert not files.costs.can_list
    with pytest.raises(UnsupportedStoreError, match="listed"):
        files.walk()


@pytest.mark.parametrize("has_etag", [True, False])
def test_an_object_of_another_size_is_another_version(files, server, own_copy, has_etag):
    server.has_etag = has_etag
    files.read_tail(FIRST_SHARD, 4)
    with (own_copy / FIRST_SHARD).open("ab") as shard:
        shard.write(b"more")
    with pytest.raises(StoreReplaced):
        files.read_range(FIRST_SHARD, 0, 10)


def test_the_record_is_looked_at_once_for_all_that_is_new(files, server):
    files.read("stformat/commit.json")
    for path in ("zarr.json", "images/zarr.json", FIRST_SHARD):
        files.size(path)
    files.check_version()
    files.check_version()
    assert len(server.seen("commit.json")) == 2


def test_credentials_go_with_every_request_and_the_query_stays(server, small_store):
    address = f"{server.url}/slide.zarr/?token=abc".replace("http://", "http://me:p%40ss@")
    with stf.open_slide(address) as slide, stf.open_slide(small_store) as local:
        np.testing.assert_array_equal(read_pixels(slide), read_pixels(local))
    assert {request.authorization for request in server.requests} == {"Basic bWU6cEBzcw=="}
    assert {request.query for request in server.requests} == {"token=abc"}
