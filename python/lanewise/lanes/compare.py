"""The experiment behind ``lanewise lanes``: one budget spent in every way, on the same vectors.

`prepare` fixes rows, queries and the exact truth, `compare_index` runs every variant on one kind
of index, `planner_costs` times the planning itself. Nothing here prints; `report` does.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import oracle
from lanewise.arrays import as_matrix, check_choice, check_int
from lanewise.datasets import Dataset
from lanewise.flat import Flat
from lanewise.hnsw import HNSW
from lanewise.ivf import IVF
from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import SCHEMES, Plan, plan, query_keys
from lanewise.lanes.search import LaneSearch
from lanewise.progress import Progress, say_nothing
from lanewise.result import SearchResult
from lanewise.threads import resolve_threads

__all__ = [
    "ALPHAS",
    "INDEXES",
    "PAPER_PLANNER_NS",
    "Budget",
    "Comparison",
    "PlannerCosts",
    "Problem",
    "SchemeCost",
    "Variant",
    "compare_index",
    "planner_costs",
    "prepare",
    "rank_recalls",
]

INDEXES = ("hnsw", "ivf", "flat")
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

PAPER_PLANNER_NS = 37_000.0
"""What arXiv 2511.04221 reports for planning one query, in its own setting."""

MAX_ROWS = 50_000
MAX_NUMBERS = 10_000_000
MAX_QUERIES = 1_000
"""How much of a large file is used if nothing is said: a graph over it is built in seconds."""

_HELD_OUT = 200

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Budget:
    """How much may be scored for a query, and by how many.

    Attributes
    ----------
    n_lanes, k_lane : int
        Lanes, and candidates that each of them scores at most.
    k : int
        Length of the answer.
    """

    n_lanes: int = 4
    k_lane: int = 16
    k: int = 10

    def __post_init__(self) -> None:
        check_int(self.n_lanes, "n_lanes", low=1, high=2**16)
        check_int(self.k_lane, "k_lane", low=1)
        check_int(self.k, "k", low=1)
        if self.k > self.k_total:
            raise ValueError(f"k: expected at most n_lanes * k_lane = {self.k_total}, got {self.k}")

    @property
    def k_total(self) -> int:
        """Candidates that all lanes score together."""
        return self.n_lanes * self.k_lane


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows, queries, and what the exact answers are.

    Attributes
    ----------
    name, metric : str
    base, queries : ndarray of float32
    flat : Flat
        The rows once more, for exact scores.
    truth : ndarray of int64, shape (n_queries, k)
        The nearest rows in the order of (distance, id).
    rows_in_file : int
    held_out : bool
        Whether the queries are rows taken out of the base.
    given_neighbors : str
        "none"; "not comparable", because other rows are searched; "agree"; or "disagree", if they
        differ from the truth by more than ties.
    """

    name: str
    metric: str
    base: Floats
    queries: Floats
    flat: Flat
    truth: Ids
    rows_in_file: int
    held_out: bool
    given_neighbors: str


@dataclass(frozen=True)
class Variant:
    """One way of spending the budget, and what came of it. Numbers are means over the queries.

    Attributes
    ----------
    name : str
        "naive", "naive-deduplicated", "single-lane-budget", "single-whole-budget", "hash-shards",
        or "lanes".
    scheme, alpha, head
        Of the plan, None where there is none.
    recall, recall_lane_lost : float
        Share of the true neighbours among the answer; the second without one lane's candidates,
        on average over which lane that is.
    pairwise_jaccard, mway_jaccard : float or None
        Overlap of the lanes' candidates; None for a single index.
    candidates_per_lane, fewest_candidates, most_candidates : float
        The mean, and the extremes over queries and lanes.
    scored : float
        Candidates that all lanes score and report.
    index_rows : float
        Rows that the searches of indices looked at, all lanes together, with the pool's counted
        once: for a graph the distances that steered it.
    """

    name: str
    scheme: str | None
    alpha: float | None
    head: int | None
    recall: float
    recall_lane_lost: float
    pairwise_jaccard: float | None
    mway_jaccard: float | None
    candidates_per_lane: float
    fewest_candidates: int
    most_candidates: int
    scored: float
    index_rows: float


