"""Batches made on a GPU are those made by the processor."""

from __future__ import annotations

import numpy as np
import pytest

from stformat.loader import Augmentation, TileLoader

pytestmark = pytest.mark.gpu


@pytest.fixture
def cupy():
    module = pytest.importorskip("cupy", reason="needs CuPy: uv sync --extra gpu")
    if not module.is_available():
        pytest.skip("needs an NVIDIA GPU and its driver: nvidia-smi lists none")
    return module


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mpp": 0.8, "expression": None},
        {"dtype": "float16", "augment": Augmentation(brightness=0.2, stain_scale=0.1)},
        {"augment": Augmentation()},
        {"genes": ["G3", "G1"], "normalize": "log1p"},
    ],
    ids=str,
)
def test_both_devices_make_the_same_batches(cupy, paths, options):
    sizes = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 2_000_000}
    on_host = TileLoader(paths, **sizes, **options)
    on_gpu = TileLoader(paths, **sizes, **options, device="cuda")
    for one, two in zip(on_host, on_gpu, strict=True):
        assert isinstance(two.get("tile"), cupy.ndarray)
        assert one.keys() == two.keys()
        for key, value in two.items():
            there = value.get() if isinstance(value, cupy.ndarray) else value
            np.testing.assert_array_equal(np.asarray(there), np.asarray(one[key]))
