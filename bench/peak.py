"""The assignment of k-means against the machine's peak: ``python -m bench.peak``.

The peak is what registers alone allow: independent multiply-adds of float32, and products of bytes
where there is an instruction for them, without a load. NumPy's product of two matrices that stay in
the cache stands beside it. Then come the tile kernel on points that lie in the cache, and one
assignment of a fit by float products and by two-byte codes, for several dimensions and numbers of
centroids; rounds take turns, and medians count. GFLOP/s are of the products alone, 2 n d k.

On a machine that others use, ``--fastest`` counts the fastest round, and ``--cpu-time`` takes the
CPU time of whatever runs on one thread.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

import lanewise as lw
from bench import machine, peers
from bench.summary import threads_text
from lanewise.lloyd import nearest

ASKED = 0.85
ASKED_FROM = (128, 256)  # dimensions, centroids

LANES = 16
# Sets with an instruction for products of bytes.
CODED = ("amx", "avx512vnni", "avx2vnni", "neondot")
FLOATS = ("avx512", "avx2", "neon", "scalar")

Call = Callable[[], object]


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return zeros that begin on a cache line, as drivers have them."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 64, dtype=np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + n_bytes].view(dtype).reshape(shape)


def drawn(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return normal floats that begin on a cache line."""
    x = aligned(shape, np.float32)
    rng.standard_normal(out=x, dtype=np.float32)
    return x


@dataclass
class Timed:
    """Something that does so many operations, and the seconds that it took."""

    call: Call
    operations: float
    seconds: float = math.nan

    @property
    def rate(self) -> float:
        """Operations a second, in 1e9."""
        return self.operations / self.seconds / 1e9


@dataclass(frozen=True)
class Pace:
    """How many rounds there are, by which clock, and whether the fastest of them counts."""

    rounds: int
    fastest: bool
    clock: Callable[[], float]

    def take_turns(self, all_timed: Sequence[Timed]) -> None:
        """Run everything once untimed, then in turns."""
        for timed in all_timed:
            timed.call()
        seconds = np.empty((self.rounds, len(all_timed)))
        for found in seconds:
            for i, timed in enumerate(all_timed):
                started = self.clock()
                timed.call()
                found[i] = self.clock() - started
        counts = (np.min if self.fastest else np.median)(seconds, axis=0)
        for timed, count in zip(all_timed, counts, strict=True):
            timed.seconds = float(count)


# --------------------------------------------------------------------------------------- peaks


def together(call: Call, n_threads: int, pool: ThreadPoolExecutor) -> Call:
    """Return a call that makes this one on every thread at once."""
    return lambda: list(pool.map(lambda _: call(), range(n_threads)))


# They are timed for some 30 ms, as long as what is compared with them: the clock follows the kind
# of work, but not at once, and a short peak would be taken at the clock of what ran before.


def float_peak(isa: str, n_threads: int, pool: ThreadPoolExecutor) -> Timed:
    """Return multiply-adds of floats in registers."""
    kernels = lw.kernels.get(isa)
    n = 48 << (14 if isa == "scalar" else 22)
    x = np.ones(LANES, dtype=np.float32)

    def call() -> None:
        kernels.multiply_adds(n, x, x, np.empty_like(x))

    return Timed(together(call, n_threads, pool), 2.0 * LANES * n * n_threads)


def code_peak(isa: str, n_threads: int, pool: ThreadPoolExecutor) -> Timed:
    """Return products of bytes in registers."""
    kernels = lw.kernels.get(isa)
    n = 3072 << (19 if isa == "amx" else 16)
    codes, query = np.ones((LANES, 4), dtype=np.int8), np.ones(4, dtype=np.int8)

    def call() -> None:
        kernels.multiply_add_codes(n, codes, query, np.empty(LANES, dtype=np.int32))

    return Timed(together(call, n_threads, pool), 8.0 * LANES * n * n_threads)


def numpy_product() -> Timed:
    """Return products of matrices that stay in the second-level cache."""
    n = 384
    a = np.ones((n, n), dtype=np.float32)
    out = np.empty_like(a)
    return Timed(lambda: np.matmul(a, a, out=out), 2.0 * n**3)


