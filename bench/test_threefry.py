"""The keyed generator: Threefry2x64-13, time of one block of two words."""

import numpy as np

import lanewise as lw
from lanewise import oracle

N = 4096
GROUP = f"threefry, {N:,} blocks under one key: per block"
RATES = {"GB/s": 16 * N / 1e9}
KEY = np.array([1, 2], dtype=np.uint64)


def test_kernel(timed, isa):
    kernels = lw.kernels.get(isa)
    counters = np.arange(N, dtype=np.uint64)
    words = np.empty_like(counters), np.empty_like(counters)
    timed(
        GROUP,
        f"lanewise {isa}",
        lambda: kernels.threefry(KEY, counters, 0, *words),
        per=N,
        rates=RATES,
    )


def test_numpy(timed):
    counters = np.arange(N, dtype=np.uint64)
    timed(
        GROUP,
        "NumPy, vectorised",
        lambda: oracle.threefry(KEY, counters, 0),
        role="peer",
        per=N,
        rates=RATES,
    )


def test_philox(timed):
    """Draw as many words from NumPy's counter-based generator: a stream, not of given counters."""
    generator = np.random.Philox(key=KEY)
    timed(
        GROUP,
        "np.random.Philox",
        lambda: generator.random_raw(2 * N),
        role="yardstick",
        per=N,
        rates=RATES,
    )
