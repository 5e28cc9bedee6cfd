"""Draws: our generator's words, and what is made of them, for ever the same."""

import hashlib

import numpy as np
import pytest
from cases import assert_same_bytes
from hypothesis import given
from hypothesis import strategies as st

from lanewise import draws, kernels, oracle

FROZEN = "77ba0f975b57b67a9c37ab30c3d227d3c73179e4b584b753358a3e629d303a62"
PURPOSES = {"rotation": 1, "kmeans": 2, "ivf": 3}
SEED = st.integers(0, 2**64 - 1)


def words_by_hand(seed, purpose, n, stream=0):
    blocks = np.arange(n // 2 + 1, dtype=np.uint64)
    word0, word1 = oracle.threefry([seed, PURPOSES[purpose]], blocks, stream)
    return np.stack([word0, word1], axis=1).reshape(-1)[:n]


@given(SEED, st.sampled_from(sorted(PURPOSES)), st.integers(0, 70), SEED)
def test_words_are_the_generator_block_by_block(seed, purpose, n, stream):
    got = draws.words(seed, purpose, n, stream=stream)
    assert_same_bytes(got, words_by_hand(seed, purpose, n, stream))
    assert_same_bytes(got[: n // 3], draws.words(seed, purpose, n // 3, stream=stream))


@given(SEED, st.sampled_from(sorted(PURPOSES)), st.integers(0, 200))
def test_what_is_made_of_words(seed, purpose, n):
    words = [int(word) for word in words_by_hand(seed, purpose, n)]
    bits = draws.bits(seed, purpose, n)
    assert bits.tolist() == [words[i // 64] >> i % 64 & 1 for i in range(n)]
    for stream in (0, 5):
        drawn = words_by_hand(seed, purpose, n, stream)
        exact = [(int(word) >> 11) / 2**53 for word in drawn]
        uniforms = draws.uniforms(seed, purpose, n, stream=stream)
        assert uniforms.tolist() == exact
        assert all(0 <= u < 1 for u in exact)
        order = draws.permutation(seed, purpose, n, stream=stream)
        assert order.tolist() == sorted(range(n), key=lambda i, drawn=drawn: (drawn[i], i))


def test_uses_of_one_seed_have_nothing_in_common():
    seen = set()
    drawn = 0
    for seed in (0, 1, 2**64 - 1):
        for purpose in PURPOSES:
            for stream in (0, 1, 2**32):
                seen.update(draws.words(seed, purpose, 50, stream=stream).tolist())
                drawn += 50
    # 1350 words of 64 bits: two are equal by chance once in 2e13 such tests.
    assert len(seen) == drawn


def test_seeds_begin_with_the_seed_itself():
    assert list(draws.seeds(5, 1)) == [5]
    four = list(draws.seeds(5, 4))
    assert four[0] == 5
    assert four[1:] == words_by_hand(5, "kmeans", 4, stream=2**32)[1:].tolist()
    assert list(draws.seeds(5, 3)) == four[:3]
    assert all(type(seed) is int for seed in four)


def test_an_unknown_purpose_is_refused():
    with pytest.raises(KeyError, match="forests"):
        draws.words(0, "forests", 3)


@pytest.mark.parametrize("isa", kernels.available())
def test_every_kernel_set_draws_the_same_for_ever(monkeypatch, isa):
    """Frozen: stored seeds must mean the same data in ten years."""
    monkeypatch.setenv("LANEWISE_ISA", isa)
    state = hashlib.sha256()
    for purpose in PURPOSES:
        state.update(draws.words(2**63 + 5, purpose, 100, stream=9).astype("<u8").tobytes())
        state.update(draws.bits(3, purpose, 100).tobytes())
        state.update(draws.uniforms(4, purpose, 100, stream=1).astype("<f8").tobytes())
        state.update(draws.permutation(5, purpose, 100).astype("<i8").tobytes())
    assert state.hexdigest() == FROZEN