def race_peaks(n_threads: int, pace: Pace) -> None:
    """Print the peaks of all kernel sets."""
    found = {}
    with ThreadPoolExecutor(n_threads) as pool, peers.threads(n_threads):
        for isa in lw.kernels.available():
            if isa in FLOATS:
                found[f"floats {isa}"] = float_peak(isa, n_threads, pool)
            if isa in CODED:
                found[f"codes {isa}"] = code_peak(isa, n_threads, pool)
        found["NumPy"] = numpy_product()
        pace.take_turns([*found.values()])
    names = {"floats": "multiply-adds of float32", "codes": "products of int8"}
    rows = []
    for name, timed in found.items():
        kind, _, isa = name.partition(" ")
        what = f"{names[kind]}, {isa}" if isa else "NumPy, float32 384 x 384 x 384"
        rows.append([what, f"{timed.rate:,.0f}"])
    print(f"\nthe peak, {threads_text(n_threads)}\n")
    head = ["", "1e9 operations/s"]
    print(tabulate(rows, head, "simple", colalign=("left", "right"), disable_numparse=True))


# ---------------------------------------------------------------------------------- assignment


@dataclass(frozen=True)
class Measured:
    """Shares of the peak, and of the time that is the tile kernel's."""

    dim: int
    k: int
    floats: float
    peak: float
    tile: float
    tile_share: float
    codes: float | None = None
    code_peak: float = 1.0
    code_tile_share: float = 0.0

    @property
    def share(self) -> float:
        """Of the float path, of the peak."""
        return self.floats / self.peak

    @property
    def code_share(self) -> float | None:
        """Of the code path: three integer products for each float one."""
        return None if self.codes is None else 3 * self.codes / self.code_peak


