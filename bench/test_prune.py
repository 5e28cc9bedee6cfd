"""The step of the early-terminated scan: a dimension-major block of 64 candidates.

One long block is one call, so that the call itself does not count: in the second-level cache, and
in memory, where reading the same bytes with NumPy is the yardstick.
"""

import numpy as np
import pytest

import lanewise as lw

WIDTH = 64
DIMS = {"in cache": 2**10, "in memory": 2**20}
ALIVE = {"4 groups alive": 2**64 - 1, "1 group alive": 2**16 - 1}


@pytest.fixture(scope="module", params=DIMS)
def where(request):
    return request.param


@pytest.fixture(scope="module")
def block(where):
    shape = DIMS[where], WIDTH
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def query(block):
    return np.random.default_rng(1).standard_normal(len(block), dtype=np.float32)


def group(where, block, alive="4 groups alive"):
    return f"prune, {block.nbytes / 2**20:g} MiB {where}, {alive}"


@pytest.mark.parametrize("alive", ALIVE)
def test_kernel(timed, where, block, query, isa, alive):
    kernels = lw.kernels.get(isa)
    partial, norms = np.zeros(WIDTH, dtype=np.float32), np.zeros(WIDTH, dtype=np.float32)
    n_read = WIDTH if ALIVE[alive] == 2**64 - 1 else 16

    def call():
        partial[:] = 0
        kernels.prune(block, query, 0, len(query), partial, norms, 1e30, 1.0, ALIVE[alive])

    rates = {"GB/s": block.nbytes * n_read / WIDTH / 1e9}
    timed(group(where, block, alive), f"lanewise {isa}", call, rates=rates)


def test_numpy(timed, where, block, query):
    def call():
        difference = block - query[:, np.newaxis]
        return np.einsum("dc,dc->c", difference, difference)

    timed(group(where, block), "NumPy block - q", call, role="peer")


def test_reading(timed, where, block):
    flat = block.ravel()
    timed(
        group(where, block),
        "np.dot over the same bytes",
        lambda: np.dot(flat, flat),
        role="yardstick",
        rates={"GB/s": block.nbytes / 1e9},
    )
