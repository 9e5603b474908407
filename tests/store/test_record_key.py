"""Whatever changes the bytes of a store changes the digest of its record."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stformat.digests import Digest
from stformat.model import Genes, JpegTiles, Spots
from stformat.store import record_key as module
from stformat.store.image_codecs import IMAGE_CODECS
from stformat.store.record_key import record_key
from stformat.testing.records import make_record

replace = dataclasses.replace

ARRAYS = [
    *(
        (part, field.name)
        for part, names in (("spots", Spots), ("genes", Genes))
        for field in dataclasses.fields(names)
        if "NDArray" in str(field.type) and "Mapping" not in str(field.type)
    ),
    ("spots", "annotations"),
]


def key_of(record, *codec):
    return record_key(record, *codec).text()


def with_table(record, **changes):
    (table,) = record.tables
    return replace(record, tables=(replace(table, **changes),))


def changed(value):
    """Change the last of an array's values, or of the arrays in a mapping."""
    if isinstance(value, dict):
        name = max(value)
        return value | {name: changed(value[name])}
    value = value.copy()
    if value.dtype == object:
        value[-1] = "x" if value[-1] != "x" else "y"
    elif value.dtype == bool:
        value[-1] = ~value[-1]
    else:
        value[-1] += 1
    return value


def test_the_codec_of_the_image_changes_the_digest():
    record = make_record()
    digests = {key_of(record, codec) for codec in IMAGE_CODECS.values()}
    assert len(digests) == len(IMAGE_CODECS)
    assert key_of(record) in digests
    kept = replace(record.image, jpeg_tiles=JpegTiles(edge_px=512, read=lambda *_place: None))
    of_kept = replace(record, image=kept)
    assert key_of(of_kept) == key_of(record)
    jpeg = IMAGE_CODECS["jpeg"]
    assert key_of(of_kept, jpeg) != key_of(record, jpeg)


def test_the_same_record_has_the_same_digest():
    assert key_of(make_record()) == key_of(make_record())
    assert len(key_of(make_record())) == 64


@pytest.mark.parametrize(("part", "name"), ARRAYS)
def test_every_array_counts(part, name):
    record = make_record(shape="polygon")
    old = getattr(record.tables[0], part)
    value = getattr(old, name)
    value = dict(value) if name == "annotations" else value
    other = with_table(record, **{part: replace(old, **{name: changed(value)})})
    assert key_of(other) != key_of(record)


def test_text_is_told_apart_wherever_it_is_cut(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", 2)
    record = make_record()
    genes = record.tables[0].genes
    names = genes.gene_name.copy()
    names[:2] = ["a", "b,c"]
    first = with_table(record, genes=replace(genes, gene_name=names))
    names = names.copy()
    names[:2] = ["a,b", "c"]
    second = with_table(record, genes=replace(genes, gene_name=names))
    assert key_of(first) != key_of(second)


def test_all_that_is_described_counts():
    record = make_record()
    digests = {
        key_of(other)
        for other in (
            record,
            replace(record, slide_id="other"),
            replace(record, image=None),
            replace(record, image=replace(record.image, channel_names=("a", "b", "c"))),
            replace(record, image=replace(record.image, dtype=np.dtype(np.uint16))),
            replace(
                record,
                sources=(
                    replace(record.sources[0], digest=Digest.known("2" * 64)),
                    *record.sources[1:],
                ),
            ),
            make_record(count_dtype=np.float32),
        )
    }
    assert len(digests) == 7


def test_the_software_counts(monkeypatch):
    before = key_of(make_record())
    monkeypatch.setattr(module, "version", lambda _name: "0")
    assert key_of(make_record()) != before
