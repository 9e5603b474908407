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
from stformat.collection.row_runs import merge_samples, sample_runs
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
    assert (len(plain.rows), len(plain.genes)) == (128, 64)
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
    totals = counts.sum(axis=0) / 20  # of the smallest count
    common = np.intersect1d(fine.rows, coarse.rows)
    assert np.isin(common, sample_runs(totals, np.array([0, 300]), unit=1.0)).all()


def test_a_few_genes_less_leave_the_totals_of_the_others(fingerprint_of, draw_counts):
    counts = draw_counts(150, 400, 3).toarray() * 20
    whole, part = fingerprint_of("A", counts), fingerprint_of("B", counts[:, 10:])
    assert shared(whole.genes, part.genes) >= 54


def test_rows_that_are_left_out_leave_the_runs_of_the_others(fingerprint_of, draw_counts):
    counts = draw_counts(300, 400, 4).toarray()
    random = np.random.default_rng(0)
    whole = fingerprint_of("A", counts)
    part = fingerprint_of("B", counts[random.permutation(300)[:100]])
    good = counts[counts.sum(axis=1) > np.quantile(counts.sum(axis=1), 0.1)]
    filtered = fingerprint_of("C", good[:, (good > 0).sum(axis=0) >= 10])
    other = fingerprint_of("D", draw_counts(300, 400, 5).toarray())
    assert rules.runs_share(whole.rows, part.rows) > 0.6
    assert rules.runs_share(whole.rows, filtered.rows) > 0.8
    assert rules.runs_share(part.rows, filtered.rows) > 0.6
    assert rules.runs_share(whole.rows, other.rows) == 0.0


def test_rows_that_are_scaled_keep_their_runs_and_have_no_more(fingerprint_of, draw_counts):
    counts, others = (draw_counts(200, 400, seed).toarray() for seed in (7, 8))
    plain = fingerprint_of("A", counts)
    shares = fingerprint_of("B", (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))
    assert rules.runs_share(plain.rows, shares.rows) > 0.8
    np.testing.assert_array_equal(fingerprint_of("C", 100 * counts).rows, plain.rows)
    assert not shared(fingerprint_of("D", 100 * others).rows, plain.rows)


def test_transformed_values_share_nothing_with_counts(fingerprint_of, draw_counts):
    counts = draw_counts(100, 300, 6).toarray()
    plain, logged = fingerprint_of("A", counts), fingerprint_of("B", np.log1p(counts))
    assert not shared(plain.rows, logged.rows)
    assert not shared(plain.genes, logged.genes)


def _shallow(seed, n_obs=1000):
    """Draw rows of some 40 counts that say nothing but their totals."""
    tissue, random = np.random.default_rng(0), np.random.default_rng(seed)
    rates = np.exp(tissue.normal(0, 1, 500))
    return random.poisson(40 * rates / rates.sum(), (n_obs, 500)).astype(np.int32)


def test_shallow_slides_of_one_tissue_are_not_one_slide(write_store, fast_path):
    on_tissue = np.ones(1000, dtype=bool)
    for seed in range(3):
        counts = sparse.csr_array(_shallow(seed))
        write_store(f"S{seed}", counts, in_tissue=on_tissue, study=f"s{seed}")
    mixed = sparse.csr_array(_shallow(0)[::-1, ::-1])
    write_store("copy", mixed, in_tissue=on_tissue, study="s0")
    stf.collect_slides(fast_path)
    slides = stf.open_collection(fast_path)
    assert [(pair.first, pair.second) for pair in slides.duplicates()] == [("S0", "copy")]
    assert len(slides.split(by="study", fractions=(0.4, 0.3, 0.3)).train) in {1, 2}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_runs_are_those_of_the_definition(data):
    value = st.integers(0, 2**12) | st.integers(0, 9)
    rows = data.draw(st.lists(st.lists(value, max_size=70), min_size=1, max_size=4))
    values = np.array([each for row in rows for each in row], dtype=np.int64)
    indptr = np.append(0, np.cumsum([len(row) for row in rows]))
    runs = set()
    for row in rows:
        above = sorted((each for each in row if each > 0), reverse=True)
        largest = [round(each / above[-1]) for each in above][:64]
        for start in range(len(largest)):
            product = 1
            for stop in range(start + 1, len(largest)):
                product *= 1 + largest[stop - 1] - largest[stop]
                if product >= 2**14:
                    runs.add(tuple(largest[start : stop + 1]))
                    break
    sample = sample_runs(values, indptr)
    assert len(sample) == min(len(runs), 128)
    parts = [sample_runs(np.array(row, dtype=np.int64), np.array([0, len(row)])) for row in rows]
    np.testing.assert_array_equal(merge_samples(*parts), sample)


def test_values_that_many_slides_hold_do_not_take_memory(monkeypatch):
    values = [np.array([1, 2, 3, 4, 10 + place], dtype=np.uint64) for place in range(300)]
    values[7] = values[250] = np.arange(100, 110, dtype=np.uint64)
    plain = [*rules._pairs_of_values(values, least=5)]
    most = []

    def watched(product):
        most.append(product.nnz)
        return coo(product)

    coo = sparse.csr_array.tocoo
    monkeypatch.setattr(rules, "_MOST_SHARED", 3000)
    monkeypatch.setattr(sparse.csr_array, "tocoo", watched)
    assert [*rules._pairs_of_values(values, least=5)] == plain == [(7, 250)]
    assert max(most) <= 3000


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


def test_images_cropped_at_an_edge_look_alike():
    for seed in range(20):
        scene = _scene(seed)
        cropped = perceptual_hash(scene[:, 7:])  # 2.2 % of 320
        assert _differing(perceptual_hash(scene), cropped) <= rules.MOST_BITS
    assert np.log(320 / 313) <= rules.MOST_STRETCH


def test_images_are_compared_with_every_other_that_there_is():
    """Of more slides than are compared at once, some of which have no image."""
    random = np.random.default_rng(0)
    n = 3 * rules._BLOCK
    bits = random.integers(0, 2**63, (n, 4), dtype=np.uint64)
    bits[n // 2 :] = bits[: n // 2] ^ np.uint64(0b111)  # twelve bits of 256 differ
    has_image = random.random(n) < 0.7
    bits[~has_image] = 0
    proportions = np.where(random.random(n) < 0.2, 0.0, 0.3)
    proportions[~has_image] = np.nan
    nothing = [np.empty(0, dtype=np.uint64)] * n
    prints = rules._Prints(
        manifests=[""] * n, rows=nothing, genes=nothing,
        has_image=has_image, bits=bits, proportions=proportions,
    )  # fmt: skip
    expected = [
        (i, j)
        for i, j in itertools.combinations(range(n), 2)
        if has_image[i] and has_image[j] and proportions[i] == proportions[j]
        and _differing(bits[i], bits[j]) <= rules.MOST_BITS
    ]  # fmt: skip
    assert len(expected) > 20
    assert sorted(rules._pairs_of_images(prints)) == expected


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


def test_a_real_slide_is_found_in_the_layout_of_another_converter(real_data, tmp_path):
    for name in ("her2st_B4", "her2st_C2", "derived_hest_B4"):
        stf.convert_slide(real_data / name, tmp_path / f"{name}.zarr")
    stf.collect_slides(tmp_path)
    (pair,) = stf.open_collection(tmp_path).duplicates()
    assert set(pair.paths) == {"derived_hest_B4.zarr", "her2st_B4.zarr"}
    assert pair.rows > 0.9
    assert pair.image > 0.9
