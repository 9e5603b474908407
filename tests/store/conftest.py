"""Arrays outside any committed store, and committed stores that tests may damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stformat.metadata.strict_json import dump_canonical, parse_object
from stformat.metadata.zarr_array import ArrayMetadata, parse_array
from stformat.store.files import DirectoryFiles
from stformat.store.manifest import (
    build_manifest,
    commit_record,
    consolidated_root,
    dump_record,
)


class LooseStore:
    """What a CommittedStore answers about its arrays, for a folder that was never committed."""

    def __init__(self, path: Path) -> None:
        self.files = DirectoryFiles(path)

    def node(self, path: str) -> dict[str, Any]:
        return parse_object(self.files.read(f"{path}/zarr.json" if path else "zarr.json"))

    def array(self, path: str) -> ArrayMetadata:
        return parse_array(self.node(path), path)

    def children(self, path: str) -> list[str]:
        parent = self.files.path / path
        return sorted(node.parent.name for node in parent.glob("*/zarr.json"))


@pytest.fixture(scope="session")
def open_loose() -> Callable[[Path], LooseStore]:
    return LooseStore


@pytest.fixture
def store_copy(small_store: Path, tmp_path: Path) -> Path:
    """A committed store that a test may damage."""
    return Path(shutil.copytree(small_store, tmp_path / "slide.zarr"))


@pytest.fixture(scope="session")
def recommit() -> Callable[[Path], None]:
    """Commit whatever a store holds by now, unchecked: what a hostile writer would do."""

    def commit(store: Path) -> None:
        with DirectoryFiles(store) as files:
            manifest = dump_record(build_manifest(files))
            root = files.read("zarr.json")
        (store / "stformat/manifest.json").write_bytes(manifest)
        record = dump_record(commit_record(manifest, root))
        (store / "stformat/commit.json").write_bytes(record)

    return commit


@pytest.fixture(scope="session")
def edit_json() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Rewrite a JSON document after a function changed it in place."""

    def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))

    return edit


@pytest.fixture(scope="session")
def reconsolidate() -> Callable[[Path], None]:
    """Copy every node's own metadata into the root zarr.json."""

    def consolidate(store: Path) -> None:
        documents = {
            str(path.parent.relative_to(store)): json.loads(path.read_bytes())
            for path in store.rglob("zarr.json")
        }
        root = documents.pop(".")
        (store / "zarr.json").write_bytes(dump_canonical(consolidated_root(root, documents)))

    return consolidate
