"""Capture areas as GeoParquet."""

import json

import geopandas
import numpy as np
import pyarrow.parquet
import pytest
import shapely

from stformat.store import layout, shapes_writer
from stformat.store.shapes_writer import write_shapes
from stformat.testing.records import make_record


@pytest.fixture(params=["circle", "square", "polygon"])
def written(request, tmp_path):
    spots = make_record(shape=request.param).tables[0].spots
    order = layout.spatial_order(spots.xy)
    write_shapes(tmp_path, spots, order, mpp=0.5)
    return spots, order, tmp_path / "shapes.parquet"


def test_outlines_stand_in_row_order(written):
    spots, order, path = written
    frame = geopandas.read_parquet(path)
    assert frame.index.name == "spot_id"
    assert frame.index.dtype == np.int64
    assert frame.index.tolist() == list(range(spots.n_obs))
    assert frame.crs is None
    centres = frame.geometry.centroid
    np.testing.assert_allclose(np.c_[centres.x, centres.y], spots.xy[order], atol=1e-9)
    if spots.shape == "circle":
        assert (frame.geometry.geom_type == "Point").all()
        np.testing.assert_array_equal(np.c_[centres.x, centres.y], spots.xy[order])
        np.testing.assert_array_equal(frame["radius"], spots.radius_px[order])
    elif spots.shape == "polygon":
        np.testing.assert_array_equal(
            shapely.to_wkb(frame.geometry.to_numpy()), spots.outlines[order]
        )
    else:
        assert (frame.geometry.geom_type == "Polygon").all()
        assert list(frame.columns) == ["geometry"]
        radius = spots.radius_px[order][:, None]
        expected = np.hstack([spots.xy[order] - radius, spots.xy[order] + radius])
        np.testing.assert_array_equal(frame.bounds.to_numpy(), expected)


def test_the_file_is_geoparquet_with_page_checksums(written):
    _, _, path = written
    metadata = pyarrow.parquet.read_schema(path).metadata
    column = json.loads(metadata[b"geo"])["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["crs"] is None
    np.testing.assert_allclose(column["bbox"], geopandas.read_parquet(path).total_bounds)
    assert pyarrow.parquet.read_table(path, page_checksum_verification=True).num_rows == 40
    geometry = pyarrow.parquet.read_metadata(path).row_group(0).column(metadata_index(path))
    start = geometry.dictionary_page_offset or geometry.data_page_offset
    content = bytearray(path.read_bytes())
    content[start + geometry.total_compressed_size // 2] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pyarrow.parquet.read_table(
            pyarrow.BufferReader(bytes(content)), page_checksum_verification=True
        )


def metadata_index(path):
    return pyarrow.parquet.read_schema(path).get_field_index("geometry")


def test_shapes_come_in_row_groups(written, monkeypatch, tmp_path):
    spots, order, path = written
    monkeypatch.setattr(shapes_writer, "_ROWS_PER_GROUP", 16)
    write_shapes(tmp_path / "small", spots, order, mpp=0.5)
    small = tmp_path / "small" / "shapes.parquet"
    assert pyarrow.parquet.read_metadata(small).num_row_groups == 3
    assert geopandas.read_parquet(small).equals(geopandas.read_parquet(path))


def test_squares_are_those_of_shapely(tmp_path):
    spots = make_record(shape="square").tables[0].spots
    write_shapes(tmp_path, spots, np.arange(40), mpp=None)
    radius = spots.radius_px[:, None]
    left, top, right, bottom = np.hstack([spots.xy - radius, spots.xy + radius]).T
    boxes = shapely.to_wkb(shapely.box(left, top, right, bottom))
    table = pyarrow.parquet.read_table(tmp_path / "shapes.parquet")
    assert table["geometry"].to_pylist() == boxes.tolist()
