"""Wrote the files saved-v1/*.lw and their answers, once: what was saved then must always be read.

Run it for further kinds of index only: ``python make_saved_v1.py NAME ...``; files that are there
are never written again.
"""

import json
import sys
from pathlib import Path

import numpy as np

import lanewise as lw

FOLDER = Path(__file__).parent / "saved-v1"
ANSWERS = FOLDER / "answers.json"

# Sixteenths, the same everywhere and exact in every type.
_rng = np.random.Generator(np.random.PCG64(2026))
X = (_rng.integers(-64, 65, (100, 12)) / 16).astype(np.float32)
Q = (_rng.integers(-64, 65, (3, 12)) / 16).astype(np.float32)
IDS = np.arange(100) * 7 + 3


def _removed(index):
    index.remove(IDS[::9])
    return index


INDEXES = {
    "flat-f32": lambda: lw.Flat(12, storage="f32").add(X),
    "flat-sq8": lambda: _removed(lw.Flat(12, storage="sq8").add(X, IDS)),
    "flat-sq4": lambda: lw.Flat(12, "cosine", storage="sq4").add(X),
    "flat-binary": lambda: lw.Flat(12, "ip", storage="binary").add(X),
    "flat-binary2": lambda: _removed(lw.Flat(12, storage="binary2").add(X, IDS)),
    "flat-binary4": lambda: lw.Flat(12, "cosine", storage="binary4").add(X),
    "flat-uint8": lambda: lw.Flat(12).add((16 * X + 64).astype(np.uint8)),
    "ivf": lambda: _removed(lw.IVF(12, 5, n_probe=5).train(X).add(X, IDS)),
    "ivfpq": lambda: lw.IVFPQ(12, 4, n_subspaces=6, n_bits=4, n_probe=4).train(X).add(X),
    "ivfpq-opq": lambda: (
        lw.IVFPQ(12, 4, "ip", n_subspaces=4, n_bits=4, rotation="opq", by_residual=False, n_probe=4)
        .train(X)
        .add(X)
    ),
    "hnsw": lambda: lw.HNSW.build(X, "cosine", M=4, ef_construction=20),
    "hnsw-sq8": lambda: lw.HNSW.build(X, M=4, ef_construction=20, storage="sq8"),
    "hnsw-sq4": lambda: lw.HNSW.build(X, "ip", M=4, ef_construction=20, storage="sq4"),
    "maxsim": lambda: lw.MaxSim(12).add((X, [0, 1, 5, 12, 30, 31, 50, 66, 82, 99, 100])),
}


def kind(name):
    """Return the class that a file is of."""
    classes = {
        "flat": lw.Flat,
        "ivf": lw.IVF,
        "ivfpq": lw.IVFPQ,
        "hnsw": lw.HNSW,
        "maxsim": lw.MaxSim,
    }
    return classes[name.split("-")[0]]


def answer(index):
    """Return the nearest five of each query: distances in hexadecimal, and ids."""
    if isinstance(index, lw.MaxSim):
        found = index.rescore((Q, [0, 1, 3]), [range(10)] * 2, 5)
    else:
        found = index.search(Q, 5)
    return {"distances": found.distances.astype("<f4").tobytes().hex(), "ids": found.ids.tolist()}


def main(names):
    FOLDER.mkdir(exist_ok=True)
    answers = json.loads(ANSWERS.read_text("ascii")) if ANSWERS.exists() else {}
    for name in names or INDEXES:
        path = FOLDER / f"{name}.lw"
        if path.exists():
            raise SystemExit(f"{path.name} is there: what was saved is never written again")
        index = INDEXES[name]()
        index.save(path)
        answers[name] = answer(index)
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n", "ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
