"""Where a store is, told from its text alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import stformat as stf
from stformat.errors import UnsupportedStoreError
from stformat.store.location import local_path, parse_location


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("https://a.org/b/c.zarr", "https://a.org/b/c.zarr", "https://a.org/b/c.zarr"),
        ("HTTPS://a.org/c.zarr/", "https://a.org/c.zarr", "https://a.org/c.zarr"),
        ("https://a.org", "https://a.org", "https://a.org"),
        (
            "http://u:p@a.org:81/c.zarr/?X-Sig=k&x=1#frag",
            "http://u:p@a.org:81/c.zarr?X-Sig=k&x=1",
            "http://a.org:81/c.zarr",
        ),
        ("s3://bucket/a b/c.zarr", "s3://bucket/a b/c.zarr", "s3://bucket/a b/c.zarr"),
        ("file:///data/a%20b.zarr", "/data/a b.zarr", "/data/a b.zarr"),
        ("/data/slide.zarr", "/data/slide.zarr", "/data/slide.zarr"),
        (Path("/data/slide.zarr"), "/data/slide.zarr", "/data/slide.zarr"),
        ("C:/a.zarr", str(Path("C:/a.zarr").absolute()), str(Path("C:/a.zarr").absolute())),
    ],
)
def test_locations_keep_what_opens_them_and_show_what_is_no_secret(text, address, shown):
    location = parse_location(text)
    assert location.address == address
    assert str(location) == shown
    assert repr(location) == f"<Location {shown}>"
    assert location.is_url == ("://" in address)


@pytest.mark.parametrize(
    "text", ["ftp://a.org/x", "memory://x", "https:///x", "s3:///x", "https://?x", "x-y.z+1://q/r"]
)
def test_other_urls_are_refused(text):
    with pytest.raises(UnsupportedStoreError):
        parse_location(text)


@pytest.mark.parametrize(
    ("text", "is_zip"),
    [
        ("https://a.org/b.zarr.zip?sig=1", True),
        ("s3://bucket/b.zip/", True),
        ("https://a.org/b.zarr?file=c.zip", False),
        ("b.zarr.zip", True),
        ("b.zarr", False),
    ],
)
def test_a_zip_file_is_told_by_its_name(text, is_zip):
    assert parse_location(text).is_zip == is_zip


def test_a_directory_that_is_called_zip_is_a_directory(small_store, tmp_path):
    (tmp_path / "slide.zip").symlink_to(small_store)
    assert not parse_location(tmp_path / "slide.zip").is_zip
    with stf.open_slide(tmp_path / "slide.zip") as slide:
        assert slide.n_obs


def test_what_holds_a_file_keeps_secrets_and_options():
    location = parse_location("https://u:p@a.org/b%20c/d%20e.zip?sig=1", {"client_options": {}})
    folder, name = location.split()
    assert (folder.address, name) == ("https://u:p@a.org/b%20c?sig=1", "d e.zip")
    assert folder.options == {"client_options": {}}


def test_a_location_is_pickled_with_its_options():
    location = parse_location("s3://bucket/c.zarr", {"region": "eu-west-1"})
    again = pickle.loads(pickle.dumps(location))  # noqa: S301 - our own
    assert again == location
    assert again.options["region"] == "eu-west-1"


def test_options_are_for_urls_and_cannot_be_changed():
    with pytest.raises(ValueError, match="for URLs"):
        parse_location("/data/slide.zarr", {"region": "x"})
    options = {"region": "x"}
    location = parse_location("s3://bucket/c.zarr", options)
    options["region"] = "y"
    assert location.options["region"] == "x"


@pytest.mark.parametrize("text", ["https://u:hidden@a.org/c.zarr", "slide.zarr.zip"])
def test_only_directories_are_changed(text):
    with pytest.raises(UnsupportedStoreError, match="local directory") as caught:
        local_path(text)
    assert "hidden" not in str(caught.value)
    with pytest.raises(UnsupportedStoreError):
        stf.seal_store(text)
