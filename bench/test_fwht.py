"""The transform alone, in place: 1 MiB of vectors, which stays in the second-level cache."""

import numpy as np
import pytest

import lanewise as lw

FLOATS = 2**18
DIMS = (64, 1024, 16384)


def group(dim):
    return f"fwht of {FLOATS // dim:,} x {dim:,} floats in place"


def rates(dim):
    return {"GB/s": 2 * 4 * FLOATS / 1e9, "GFLOP/s": FLOATS * np.log2(dim) / 1e9}


def rows(dim):
    return np.random.default_rng(0).standard_normal((FLOATS // dim, dim), dtype=np.float32)


@pytest.mark.parametrize("dim", DIMS)
def test_kernel(timed, isa, dim):
    kernels = lw.kernels.get(isa)
    x = rows(dim)
    weights = np.full(dim, dim**-0.5, dtype=np.float32)
    who = f"lanewise {isa}"
    timed(group(dim), who, lambda: kernels.fwht(x, weights), rates=rates(dim))


@pytest.mark.parametrize("dim", DIMS)
def test_numpy_butterflies(timed, dim):
    x = rows(dim)
    scale = np.float32(dim**-0.5)

    def call():
        y = x * scale
        h = 1
        while h < dim:
            pairs = y.reshape(-1, 2, h)
            y = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), axis=1)
            h *= 2

    timed(group(dim), "NumPy butterflies", call, role="peer")


@pytest.mark.parametrize("dim", [dim for dim in DIMS if dim <= 1024])
def test_numpy_product(timed, dim):
    hadamard = np.ones((1, 1), dtype=np.float32)
    while len(hadamard) < dim:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard *= np.float32(dim**-0.5)
    x = rows(dim)
    out = np.empty_like(x)
    timed(group(dim), "NumPy X @ H", lambda: np.matmul(x, hadamard, out=out), role="peer")


@pytest.mark.parametrize("dim", DIMS)
def test_copy(timed, dim):
    x = rows(dim)
    out = np.empty_like(x)
    timed(group(dim), "np.copyto", lambda: np.copyto(out, x), role="yardstick")
