"""Synthetic slides: the same from a seed, in bands of any height, with structure to find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.testing import make_slide

ARGUMENTS = {"height": 700, "width": 900, "n_genes": 120, "pitch_px": 50.0}


@pytest.fixture(scope="module")
def slide():
    return make_slide(**ARGUMENTS, seed=11)


def test_same_seed_same_slide_another_seed_another(slide):
    same, other = make_slide(**ARGUMENTS, seed=11), make_slide(**ARGUMENTS, seed=12)
    np.testing.assert_array_equal(same.image, slide.image)
    np.testing.assert_array_equal(same.xy, slide.xy)
    assert (same.counts != slide.counts).nnz == 0
    assert (other.image != slide.image).mean() > 0.2
    assert (other.counts != slide.counts).nnz > 0


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 330),
    size=st.tuples(st.integers(150, 320), st.integers(150, 320)),
    pitch_px=st.sampled_from([5.0, 17.3, 49.0]),
    seed=st.integers(0, 99),
)
def test_bands_of_any_height_are_the_image(height, size, pitch_px, seed):
    slide = make_slide(height=size[0], width=size[1], seed=seed, n_genes=4, pitch_px=pitch_px)
    bands = list(slide.iter_bands(height))
    assert {band.shape[1] for band in bands[:-1]} <= {height}
    np.testing.assert_array_equal(np.concatenate(bands, axis=1), slide.image)


def test_a_band_of_a_huge_image_is_drawn_alone():
    slide = make_slide(height=200_000, width=3_000, seed=0, n_genes=4, pitch_px=400.0)
    band = slide.tissue.render(100_000, 40)
    assert band.shape == (3, 40, 3_000)
    assert band.std() > 10


def test_shapes_and_types(slide):
    n_spots = 14 * 18
    assert slide.image.shape == (3, 700, 900)
    assert slide.image.dtype == np.uint8
    assert slide.xy.shape == slide.new_xy.shape == slide.array_xy.shape == (n_spots, 2)
    assert slide.counts.shape == (n_spots, 120)
    assert slide.counts.dtype == np.int32
    assert (slide.counts.data > 0).all()
    assert slide.counts.has_canonical_format
    assert len(set(slide.gene_names)) == 120
    assert slide.gene_names[0] == "ERBB2"
    assert slide.gene_names[-1].startswith("GENE")
    assert slide.mpp == 4.0


def test_spots_lie_on_their_places(slide):
    assert (np.rint(slide.new_xy) == slide.array_xy).all()
    assert (slide.xy >= 0).all()
    assert (slide.xy < (900, 700)).all()
    np.testing.assert_array_equal(slide.xy, np.round(slide.xy, 2))
    right = slide.array_xy[:, 0] == slide.array_xy[:, 0].max()
    assert slide.xy[right, 0].min() > slide.xy[~right, 0].max() - 1


def test_array_is_bounded_and_in_the_middle():
    slide = make_slide(height=2000, width=2000, seed=0, n_genes=4, pitch_px=20.0)
    assert slide.array_xy.max(axis=0).tolist() == [33, 35]
    assert slide.array_xy.min(axis=0).tolist() == [1, 1]
    np.testing.assert_allclose(slide.xy.mean(axis=0), [1000, 1000], atol=1)


def test_image_looks_like_stained_tissue(slide):
    red, green, blue = slide.image.astype(int)
    corner = slide.image[:, :20, :20]
    assert corner.min() > 225
    covered = green < 215
    assert 0.2 < covered.mean() < 0.95
    # Eosin takes the green away, haematoxylin the red as well: never yellow, never green.
    assert (red[covered] >= green[covered] - 25).all()
    assert (blue[covered] >= green[covered] - 8).mean() > 0.99
    assert (red < 130).mean() > 0.01


def test_tissue_and_spots_agree(slide):
    x, y = slide.xy.astype(int).T
    green = slide.image[1][y, x]
    on_tissue = slide.in_tissue & (slide.labels != "adipose tissue")
    assert (green[on_tissue] < 225).mean() > 0.9
    assert (green[~slide.in_tissue] > 225).mean() > 0.9
    assert set(slide.labels[~slide.in_tissue]) == {"undetermined"}


def test_markers_follow_regions(slide):
    total = slide.counts.sum(axis=1)
    share = slide.counts.toarray() / np.maximum(total, 1)[:, None]
    for gene, region in [("ERBB2", "invasive cancer"), ("COL1A1", "connective tissue")]:
        inside = slide.labels == region
        values = share[:, slide.gene_names.index(gene)]
        assert values[inside].mean() > 3 * values[~inside & slide.in_tissue].mean()
    assert np.median(total[slide.in_tissue]) > 5 * np.median(total[~slide.in_tissue])


def test_counts_vary_more_than_poisson(slide):
    inside = slide.labels == "connective tissue"
    values = slide.counts.toarray()[inside][:, slide.gene_names.index("EEF1A1")]
    assert values.var() > 3 * values.mean()


@pytest.mark.parametrize(
    "arguments",
    [
        {"pitch_px": 3.0},
        {"height": 149, "pitch_px": 50.0},
        {"n_genes": 0},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="must be at least"):
        make_slide(**{**ARGUMENTS, "seed": 0, **arguments})