@dataclass(frozen=True)
class Comparison:
    """All variants on one kind of index.

    Attributes
    ----------
    index : {"hnsw", "ivf", "flat"}
    parameters : dict
        How the index was built and searched.
    build_seconds : float
        For the whole index and the shards together.
    variants : tuple of Variant
    """

    index: str
    parameters: dict[str, int]
    build_seconds: float
    variants: tuple[Variant, ...]

    def find(
        self, name: str, scheme: str | None = None, alpha: float | None = None, head: int = 0
    ) -> Variant:
        """Return the variant of a name, and for "lanes" of a scheme, alpha and head."""
        wanted = (name, scheme, alpha, head if scheme else None)
        for variant in self.variants:
            if (variant.name, variant.scheme, variant.alpha, variant.head) == wanted:
                return variant
        raise ValueError(f"name: expected a variant of this comparison, got {wanted}")

    @property
    def break_even(self) -> float:
        """Share of lanes in time above which partitioned lanes beat naive ones.

        With a share s in time, disjoint lanes find about s * R(whole budget), and naive ones
        R(one lane's budget) as long as any answers.
        """
        whole = self.find("single-whole-budget").recall
        return self.find("single-lane-budget").recall / whole if whole > 0 else math.inf


@dataclass(frozen=True)
class SchemeCost:
    """What planning costs with one scheme, per query.

    Attributes
    ----------
    scheme : str
    one_thread_ns, all_threads_ns : float
        `plan` for a batch, median of several.
    plain_python_ns : float
        The same plans by `lanewise.oracle.plan`.
    """

    scheme: str
    one_thread_ns: float
    all_threads_ns: float
    plain_python_ns: float


@dataclass(frozen=True)
class PlannerCosts:
    """What planning costs.

    Attributes
    ----------
    n_queries, k_pool, n_threads : int
        Size of the batch and of a pool, and what "all threads" means.
    schemes : tuple of SchemeCost
    query_key_ns : float
        `query_keys`, per query: only needed if the caller has no key of its own.
    """

    n_queries: int
    k_pool: int
    n_threads: int
    schemes: tuple[SchemeCost, ...]
    query_key_ns: float


# ----------------------------------------------------------------------------------- the problem


