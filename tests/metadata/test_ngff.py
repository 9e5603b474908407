"""The strict OME-NGFF view."""

import copy

import numpy as np
import pytest

from stformat.metadata import ngff


def view(**changes):
    options = {
        "element": "he",
        "n_levels": 4,
        "channel_names": ("r", "g", "b"),
        "dtype": np.dtype(np.uint8),
        "mpp": 0.25,
    }
    return ngff.image_view_attributes(**(options | changes))


def transforms(attributes):
    (multiscale,) = attributes["ome"]["multiscales"]
    pairs = [dataset["coordinateTransformations"] for dataset in multiscale["datasets"]]
    return [(scale["scale"], translation["translation"]) for scale, translation in pairs]


def test_levels_are_exact_halvings_in_microns():
    for level, (scale, translation) in enumerate(transforms(view())):
        assert scale == [1.0, 0.25 * 2**level, 0.25 * 2**level]
        assert translation == [0.0, 0.25 * (2**level - 1) / 2, 0.25 * (2**level - 1) / 2]
    axes = view()["ome"]["multiscales"][0]["axes"]
    assert [axis.get("unit") for axis in axes] == [None, "micrometer", "micrometer"]


def test_unknown_mpp_counts_pixels_without_a_unit():
    unknown = view(mpp=None)
    assert transforms(unknown)[3] == ([1.0, 8.0, 8.0], [0.0, 3.5, 3.5])
    assert not any("unit" in axis for axis in unknown["ome"]["multiscales"][0]["axes"])


def test_levels_stand_in_the_element():
    paths = [d["path"] for d in view(element="x")["ome"]["multiscales"][0]["datasets"]]
    assert paths == ["x/s0", "x/s1", "x/s2", "x/s3"]


def test_channels_say_how_to_show_them():
    channels = ngff.omero_channels(tuple(f"c{i}" for i in range(9)), np.dtype(np.uint16))
    assert [channel["label"] for channel in channels] == [f"c{i}" for i in range(9)]
    assert len({channel["color"] for channel in channels[:7]}) == 7
    assert {channel["window"]["max"] for channel in channels} == {65535}
    brightfield = ngff.omero_channels(("r", "g", "b"), np.dtype(np.uint8))
    assert [channel["color"] for channel in brightfield] == ["FF0000", "00FF00", "0000FF"]


@pytest.mark.parametrize("mpp", [None, 0.6889])
@pytest.mark.parametrize("channels", [("r", "g", "b"), ("DAPI",)])
def test_the_view_is_valid(mpp, channels):
    ngff.validate_image_view(view(mpp=mpp, channel_names=channels))


def without_scale(ome):
    del ome["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]


def with_wrong_version(ome):
    ome["version"] = "0.5-dev-spatialdata"


def with_swapped_axes(ome):
    ome["multiscales"][0]["axes"].reverse()


@pytest.mark.parametrize("damage", [without_scale, with_wrong_version, with_swapped_axes])
def test_what_the_specification_forbids_is_refused(damage):
    attributes = copy.deepcopy(view())
    damage(attributes["ome"])
    with pytest.raises(ValueError, match="validation error"):
        ngff.validate_image_view(attributes)
