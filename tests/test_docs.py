"""Every example in a docstring runs, and says what it prints."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.glob("stformat/**/*.py")
)
# Modules that cannot be imported without an extra.
EXTRA_OF = {
    "stformat.loader.torch_dataset": "torch",
    "stformat.loader.torch_passes": "torch",
}
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name in EXTRA_OF:
        extra = EXTRA_OF[name]
        pytest.importorskip(extra, reason=f"needs {extra}: uv sync --extra {extra}")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_python_blocks_of_the_readme_run(tmp_path, small_source):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks, "the README shows no Python"
    (tmp_path / "my_slide").symlink_to(small_source)
    script = "\n".join(blocks)
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=tmp_path, check=True)


def test_commands_of_the_readme_exist():
    from typer.main import get_command

    from stformat.cli import app

    known = set(get_command(app).commands)
    named = set(re.findall(r"^(?:uv run )?stformat (\w+)", README, flags=re.MULTILINE))
    assert named
    assert named <= known
