"""Arrays outside any committed store, for tests of what reads single arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stformat.metadata.strict_json import parse_object
from stformat.metadata.zarr_array import ArrayMetadata, parse_array
from stformat.store.files import DirectoryFiles


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
