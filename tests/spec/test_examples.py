"""The specification's examples: valid ones are accepted, invalid ones refused for their rule."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import jsonschema
import pytest

from stformat.errors import UnsupportedStoreError
from stformat.metadata.stformat_v0_1 import StformatAttributes
from stformat.metadata.strict_json import MAX_BYTES, JsonError, dump_canonical, parse_object
from stformat.metadata.zarr_array import ALLOWED_CODECS, parse_array
from stformat.store.manifest import RecordError, parse_attributes, parse_commit, parse_manifest

SPEC = Path(__file__).resolve().parents[2] / "spec"
RAW = (SPEC / "stformat-0.1.md").read_text()
TEXT = " ".join(RAW.split())
INDEX = json.loads((SPEC / "examples" / "index.json").read_text())
VALID = sorted((SPEC / "examples" / "valid").glob("*.json"))
PARSERS = {
    "array": lambda data: parse_array(parse_object(data), "example"),
    "attributes": lambda data: parse_attributes(parse_object(data)),
    "commit": parse_commit,
    "json": parse_object,
    "manifest": parse_manifest,
}
REFUSALS = {
    "array": UnsupportedStoreError,
    "attributes": RecordError,
    "commit": RecordError,
    "json": JsonError,
    "manifest": RecordError,
}


def kind_of(path):
    return path.stem.partition("-")[0]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_document_is_accepted(path):
    data = path.read_bytes()
    PARSERS[kind_of(path)](data)
    assert dump_canonical(parse_object(data)) == data


@pytest.mark.parametrize(
    "path", [path for path in VALID if kind_of(path) == "attributes"], ids=lambda path: path.stem
)
def test_valid_attributes_survive_a_round_trip(path):
    data = path.read_bytes()
    attributes = parse_attributes(parse_object(data))
    assert dump_canonical(attributes.model_dump(mode="json")) == data


def test_members_that_may_be_absent_may():
    document = parse_object((SPEC / "examples/valid/attributes-st-with-image.json").read_bytes())
    optional = {
        name for name, field in StformatAttributes.model_fields.items() if not field.is_required()
    }
    assert optional <= document.keys()
    attributes = parse_attributes({k: v for k, v in document.items() if k not in optional})
    assert attributes.species_term is None
    assert attributes.keywords == ()


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: Path(entry["file"]).stem)
def test_invalid_document_is_refused_for_the_rule_that_it_breaks(entry):
    path = SPEC / "examples" / entry["file"]
    with pytest.raises(REFUSALS[kind_of(path)]) as caught:
        PARSERS[kind_of(path)](path.read_bytes())
    assert entry["problem"] in str(caught.value)
    assert ";" not in str(caught.value).split("; convert")[0], "more than one rule is broken"


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: Path(entry["file"]).stem)
def test_rule_of_an_invalid_document_stands_in_the_specification(entry):
    assert entry["must"] in TEXT


def test_index_names_every_invalid_document():
    files = sorted((SPEC / "examples" / "invalid").iterdir())
    assert sorted(entry["file"] for entry in INDEX) == [f"invalid/{path.name}" for path in files]


def test_every_kind_of_document_has_examples_of_both_sorts():
    invalid = {kind_of(Path(entry["file"])) for entry in INDEX}
    assert invalid == set(PARSERS)
    assert {kind_of(path) for path in VALID} == set(PARSERS) - {"json"}


def test_commit_commits_the_manifest_beside_it():
    folder = SPEC / "examples" / "valid"
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert parse_commit((folder / "commit.json").read_bytes()).manifest_sha256 == digest


def test_document_larger_than_16_mib_is_refused():
    frame = len(b'{"a": ""}')
    parse_object(b'{"a": "%s"}' % (b"x" * (MAX_BYTES - frame)))
    with pytest.raises(JsonError, match="16777216 bytes"):
        parse_object(b'{"a": "%s"}' % (b"x" * (MAX_BYTES - frame + 1)))


def test_depth_of_64_is_the_deepest():
    parse_object(b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}")
    with pytest.raises(JsonError):
        parse_object(b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}")


def test_codecs_of_the_text_are_those_that_are_read():
    table = RAW.partition("| codec | kind | use")[2].partition("\n\n")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert {
        name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)
    } == ALLOWED_CODECS


SCHEMAS = {
    "attributes": "stformat-attributes",
    "commit": "commit",
    "manifest": "manifest",
}
# What a JSON Schema cannot say: rules between members, the form of the text, the order of a list.
BEYOND_A_SCHEMA = {
    "attributes-default-table-unknown",
    "attributes-image-source-unknown",
    "attributes-mpp-unknown-with-value",
    "attributes-mpp-without-value",
    "attributes-names-equal-but-for-case",
    "attributes-names-of-tables-repeat",
    "commit-checksum-wrong",
    "commit-not-canonical",
    "manifest-arrays-not-ascending",
    "manifest-file-repeats",
    "manifest-files-not-ascending",
    "manifest-lists-commit",
    "manifest-lists-itself",
    "manifest-not-canonical",
}


def _schema_errors(path):
    stem = SCHEMAS[kind_of(path)]
    schema = json.loads((SPEC / "schemas" / f"{stem}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return list(jsonschema.Draft202012Validator(schema).iter_errors(json.loads(path.read_bytes())))


@pytest.mark.parametrize(
    "path", [path for path in VALID if kind_of(path) in SCHEMAS], ids=lambda path: path.stem
)
def test_an_independent_validator_accepts_valid_documents(path):
    assert _schema_errors(path) == []


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((SPEC / "examples" / "invalid").glob("*.json"))
        if kind_of(path) in SCHEMAS
    ],
    ids=lambda path: path.stem,
)
def test_an_independent_validator_refuses_what_a_schema_can_say(path):
    assert bool(_schema_errors(path)) == (path.stem not in BEYOND_A_SCHEMA)
