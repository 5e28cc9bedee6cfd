"""Problems with a rough first stage and a dear second one, and the ways to spend one budget."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

import lanewise as lw
from lanewise import oracle
from lanewise.lanes import LaneSearch, Setting
from lanewise.lanes.compare import shards
from lanewise.result import SearchResult

K = 10
KEY = 2511_04221


class Coarse:
    """A first stage: rows in the order of product codes, which know them roughly.

    It ranks by the distance to the decoded row, as tables of a product quantiser do.
    """

    def __init__(self, X: np.ndarray, n_subspaces: int, n_bits: int = 8, seed: int = 0) -> None:
        self.quantizer = lw.ProductQuantizer(
            X.shape[1], n_subspaces, n_bits=n_bits, train_iterations=10, seed=seed
        ).train(X[: 256 * 64])
        self.dim = X.shape[1]
        self.flat = lw.Flat(self.dim).add(self.quantizer.decode(self.quantizer.encode(X)))

    def pool(self, queries: np.ndarray, k_pool: int) -> SearchResult:
        return self.flat.search(queries, k_pool)


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows, queries, the truth, and a first stage."""

    name: str
    base: np.ndarray
    queries: np.ndarray
    flat: lw.Flat
    truth: np.ndarray
    coarse: Coarse
    n_subspaces: int

    def recall(self, ids: np.ndarray) -> float:
        return oracle.recall(ids, self.truth[: len(ids)], K)


def problem(
    name: str, base: np.ndarray, queries: np.ndarray, n_subspaces: int, seed: int = 0
) -> Problem:
    """Find the exact answers, and train the first stage."""
    X = np.ascontiguousarray(base, dtype=np.float32)
    Q = np.ascontiguousarray(queries, dtype=np.float32)
    flat = lw.Flat(X.shape[1]).add(X)
    coarse = Coarse(X, n_subspaces, seed=seed)
    return Problem(name, X, Q, flat, flat.search(Q, K).ids, coarse, n_subspaces)


def problems(options: argparse.Namespace) -> Iterator[Problem]:
    """Real vectors where they are, and drawn ones."""
    small = lw.datasets.sift_small()
    if options.data_folder is None:
        yield problem("SIFT, shipped", small.base, small.queries, 16)
        return
    for name, file, n_subspaces in (
        ("SIFT", "sift_300k.npz", 16),
        ("text", "text_60k.npz", 24),
    ):
        found = np.load(options.data_folder / file)
        n = options.queries
        yield problem(name, found["base"][: options.rows], found["queries"][:n], n_subspaces)


class Lossy:
    """An executor whose lanes answer at once or never: a simulated schedule.

    `lost` are the lanes that never do.
    """

    def __init__(self, flat: lw.Flat, lost: tuple[int, ...] = ()) -> None:
        self.flat, self.lost = flat, lost

    def submit(self, lane: int, queries: np.ndarray, ids: np.ndarray) -> Future:
        future: Future = Future()
        if lane not in self.lost:
            future.set_result(self.flat.score(queries, ids))
        return future

    def close(self) -> None:
        """Nothing to give back."""


Answer = Callable[[tuple[int, ...]], np.ndarray]


def lanes(problem: Problem, setting: Setting, **options: object) -> Answer:
    """Lanes with a plan: ids by lost lanes."""

    def answer(lost: tuple[int, ...]) -> np.ndarray:
        executor = Lossy(problem.flat, lost)
        search = LaneSearch(problem.coarse, executor, key=KEY, deadline=0.0, step=10**6, **options)
        return search.search(problem.queries, K, setting=setting).ids

    return answer


def naive(problem: Problem, setting: Setting) -> Answer:
    """Every lane scores the same best candidates; duplicates are removed."""
    same = Setting(setting.n_lanes, setting.k_lane, alpha=0.0)
    return lanes(problem, same)


def wider(problem: Problem, setting: Setting) -> Answer:
    """One worker scores the whole budget; without it there is nothing."""
    whole = Setting(1, setting.k_total)
    answer = lanes(problem, whole)
    return lambda lost: answer((0,) if lost else ())


def hash_shards(problem: Problem, setting: Setting) -> Answer:
    """Every lane has the rows that a hash gives it, and a first stage of its own over them."""
    parts = shards(len(problem.base), setting.n_lanes, 0)
    found = []
    for rows in parts:
        coarse = Coarse(problem.base[rows], problem.n_subspaces)
        ids = rows[coarse.pool(problem.queries, setting.k_lane).ids]
        found.append((problem.flat.score(problem.queries, ids), ids))

    def answer(lost: tuple[int, ...]) -> np.ndarray:
        left = [part for lane, part in enumerate(found) if lane not in lost]
        if not left:
            return np.full((len(problem.queries), K), -1)
        distances, ids = (np.concatenate(arrays, axis=1) for arrays in zip(*left, strict=True))
        return lw.merge(distances, ids, K).ids

    return answer


def without_lanes(problem: Problem, setting: Setting) -> dict[str, Answer]:
    """Return what the same budget gives without a plan."""
    return {
        "naive lanes, de-duplicated": naive(problem, setting),
        "one index, whole budget": wider(problem, setting),
        "hash shards": hash_shards(problem, setting),
    }


def mean_recall(problem: Problem, answer: Answer, n_lanes: int, n_lost: int) -> float:
    """Recall on average over which lanes are lost."""
    lost = list(itertools.combinations(range(n_lanes), n_lost))
    return float(np.mean([problem.recall(answer(gone)) for gone in lost]))


def table(rows: list[list[object]], head: list[str]) -> str:
    return tabulate(rows, head, "simple", disable_numparse=True)


def parser(name: str, text: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"python -m bench.lanes.{name}", description=text)
    made.add_argument("--data-folder", type=Path, help="where sift_300k.npz and text_60k.npz are")
    made.add_argument("--queries", type=int, default=500)
    made.add_argument("--rows", type=int, help="search the first so many (default: all)")
    return made


def draw(
    found: dict[str, dict[str, list[float]]],
    styles: dict[str, tuple[str, str, float]],
    x: list[float],
    xlabel: str,
    path: str,
    *,
    log: bool = False,
) -> None:
    """Draw a panel for each set: recall over `x`, a line for each style (colour, dashes, width)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 4.6), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axis, (name, lines) in zip(axes, found.items(), strict=True):
        for who, (color, dashes, width) in styles.items():
            line = {"color": color, "linestyle": dashes, "linewidth": width}
            axis.plot(x, lines[who], marker="o", markersize=4, label=who, **line)
        axis.set_title(name)
        axis.set_xlabel(xlabel)
        if log:
            axis.set_xscale("log")
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(f"recall@{K}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
