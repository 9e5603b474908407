"""Batches made on a GPU, or on a stand-in for it, become tensors of the same memory."""

from __future__ import annotations

import numpy as np
import pytest

from stformat.loader import Augmentation, TileLoader

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
torch = pytest.importorskip("torch", reason="needs torch: uv sync --extra torch")

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 400_000, "genes": ["G1", "G2"]}


@pytest.fixture(scope="module", params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request, use_cupy):
    with use_cupy(request.param) as module:
        yield module


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": 2, "augment": Augmentation()},
        {"dtype": "float16", "normalize": "log1p", "mpp": 0.8},
    ],
    ids=str,
)
def test_tensors_are_those_of_the_processor(cupy, paths, options):
    on_gpu = TileLoader(paths, **SMALL, **options, device="cuda").as_torch()
    on_host = TileLoader(paths, **SMALL, **options).as_torch()
    data = torch.utils.data.DataLoader(on_gpu, batch_size=None)
    device = torch.from_dlpack(cupy.zeros(1)).device
    n_batches = 0
    for there, here in zip(data, on_host, strict=True):
        assert there.keys() == here.keys()
        assert {there[name].device for name in ("tile", "expression")} == {device}
        for name, tensor in there.items():
            found = tensor.cpu() if torch.is_tensor(tensor) else torch.tensor(tensor)
            expected = torch.as_tensor(here[name])
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
        n_batches += 1
    assert n_batches == len(on_host) > 1


def test_a_tensor_is_the_memory_of_the_batch(use_cupy, paths, monkeypatch):
    made = []
    with use_cupy("stand-in") as cupy:
        pass_on = cupy.ndarray.__dlpack__
        monkeypatch.setattr(
            cupy.ndarray, "__dlpack__", lambda a, **how: made.append(a) or pass_on(a, **how)
        )
        batch = next(iter(TileLoader(paths, **SMALL, device="cuda").as_torch()))
        batch["tile"].fill_(77)
        (tiles,) = (array for array in made if array.ndim == 4)
        assert np.unique(tiles.get()).tolist() == [77]


@pytest.mark.usefixtures("cupy")
def test_workers_of_a_dataloader_are_refused(paths):
    dataset = TileLoader(paths, **SMALL, device="cuda").as_torch()
    data = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(ValueError, match="num_workers must be 0 where batches are made on a GPU"):
        next(iter(data))
