"""What the first call of each kernel costs: compiled anew, loaded from the cache, and once more.

    uv run python benchmarks/first_call.py [--runs 5]

Prints a Markdown table, medians of `--runs` new processes: with an empty cache, which is what a
user without `stformat warmup` meets once, with a full one, which every later process meets, and
the second call in the same process. Cold and warm runs are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

# Importing numba is a part of the first call of all; it has a row of its own.
MEASURE = """
import json, time
start = time.perf_counter()
import stformat.kernels._numba
seconds = {"import": time.perf_counter() - start}
from stformat import kernels
for call in ("first", "second"):
    seconds[call] = {kernel.name: kernel.seconds for kernel in kernels.warmup()}
print(json.dumps(seconds))
"""


def _measured(cache: str) -> dict[str, dict[str, float]]:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
    )
    seconds = json.loads(result.stdout)
    first, second = ({"all": sum(seconds[call].values())} for call in ("first", "second"))
    return {
        "first": {"import": seconds["import"], **seconds["first"], **first},
        "second": {"import": 0.0, **seconds["second"], **second},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    cold, warm = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_measured(cache))
            warm.append(_measured(cache))
    print(f"All types that `stformat warmup` compiles for; medians of {runs} processes, seconds\n")
    print("| kernel | empty cache | full cache | second call |\n|---|---|---|---|")
    for name in cold[0]["first"]:
        columns = ((cold, "first"), (warm, "first"), (warm, "second"))
        values = [statistics.median(run[call][name] for run in of) for of, call in columns]
        print(f"| `{name}` | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    main()
