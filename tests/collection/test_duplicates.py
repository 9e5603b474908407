from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import stformat as stf
from stformat.collection import duplicates as rules
from stformat.collection.duplicates import duplicate_groups
from stformat.collection.fingerprints import count_fingerprint, perceptual_hash
from stformat.testing import make_slide, write_hest, write_stimage, write_visium


def shared(first, second):
    return len(set(first.tolist()) & set(second.tolist()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two slides, one of them by three converters under three names, its image in three formats."""
    folder = tmp_path_factory.mktemp("corpus")
    options = {"height": 700, "width": 900, "n_genes": 300, "pitch_px": 60.0}
    slide, other = (make_slide(seed=seed, lattice="hexagonal", **options) for seed in (3, 4))
    write_stimage(replace(slide, slide_id="GSM1"), folder / "stimage", image_format="jpeg")
    write_stimage(replace(other, slide_id="OTHER"), folder / "stimage", image_format="jpeg")
    write_hest(replace(slide, slide_id="TENX128"), folder / "hest")
    write_visium(slide, folder / "visium")
    stf.convert_slide(folder / "stimage", folder / "a.zarr", slide_id="GSM1")
    stf.convert_slide(folder / "visium", folder / "b.zarr", slide_id="TENX155")
    stf.convert_slide(folder / "hest", folder / "c.zarr", slide_id="TENX128")
    stf.convert_slide(folder / "stimage", folder / "d.zarr", slide_id="OTHER")
    stf.collect_slides(folder)
    return stf.open_collection(folder)


def test_one_slide_of_three_converters_is_found_and_no_other(corpus):
    pairs = corpus.duplicates()
    expected = set(itertools.combinations(["GSM1", "TENX128", "TENX155"], 2))
    assert {(pair.first, pair.second) for pair in pairs} == expected
    for pair in pairs:
        assert pair.rows > 0.9
        assert pair.genes > 0.9
        assert pair.image > 0.9
        assert not pair.same_files


def test_a_split_keeps_it_on_one_side(corpus):
    for seed in range(8):
        split = corpus.split(by="slide", fractions=(0.5, 0.0, 0.5), seed=seed)
        assert {"TENX128", "TENX155", "GSM1"} in (set(split.train), set(split.test))
    with pytest.raises(stf.errors.SplitError, match="3 sides need as many groups"):
        corpus.split(by="slide")
    apart = corpus.split(by="slide", fractions=(0.5, 0.25, 0.25), duplicates="ignore")
    assert len(apart.train) == 2


@pytest.fixture
def fingerprint_of(open_store):
    def fingerprint(name, counts, genes=None, in_tissue=None):
        on = np.ones(counts.shape[0], dtype=bool) if in_tissue is None else in_tissue
        return count_fingerprint(open_store(name, sparse.csr_array(counts), genes, in_tissue=on))

    return fingerprint


def test_fingerprints_do_not_know_names_nor_orders(fingerprint_of, draw_counts, genes_of):
    counts = draw_counts(150, 400, 1).toarray() * 20
    random = np.random.default_rng(0)
    mixed = counts[np.ix_(random.permutation(150), random.permutation(400))]
    padded = np.pad(mixed, ((0, 2), (1, 0)))  # rows and a gene without counts
    plain = fingerprint_of("A", counts)
    other = fingerprint_of("B", padded, genes_of([f"ENSG{k:011d}" for k in range(401)]))
    assert len(plain.rows) == len(plain.genes) == 64
    np.testing.assert_array_equal(plain.rows, other.rows)
    np.testing.assert_array_equal(plain.genes, other.genes)


def test_rows_off_tissue_do_not_matter(fingerprint_of, draw_counts):
    counts = draw_counts(150, 400, 1).toarray() * 20
    on_tissue = np.random.default_rng(1).random(150) < 0.6
    every = fingerprint_of("A", counts, in_tissue=on_tissue)
    alone = fingerprint_of("B", counts[on_tissue])
    np.testing.assert_array_equal(every.rows, alone.rows)
    np.testing.assert_array_equal(every.genes, alone.genes)
    none = fingerprint_of("C", counts[on_tissue], in_tissue=np.zeros(on_tissue.sum(), dtype=bool))
    np.testing.assert_array_equal(none.rows, alone.rows)


def test_bins_of_another_size_have_the_totals_of_genes(fingerprint_of, draw_counts):
    counts = draw_counts(200, 300, 2).toarray() * 20
    fine = fingerprint_of("A", counts)
    coarse = fingerprint_of("B", counts.reshape(50, 4, 300).sum(axis=1))
    np.testing.assert_array_equal(fine.genes, coarse.genes)
    assert not shared(fine.rows, coarse.rows)


def test_a_few_genes_less_leave_the_totals_of_the_others(fingerprint_of, draw_counts):
    counts = draw_counts(150, 400, 3).toarray() * 20
    whole, part = fingerprint_of("A", counts), fingerprint_of("B", counts[:, 10:])
    assert shared(whole.genes, part.genes) >= 54


def test_rows_that_tie_are_chosen_whatever_their_order(fingerprint_of):
    counts = np.zeros((200, 6), dtype=np.int32)
    counts[np.arange(200), np.arange(200) % 6] = 5
    counts[:70, 0] += 3
    first = fingerprint_of("A", counts)
    second = fingerprint_of("B", counts[np.random.default_rng(0).permutation(200)])
    np.testing.assert_array_equal(first.rows, second.rows)


def test_slides_without_counts_have_no_fingerprint(fingerprint_of):
    empty = fingerprint_of("A", np.zeros((5, 4), dtype=np.int32))
    assert (len(empty.rows), len(empty.genes)) == (0, 0)


def _scene(seed):
    """Draw dark bumps of all sizes, so that no frequency of the hash is left to noise."""
    y, x = np.mgrid[:240, :320]
    random = np.random.default_rng(seed)
    gray = np.zeros((240, 320))
    for _ in range(60):
        at_y, at_x, size = random.uniform([0, 0, 4], [240, 320, 30])
        gray += random.uniform(0.1, 0.5) * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / size**2)
    return 255 - 180 * np.clip(gray, 0, 1)


def _differing(first, second):
    bits = [np.frombuffer(each, np.uint8) for each in (first, second)]
    return int(np.bitwise_count(bits[0] ^ bits[1]).sum())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 2.0), st.integers(1, 3), st.floats(0.7, 1.2))
def test_images_look_alike_after_noise_scaling_and_brightness(seed, noise, factor, brightness):
    scene = _scene(seed)
    noisy = scene + np.random.default_rng(seed).normal(0, noise, scene.shape)
    height, width = 240 // factor, 320 // factor
    small = noisy[: height * factor, : width * factor]
    small = small.reshape(height, factor, width, factor).mean(axis=(1, 3)) * brightness
    assert _differing(perceptual_hash(scene), perceptual_hash(small)) <= rules.MOST_BITS


def test_different_and_turned_images_do_not_look_alike():
    hashes = [perceptual_hash(_scene(seed)) for seed in range(30)]
    differing = [_differing(*pair) for pair in itertools.combinations(hashes, 2)]
    assert min(differing) > 2 * rules.MOST_BITS
    assert _differing(hashes[0], perceptual_hash(_scene(0)[:, ::-1])) > 2 * rules.MOST_BITS


@pytest.mark.parametrize("value", [0.0, 255.0, 65535.0])
def test_an_image_that_shows_nothing_has_no_hash(value):
    assert perceptual_hash(np.full((100, 80), value)) is None
    speck = np.full((1000, 1000), max(value, 1.0))
    speck[3, 3] = 0.0
    assert perceptual_hash(speck) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.data())
def test_groups_are_what_pairs_connect(n, data):
    place = st.integers(0, n - 1)
    pairs = data.draw(st.lists(st.tuples(place, place), max_size=12))
    parent = list(range(n))
    for _ in range(n):
        for first, second in pairs:
            parent[first] = parent[second] = min(parent[first], parent[second])
    assert duplicate_groups(n, pairs) == parent


def test_real_sections_of_one_tumour_are_not_one_slide(real_data, tmp_path):
    for name in ("her2st_A1", "her2st_B1"):
        stf.convert_slide(real_data / name, tmp_path / f"{name}.zarr")
    stf.collect_slides(tmp_path)
    assert stf.open_collection(tmp_path).duplicates() == ()
