from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stformat

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(ROOT.glob("stformat/**/*.py"))
TEXT_MODULES = [
    *MODULES,
    *sorted(ROOT.glob("tests/**/*.py")),
    *sorted(ROOT.glob("benchmarks/**/*.py")),
]
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_import_contract_holds():
    result = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", TEXT_MODULES, ids=_id)
def test_modules_have_at_most_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_functions_have_at_most_60_lines_of_code(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The docstring of a public function is as long as it must be.
            has_docstring = ast.get_docstring(node) is not None
            body = node.body[1:] if has_docstring else node.body
            n_lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert n_lines <= 60, f"{node.name} has {n_lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_no_module_is_a_drawer(path):
    assert path.stem.strip("_") not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_library_code_does_not_assert(path):
    tree = ast.parse(path.read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def test_public_names_resolve_and_are_typed_once_for_each_reader():
    stub = ast.parse((ROOT / "stformat/__init__.py").read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stformat")
        for alias in node.names
    }
    assert typed == stformat._HOMES
    assert set(stformat.__all__) == set(typed)
    for name in stformat.__all__:
        assert getattr(stformat, name).__name__ == name


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'open_sesame'"):
        stformat.open_sesame  # noqa: B018 - the access is the test


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_stformat_loads_numpy_at_most():
    heavy = {"zarr", "anndata", "pandas", "xarray", "numba", "scipy", "dask", "matplotlib", "typer"}
    assert not heavy & _modules_after("import stformat")


def test_command_line_loads_no_numpy_before_a_command_needs_it():
    assert not {"numpy", "zarr", "pandas"} & _modules_after("import stformat.cli")


def test_opening_a_slide_loads_no_table_library(small_store):
    statement = f"import stformat; stformat.open_slide({str(small_store)!r}).close()"
    heavy = {"zarr", "anndata", "pandas", "xarray", "dask", "geopandas", "matplotlib", "numba"}
    assert not heavy & _modules_after(statement)
