"""The keyed generator: the published vectors, the oracle, the same words on every kernel set."""

import cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanewise import oracle

WORD = st.integers(0, 2**64 - 1)

# Random123's kat_vectors for "threefry2x64 13": key, counter, result.
KNOWN_ANSWERS = [
    ((0, 0), (0, 0), (0xF167B032C3B480BD, 0xE91F9FEE4B7A6FB5)),
    ((2**64 - 1,) * 2, (2**64 - 1,) * 2, (0xCCDEC5C917A874B1, 0x4DF53ABCA26CEB01)),
    (
        (0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x243F6A8885A308D3, 0x13198A2E03707344),
        (0xC3AAC71561042993, 0x3FE7AE8801AFF316),
    ),
]


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN_ANSWERS)
def test_known_answers(kernels, key, counter, expected):
    counters = np.full(8, counter[0], dtype=np.uint64)
    word0, word1 = cases.threefry(kernels, np.array(key, np.uint64), counters, counter[1])
    assert set(zip(word0.tolist(), word1.tolist(), strict=True)) == {expected}


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN_ANSWERS)
def test_oracle_known_answers(key, counter, expected):
    word0, word1 = oracle.threefry(key, counter[0], counter[1])
    assert (int(word0[0]), int(word1[0])) == expected


@given(st.tuples(WORD, WORD), st.lists(WORD, min_size=8, max_size=8), WORD)
def test_equals_oracle(kernels, key, counter0, counter1):
    counters = np.array(counter0, np.uint64)
    got = cases.threefry(kernels, np.array(key, np.uint64), counters, counter1)
    cases.assert_same_bytes(got, oracle.threefry(key, counters, counter1))


@pytest.mark.parametrize("n", [0, 8, 16, 64, 200])
def test_every_counter_has_its_own_place(kernels, rng, n):
    key = rng.integers(0, 2**64, 2, dtype=np.uint64)
    counters = rng.integers(0, 2**64, n, dtype=np.uint64)
    got = cases.threefry(kernels, key, counters, 5)
    cases.assert_same_bytes(got, cases.threefry(cases.SCALAR, key, counters, 5))
    cases.assert_same_bytes(got, oracle.threefry(key, counters, 5))


def test_wrong_shapes_are_refused(kernels):
    word = np.zeros(8, dtype=np.uint64)
    with pytest.raises(ValueError, match="threefry"):
        kernels.threefry(word[:2], word[:7], 0, word[:7].copy(), word[:7].copy())
    with pytest.raises(ValueError, match="threefry"):
        kernels.threefry(word[:1], word, 0, word.copy(), word.copy())
    with pytest.raises(ValueError, match="threefry"):
        kernels.threefry(word[:2], word, 0, np.zeros(16, np.uint64), word.copy())
