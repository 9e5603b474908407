"""Tensors are the loader's arrays, and a model learns from them."""

from __future__ import annotations

import doctest
import importlib
import pickle

import numpy as np
import pytest

from stformat.loader import TileLoader

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="needs torch: uv sync --extra torch")

SMALL = {"tile_px": 40, "batch_size": 32, "buffer_bytes": 400_000, "genes": ["G1", "G2"]}


def load(sources, **options) -> TileLoader:
    return TileLoader(sources, **SMALL | options)


def as_arrays(batch: dict) -> dict:
    return {key: value if isinstance(value, int) else value.numpy() for key, value in batch.items()}


def test_tensors_are_the_arrays_of_the_loader(paths, same):
    dataset = load(paths).as_torch()
    batches = list(dataset)
    assert len(batches) == len(dataset)
    assert batches[0]["tile"].dtype == torch.uint8
    expected = list(load(paths))
    assert all(same(as_arrays(one), two) for one, two in zip(batches, expected, strict=True))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_sparse_expression_is_a_sparse_tensor(paths):
    batches = load(paths, expression="csr", genes=None).as_torch()
    dense = load(paths, genes=None)
    for one, two in zip(batches, dense, strict=True):
        np.testing.assert_array_equal(one["expression"].to_dense().numpy(), two["expression"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU's driver")
def test_tensors_can_be_pinned(paths):
    data = torch.utils.data.DataLoader(load(paths).as_torch(), batch_size=None, pin_memory=True)
    assert all(batch["tile"].is_pinned() for batch in data)


def test_a_dataset_goes_on_where_it_stood(paths):
    dataset = load(paths).as_torch()
    passing = iter(dataset)
    next(passing)
    state = pickle.loads(pickle.dumps(dataset.state_dict()))  # noqa: S301 - our own
    resumed = load(paths).as_torch()
    resumed.load_state_dict(state)
    rest = [batch["batch_index"] for batch in resumed]
    assert rest == list(range(1, len(dataset)))


def test_a_state_before_the_first_batch_is_that_of_the_pass_that_begins(paths):
    dataset = load(paths).as_torch()
    next(iter(dataset))
    passing = iter(dataset)
    state = dataset.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert next(passing)["epoch"] == 1


@pytest.mark.parametrize("name", ["torch_dataset", "torch_passes"])
def test_the_examples_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(f"stformat.loader.{name}"))
    assert result.attempted
    assert result.failed == 0


class Model(torch.nn.Module):
    """Predicts two genes from a tile."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 5, stride=4), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.LazyLinear(2),
        )  # fmt: skip

    def loss(self, batch):
        predicted = self.layers(batch["tile"])
        return torch.nn.functional.mse_loss(predicted, batch["expression"])


def losses_of(batches) -> list[float]:
    torch.manual_seed(0)
    model = Model()
    optimizer = None
    losses = []
    for batch in batches:
        loss = model.loss(batch)
        # The last layer learns its size from the first batch.
        optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_model_learns_the_same_from_memory(paths, slides):
    """Tiles and expression whole in memory, taken in the loader's order, give the same losses."""
    options = {"dtype": "float32", "normalize": "log1p"}
    dataset = load(paths, **options).as_torch()
    streamed = losses_of(batch for _ in range(2) for batch in dataset)
    tiles = [slide.tiles(40)[:].astype(np.float32) / 255 for slide in slides]
    expression = [
        slide.expression(slice(None), ["G1", "G2"], normalize="log1p") for slide in slides
    ]
    order = load(paths, **options)

    def from_memory():
        for _ in range(2):
            for batch in order:
                pairs = list(zip(batch["slide"].tolist(), batch["row"].tolist(), strict=True))
                yield {
                    "tile": torch.tensor(np.stack([tiles[slide][row] for slide, row in pairs])),
                    "expression": torch.tensor(
                        np.stack([expression[slide][row] for slide, row in pairs])
                    ),
                }

    np.testing.assert_allclose(streamed, losses_of(from_memory()), rtol=1e-5)
    assert np.mean(streamed[-5:]) < np.mean(streamed[:5])


@pytest.mark.filterwarnings("ignore")  # of Lightning's own
@pytest.mark.parametrize(("n_workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_lightning_trains_on_it(paths, tmp_path, n_workers, persistent):
    """Nobody tells the dataset of epochs."""
    lightning = pytest.importorskip("lightning", reason="needs Lightning: uv pip install lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()
            self.model.layers(torch.zeros(1, 3, 40, 40))
            self.seen = []

        def training_step(self, batch):
            self.seen.append((batch["epoch"], batch["batch_index"]))
            return self.model.loss(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    dataset = load(paths, dtype="float32", normalize="log1p").as_torch()
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = Module()
    options = {"multiprocessing_context": "fork"} if n_workers else {}
    data = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=n_workers, persistent_workers=persistent, **options
    )
    trainer.fit(module, data)
    expected = [(epoch, index) for epoch in range(3) for index in range(len(dataset))]
    assert [epoch for epoch, _ in module.seen] == [epoch for epoch, _ in expected]
    assert (sorted(module.seen) if n_workers else module.seen) == expected