def together_points(dim: int, bytes_each: int) -> int:
    """Return how many points the driver hands to a kernel at once."""
    return int(np.clip(512 * 1024 // (LANES * bytes_each), 1, 16)) * LANES


def tile_of_floats(isa: str, dim: int, k: int, n: int, rng: np.random.Generator) -> Timed:
    """Return the kernel alone, as often as n points need it, always on the same points."""
    kernels = lw.kernels.get(isa)
    some = together_points(dim, 4 * dim)
    points, panels = drawn((some, dim), rng), drawn((k // LANES, dim, LANES), rng)
    bias, scratch = drawn((k,), rng), aligned((some, 3 * LANES), np.float32)
    labels = np.empty(some, dtype=np.int32)
    scores, runner_ups = np.empty(some, dtype=np.float32), np.empty(some, dtype=np.float32)
    times = n // some

    def call() -> None:
        for _ in range(times):
            kernels.assign(points, panels, bias, scratch, labels, scores, runner_ups)

    return Timed(call, 2.0 * times * some * dim * k)


def tile_of_codes(isa: str, dim: int, k: int, n: int, rng: np.random.Generator) -> Timed:
    """Return the same of two-byte codes."""
    kernels = lw.kernels.get(isa)
    stretches = -(-dim // 64)
    some = together_points(dim, 2 * 64 * stretches)
    points = aligned((some // LANES, stretches, 2, LANES, 64), np.int8)
    panels = aligned((k // LANES, 2, stretches * LANES, LANES, 4), np.int8)
    for codes in (points, panels):
        codes[:] = rng.integers(-127, 128, codes.shape, dtype=np.int8)
    ones, bias = np.ones(some, dtype=np.float32), drawn((k,), rng)
    scratch, near = aligned((3 * some, LANES), np.float32), np.empty(some, dtype=np.int32)
    times = n // some

    def call() -> None:
        for _ in range(times):
            kernels.assign_codes(points, ones, ones, panels, bias, scratch, near)

    return Timed(call, 2.0 * times * some * dim * k)


def measure(dim: int, k: int, n_threads: int, pace: Pace, flops: float) -> Measured:
    """Time one shape: peaks, kernels and assignments in turns."""
    rng = np.random.default_rng(dim * k)
    n = int(np.clip(flops / (2 * dim * k) // 1024, 4, 64)) * 1024
    X = drawn((n, dim), rng)
    C = X[rng.permutation(n)[:k]] + rng.standard_normal((k, dim), dtype=np.float32) / 2

    def path(isa: str) -> Timed:
        kernels = lw.kernels.get(isa)
        return Timed(lambda: nearest(X, C, "l2", kernels, n_threads), 2.0 * n * dim * k)

    floats = next(isa for isa in lw.kernels.available() if isa in FLOATS)
    codes = next((isa for isa in lw.kernels.available() if isa == "amx"), None)
    with ThreadPoolExecutor(n_threads) as pool:
        peak, by_floats = float_peak(floats, n_threads, pool), path(floats)
        tile = tile_of_floats(floats, dim, k, n, rng)
        all_timed = [peak, by_floats, tile]
        if codes is not None:
            most, by_codes = code_peak(codes, n_threads, pool), path(codes)
            code_tile = tile_of_codes(codes, dim, k, n, rng)
            all_timed += [most, by_codes, code_tile]
        pace.take_turns(all_timed)
    one = tile.rate * n_threads
    found = Measured(dim, k, by_floats.rate, peak.rate, one, min(1.0, by_floats.rate / one))
    if codes is None:
        return found
    share = min(1.0, by_codes.rate / (code_tile.rate * n_threads))
    return Measured(
        dim, k, found.floats, found.peak, one, found.tile_share, by_codes.rate, most.rate, share
    )


def report(all_found: Sequence[Measured], n_threads: int) -> None:
    """Print what was measured, and whether what is asked was reached."""
    rows = []
    for one in all_found:
        row = [f"{one.dim}", f"{one.k}", f"{one.tile / one.peak:.0%}"]
        row += [f"{one.floats:.0f}", f"{one.share:.0%}", f"{one.tile_share:.0%}"]
        if one.codes is not None and one.code_share is not None:
            row += [f"{one.codes:.0f}", f"{one.codes / one.peak:.1f}"]
            row += [f"{one.code_share:.0%}", f"{one.code_tile_share:.0%}"]
        rows.append(row)
    head = ["d", "k", "tile of peak", "floats GFLOP/s", "of peak", "in the tile"]
    if all_found[0].codes is not None:
        head += ["codes GFLOP/s", "times float peak", "of int8 peak", "in the tile"]
    print(f"\none assignment, {threads_text(n_threads)}\n")
    align = ["right"] * len(head)
    print(tabulate(rows, head, "simple", colalign=align, disable_numparse=True), flush=True)
    asked = [m.share for m in all_found if m.dim >= ASKED_FROM[0] and m.k >= ASKED_FROM[1]]
    if asked:
        verdict = "reached" if min(asked) >= ASKED else "NOT reached"
        print(
            f"\nfloat path, d >= {ASKED_FROM[0]}, k >= {ASKED_FROM[1]}: {min(asked):.0%} to "
            f"{max(asked):.0%} of the peak, asked {ASKED:.0%}: {verdict}"
        )


def draw(all_found: Sequence[Measured], title: str, file: Path) -> None:
    """Draw shares of the peaks over the dimension, a line for each number of centroids."""
    from matplotlib.figure import Figure

    panels = [
        ("tile kernel, float32", lambda m: m.tile / m.peak),
        ("one assignment, float32", lambda m: m.share),
    ]
    if all_found[0].codes is not None:
        panels.append(("one assignment, two-byte codes", lambda m: m.code_share))
    figure = Figure(figsize=(4.6 * len(panels), 4.0), layout="constrained")
    for place, (name, share) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        for k in dict.fromkeys(m.k for m in all_found):
            some = [m for m in all_found if m.k == k]
            axes.plot([m.dim for m in some], [100 * share(m) for m in some], "o-", label=f"k = {k}")
        peak = "int8 peak, three products" if place == 3 else "multiply-add peak"
        axes.set(title=name, xlabel="dimensions", ylabel=f"% of the {peak}")
        axes.set_ylim(0, 60 if place == 3 else 100)
        axes.grid(alpha=0.3)
        if place < 3:
            axes.axhline(100 * ASKED, color="grey", linestyle=":", linewidth=1)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title)
    figure.savefig(file, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peak", description=__doc__)
    parser.add_argument("--dims", nargs="*", type=int, default=[64, 128, 256, 384, 768, 1024])
    parser.add_argument(
        "--centroids",
        nargs="*",
        type=int,
        default=[64, 256, 512, 1024, 4096],
        help="multiples of 16",
    )
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fastest", action="store_true", help="count the fastest round")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread, not the wall clock")
    parser.add_argument("--picture", type=Path, help="draw shares of the peaks, of the first")
    parser.add_argument("--quick", action="store_true", help="does everything run?")
    options = parser.parse_args(arguments)
    started = machine.clocks()
    print(f"lanewise {lw.__version__} ({', '.join(lw.kernels.available())})", flush=True)
    if options.quick:
        options.dims, options.centroids, options.rounds = [64, 128], [64, 256], 2
    for place, n_threads in enumerate(options.threads):
        cpu_time = options.cpu_time and n_threads == 1
        clock = time.process_time if cpu_time else time.perf_counter
        pace = Pace(options.rounds, options.fastest, clock)
        race_peaks(n_threads, pace)
        all_found = [
            measure(dim, k, n_threads, pace, 1e9 if options.quick else 1e10)
            for dim in options.dims
            for k in options.centroids
        ]
        report(all_found, n_threads)
        if place == 0 and options.picture is not None:
            draw(all_found, threads_text(n_threads), options.picture)
    machine.say_who_else_ran(started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
