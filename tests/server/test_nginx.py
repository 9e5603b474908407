"""A store served by nginx, as people serve one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stformat as stf
from stformat.errors import (
    NotAStoreError,
    StoreReadError,
    StoreReplaced,
    UnsupportedStoreError,
)

pytestmark = pytest.mark.server


def test_a_slide_is_read_in_few_requests(nginx, small_store):
    nginx.requests()
    with stf.open_slide(f"{nginx.url}/slide.zarr") as slide, stf.open_slide(small_store) as local:
        assert repr(slide) == repr(local)
        opening = nginx.requests()
        assert [request[0] for request in opening] == ["GET", "GET"]
        np.testing.assert_array_equal(
            slide.read_region(0, 0, 0, 900, 1100), local.read_region(0, 0, 0, 900, 1100)
        )
        pixels = nginx.requests()
        assert len(pixels) == 3  # the index, the chunks, the commit record once more
        shard = (small_store / "images/he/s0/c/0/0/0").stat().st_size
        assert sum(int(request[3]) for request in pixels) < shard + 70_000
        np.testing.assert_array_equal(slide.tiles(64)[:], local.tiles(64)[:])
        assert (slide.counts[:] != local.counts[:]).nnz == 0
        pd.testing.assert_frame_equal(slide.obs, local.obs)
        assert {request[2] for request in nginx.requests()} <= {"200", "206"}


def test_a_whole_store_is_verified(nginx):
    assert stf.verify_store(f"{nginx.url}/slide.zarr") == []


def test_a_zip_file_is_read_in_place(nginx, packed, small_store):
    (nginx.folder / "served/slide.zarr.zip").write_bytes(packed.read_bytes())
    nginx.requests()
    with stf.open_slide(f"{nginx.url}/slide.zarr.zip") as slide:
        assert len(nginx.requests()) <= 3
        with stf.open_slide(small_store) as local:
            np.testing.assert_array_equal(slide.tiles(64)[:9], local.tiles(64)[:9])


def test_a_password_opens_what_it_guards(nginx):
    with pytest.raises(StoreReadError) as caught:
        stf.open_slide(f"{nginx.url}/guarded/slide.zarr")
    assert caught.value.problems[0].code == "store.denied"
    address = nginx.url.replace("http://", "http://me:secret@")
    with stf.open_slide(f"{address}/guarded/slide.zarr") as slide:
        assert slide.tiles(32)[0].any()
        assert "secret" not in repr(slide.opened.location)


def test_what_is_denied_missing_or_served_whole_is_told_apart(nginx):
    with pytest.raises(StoreReadError, match="403"):
        stf.open_slide(f"{nginx.url}/closed/slide.zarr")
    with pytest.raises(NotAStoreError):
        stf.open_slide(f"{nginx.url}/nothing.zarr")
    with (
        stf.open_slide(f"{nginx.url}/whole/slide.zarr") as slide,
        pytest.raises(UnsupportedStoreError, match="ranges"),
    ):
        slide.read_region(0, 0, 0, 8, 8)


def test_a_certificate_is_trusted_if_its_authority_is(nginx):
    address = f"{nginx.tls_url}/slide.zarr"
    options = {"retry_config": {"max_retries": 0}}
    with pytest.raises(StoreReadError, match="root_certificate") as caught:
        stf.open_slide(address, storage_options=options)
    assert caught.value.problems[0].code == "store.tls"
    trusted = {"client_options": {"root_certificate": (nginx.folder / "ca.pem").read_text()}}
    with stf.open_slide(address, storage_options=trusted) as slide:
        assert slide.tiles(32)[0].any()


def test_a_shard_that_is_replaced_meanwhile_is_said_to_be(nginx):
    shard = nginx.folder / "served/slide.zarr/images/he/s0/c/0/0/0"
    before = shard.read_bytes()
    try:
        with stf.open_slide(f"{nginx.url}/slide.zarr") as slide:
            slide.read_region(0, 0, 0, 8, 8)
            shard.write_bytes(before + b"more")
            with pytest.raises(StoreReplaced):
                slide.read_region(0, 400, 500, 8, 8)
    finally:
        shard.write_bytes(before)


@pytest.mark.parametrize("fault", ["truncate", "reset"])
def test_answers_that_break_off_are_asked_for_again(faulty_network, small_store, fault):
    network = faulty_network(fault)
    url = f"http://127.0.0.1:{network.port}/slide.zarr"
    with stf.open_slide(url) as slide, stf.open_slide(small_store) as local:
        np.testing.assert_array_equal(slide.tiles(64)[:], local.tiles(64)[:])
        assert (slide.counts[:] != local.counts[:]).nnz == 0
    assert network.n_faults > 0


def test_a_slow_network_gives_the_same(faulty_network, small_store):
    network = faulty_network(None, latency_s=0.05)
    url = f"http://127.0.0.1:{network.port}/slide.zarr"
    with stf.open_slide(url) as slide, stf.open_slide(small_store) as local:
        np.testing.assert_array_equal(slide.tiles(64)[:], local.tiles(64)[:])
        assert (slide.counts[:] != local.counts[:]).nnz == 0
