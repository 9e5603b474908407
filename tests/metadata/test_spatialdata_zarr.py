"""SpatialData's attributes; that SpatialData reads them is tested in tests/interop."""

from stformat.metadata import spatialdata_zarr


def systems(transformations):
    return {each["output"]["name"]: each for each in transformations}


def test_pixels_are_global_and_microns_scaled():
    attributes = spatialdata_zarr.image_attributes(
        element="he", n_levels=2, channel_names=("r", "g", "b"), mpp=0.5
    )
    (multiscale,) = attributes["ome"]["multiscales"]
    by_system = systems(multiscale["coordinateTransformations"])
    assert by_system["global"]["type"] == "identity"
    assert by_system["microns"]["scale"] == [1.0, 0.5, 0.5]
    axes = [axis["name"] for axis in by_system["microns"]["output"]["axes"]]
    assert axes == ["c", "y", "x"]
    scales = [each["coordinateTransformations"][0]["scale"] for each in multiscale["datasets"]]
    assert scales == [[1.0, 1.0, 1.0], [1.0, 2.0, 2.0]]


def test_shapes_are_x_then_y():
    attributes = spatialdata_zarr.shapes_attributes(0.5)
    assert attributes["axes"] == ["x", "y"]
    microns = systems(attributes["coordinateTransformations"])["microns"]
    assert microns["scale"] == [0.5, 0.5]
    assert [axis["name"] for axis in microns["input"]["axes"]] == ["x", "y"]


def test_unknown_mpp_has_no_microns():
    attributes = spatialdata_zarr.shapes_attributes(None)
    assert set(systems(attributes["coordinateTransformations"])) == {"global"}


def test_a_table_names_its_region_twice_alike():
    attributes = spatialdata_zarr.table_attributes("square_008um")
    association = spatialdata_zarr.table_association("square_008um")
    assert association.items() <= attributes.items()
    assert association == {
        "region": "square_008um",
        "region_key": "region",
        "instance_key": "spot_id",
    }