def default_rows(dim: int) -> int:
    """Return how many rows of a file are used if nothing is said."""
    return max(1, min(MAX_ROWS, MAX_NUMBERS // dim))


def prepare(
    dataset: Dataset,
    budget: Budget,
    *,
    metric: str | None = None,
    n_rows: int | None = None,
    n_queries: int | None = None,
    seed: int = 0,
    n_threads: int | None = None,
) -> Problem:
    """Choose rows and queries, and find the exact answers.

    Parameters
    ----------
    dataset : Dataset
        Without queries, some of its rows are taken out at random and used as such.
    budget : Budget
    metric : {"l2", "ip", "cosine"}, optional
        By default the set's.
    n_rows : int, optional
        The first so many rows are searched; by default at most 50,000, and at most 10 million
        numbers.
    n_queries : int, optional
        The first so many queries are asked; by default at most 1,000.
    seed : int, default 0
        Of the choice of rows that become queries.
    n_threads : int, optional

    Returns
    -------
    Problem

    Raises
    ------
    ValueError, TypeError
        If there are fewer rows or queries than asked for, or vectors hold NaN or infinities.
    """
    metric = dataset.metric if metric is None else metric
    raw, asked, given = dataset.base, dataset.queries, dataset.neighbors
    rows_in_file, dim = raw.shape
    if asked is not None and len(asked) == 0:
        raise ValueError("queries: expected at least one, got none")
    held_out = asked is None
    if asked is None:
        wanted = min(_HELD_OUT, rows_in_file // 10) if n_queries is None else n_queries
        if not 1 <= wanted < rows_in_file:
            raise ValueError(
                f"queries: expected some in the file, or rows to take out; got {rows_in_file} rows"
                f" for {wanted} queries"
            )
        chosen = np.random.default_rng(seed).permutation(rows_in_file)[:wanted]
        asked = raw[chosen]
        raw = np.delete(raw, chosen, axis=0)
    if n_queries is not None and n_queries > len(asked):
        raise ValueError(f"queries: expected at most the {len(asked)} there are, got {n_queries}")
    if n_rows is not None and n_rows > len(raw):
        raise ValueError(f"rows: expected at most the {len(raw)} there are, got {n_rows}")
    base = as_matrix(raw[: default_rows(dim) if n_rows is None else n_rows], "base")
    queries = as_matrix(asked[: MAX_QUERIES if n_queries is None else n_queries], "queries")
    if budget.k_total > len(base):
        raise ValueError(
            f"n_lanes * k_lane: expected at most the {len(base)} rows, got {budget.k_total}"
        )
    flat = Flat(dim, metric, n_threads=n_threads).add(base)
    exact = flat.search(queries, budget.k)
    if given is None:
        verdict = "none"
    elif len(base) < rows_in_file:
        verdict = "not comparable"
    else:
        verdict = _compare_neighbors(flat, queries, exact.distances, given[: len(queries)])
    return Problem(
        dataset.name, metric, base, queries, flat, exact.ids, rows_in_file, held_out, verdict
    )


def _compare_neighbors(flat: Flat, queries: Floats, exact: Floats, given: Ids) -> str:
    """Whether given neighbours are as near as the exact ones: ids may differ where they tie."""
    k = min(exact.shape[1], given.shape[1])
    scored = np.sort(flat.score(queries, given[:, :k]), axis=1)
    distinct = all(len(set(row)) == k for row in given[:, :k].tolist())
    # Whoever made the file rounded in another way, up to the size of the largest distances.
    tolerance = 1e-5 * float(np.abs(exact).max(initial=0.0))
    near = np.allclose(scored, exact[:, :k], rtol=1e-5, atol=tolerance)
    return "agree" if distinct and near else "disagree"


# ------------------------------------------------------------------------------------ the indices


class _Method:
    """One kind of index: how it is built over some rows, and searched with a lane's budget."""

    parallel = False

    def __init__(self, problem: Problem, budget: Budget, seed: int, threads: int) -> None:
        self.metric, self.seed, self.threads = problem.metric, seed, threads
        self.k_lane = budget.k_lane
        self.parameters = self.choose(len(problem.base), budget)

    def choose(self, n: int, budget: Budget) -> dict[str, int]:
        """Choose the parameters for so many rows."""
        raise NotImplementedError

    def build(self, rows: Floats, is_shard: bool, added: Callable[[int], object]) -> Any:
        """Build over all rows, or over a shard's."""
        raise NotImplementedError

    def search(self, index: Any, Q: Floats, n_budgets: int) -> SearchResult:
        """Search with the budget of so many lanes: one, or all."""
        raise NotImplementedError


def _counting(added: Callable[[int], object]) -> Callable[[str, int, int], object]:
    """Tell `added` how many rows there are more each time that progress is reported."""
    before = 0

    def report(what: str, done: int, total: int) -> None:
        nonlocal before
        added(done - before)
        before = done

    return report


class _HNSWMethod(_Method):
    # One thread builds the same graph every time, so the graphs are what runs in parallel.
    parallel = True

    def choose(self, n: int, budget: Budget) -> dict[str, int]:
        return {
            "M": 16,
            "ef_construction": 200,
            "ef_lane": budget.k_lane,
            "ef_whole": budget.k_total,
        }

    def build(self, rows: Floats, is_shard: bool, added: Callable[[int], object]) -> HNSW:
        return HNSW.build(
            rows,
            self.metric,
            M=self.parameters["M"],
            ef_construction=self.parameters["ef_construction"],
            seed=self.seed,
            n_threads=1,
            progress=_counting(added),
        )

    def search(self, index: HNSW, Q: Floats, n_budgets: int) -> SearchResult:
        # The width of the search is the number of candidates, hnswlib's least.
        return index.search(Q, n_budgets * self.k_lane, n_threads=self.threads)


class _IVFMethod(_Method):
    """Lists to probe are the budget of an inverted file, as the width of the search is a graph's.

    The whole budget probes about an eighth of the lists, and a lane's is one part of that: on the
    shipped set the whole budget then finds 98 % of the neighbours, so that there is something to
    lose and something to win.
    """

    def choose(self, n: int, budget: Budget) -> dict[str, int]:
        n_lists = max(1, round(math.sqrt(n)))
        n_probe = max(1, round(n_lists / 8 / budget.n_lanes))
        return {
            "n_lists": n_lists,
            "n_lists_shard": max(1, round(n_lists / budget.n_lanes)),
            "n_probe_lane": n_probe,
            "n_probe_whole": min(n_probe * budget.n_lanes, n_lists),
        }

    def build(self, rows: Floats, is_shard: bool, added: Callable[[int], object]) -> IVF:
        n_lists = self.parameters["n_lists_shard" if is_shard else "n_lists"]
        index = IVF(
            rows.shape[1],
            min(n_lists, len(rows)),
            self.metric,
            n_probe=self.parameters["n_probe_whole"],
            seed=self.seed,
            n_threads=self.threads,
        )
        index.train(rows).add(rows)
        added(len(rows))
        return index

    def search(self, index: IVF, Q: Floats, n_budgets: int) -> SearchResult:
        n_probe = self.parameters["n_probe_lane" if n_budgets == 1 else "n_probe_whole"]
        return index.search(Q, n_budgets * self.k_lane, n_probe=n_probe)


class _FlatMethod(_Method):
    def choose(self, n: int, budget: Budget) -> dict[str, int]:
        return {}

    def build(self, rows: Floats, is_shard: bool, added: Callable[[int], object]) -> Flat:
        index = Flat(rows.shape[1], self.metric, n_threads=self.threads).add(rows)
        added(len(rows))
        return index

    def search(self, index: Flat, Q: Floats, n_budgets: int) -> SearchResult:
        return index.search(Q, n_budgets * self.k_lane)


_METHODS: dict[str, type[_Method]] = {"hnsw": _HNSWMethod, "ivf": _IVFMethod, "flat": _FlatMethod}


def shards(n: int, n_lanes: int, seed: int) -> list[Ids]:
    """Return the rows of each shard: the keyed hash of its id says where a row belongs.

    Parameters
    ----------
    n, n_lanes : int
        Rows, and shards.
    seed : int
        The key.

    Returns
    -------
    list of ndarray of int64
    """
    owners = np.empty(n, dtype=np.int64)
    step = 1 << 14
    for begin in range(0, n, step):
        ids = np.arange(begin, min(begin + step, n))
        # A pool of one candidate for each row: the lane that gets it owns it.
        planned = plan(ids[:, np.newaxis], seed, n_lanes=n_lanes, k_lane=1, scheme="owner")
        owners[ids] = planned.counts.argmax(axis=1)
    return [np.flatnonzero(owners == lane) for lane in range(n_lanes)]


class _StoppedError(Exception):
    """Raised in the threads that build when the main one has been interrupted."""


def _build_all(
    method: _Method, parts: Sequence[Floats], threads: int, progress: Progress
) -> list[Any]:
    """Build the index of every part, of which the first is all rows; None for an empty shard."""
    total = sum(len(part) for part in parts)
    lock = threading.Lock()
    stop = threading.Event()
    done = 0

    def added(n: int) -> None:
        nonlocal done
        if stop.is_set():
            raise _StoppedError
        with lock:
            done += n
            progress("building", done, total)

    def build(number: int) -> Any:
        part = parts[number]
        return method.build(part, number > 0, added) if len(part) else None

    if not method.parallel:
        return [build(number) for number in range(len(parts))]
    with ThreadPoolExecutor(max_workers=threads) as executor:
        futures = [executor.submit(build, number) for number in range(len(parts))]
        try:
            # Waiting for a bounded time lets Ctrl-C through on every system.
            while wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION).not_done:
                for future in futures:
                    if future.done():
                        future.result()
            return [future.result() for future in futures]
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


# --------------------------------------------------------------------------------- the comparison


def compare_index(
    problem: Problem,
    index: str,
    budget: Budget,
    *,
    seed: int = 0,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run every variant on one kind of index.

    Parameters
    ----------
    problem : Problem
    index : {"hnsw", "ivf", "flat"}
    budget : Budget
    seed : int, default 0
        Of the graph's levels, the first centroids, and the hash that shards go by. Together with
        the data it determines every number but the times, for any number of threads.
    n_threads : int, optional
    progress : callable, optional
        Called with what is being done, the steps done and the steps in all; from any thread.

    Returns
    -------
    Comparison

    Raises
    ------
    ImportError
        If hnswlib is needed and not installed.
    """
    index = check_choice(index, "index", INDEXES)
    threads = resolve_threads(n_threads)
    report = progress if progress is not None else say_nothing
    method = _METHODS[index](problem, budget, seed, threads)
    parts = shards(len(problem.base), budget.n_lanes, seed)
    started = time.perf_counter()
    whole, *sharded = _build_all(
        method,
        [problem.base, *(problem.base[rows] for rows in parts)],
        threads,
        report,
    )
    seconds = time.perf_counter() - started

    plans = [(scheme, alpha, 0) for scheme in SCHEMES for alpha in ALPHAS]
    plans += [("stratified", 1.0, head) for head in heads(budget)]
    n_variants = 5 + len(plans)
    variants: list[Variant] = []

    def step(*new: Variant) -> None:
        variants.extend(new)
        report("searching", len(variants), n_variants)

    Q = problem.queries
    step(*_naive(problem, budget, [method.search(whole, Q, 1) for _ in range(budget.n_lanes)]))
    step(_single("single-lane-budget", problem, budget, method.search(whole, Q, 1)))
    found = method.search(whole, Q, budget.n_lanes)
    step(_single("single-whole-budget", problem, budget, found))
    answers = [
        _in_shard(method, shard, rows, Q, budget.k_lane)
        for shard, rows in zip(sharded, parts, strict=True)
    ]
    step(_from_lanes("hash-shards", problem, budget, answers))
    for scheme, alpha, head in plans:
        search = LaneSearch(
            whole,
            problem.flat,
            n_lanes=budget.n_lanes,
            k_lane=budget.k_lane,
            alpha=alpha,
            head=head,
            scheme=scheme,
            n_threads=threads,
        )
        step(_planned(problem, budget, search, _index_rows([found])))
    return Comparison(index, method.parameters, seconds, tuple(variants))


def rank_recalls(
    problem: Problem,
    index: str,
    budget: Budget,
    *,
    seed: int = 0,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.float64], float]:
    """Measure what the break-even law needs, on one kind of index.

    Parameters
    ----------
    problem, index, budget, seed, n_threads, progress
        As for `compare_index`.

    Returns
    -------
    ranks : ndarray of float64, shape (n_lanes * k_lane,)
        Share of the true neighbours that stands at each rank of a pool of the whole budget; their
        sum is R(k_total).
    alone : float
        R(k_lane): share that one search with one lane's budget finds.

    Raises
    ------
    ImportError
        If hnswlib is needed and not installed.
    """
    index = check_choice(index, "index", INDEXES)
    threads = resolve_threads(n_threads)
    report = progress if progress is not None else say_nothing
    method = _METHODS[index](problem, budget, seed, threads)
    (whole,) = _build_all(method, [problem.base], threads, report)
    truth = problem.truth[:, : budget.k]
    pool = method.search(whole, problem.queries, budget.n_lanes).ids
    hits = (pool[:, :, np.newaxis] == truth[:, np.newaxis]) & (truth >= 0)[:, np.newaxis]
    ranks = hits.any(axis=2).sum(axis=0) / max(1, int((truth >= 0).sum()))
    one = method.search(whole, problem.queries, 1).ids
    return ranks, oracle.recall(one, problem.truth, budget.k)


def heads(budget: Budget) -> list[int]:
    """Return how many best ranks are tried on two lanes: half a lane's budget, and the answer."""
    if budget.n_lanes < 2:
        return []
    return sorted({max(1, budget.k_lane // 2), budget.k})


def _naive(problem: Problem, budget: Budget, answers: list[SearchResult]) -> list[Variant]:
    return [
        _from_lanes("naive", problem, budget, answers, deduplicate=False),
        _from_lanes("naive-deduplicated", problem, budget, answers),
    ]


def _single(name: str, problem: Problem, budget: Budget, answer: SearchResult) -> Variant:
    counts = (answer.ids >= 0).sum(axis=1)
    return Variant(
        name=name,
        scheme=None,
        alpha=None,
        head=None,
        recall=oracle.recall(answer.ids, problem.truth, budget.k),
        recall_lane_lost=0.0,
        pairwise_jaccard=None,
        mway_jaccard=None,
        **_amounts(counts[:, np.newaxis]),
        index_rows=_index_rows([answer]),
    )


def _in_shard(method: _Method, shard: Any, rows: Ids, Q: Floats, k_lane: int) -> SearchResult:
    """Search one shard; ids become those of the whole."""
    if shard is None:
        shape = (len(Q), k_lane)
        return SearchResult(np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64))
    answer = method.search(shard, Q, 1)
    return SearchResult(
        answer.distances, np.where(answer.ids >= 0, rows[answer.ids], -1), answer.stats
    )


def _from_lanes(
    name: str,
    problem: Problem,
    budget: Budget,
    answers: list[SearchResult],
    *,
    deduplicate: bool = True,
) -> Variant:
    """Merge what lanes found that each searched an index."""
    ids = np.stack([answer.ids for answer in answers], axis=1)

    def recall(lanes: list[int]) -> float:
        if not lanes:
            return 0.0
        merged = merge(
            np.concatenate([answers[lane].distances for lane in lanes], axis=1),
            np.concatenate([answers[lane].ids for lane in lanes], axis=1),
            budget.k,
            deduplicate=deduplicate,
        )
        return oracle.recall(merged.ids, problem.truth, budget.k)

    everyone = list(range(len(answers)))
    return Variant(
        name=name,
        scheme=None,
        alpha=None,
        head=None,
        recall=recall(everyone),
        recall_lane_lost=statistics.fmean(
            recall([lane for lane in everyone if lane != lost]) for lost in everyone
        ),
        **_overlaps(ids),
        **_amounts((ids >= 0).sum(axis=2)),
        index_rows=_index_rows(answers),
    )


def _planned(problem: Problem, budget: Budget, search: LaneSearch, index_rows: float) -> Variant:
    result = search.search(problem.queries, budget.k)
    planned: Plan = result.plan
    return Variant(
        name="lanes",
        scheme=planned.scheme,
        alpha=planned.alpha,
        head=planned.head,
        recall=oracle.recall(result.ids, problem.truth, budget.k),
        recall_lane_lost=statistics.fmean(
            oracle.recall(result.without(lost).ids, problem.truth, budget.k)
            for lost in range(budget.n_lanes)
        ),
        **_overlaps(planned.ids),
        **_amounts(planned.counts),
        index_rows=index_rows,
    )


def _overlaps(ids: Ids) -> dict[str, Any]:
    return {
        "pairwise_jaccard": float(pairwise_jaccard(ids).mean()),
        "mway_jaccard": float(mway_jaccard(ids).mean()),
    }


def _amounts(counts: npt.NDArray[Any]) -> dict[str, Any]:
    """Describe the candidates of each query and lane."""
    return {
        "candidates_per_lane": float(counts.mean()),
        "fewest_candidates": int(counts.min()),
        "most_candidates": int(counts.max()),
        "scored": float(counts.sum(axis=1).mean()),
    }


def _index_rows(answers: list[SearchResult]) -> float:
    """Rows that the searches looked at."""
    return sum(
        float(np.mean(answer.stats["distances" if "distances" in answer.stats else "candidates"]))
        for answer in answers
        if answer.stats
    )


# ------------------------------------------------------------------------------ what planning costs


def planner_costs(
    budget: Budget,
    *,
    n_queries: int = 1000,
    n_repeats: int = 15,
    seed: int = 0,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> PlannerCosts:
    """Time the planner, and beside it the same plans made in plain Python.

    Parameters
    ----------
    budget : Budget
        A pool has n_lanes * k_lane candidates. Which they are makes no difference to the time.
    n_queries : int, default 1000
    n_repeats : int, default 15
        The median of so many is reported; plain Python gets a tenth of the queries, 3 times.
    seed : int, default 0
    n_threads : int, optional
    progress : callable, optional
        As for `compare_index`.

    Returns
    -------
    PlannerCosts

    Raises
    ------
    RuntimeError
        If the two planners do not agree, which must not happen.
    """
    threads = resolve_threads(n_threads)
    rng = np.random.default_rng(seed)
    n_lanes, k_lane, k_pool = budget.n_lanes, budget.k_lane, budget.k_total
    pools = rng.permuted(np.tile(np.arange(8 * k_pool), (n_queries, 1)), axis=1)[:, :k_pool].copy()
    vectors = rng.standard_normal((n_queries, 128), dtype=np.float32)
    keys = query_keys(vectors)
    few = max(1, n_queries // 10)
    costs = []
    for i, scheme in enumerate(SCHEMES):

        def native(n: int, scheme: str = scheme) -> Plan:
            return plan(pools, keys, n_lanes=n_lanes, k_lane=k_lane, scheme=scheme, n_threads=n)

        def plain(scheme: str = scheme) -> Ids:
            return oracle.plan(pools[:few], keys[:few], scheme, n_lanes, k_lane)[0]

        if not np.array_equal(native(threads).ids[:few], plain()):
            raise RuntimeError(f"plan: {scheme} differs from lanewise.oracle")
        one = _median_ns(lambda: native(1), n_repeats) / n_queries
        costs.append(
            SchemeCost(
                scheme,
                one,
                _median_ns(lambda: native(threads), n_repeats) / n_queries if threads > 1 else one,
                _median_ns(plain, 3) / few,
            )
        )
        if progress is not None:
            progress("timing the planner", i + 1, len(SCHEMES))
    query_key_ns = _median_ns(lambda: query_keys(vectors), 3) / n_queries
    return PlannerCosts(n_queries, k_pool, threads, tuple(costs), query_key_ns)


def _median_ns(call: Callable[[], object], n_repeats: int) -> float:
    times = []
    for _ in range(n_repeats):
        started = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - started)
    return float(statistics.median(times))
