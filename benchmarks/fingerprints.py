"""Which copies of a slide its fingerprints find, and which other slides they take for it.

    uv run python benchmarks/fingerprints.py [--scale full] [--images FOLDER]

Makes slides of one tissue, all of the same mean expression, and of one of them the copies that
other converters and quality control make. Prints, for each of several lengths of runs, how many
runs two samples share of those that both may hold; then in how many bits perceptual hashes differ,
of synthetic images and of those in `--images`, each changed in several ways.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, sparse

from stformat.collection.duplicates import (
    MIN_RUNS,
    MIN_SHARED_RUNS,
    MIN_SHARED_TOTALS,
    MIN_TOTALS,
    MOST_BITS,
)
from stformat.collection.fingerprints import largest_totals, perceptual_hash
from stformat.collection.row_runs import (
    N_SAMPLED,
    RUN_BITS,
    merge_samples,
    sample_runs,
    smallest_above_0,
)

RUN_LENGTHS = (10, 12, RUN_BITS, 16, 20)
N_PROGRAMMES = 5
THUMBNAIL_PX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLayout:
    """What the counts of a slide are like."""

    name: str
    """What the layout resembles."""

    n_obs: int
    """Rows."""

    n_vars: int
    """Genes."""

    depth: float
    """Median of the totals of rows."""

    spread: float = 1.8
    """Standard deviation of the logarithm of genes' means."""


LAYOUTS = {
    "full": (
        CountLayout(name="ST", n_obs=500, n_vars=12_000, depth=8000),
        CountLayout(name="Visium", n_obs=2000, n_vars=15_000, depth=5000),
        CountLayout(name="Visium, shallow", n_obs=2000, n_vars=15_000, depth=800),
        CountLayout(name="bins of 400 counts", n_obs=20_000, n_vars=15_000, depth=400),
        CountLayout(name="bins of 40 counts", n_obs=60_000, n_vars=15_000, depth=40),
        CountLayout(name="40 counts of like genes", n_obs=3000, n_vars=2000, depth=40, spread=1),
    ),
    "small": (
        CountLayout(name="ST", n_obs=100, n_vars=3000, depth=4000),
        CountLayout(name="bins of 40 counts", n_obs=500, n_vars=3000, depth=40),
    ),
}
N_SLIDES = {"full": 4, "small": 2}
N_IMAGES = {"full": 24, "small": 3}


def make_counts(layout: CountLayout, seed: int) -> sparse.csr_array:
    """Draw a slide: each row a mixture of the programmes of one tissue, of a depth of its own."""
    tissue, random = np.random.default_rng(0), np.random.default_rng([1, seed])
    mean = np.exp(tissue.normal(0, layout.spread, layout.n_vars))
    programmes = mean * np.exp(tissue.normal(0, 0.5, (N_PROGRAMMES, layout.n_vars)))
    below = np.cumsum(programmes, axis=1)
    below /= below[:, -1:]
    depths = layout.depth * np.exp(random.normal(0, 0.5, layout.n_obs))
    mixtures = random.dirichlet(np.full(N_PROGRAMMES, 0.7), layout.n_obs)
    rows, genes = [], []
    for programme in range(N_PROGRAMMES):
        n = random.poisson(depths * mixtures[:, programme])
        drawn = np.searchsorted(below[programme], random.random(int(n.sum())))
        rows.append(np.repeat(np.arange(layout.n_obs), n))
        genes.append(np.minimum(drawn, layout.n_vars - 1))
    at = np.concatenate(rows), np.concatenate(genes)
    ones = np.ones(len(at[0]), dtype=np.int32)
    return sparse.csr_array(sparse.coo_array((ones, at), shape=(layout.n_obs, layout.n_vars)))


