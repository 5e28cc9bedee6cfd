"""Rotation of 100,000 vectors: three rounds of random signs and transforms, one thread.

FAISS pads a dimension that is no power of two to the next one, so that its 768 and 960 are 1,024.
New memory costs as much as the arithmetic: calls that allocate their result are compared with calls
that do, and calls that fill an array with calls that do.
"""

import faiss
import numpy as np
import pytest

import lanewise as lw
from bench.summary import Claim

N = 100_000
DIMS = (1024, 768, 960)
BEST = lw.kernels.available()[0]


def group(dim):
    return f"rotation of {N:,} x {dim:,} floats"


def ours(isa, filling=False):
    return f"lanewise {isa}, transform(X, out=)" if filling else f"lanewise {isa}, transform(X)"


def _claims(dim):
    for filling, theirs, copy in (
        (False, "faiss apply(X)", "X.copy()"),
        (True, "faiss apply_noalloc(X, out)", "np.copyto(out, X)"),
    ):
        where = group(dim), ours(BEST, filling)
        what = f"rotation of {N:,} x {dim:,} {'into out=' if filling else 'into a new array'}"
        asked = (2, 3) if dim == 1024 else (None, None)
        yield Claim(what, "FAISS", *where, theirs, "faster", asked[0])
        yield Claim(what, "a plain copy", *where, copy, "as long", asked[1])


CLAIMS = [claim for dim in DIMS for claim in _claims(dim)]


@pytest.fixture(scope="module", params=DIMS)
def arrays(request):
    X = np.random.default_rng(0).standard_normal((N, request.param), dtype=np.float32)
    return X, np.empty_like(X)


def rates(X):
    return {"GB/s": 2 * X.nbytes / 1e9}


@pytest.mark.parametrize("filling", [False, True], ids=["new", "out"])
def test_transform(timed, arrays, isa, filling):
    X, out = arrays
    rotation = lw.RandomRotation(X.shape[1], kernels=isa)
    target = out if filling else None
    timed(
        group(X.shape[1]),
        ours(isa, filling),
        lambda: rotation.transform(X, out=target, n_threads=1),
        rates=rates(X),
    )


def test_faiss(timed, arrays):
    X, _ = arrays
    rotation = faiss.HadamardRotation(X.shape[1])
    timed(group(X.shape[1]), "faiss apply(X)", lambda: rotation.apply(X), role="peer")


def test_faiss_filling(timed, arrays):
    X, _ = arrays
    rotation = faiss.HadamardRotation(X.shape[1])
    out = np.empty((N, rotation.d_out), dtype=np.float32)
    source, target = faiss.swig_ptr(X), faiss.swig_ptr(out)
    timed(
        group(X.shape[1]),
        "faiss apply_noalloc(X, out)",
        lambda: rotation.apply_noalloc(N, source, target),
        role="peer",
    )


def test_copyto(timed, arrays):
    X, out = arrays
    timed(
        group(X.shape[1]),
        "np.copyto(out, X)",
        lambda: np.copyto(out, X),
        role="yardstick",
        rates=rates(X),
    )


def test_copy(timed, arrays):
    X, _ = arrays
    timed(group(X.shape[1]), "X.copy()", X.copy, role="yardstick", rates=rates(X))
