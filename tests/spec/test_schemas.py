"""The JSON Schemas and the tables of the specification say what the models say.

``STFORMAT_WRITE_SCHEMAS=1 pytest tests/spec/test_schemas.py`` writes the schemas anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from stformat.metadata import stformat_v0_1
from stformat.metadata.stformat_v0_1 import json_schemas

SPEC = Path(__file__).resolve().parents[2] / "spec"
TEXT = (SPEC / "stformat-0.1.md").read_text()
COMMAND = "STFORMAT_WRITE_SCHEMAS=1 uv run pytest tests/spec/test_schemas.py"
FIELD_TABLES = re.findall(r"<!-- fields: (\w+) -->\n\|.*\n\|.*\n((?:\|.*\n)+)", TEXT)


@pytest.mark.parametrize("stem", sorted(json_schemas()))
def test_schema_is_that_of_the_model(stem):
    path = SPEC / "schemas" / f"{stem}.schema.json"
    schema = json.dumps(json_schemas()[stem], indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("STFORMAT_WRITE_SCHEMAS") == "1":
        path.write_text(schema)
    assert path.read_text() == schema, f"the model has changed: run `{COMMAND}`"


def test_every_schema_belongs_to_a_model():
    files = {path.name for path in (SPEC / "schemas").iterdir()}
    assert files == {f"{stem}.schema.json" for stem in json_schemas()}


def test_every_document_of_the_format_has_a_table():
    models = {
        name for name in stformat_v0_1.__all__ if isinstance(getattr(stformat_v0_1, name), type)
    }
    assert {name for name, _ in FIELD_TABLES} == models


@pytest.mark.parametrize(("name", "rows"), FIELD_TABLES, ids=[name for name, _ in FIELD_TABLES])
def test_table_has_the_members_of_the_model(name, rows):
    fields = getattr(stformat_v0_1, name).model_fields
    cells = [row.split("|")[1:-1] for row in rows.splitlines()]
    assert [member.strip(" `") for member, *_ in cells] == list(fields)
    optional = {member.strip(" `") for member, kind, _ in cells if "may be absent" in kind}
    assert optional == {member for member, field in fields.items() if not field.is_required()}
    nullable = {member.strip(" `") for member, kind, _ in cells if "null" in kind}
    schema = getattr(stformat_v0_1, name).model_json_schema()["properties"]
    assert nullable == {
        member for member, value in schema.items() if {"type": "null"} in value.get("anyOf", [])
    }
