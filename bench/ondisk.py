"""Rows on a disk, cold: ``python -m bench.ondisk [--gigabytes G] [--folder FOLDER]``. Linux only.

How named rows are best read when none of them is in memory: as a map that is touched, with and
without `madvise`; by as many reads at once as there are threads; and by `RowsOnDisk`, which asks
for all of a call at once. Before every call the file is dropped from memory; the median of several
calls with other rows each.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tabulate import tabulate

import lanewise as lw

CALLS = 7


def drop(path):
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def distances(query, rows):
    difference = rows - query
    return np.einsum("md,md->m", difference, difference)


def mapped(path, advice=None):
    """Touch a map, as `Flat.load(mmap=True)` does."""

    def call(query, ids):
        rows = np.load(path, mmap_mode="r")
        if advice is not None:
            rows._mmap.madvise(advice)
        return distances(query, rows[ids])

    return call


def mapped_ahead(path):
    """Touch a map behind `madvise` for each row."""

    def call(query, ids):
        rows = np.load(path, mmap_mode="r")
        begin = rows.offset
        rows._mmap.madvise(mmap.MADV_RANDOM)
        size = rows.itemsize * rows.shape[1]
        for i in ids:
            at = begin + int(i) * size
            first = at // mmap.PAGESIZE * mmap.PAGESIZE
            rows._mmap.madvise(mmap.MADV_WILLNEED, first, at + size - first)
        return distances(query, rows[ids])

    return call


def reads(path, n_threads):
    """Wait for as many reads at once as there are threads."""
    n, dim = np.load(path, mmap_mode="r").shape
    begin = os.path.getsize(path) - 4 * n * dim
    pool = ThreadPoolExecutor(n_threads)

    def call(query, ids):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        rows = np.empty((len(ids), dim), np.float32)

        def read(some):
            for at in some:
                os.preadv(descriptor, [rows[at]], begin + int(ids[at]) * 4 * dim)

        list(pool.map(read, np.array_split(np.arange(len(ids)), n_threads)))
        os.close(descriptor)
        return distances(query, rows)

    return call


def on_disk(path, cache_bytes=None, n_threads=1):
    rows = lw.RowsOnDisk(path, cache_bytes=cache_bytes, n_threads=n_threads)
    return lambda query, ids: rows.score(query, ids)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ondisk", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--folder", help="where the file may lie for a while")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "rows.npy"
        n = int(options.gigabytes * 2**30) // (4 * options.dim)
        rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, options.dim))
        rng = np.random.default_rng(0)
        for begin in range(0, n, 50_000):
            part = rows[begin : begin + 50_000]
            part[...] = rng.standard_normal(part.shape, dtype=np.float32)
        del rows, part
        ways = {
            "map": mapped(path),
            "map, MADV_RANDOM": mapped(path, mmap.MADV_RANDOM),
            "map, MADV_WILLNEED for each row": mapped_ahead(path),
            **{f"pread, {t} threads": reads(path, t) for t in (1, 8, 64)},
            "RowsOnDisk, 1 thread": on_disk(path),
            "RowsOnDisk, 2 threads": on_disk(path, n_threads=2),
            "RowsOnDisk, 1 thread, nothing stays": on_disk(path, 0),
        }
        for m in (16, 64, 1024):
            table = []
            draws = [
                (rng.standard_normal(options.dim, dtype=np.float32), rng.choice(n, m, False))
                for _ in range(CALLS)
            ]
            for who, call in ways.items():
                seconds = []
                for query, ids in draws:
                    drop(path)
                    started = time.perf_counter()
                    found = call(query, ids)
                    seconds.append(time.perf_counter() - started)
                assert len(found) == m
                median = statistics.median(seconds)
                table.append([who, 1e3 * median, 1e6 * median / m, 1e3 * min(seconds)])
            print(f"{m} rows of {n:,} x {options.dim}, cold")
            print(tabulate(table, ["", "ms a call", "us a row", "fastest ms"], floatfmt=".2f"))
            print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
