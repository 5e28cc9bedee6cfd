"""Benchmarks: one file for each kernel and each trip, peers beside us in the same run."""

import os

import lanewise as lw

# FAISS ships its own OpenBLAS, which may not know newer CPUs and then takes kernels several times
# slower than this one. It looks when it is loaded, so this comes before the first import of faiss;
# NumPy's own is loaded already and has chosen for itself, which is as fast.
if "avx512" in lw.kernels.available():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
