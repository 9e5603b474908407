"""The wheel installs into an empty environment and works there without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# `uv run` tells its children where it is.
UV = os.environ.get("UV") or shutil.which("uv")


@pytest.mark.skipif(UV is None, reason="building a wheel needs uv: pip install uv")
def test_wheel_installs_and_imports_in_a_clean_environment(tmp_path):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"VIRTUAL_ENV", "PYTHONPATH"}
    }

    def uv(*arguments: object) -> None:
        subprocess.run(
            [UV, *map(str, arguments)], cwd=ROOT, env=environment, check=True, capture_output=True
        )

    uv("build", "--wheel", "--out-dir", tmp_path / "dist")
    wheel = next((tmp_path / "dist").glob("stformat-*.whl"))
    kernels = {str(path.relative_to(ROOT)) for path in ROOT.glob("stformat/kernels/cuda/*.cu*")}
    assert kernels
    assert kernels <= set(zipfile.ZipFile(wheel).namelist())
    uv("venv", "--python", "3.12", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    uv("pip", "install", "--python", python, wheel)
    code = (
        "import stformat, importlib.metadata as m; stformat.convert_slide; stformat.open_dataset; "
        "print(stformat.__file__, stformat.__version__ == m.version('stformat'))"
    )
    printed = subprocess.run(
        [python, "-W", "error", "-c", code],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert printed[0].startswith(str(tmp_path / "clean"))
    assert printed[1] == "True"
    help_text = subprocess.run(
        [tmp_path / "clean" / "bin" / "stformat", "--help"],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "convert" in help_text