def count_copies(counts: sparse.csr_array) -> Iterator[tuple[str, sparse.csr_array]]:
    """Yield what other converters and quality control make of a slide."""
    random = np.random.default_rng(0)
    n_obs, n_vars = counts.shape
    row_totals = np.asarray(counts.sum(axis=1))
    is_found = np.bincount(counts.indices, minlength=n_vars) >= 10
    by_total = np.argsort(-np.asarray(counts.sum(axis=0)))
    is_good = row_totals >= np.quantile(row_totals, 0.1)
    mixed = counts[random.permutation(n_obs)][:, random.permutation(n_vars)]
    yield "rows and genes in another order", sparse.csr_array(mixed)
    yield "genes in 10 rows at least", counts[:, np.flatnonzero(is_found)]
    good = counts[np.flatnonzero(is_good)]
    yield "the same without the poorest tenth of rows", good[:, np.flatnonzero(is_found)]
    yield (
        "without the richest 5 % of rows",
        counts[np.flatnonzero(row_totals <= np.quantile(row_totals, 0.95))],
    )
    for share in (0.5, 0.25, 0.1, 0.05):
        chosen = np.sort(random.permutation(n_obs)[: int(n_obs * share)])
        yield f"{share:.0%} of the rows".replace("%", " %"), counts[chosen]
    yield "without the 13 largest genes and the poorest rows", good[:, np.sort(by_total[13:])]
    for share in (0.05, 0.2):
        kept = np.flatnonzero(is_found & (random.random(n_vars) >= share))
        yield (
            f"without {share:.0%} of the genes and the poorest rows".replace("%", " %"),
            (good[:, kept]),
        )
    scaled = good.astype(np.float64)
    scaled.data *= 1e4 / np.repeat(good.sum(axis=1), np.diff(good.indptr))
    yield "shares of 10,000 without the poorest rows", scaled.astype(np.float32)
    yield "their log1p", scaled.log1p()


