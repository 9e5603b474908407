"""Damages one file of a small source folder and reads or converts it; one process, under limits.

Run as ``python folder_mutants.py FIRST COUNT DIRECTORY``. Prints a JSON object: how often each
outcome occurred, and every case that ended otherwise than in a whole slide or in an InputError.
The number of the case at hand stands in ``DIRECTORY/case``, for when the process does not survive.
"""

import json
import random
import resource
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import stformat as stf
from stformat.errors import InputError
from stformat.sources import read_slide
from stformat.testing import (
    HestQuirks,
    LegacyStQuirks,
    SpatialDataQuirks,
    StimageQuirks,
    VisiumHdQuirks,
    VisiumQuirks,
    make_slide,
    write_hest,
    write_legacy_st,
    write_spatialdata,
    write_stimage,
    write_visium,
    write_visium_hd,
)

MEMORY = 512 * 2**20
CPU_SECONDS = 5
DIGITS = b"0123456789.-,\t\nexNa\x00\xff"


def seeds(directory):
    """Good folders of every kind that is read, each with its counts in another form."""
    square = make_slide(height=300, width=300, n_genes=12, pitch_px=60.0, seed=3)
    hexagonal = make_slide(
        height=300, width=300, n_genes=12, pitch_px=60.0, seed=3, lattice="hexagonal"
    )
    bins = make_slide(
        height=200, width=200, n_genes=12, pitch_px=7.0, seed=3, jitter=0.0, array_shape=(16, 18)
    )
    return [
        write_legacy_st(square, directory / "her2st", image_format="png"),
        write_legacy_st(
            square, directory / "flat", layout="flat", image_format=None,
            quirks=LegacyStQuirks(is_compressed=False, is_transposed=True),
        ),
        write_visium(hexagonal, directory / "h5", quirks=VisiumQuirks(images="none")),
        write_visium(hexagonal, directory / "mtx", quirks=VisiumQuirks(counts="mtx")),
        write_visium(
            hexagonal, directory / "old",
            quirks=VisiumQuirks(is_legacy=True, has_header=False, images="none"),
        ),
        write_visium(
            hexagonal, directory / "parquet",
            quirks=VisiumQuirks(positions="parquet", images="none"),
        ),
        write_hest(
            square, directory / "hest",
            quirks=HestQuirks(has_image=False, is_compressed=False, cells="parquet"),
        ),
        write_spatialdata(
            square, directory / "spatialdata",
            quirks=SpatialDataQuirks(placement="affine", has_outlines=True),
        ),
        write_spatialdata(
            square, directory / "spatialdata-v2",
            quirks=SpatialDataQuirks(
                container="0.1", image="none", layout="csc", shapes="squares", has_text_index=True,
            ),
        ),
        write_hest(
            square, directory / "hest-csc",
            quirks=HestQuirks(
                has_image=False, layout="csc", cells="geojson", tissue="holes",
                metadata="catalogue", gene_columns="visium", n_antibodies=2,
            ),
        ),
        write_stimage(
            square, directory / "stimage", image_format="png",
            quirks=StimageQuirks(labels="header", n_prefixed_genes=2),
        ),
        write_stimage(
            hexagonal, directory / "stimage-gz", image_format=None,
            quirks=StimageQuirks(technology="Visium", is_compressed=True, numbers="mixed"),
        ),
        write_visium_hd(
            bins, directory / "hd",
            quirks=VisiumHdQuirks(sizes_um=(8, 16), images="none", cells="numbers"),
        ),
        write_visium_hd(
            bins, directory / "hd-mtx",
            quirks=VisiumHdQuirks(
                sizes_um=(8,), counts="mtx", positions="csv", images="none", cells="names",
                nuclei="clustered",
            ),
        ),
    ]  # fmt: skip


def damaged(content, rng):
    """Change a file: bits, values, cuts, repeats, or nothing left of it."""
    content = bytearray(content)
    kind = rng.choice(["bit", "value", "cut", "repeat", "drop", "empty", "zeros"])
    at = rng.randrange(max(1, len(content)))
    length = rng.randint(1, max(1, min(200, len(content) // 3)))
    if kind == "bit" and content:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "value" and content:
        content[at] = rng.choice(DIGITS)
    elif kind == "cut":
        del content[at:]
    elif kind == "repeat":
        content[at:at] = content[at : at + length]
    elif kind == "drop":
        del content[at : at + length]
    elif kind == "empty":
        content.clear()
    else:
        content[at : at + length] = bytes(len(content[at : at + length]))
    return bytes(content)


def convert(source, target):
    """Convert a folder; say what became of it."""
    try:
        stf.convert_slide(source, target)
    except InputError as error:
        return told(error)
    assert stf.verify_store(target) == []
    shutil.rmtree(target)
    return "converted"


def read(source, _target):
    """Read everything of a folder that a conversion writes, which takes many times as long."""
    try:
        record = read_slide(source)
        for table in record.tables:
            assert sum(block.shape[0] for block in table.counts.iter_blocks()) == table.spots.n_obs
        if record.image is not None:
            n_rows = sum(band.shape[1] for band in record.image.iter_bands(64))
            assert n_rows == record.image.shape[1]
        for outlines in record.outlines:
            assert all(len(batch.geometry) for batch in outlines.iter_batches())
    except InputError as error:
        return told(error)
    return "read"


def told(error):
    """Return the code of a refusal, if it says what must hold and what was found."""
    problem = error.problems[0]
    return problem.code if problem.expected and problem.found else "says nothing"


def limit_memory():
    """Let this process allocate no more than the contract allows."""
    status = Path("/proc/self/status")
    if status.exists():
        used = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
        limit = int(used.split()[1]) * 1024 + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main(first, count, directory):
    folders = seeds(directory / "seeds")
    source, target, case = directory / "source", directory / "slide.zarr", directory / "case"
    outcomes, failures = Counter(), []
    undamaged = {folder.name: read(folder, target) for folder in folders}
    if set(undamaged.values()) != {"read"}:
        failures.append(f"undamaged: {undamaged}")
    limit_memory()
    for number in range(first, first + count):
        rng = random.Random(number)
        folder = folders[number % len(folders)]
        file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        case.write_text(f"{number} {folder.name} {file.name}")
        shutil.copytree(folder, source)
        copy = source / file.relative_to(folder)
        copy.write_bytes(damaged(file.read_bytes(), rng))
        # Ends the process: parsers do not come back to Python to be interrupted.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            act = convert if number // len(folders) % 28 == 0 else read
            outcomes[act(source, target)] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            failures.append(f"{case.read_text()}: {type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(source)
        if (left := sorted(path.name for path in directory.iterdir())) != ["case", "seeds"]:
            failures.append(f"{case.read_text()}: left behind {left}")
            shutil.rmtree(target, ignore_errors=True)
    json.dump({"outcomes": outcomes, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
