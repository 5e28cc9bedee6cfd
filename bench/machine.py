"""What the machine does beside a benchmark, and what its memory gives."""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


def clocks():
    """Time now, CPU time of the machine, CPU time of this process and its children."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    user, nice, system, _idle, _wait, irq, softirq, stolen = (int(field) for field in fields[:8])
    busy = (user + nice + system + irq + softirq + stolen) / per_second
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return time.monotonic(), busy, own


def taken_by_others(before):
    """CPUs that other processes kept busy since `before`, on average; None if nobody counts."""
    now = clocks()
    if before is None or now is None or now[0] <= before[0]:
        return None
    busy, own = now[1] - before[1], now[2] - before[2]
    return max(0.0, (busy - own) / (now[0] - before[0]))


def say_who_else_ran(before):
    """Print how many CPUs other processes kept busy since `before`."""
    taken = taken_by_others(before)
    if taken is not None:
        print(f"\nOther processes took {taken:.2f} CPUs")


def memory():
    """Bytes of memory here, and the most that this process held; None if nobody counts."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        status = Path("/proc/self/status").read_text()
    except (OSError, AttributeError, ValueError):
        return None, None
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return total, 1024 * int(peak.split()[1])


def forget_peak():
    """Let the most that this process held be what it holds now, where that can be done."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def read_bandwidth(n_threads, n_bytes=2_000_000_000, rounds=5):
    """Bytes a second that `n_threads` read from memory, and by what.

    The fastest of two NumPy loops that are bound by memory alone: the largest of all int8, and the
    product of a float32 vector with itself.
    """
    block = np.ones(n_bytes // 4 // n_threads, dtype=np.float32)
    blocks = [block] + [block.copy() for _ in range(n_threads - 1)]
    reads = {
        "np.max of int8": lambda x: x.view(np.int8).max(),
        "np.dot of float32": lambda x: np.dot(x, x),
    }
    best, by = 0.0, ""
    with ThreadPoolExecutor(n_threads) as pool:
        for name, read in reads.items():
            for _ in range(rounds):
                started = time.perf_counter()
                list(pool.map(read, blocks))
                speed = block.nbytes * n_threads / (time.perf_counter() - started)
                if speed > best:
                    best, by = speed, name
    return best, by
