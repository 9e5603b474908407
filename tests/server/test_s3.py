"""A store in a bucket, with credentials given in every way, and with none."""

from __future__ import annotations

import pickle
import traceback

import numpy as np
import pytest
import xarray as xr

import stformat as stf
from stformat.errors import CorruptStoreError, NotAStoreError, StoreError, StoreReadError

pytestmark = pytest.mark.server

URL = "s3://slides/study/slide.zarr"
FAST = {"retry_config": {"max_retries": 0}}


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "ENDPOINT_URL", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)


@pytest.mark.parametrize("url", [URL, f"{URL}.zip", f"{URL}/"])
def test_a_slide_in_a_bucket_is_the_slide(bucket, small_store, url):
    with (
        stf.open_slide(url, storage_options=bucket.options) as slide,
        stf.open_slide(small_store) as local,
    ):
        np.testing.assert_array_equal(slide.tiles(64)[:], local.tiles(64)[:])
        assert (slide.counts[:] != local.counts[:]).nnz == 0
        assert slide.obs.equals(local.obs)
        with pickle.loads(pickle.dumps(slide)) as again:  # noqa: S301 - our own
            np.testing.assert_array_equal(again.tiles(64)[3], local.tiles(64)[3])


def test_credentials_are_taken_from_the_environment(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.options["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.options["secret_access_key"])
    with stf.open_slide(URL) as slide:
        assert slide.tiles(32)[0].any()
    assert stf.verify_store(URL) == []


def test_xarray_takes_storage_options(bucket):
    with xr.open_dataset(
        URL, engine="stformat", tile_px=32, storage_options=bucket.options
    ) as dataset:
        assert dataset["tiles"].isel(obs=0).to_numpy().any()


def test_a_bucket_or_store_that_is_not_there_is_no_store(bucket):
    for url in ("s3://slides/nothing.zarr", "s3://slides/nothing.zarr.zip"):
        with pytest.raises(NotAStoreError):
            stf.open_slide(url, storage_options={**bucket.options, **FAST})
    with pytest.raises(StoreError):
        stf.open_slide("s3://nobucket/slide.zarr", storage_options={**bucket.options, **FAST})


def test_right_credentials_open_what_is_guarded(guarded):
    with stf.open_slide(URL, storage_options=guarded.options) as slide:
        assert slide.tiles(32)[0].any()


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_credentials_are_refused_and_shown_nowhere(guarded, wrong):
    options = {**guarded.options, wrong: "open" + "sesame", **FAST}
    with pytest.raises(StoreReadError) as caught:
        stf.open_slide(URL, storage_options=options)
    assert caught.value.problems[0].code == "store.denied"
    text = "".join(traceback.format_exception(caught.value))
    for name in ("access_key_id", "secret_access_key"):
        assert options[name] not in text


def test_no_credentials_are_named_as_what_lacks(bucket):
    options = {name: bucket.options[name] for name in ("endpoint", "region")}
    nowhere = {"metadata_endpoint": "http://127.0.0.1:1", **FAST}
    with pytest.raises(StoreReadError, match="skip_signature") as caught:
        stf.open_slide(URL, storage_options={**options, **nowhere})
    assert caught.value.problems[0].code == "store.credentials"
    anonymous = {**options, "skip_signature": "true"}
    with pytest.raises(StoreReadError, match="403"):
        stf.open_slide(URL, storage_options=anonymous)
    with stf.open_slide(URL.replace("slides", "public"), storage_options=anonymous) as slide:
        assert slide.tiles(32)[0].any()


def test_a_missing_object_is_corruption(bucket):
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: uv sync installs it")
    client = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name="us-east-1",
        aws_access_key_id=bucket.options["access_key_id"],
        aws_secret_access_key=bucket.options["secret_access_key"],
    )
    key = "study/slide.zarr/images/he/s1/c/0/0/0"
    content = client.get_object(Bucket="slides", Key=key)["Body"].read()
    client.delete_object(Bucket="slides", Key=key)
    try:
        with (
            stf.open_slide(URL, storage_options=bucket.options) as slide,
            pytest.raises(CorruptStoreError, match="must exist"),
        ):
            slide.read_region(1, 0, 0, 8, 8)
    finally:
        client.put_object(Bucket="slides", Key=key, Body=content)
