"""Compiling ahead of time: after it, calls with the usual arrays find their code."""

import numpy as np

from stformat import kernels
from stformat.kernels import _numba, _warmup


def test_warmup_reports_every_public_kernel():
    told = []
    warm = kernels.warmup(report=told.append)
    assert told == warm
    functions = {name for name in kernels.__all__ if name.islower()} - {"warmup"}
    assert {kernel.name for kernel in warm} == functions
    assert all(kernel.seconds > 0 for kernel in warm)


def test_later_calls_compile_nothing():
    kernels.warmup()
    twins = [getattr(_numba, name) for name in _numba.__all__]
    compiled = [twin for twin in twins if hasattr(twin, "signatures")]
    before = [len(twin.signatures) for twin in compiled]
    assert all(before)
    image = np.zeros((3, 8, 8), np.uint8)
    image.flags.writeable = False
    tiles = kernels.gather_tiles(image, np.zeros((2, 2), np.int64), 4)
    kernels.tiles_to_float(tiles, mean=[0.5] * 3, turns=np.array([0, 1]))
    for dtype in _warmup.COUNTS:
        csr = np.ones(2, dtype), np.zeros(2, np.int32), np.array([0, 1, 2], np.int32)
        kernels.normalize_log1p(csr[0], csr[2], target_sum=2.0, totals=np.ones(2))
        kernels.densify(*csr, gene_map=np.zeros(1, int), n_out=1, rows=np.array([1]), log1p=True)
        kernels.gene_moments(*csr, 1)
    assert [len(twin.signatures) for twin in compiled] == before
