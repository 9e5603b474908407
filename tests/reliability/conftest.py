"""Faults on purpose: children that die, files that rot, disks that refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stformat.store.verify import verify_store
from stformat.testing import make_slide, write_legacy_st


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two samples, for an old version of a store and a new one."""
    folder = tmp_path_factory.mktemp("sources")
    return tuple(
        str(
            write_legacy_st(make_slide(height=500, width=600, n_genes=40, seed=seed), folder / name)
        )
        for seed, name in ((1, "old"), (2, "new"))
    )


@pytest.fixture(scope="session")
def versions(
    sources: tuple[str, str],
    start_child: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """The stores of `sources`, undisturbed."""
    folder = tmp_path_factory.mktemp("versions")
    stores = folder / "old.zarr", folder / "new.zarr"
    for source, store in zip(sources, stores, strict=True):
        assert start_child("convert", source=source, target=str(store)).answer() == {
            "result": "done"
        }
    return stores


class Site:
    """A target with an old version, a new version to put there, and processes that try."""

    def __init__(
        self,
        target: Path,
        sources: tuple[str, str],
        versions: tuple[Path, Path],
        start: Callable[..., Any],
    ) -> None:
        self.target = target
        self.sources = sources
        self.versions = versions
        self.start = start
        self._names = {_digest(versions[0]): "old", _digest(versions[1]): "new"}

    def put_old(self) -> None:
        """Put the old version at the target, whatever is there."""
        self.clear()
        shutil.copytree(self.versions[0], self.target)

    def clear(self) -> None:
        """Leave nothing at the target."""
        shutil.rmtree(self.target, ignore_errors=True)

    def convert(self, task: str = "convert", **options: Any) -> Any:
        """Let a process convert the new version's source, overwriting what is there."""
        given = {"source": self.sources[1], "target": str(self.target), "overwrite": True}
        return self.start(task, **{**given, **options})

    def convert_again(self) -> None:
        """The next conversion succeeds, and leaves nothing of the one before."""
        assert self.convert().answer() == {"result": "done"}
        assert self.version() == "new"
        assert self.names() == ["slide.zarr"]

    def version(self) -> str | None:
        """Say which version is at the target, and that it is whole."""
        if not self.target.exists():
            return None
        assert verify_store(self.target) == []
        return self.name_of(self.target)

    def name_of(self, store: Path) -> str:
        """Say which version a store is."""
        return self._names[_digest(store)]

    def names(self) -> list[str]:
        """Return what is beside the target, and the target."""
        return sorted(path.name for path in self.target.parent.iterdir())


def _digest(store: Path) -> str:
    """Tell versions of a store apart: its commit record names all of its bytes."""
    return (store / "stformat/commit.json").read_text()


@pytest.fixture
def site(
    fast_path: Path,
    sources: tuple[str, str],
    versions: tuple[Path, Path],
    start_child: Callable[..., Any],
) -> Site:
    return Site(fast_path / "slide.zarr", sources, versions, start_child)