def count_prints(counts: sparse.csr_array, run_bits: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the fingerprints of counts: see `stformat.collection.fingerprints`."""
    totals = np.asarray(counts.sum(axis=0), dtype=np.float64)
    sums = np.round(totals / smallest_above_0(counts.data))
    runs = merge_samples(
        sample_runs(counts.data, counts.indptr.astype(np.int64), run_bits=run_bits),
        sample_runs(sums, np.array([0, len(sums)]), unit=1.0, run_bits=run_bits),
    )
    return runs, largest_totals(sums)


def shared_runs(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> tuple[int, int]:
    """Return how many runs two samples share, and how many both may hold."""
    tops = [sample[-1] for sample in (first, second) if len(sample) >= N_SAMPLED]
    if tops:
        first, second = (sample[sample <= min(tops)] for sample in (first, second))
    return len(np.intersect1d(first, second)), min(len(first), len(second))


def is_found(runs: tuple[int, int], totals: tuple[int, int]) -> bool:
    """Return whether counts of such fingerprints are taken for the same."""
    by_runs = runs[0] >= max(MIN_SHARED_RUNS, MIN_RUNS * runs[1])
    return by_runs or totals[0] >= max(MIN_SHARED_TOTALS, MIN_TOTALS * totals[1])


def compare_counts(layout: CountLayout, n_slides: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of a layout: other slides, then copies."""
    slides = [make_counts(layout, seed) for seed in range(n_slides)]
    cases = [("another slide of the tissue", slides[0], other) for other in slides[1:]]
    cases += [(name, slides[0], copy) for name, copy in count_copies(slides[0])]
    prints: dict[tuple[int, int], tuple[NDArray[Any], NDArray[Any]]] = {}

    def prints_of(counts: sparse.csr_array, run_bits: int) -> tuple[NDArray[Any], NDArray[Any]]:
        key = (id(counts), run_bits)
        if key not in prints:
            prints[key] = count_prints(counts, run_bits)
        return prints[key]

    for name, first, second in cases:
        shares, found = [], ""
        for run_bits in RUN_LENGTHS:
            (one, one_totals), (other, other_totals) = (
                prints_of(counts, run_bits) for counts in (first, second)
            )
            runs = shared_runs(one, other)
            totals = (
                len(np.intersect1d(one_totals, other_totals)),
                min(len(np.unique(one_totals)), len(np.unique(other_totals))),
            )
            shares.append(f"{runs[0]} of {runs[1]}")
            if run_bits == RUN_BITS:
                found = "found" if is_found(runs, totals) else "not found"
        yield layout.name, name, *shares, f"{totals[0]} of {totals[1]}", found


def _noise(random: np.random.Generator, height: int, width: int, slope: float) -> NDArray[Any]:
    across = np.hypot(
        np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    )
    waves = (1 + across) ** -slope * np.exp(2j * np.pi * random.random(across.shape))
    drawn = np.fft.irfft2(waves, s=(height, width))
    return np.asarray((drawn - drawn.mean()) / drawn.std())


def make_image(seed: int) -> Image.Image:
    """Draw stained tissue: every other one on glass, the others to the edges of the image."""
    random = np.random.default_rng(seed)
    height, width = 1000, int(random.choice([900, 1000, 1000, 1100]))
    depth = np.clip(0.5 + 0.25 * _noise(random, height, width, 1.6), 0, 1)[..., None]
    tissue = np.ones((height, width))
    if seed % 2:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        outline = 0.5 * _noise(random, height, width, 2.2) - (x / 0.75) ** 2 - (y / 0.7) ** 2
        tissue = ndimage.gaussian_filter((outline > -0.9).astype(np.float64), 2)
    stained = np.array([200, 140, 185]) * (1 - depth) + np.array([110, 60, 130]) * depth
    rgb = 240 * (1 - tissue[..., None]) + stained * tissue[..., None]
    rgb += random.normal(0, 3, rgb.shape)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def image_copies(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """Yield what other converters make of an image."""
    width, height = image.size
    out = io.BytesIO()
    image.save(out, "JPEG", quality=50)
    yield "JPEG of quality 50", Image.open(out)
    yield "half the size", image.resize((width // 2, height // 2), Image.Resampling.BOX)
    yield "a fifth darker", image.point(lambda value: value * 0.8)
    for share in (0.01, 0.023, 0.05, 0.1):
        name = f"{share:.1%} cropped at one edge".replace("%", " %")
        yield name, image.crop((round(width * share), 0, width, height))
    for share in (0.01, 0.023):
        x, y = round(width * share), round(height * share)
        name = f"{share:.1%} cropped at all edges".replace("%", " %")
        yield name, image.crop((x, y, width - x, height - y))


def _hash_of(image: Image.Image) -> NDArray[np.uint8] | None:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    hashed = perceptual_hash(np.asarray(small, dtype=np.float64).mean(axis=2))
    return None if hashed is None else np.frombuffer(hashed, dtype=np.uint8)


def compare_images(name: str, images: list[Image.Image]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of images that have a hash: others of them, then copies."""
    hashes = [(image, hashed) for image in images if (hashed := _hash_of(image)) is not None]
    differing: dict[str, list[int]] = {"another image": []}
    for (_, first), (_, second) in itertools.combinations(hashes, 2):
        differing["another image"].append(int(np.bitwise_count(first ^ second).sum()))
    for image, hashed in hashes:
        for copy, changed in image_copies(image):
            other = _hash_of(changed)
            n_bits = 256 if other is None else int(np.bitwise_count(hashed ^ other).sum())
            differing.setdefault(copy, []).append(n_bits)
    for copy, found in differing.items():
        n_found = sum(each <= MOST_BITS for each in found)
        yield (
            name, copy, f"{min(found)}", f"{np.median(found):.0f}", f"{max(found)}",
            f"{n_found} of {len(found)}",
        )  # fmt: skip


def read_images(folder: Path) -> list[Image.Image]:
    """Read the images of a folder."""
    images = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as file:
            image = file.convert("RGB")
        image.thumbnail((2500, 2500), Image.Resampling.BOX)
        images.append(image)
    return images


def _print_table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def main(arguments: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=[*LAYOUTS], default="full")
    parser.add_argument("--images", type=Path, help="folder of images of different slides")
    options = parser.parse_args(arguments)
    lengths = tuple(f"runs of {run_bits} bits" for run_bits in RUN_LENGTHS)
    rows = itertools.chain.from_iterable(
        compare_counts(layout, N_SLIDES[options.scale]) for layout in LAYOUTS[options.scale]
    )
    _print_table(("slides", "beside", *lengths, "totals of genes", "counts"), rows)
    sets = {"synthetic": [make_image(seed) for seed in range(N_IMAGES[options.scale])]}
    if options.images is not None:
        sets["real"] = read_images(options.images)
    _print_table(
        ("images", "beside", "least bits", "median", "most", "found"),
        itertools.chain.from_iterable(compare_images(*each) for each in sets.items()),
    )


if __name__ == "__main__":
    main()
