"""Files are what their bytes say."""

from __future__ import annotations

import gzip

import pytest

from stformat.errors import InputError
from stformat.sources._sniff import (
    classify_table,
    is_image,
    open_text,
    parse_spot_name,
    read_head,
    split_fields,
)


def classified(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    head = read_head(path)
    return head and classify_table(head)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x\ty\tpixel_x\tpixel_y\n1\t1\t2\t2\n", "spots"),
        ("selected,pixel_y,new_y,y,pixel_x,new_x,x\n1,1,2,2,1,2,3\n", "spots"),
        ("x y pixel_x pixel_y\r\n1 1 2 2\r\n", "spots"),
        ('"x";"y";"pixel_x";"pixel_y"\n1;1;2;2\n', "spots"),
        ("Row.names\tx\ty\tpixel_x\tpixel_y\tlabel\n1x2\t1\t2\t3\t4\tfat\n", "labels"),
        ("pixel_x,pixel_y,label\n3,4,fat\n", "labels"),
        ("\tERBB2\tKRT8\n10x13\t0\t4\n", "counts"),
        ("ERBB2\tKRT8\n10x13\t0\t4\n", "counts"),
        ("\t10x13\t10x14\nERBB2\t0\t4\n", "counts"),
        ("gene,X10x13,X10x14\nERBB2,0,4\n", "counts"),
        ("\tERBB2\n13.064x6.086\t0.5\n", "counts"),
        # A published coordinate table names its rows after the slide.
        (",yaxis,xaxis,r\nslide_A1_10x13,2622.15,1923.65,54.3\n", None),
        ("barcode,in_tissue,array_row\nACGT-1,0,3\n", None),
        ("\tstate\n10x13\tbad\n", None),
        ("a\tb\n", None),
        ("one column\n", None),
        ("", None),
        (b"\tERBB2\n10x13\t4\0\n"[:8] + b"\0" + b"\n", None),
        (b"\xff\xfe\tERBB2\n10x13\t4\n", None),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_tables_are_classified_by_content(tmp_path, text, expected, compressed):
    data = text if isinstance(text, bytes) else text.encode()
    name = tmp_path / "plain.csv"
    assert classified(name, gzip.compress(data) if compressed else data) == expected


def test_long_header_is_read_whole(tmp_path):
    names = [f"ENSG{number:011d}" for number in range(40_000)]
    path = tmp_path / "counts"
    assert classified(path, "\t" + "\t".join(names) + "\n1x1" + "\t0" * 40_000 + "\n") == "counts"
    assert len(read_head(path).header) == 40_001


def test_damaged_compression_is_no_table(tmp_path):
    assert classified(tmp_path / "a.gz", gzip.compress(b"\tg\n1x1\t1\n" * 50)[:12]) is None


def test_unreadable_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="must be readable"):
        open_text(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10x13", ("10", "13")),
        ("X10x13", ("10", "13")),
        ("10_13", ("10", "13")),
        ("010x013", ("010", "013")),
        ("13.064x6.086", ("13.064", "6.086")),
        ("10X13", ("10", "13")),
        ("-1x3", None),
        ("10x", None),
        ("10x13x2", None),
        ("slide_10x13", None),
        ("1e3x2", None),
        ("x", None),
        ("10x13\n", None),
    ],
)
def test_spot_names(name, expected):
    assert parse_spot_name(name) == expected


@pytest.mark.parametrize(
    ("line", "delimiter", "expected"),
    [
        ("a\t\tb", "\t", ["a", "", "b"]),
        (' "a" , "b, c"', ",", ["a", "b, c"]),
        ("  a   b\tc ", None, ["a", "b", "c"]),
        ('a "b c"\td', None, ["a", "b c", "d"]),
        ('5" probe,1', ",", ['5" probe', "1"]),
    ],
)
def test_fields(line, delimiter, expected):
    assert split_fields(line, delimiter) == [field.strip('"') for field in expected]


def test_images_by_bytes_or_by_claim(tmp_path):
    for name, data, expected in [
        ("scan", b"\xff\xd8\xff\xe0", True),
        ("scan2", b"II*\0....", True),
        ("scan3", b"MM\0+....", True),
        ("scan4", b"\x89PNG\r\n\x1a\n", True),
        ("pointer.JPG", b"version https", True),
        ("table.tsv", b"x\ty\n", False),
    ]:
        (tmp_path / name).write_bytes(data)
        assert is_image(tmp_path / name) is expected
