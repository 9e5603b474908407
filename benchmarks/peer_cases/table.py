"""The table of ratios, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from peer_cases.data import Scale
from peer_cases.measure import Row

__all__ = ["Report", "earlier_rows", "markdown", "write"]

_PACKAGES = (
    "numpy", "scipy", "numba", "zarr", "numcodecs", "imagecodecs", "tensorstore", "zarrs",
    "dask", "openslide-python", "openslide-bin", "tiffslide", "tifffile", "pillow", "squidpy",
    "spatialdata", "spatialdata-io", "torch", "anndata", "scanpy",
)  # fmt: skip
_UNITS_OF_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_HEAD = (
    "| work | other side | ours | theirs | ratio | target | reached | outputs | notes | run |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured, and where."""

    rows: tuple[Row, ...]
    """All rows."""

    scale: Scale
    """Sizes of the data."""

    rounds: int
    """Runs that medians are of, where a row does not say otherwise."""

    seconds: float
    """Time of the whole."""

    @property
    def missed(self) -> list[Row]:
        """Rows whose target is not reached."""
        return [row for row in self.rows if row.is_reached is False]

    @property
    def wrong(self) -> list[Row]:
        """Rows of peers whose output differs from ours."""
        return [row for row in self.rows if row.status == "differs"]


def earlier_rows(folder: Path, scale: Scale) -> list[Row]:
    """Return what an earlier run wrote for data of the same sizes; nothing where there is none."""
    path = folder / "peers.json"
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["scale"] != dataclasses.asdict(scale):
        return []
    return [Row(**row) for row in document["rows"]]


def write(report: Report, folder: Path) -> None:
    """Write ``peers.md`` and ``peers.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    surroundings = _surroundings()
    run = f"{surroundings['date']}, {surroundings['commit']}"
    rows = tuple(dataclasses.replace(row, run=row.run or run) for row in report.rows)
    report = dataclasses.replace(report, rows=rows)
    (folder / "peers.md").write_text(markdown(report, surroundings), encoding="utf-8")
    document = {
        **surroundings,
        "scale": dataclasses.asdict(report.scale),
        "rounds": report.rounds,
        "seconds": round(report.seconds),
        "rows": [dataclasses.asdict(row) for row in report.rows],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / "peers.json").write_text(text + "\n", encoding="utf-8")


def markdown(report: Report, surroundings: dict[str, Any]) -> str:
    """Return the table with what was measured around it."""
    versions = ", ".join(f"{name} {number}" for name, number in surroundings["versions"].items())
    n_judged = sum(row.is_reached is not None for row in report.rows)
    scale = report.scale
    paragraphs = (
        "# stformat beside its peers",
        (
            f"`uv run --group bench python benchmarks/peers.py --scale {scale.name}` on "
            f"{surroundings['machine']}; medians of {report.rounds} runs that took turns. Rows of "
            "one work were measured together; with `--only` some works are measured anew: the last "
            "column has date and commit."
        ),
        (
            f"{n_judged - len(report.missed)} of {n_judged} targets reached. A ratio is a peer's "
            "amount over ours (more is better); beside a bound or a limit it is ours over it "
            "(less is better)."
        ),
        "\n".join([*_HEAD, *(_line(row, report.rounds) for row in report.rows)]),
        (
            "Shuffled batches are measured by `benchmarks/loader.py`; importing, and opening ten "
            "million rows, by `benchmarks/opening.py`."
        ),
        (
            f"Image {scale.image_px} px, {scale.conversion_px} px where it is converted, "
            f"{scale.large_height} x {scale.large_width} px the large one; "
            f"{scale.n_spots} and {scale.n_bins} rows of counts; {scale.small}, {scale.middle} and "
            f"{scale.large} rows in a small, a middle and a large table. The page cache is warm."
        ),
        f"Versions: {versions}.",
    )
    return "\n\n".join(paragraphs) + "\n"


def _line(row: Row, rounds: int) -> str:
    notes = [row.note] if row.note else []
    if row.runs and row.runs != rounds:
        notes.append(f"{row.runs} runs")
    if row.foreign > 0.15:
        notes.append(f"others took {row.foreign:.0%} of a processor")
    reached = {True: "yes", False: "**no**", None: ""}[row.is_reached]
    if row.ratio is None or row.ours is None or row.theirs is None:
        amounts = ["", "", f"{row.status}"]
    else:
        amounts = [_amount(row.ours, row.unit), _amount(row.theirs, row.unit), f"{row.ratio:.2f} x"]
    cells = [row.what, row.peer, *amounts, row.target, reached, row.detail, "; ".join(notes)]
    cells.append(row.run)
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _amount(amount: float, unit: str) -> str:
    if unit == "byte":
        return f"{amount / 2**20:.0f} MiB"
    size, name = next((pair for pair in _UNITS_OF_TIME if amount >= pair[0]), _UNITS_OF_TIME[-1])
    return f"{amount / size:.3g} {name}/{unit}"


def _surroundings() -> dict[str, Any]:
    memory = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} processors, {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}",
        "versions": dict(_versions(_PACKAGES)),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    command = shutil.which("git")
    if command is None or not (_ROOT / ".git").exists():
        return "unknown"

    def git(*arguments: str) -> str:
        return subprocess.run(
            [command, *arguments], cwd=_ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    is_clean = not git("status", "--porcelain", "--", "stformat", "benchmarks/peer_cases")
    return git("rev-parse", "--short", "HEAD") + ("" if is_clean else " with changes")


def _versions(packages: Sequence[str]) -> Iterable[tuple[str, str]]:
    for name in packages:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"
