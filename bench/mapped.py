"""What a fit of memory-mapped points needs beside them: ``python -m bench.mapped [N [D [K]]]``.

The file is larger than what the fit allocates, so its pages are not counted: anonymous memory is,
looked at every few milliseconds. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import lanewise as lw


def anonymous_bytes() -> int:
    """Return how much memory this process has that is no file's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


class Peak(threading.Thread):
    """Looks at the memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = anonymous_bytes()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.003):
            self.most = max(self.most, anonymous_bytes())


def measure(path: str, k: int, init: str) -> None:
    """Fit the points of a file and print what that needs."""
    mapped = np.load(path, mmap_mode="r")
    # Threads and kernels take their memory before we look.
    lw.KMeans(2).fit(np.eye(4))
    peak = Peak()
    peak.start()
    began = time.perf_counter()
    lw.KMeans(k, init=init, max_iter=3).fit(mapped)
    taken = time.perf_counter() - began
    peak.done.set()
    peak.join()
    beside = peak.most - peak.before
    print(
        f"{init}: {mapped.nbytes / 2**20:.0f} MB of points, {beside / 2**20:.1f} MB beside them: "
        f"{beside / mapped.nbytes:.1%}, {beside / len(mapped):.1f} bytes a point, {taken:.1f} s",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mapped", description=__doc__)
    for name, default in (("n", 1_000_000), ("d", 128), ("k", 256)):
        parser.add_argument(name, type=int, nargs="?", default=default)
    parser.add_argument("--folder", help="where the file of points may lie for a while")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = str(Path(folder) / "X.npy")
        shape = (options.n, options.d)
        points = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=shape)
        rng = np.random.default_rng(0)
        for begin in range(0, options.n, 50_000):
            part = points[begin : begin + 50_000]
            part[...] = rng.standard_normal(part.shape, dtype=np.float32)
        del points, part
        # In a process that has freed nothing yet, and gives back what it frees.
        for init in ("random", "k-means++"):
            call = f"from bench.mapped import measure; measure({path!r}, {options.k}, {init!r})"
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
            subprocess.run([sys.executable, "-c", call], env=environment, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
