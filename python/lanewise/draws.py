"""Random draws that stay the same for ever: from our keyed generator, not from NumPy's streams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lanewise import kernels

__all__ = ["bits", "uniforms", "words"]

# The second key word keeps the uses of one seed apart.
_PURPOSES = {"rotation": 1, "kmeans": 2, "ivf": 3, "pq": 4, "replay": 5}


def words(seed: int, purpose: str, n: int, *, stream: int = 0) -> npt.NDArray[np.uint64]:
    """Return n uniform 64-bit words: Threefry2x64-13 of (0, stream), (1, stream), ...

    The key is (seed, number of the purpose); block i of the generator gives words 2i and 2i + 1.
    """
    n_blocks = (n + 15) // 16 * 8
    counters = np.arange(n_blocks, dtype=np.uint64)
    out = np.empty((n_blocks, 2), dtype=np.uint64)
    word0, word1 = np.empty_like(counters), np.empty_like(counters)
    key = np.array([seed, _PURPOSES[purpose]], dtype=np.uint64)
    kernels.get().threefry(key, counters, stream, word0, word1)
    out[:, 0], out[:, 1] = word0, word1
    return out.reshape(-1)[:n]


def bits(seed: int, purpose: str, n: int) -> npt.NDArray[np.uint8]:
    """Return n fair bits, the lowest of each word first."""
    packed = words(seed, purpose, (n + 63) // 64).astype("<u8")
    return np.unpackbits(packed.view(np.uint8), bitorder="little")[:n]


def uniforms(seed: int, purpose: str, n: int, *, stream: int = 0) -> npt.NDArray[np.float64]:
    """Return n uniform doubles in [0, 1), from the upper 53 bits of each word."""
    drawn = words(seed, purpose, n, stream=stream) >> np.uint64(11)
    return drawn.astype(np.float64) * 2.0**-53


def permutation(seed: int, purpose: str, n: int, *, stream: int = 0) -> npt.NDArray[np.int64]:
    """Return a uniform order of range(n): sorted by one word each."""
    return np.argsort(words(seed, purpose, n, stream=stream), kind="stable")


def seeds(seed: int, n: int) -> Iterator[int]:
    """Yield n seeds for independent repetitions; the first is the seed itself."""
    yield seed
    for word in words(seed, "kmeans", n, stream=2**32)[1:]:
        yield int(word)
