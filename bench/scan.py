"""Judge exact scan: ours in every storage beside its peers, on one thread, one query at a time.

``python -m bench.scan [--workload NAME ...] [--data-folder FOLDER] [--quick]`` prints for each set
of vectors what a query costs and what it finds, and at the end the ratios that are asked for.

Ours and the peers take turns in the same process. Where the rows are so large that not all storages
fit into memory together, they come in several races, and the peers that are compared with run in
each of them, so that every ratio is one of the same race.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

import lanewise as lw
from bench import data, machine, peers
from bench.data import K
from bench.race import Contender, Pace, race
from bench.summary import Record, format_time

BINARY = ("binary", "binary2", "binary4")
STORAGES = ("f32", "sq8", "sq4", *BINARY, "auto")
FINITE = (3.0, 2.1, 1.5)
RERANKS = (30, 100, 300, 1000)
# RaBitQ's bits, and the candidates for each result; 3 bits and more were slower at equal recall.
K_FACTORS = {1: (10, 30, 100, 300, 1000), 2: (10, 30, 100, 300)}
DELTAS = (16, 32, 64)

FLAT = "FAISS IndexFlatL2"
PANORAMA = "FAISS PCA, Panorama"
RABITQ = "FAISS RaBitQ fast scan"
NUMPY = "NumPy product, argpartition"
USEARCH = "usearch exact"
CERTIFIED = "certified"
NAIVE = "naive float scan, Flat.score"

SAFE = 0.999  # the recall from which an answer that may be wrong counts as right
SINGLE, BATCH = "one query a call", "one call"


# --------------------------------------------------------------------------------- the vectors


@dataclass(frozen=True)
class Workload:
    """Vectors, and the speed-ups asked of certified search over IndexFlatL2 and over Panorama."""

    make: Callable[[argparse.Namespace], data.Vectors]
    over_flat: float | None = None
    over_panorama: float | None = None
    file: str | None = None


N_QUERIES = 1000


def _drawn(draw: Callable[..., data.Vectors], n: int, dim: int):
    def make(options: argparse.Namespace) -> data.Vectors:
        # The cache would keep gigabytes.
        if options.quick:
            return draw.__wrapped__(min(n, 10_000), min(dim, 256), N_QUERIES // 10)
        return draw.__wrapped__(n, dim, N_QUERIES)

    return make


def _stored(file: str):
    def make(options: argparse.Namespace) -> data.Vectors:
        found = data.from_file.__wrapped__(options.data_folder / file, N_QUERIES)
        if not options.quick:
            return found
        return data.vectors(found.name, found.base[:10_000], found.queries[: N_QUERIES // 10])

    return make


WORKLOADS = {
    "text": Workload(_stored("text_60k.npz"), 6, 2.5, "text_60k.npz"),
    "sift": Workload(_stored("sift_300k.npz"), 6, 2.5, "sift_300k.npz"),
    "mixture": Workload(_drawn(data.mixture, 200_000, 384)),
    "decaying": Workload(_drawn(data.decaying, 200_000, 1024)),
    "gaussian": Workload(_drawn(data.gaussian, 200_000, 1024), 3.5),
    "mixture-1m": Workload(_drawn(data.mixture, 1_000_000, 1024), 20, 3),
}


# ---------------------------------------------------------------------------------- the peers


class Peers:
    """The peers on the same rows, of which IndexFlatL2 holds the only copy that stays here."""

    def __init__(self, vectors: data.Vectors) -> None:
        # Codes of 2 bits take minutes to make for the largest set, on which they do not help.
        known = [bits for bits in K_FACTORS if bits == 1 or vectors.base.nbytes < 2e9]
        self.codes = {bits: peers.faiss_rabitq(vectors.base, bits) for bits in known}
        self.refined = peers.faiss_refined(self.codes[1], vectors.base)
        self.flat, self.rows = peers.faiss_refined_rows(self.refined)
        with peers.threads(1):
            few = vectors.queries[:10]
            self.panorama, self.shape = peers.faiss_panorama(vectors.base, few, K)
        self.norms = np.einsum("nd,nd->n", self.rows, self.rows)

    def refine(self, Q: np.ndarray, bits: int, k_factor: int) -> np.ndarray:
        self.refined.base_index, self.refined.k_factor = self.codes[bits], k_factor
        return self.refined.search(Q, K)[1]

    def flat_batch(self, Q: np.ndarray) -> np.ndarray:
        with peers.faiss_blas():
            return self.flat.search(Q, K)[1]

    def compared(self) -> Iterator[Contender]:
        """Yield those that something is asked beside."""
        yield self.flat_alone()
        yield _peer(PANORAMA, lambda Q: self.panorama.search(Q, K)[1], exact=True)
        for bits in self.codes:
            for k_factor in K_FACTORS[bits]:
                search = functools.partial(self.refine, bits=bits, k_factor=k_factor)
                yield _peer(f"{RABITQ} {bits} bit, refined, k_factor {k_factor}", search)

    def flat_alone(self, checked: bool = True) -> Contender:
        return _peer(FLAT, lambda Q: self.flat.search(Q, K)[1], checked=checked, exact=True)

    def slow(self) -> Iterator[Contender]:
        """Yield those that nothing is asked beside: they scan every row, and no faster."""
        numpy = functools.partial(peers.numpy_flat, self.rows, self.norms, k=K)
        yield _peer(NUMPY, numpy, exact=True)
        if peers.versions()["usearch"]:
            usearch = functools.partial(peers.usearch_exact, self.rows, k=K)
            yield _peer(USEARCH, usearch, exact=True)

    def batches(self) -> Iterator[Contender]:
        yield _peer(FLAT, self.flat_batch, batch=True)
        numpy = functools.partial(peers.numpy_flat_tiled, self.rows, self.norms, k=K)
        yield _peer(NUMPY, numpy, batch=True)


def _peer(who: str, search: Callable[[np.ndarray], np.ndarray], **kinds: Any) -> Contender:
    return Contender(who, "peer", lambda Q: (search(Q), {}), **kinds)


# --------------------------------------------------------------------------------------- ours


def build(storage: str, rows: np.ndarray, metric: str = "l2") -> lw.Flat:
    """Return an index with rows in it.

    Raises
    ------
    TypeError, ValueError
        If this version does not know the storage.
    """
    dim = rows.shape[1]
    try:
        index = lw.Flat(dim, metric, storage=storage)
    except TypeError:
        if storage != "f32":
            raise
        index = lw.Flat(dim, metric)
    index.add(rows)
    index.search(rows[:1], K)  # what is prepared lazily is prepared
    return index


def _dial(index: lw.Flat, n_threads: int = 1, **dial: Any) -> Callable[[np.ndarray], Any]:
    def search(Q: np.ndarray):
        result = index.search(Q, K, n_threads=n_threads, **dial)
        return result.ids, result.stats

    return search


def dials(storage: str, index: lw.Flat) -> dict[str, dict[str, Any]]:
    """Return the searches that this version knows, by name."""
    wanted: dict[str, dict[str, Any]] = {CERTIFIED: {"eps0": math.inf}}
    wanted |= {f"eps0 {eps0:g}": {"eps0": eps0} for eps0 in FINITE}
    if storage in BINARY:
        # Nothing about it is certain.
        wanted["rerank learned"] = wanted.pop(CERTIFIED)
        wanted |= {f"rerank {C}": {"rerank": C} for C in RERANKS}
    known = {}
    for name, dial in wanted.items():
        try:
            index.search(np.zeros((1, index.dim), dtype=np.float32), K, **dial)
        except (TypeError, ValueError):
            continue
        known[name] = dial
    return known


def ours(storage: str, index: lw.Flat) -> Iterator[Contender]:
    """Yield all single searches of one index: every dial, and certified on two threads."""
    known = dials(storage, index)
    for name, dial in known.items():
        yield Contender(f"{storage} {name}", "ours", _dial(index, **dial))
    if lw.threads.default_threads() > 1 and CERTIFIED in known:
        search = _dial(index, n_threads=2, **known[CERTIFIED])
        yield Contender(f"{storage} {CERTIFIED}, 2 threads", "ours", search, threads=2)


def our_batches(storage: str, index: lw.Flat) -> Iterator[Contender]:
    known = dials(storage, index)
    if CERTIFIED in known:
        search = _dial(index, **known[CERTIFIED])
        yield Contender(f"{storage} {CERTIFIED}", "ours", search, batch=True)


def adsampling(index: lw.Flat) -> Iterator[Contender]:
    """Yield the dials of ADSampling on float rows, and the scan without any."""
    everything = np.arange(len(index))[np.newaxis]

    def naive(Q: np.ndarray):
        ids = [_best(index.score(q[np.newaxis], everything, n_threads=1)[0]) for q in Q]
        return np.stack(ids), {}

    yield Contender(NAIVE, "yardstick", naive, exact=True)
    for eps0 in (*sorted(FINITE), math.inf):
        for delta in DELTAS:
            search = _dial(index, eps0=eps0, delta=delta)
            yield Contender(_ads(eps0, delta), "ours", search)


def _ads(eps0: float, delta: int) -> str:
    return f"eps0 {eps0:g} delta {delta}"


def _best(distances: np.ndarray) -> np.ndarray:
    k = min(K, len(distances) - 1)
    some = np.argpartition(distances, k)[:K]
    return some[np.argsort(distances[some], kind="stable")]


# --------------------------------------------------------------------------------- one workload


@dataclass
class Found:
    """What was measured on one set of vectors."""

    label: str
    rows_bytes: int
    panorama: tuple[int, int]
    records: list[Record] = field(default_factory=list)
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def of(self, group: str, who: str = "") -> list[Record]:
        return [r for r in self.records if r.group == group and r.who.startswith(who)]

    def ours(self, group: str) -> list[Record]:
        return [r for r in self.records if r.group == group and r.role == "ours"]

    def beside(self, ours: Record, who: str) -> list[Record]:
        """Return peers in the same race as one of ours, or in the first if they ran only there."""
        found = self.of(ours.group, who)
        same = [r for r in found if r.facts["race"] == ours.facts["race"]]
        return same or found[:1]


def run(workload: Workload, options: argparse.Namespace, pace: Pace) -> Found:
    started = time.perf_counter()
    vectors = workload.make(options)
    _say(f"{vectors.label}: vectors and truth after {time.perf_counter() - started:.0f} s")
    others = Peers(vectors)
    vectors = replace(vectors, base=others.rows)
    found = Found(vectors.label, vectors.base.nbytes, others.shape)
    _say(f"peers built after {time.perf_counter() - started:.0f} s")

    n_timed = _n_timed(others, vectors, options)
    with peers.threads(1):
        for number, storages in enumerate(_packed(found.rows_bytes, options)):
            _race_ours(storages, number, vectors, others, found, n_timed, pace)
            _say(f"{', '.join(storages)} timed after {time.perf_counter() - started:.0f} s")
        del others.panorama  # its memory is needed
        gc.collect()
        _race_cosine(vectors, others.flat_alone(checked=False), found, n_timed, pace)
    _say(f"all timed after {time.perf_counter() - started:.0f} s")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _n_timed(others: Peers, vectors: data.Vectors, options: argparse.Namespace) -> int:
    """As many queries as IndexFlatL2 answers in a second, within reason."""
    with peers.threads(1):
        started = time.perf_counter()
        for query in vectors.queries[:2]:
            others.flat.search(query[np.newaxis], K)
        once = (time.perf_counter() - started) / 2
    return int(np.clip(1 / once, 8, 10 if options.quick else 50))


def _packed(rows_bytes: int, options: argparse.Namespace) -> list[list[str]]:
    """Divide the storages among races so that each fits into memory beside the peers."""
    room = options.memory * 1e9 - 2.1 * rows_bytes  # the rows in IndexFlatL2 and in Panorama
    packed: list[list[str]] = []
    left = 0.0
    for storage in STORAGES:
        needed = rows_bytes * (2.1 if storage in ("f32", "auto") else 1.4)
        if not packed or needed > left:
            packed.append([])
            left = room
        packed[-1].append(storage)
        left -= needed
    return packed


def _race_ours(
    storages: Iterable[str],
    number: int,
    vectors: data.Vectors,
    others: Peers,
    found: Found,
    n_timed: int,
    pace: Pace,
) -> None:
    indexes = {}
    for storage in storages:
        started = time.perf_counter()
        try:
            index = build(storage, vectors.base)
        except (TypeError, ValueError) as error:
            found.missing[storage] = str(error)
            continue
        became = getattr(index, "storage", storage)
        if became != storage and became in found.sizes:
            found.missing[storage] = f"is {became}"
            continue
        indexes[storage] = index
        found.sizes[storage] = {
            "nbytes": index.nbytes,
            "hot_bytes": getattr(index, "hot_bytes", math.nan),
            "seconds": time.perf_counter() - started,
        }
    if not indexes and number > 0:
        return
    singles = [*others.compared(), *(others.slow() if number == 0 else ())]
    batches = [*others.batches()] if number == 0 else []
    for storage, index in indexes.items():
        singles += ours(storage, index)
        batches += our_batches(storage, index)
    found.records += race(singles, SINGLE, vectors, n_timed, pace, number)
    if batches:
        longer = replace(pace, rounds=min(3, pace.rounds), seconds=4 * pace.seconds)
        found.records += race(batches, BATCH, vectors, n_timed, longer, number)
    if "f32" in indexes:
        contenders = [others.flat_alone(), *adsampling(indexes["f32"])]
        found.records += race(contenders, "ADSampling, l2", vectors, n_timed, _briefly(pace))


def _race_cosine(
    vectors: data.Vectors, flat: Contender, found: Found, n_timed: int, pace: Pace
) -> None:
    """ADSampling on the cosine; IndexFlatL2 scans the rows as they came, which costs the same."""
    index = build("f32", vectors.base, "cosine")
    lengths = np.linalg.norm(vectors.queries[:200], axis=1, keepdims=True)
    unit = data.vectors("cosine", index.rows, vectors.queries[:200] / lengths)
    contenders = [flat, *adsampling(index)]
    found.records += race(contenders, "ADSampling, cosine", unit, n_timed, _briefly(pace))


def _briefly(pace: Pace) -> Pace:
    """Take less time over what is many times the same."""
    return replace(pace, rounds=min(3, pace.rounds), recall_seconds=pace.recall_seconds / 2)


# -------------------------------------------------------------------------------------- tables


def print_found(name: str, found: Found) -> None:
    print(f"\n{'=' * 100}\n{name}: {found.label}, k {K}, 1 thread\n")
    levels, rows = found.panorama
    print(f"Panorama: {levels} levels, {rows} rows a batch")
    for storage, why in found.missing.items():
        print(f"{storage}: n/a ({why})")
    for group in (SINGLE, BATCH):
        print(f"\n{group}\n{_times(found, group)}")
    for metric in ("l2", "cosine"):
        group = f"ADSampling, {metric}"
        if found.of(group):
            print(f"\n{group}, float rows, one query a call\n{_adsampling_table(found, group)}")
    print(f"\nmemory\n{_sizes(found)}", flush=True)


def _times(found: Found, group: str) -> str:
    table = []
    for r in found.of(group):
        if r.role == "peer" and r.facts["race"] > 0:
            continue
        facts = r.facts
        ratios = [_ratio(found, r, who) for who in (FLAT, PANORAMA)]
        table.append(
            [
                ("" if r.role == "ours" else f"({r.role}) ") + r.who,
                format_time(r.median),
                format_time(r.minimum),
                *(f"{x:.2f}" if x else "" for x in ratios),
                f"{facts['recall']:.4f}",
                int(facts["asked"]),
                f"{facts['dims']:.3f}" if "dims" in facts else "",
                f"{facts['settled']:.0f}" if "settled" in facts else "",
                f"{int(facts['timed'])} x {r.rounds}",
            ]
        )
    head = [
        "per query",
        "median",
        "fastest",
        "times IndexFlatL2",
        "times Panorama",
        f"recall@{K}",
        "of queries",
        "dims",
        "settled",
        "timed",
    ]
    return _table(table, head)


def _table(rows: list[list[Any]], head: list[str]) -> str:
    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate(rows, head, "simple", colalign=align, disable_numparse=True)


def _ratio(found: Found, ours: Record, who: str) -> float | None:
    beside = found.beside(ours, who)
    return min(r.median for r in beside) / ours.median if beside else None


def _adsampling_table(found: Found, group: str) -> str:
    table = []
    for r in found.of(group):
        facts = r.facts
        table.append(
            [
                r.who,
                format_time(r.median),
                f"{_ratio(found, r, NAIVE):.2f}",
                f"{_ratio(found, r, FLAT):.2f}",
                f"{facts['recall']:.4f}" if "recall" in facts else "",
                f"{facts['dims']:.3f}" if "dims" in facts else "",
                f"{facts['settled']:.0f}" if "settled" in facts else "",
            ]
        )
    head = ["per query", "median", "times naive", "times IndexFlatL2", "recall", "dims", "settled"]
    return _table(table, head)


def _sizes(found: Found) -> str:
    table = []
    for storage, sizes in found.sizes.items():
        all_of_it, hot = (sizes[name] / found.rows_bytes for name in ("nbytes", "hot_bytes"))
        hot_text = "n/a" if math.isnan(hot) else f"{hot:.3f}"
        table.append([storage, f"{all_of_it:.3f}", hot_text, f"{sizes['seconds']:.1f} s"])
    return _table(table, ["storage", "bytes / float rows", "hot bytes / float rows", "built in"])


# ------------------------------------------------------------------------------------- targets


@dataclass(frozen=True)
class Target:
    """A ratio that is asked for, and what was measured; None if this version cannot do it.

    `fastest` is the ratio of the fastest rounds: if it differs much, the machine was not quiet.
    """

    workload: str
    text: str
    asked: float
    measured: float | None = None
    fastest: float | None = None
    how: str = ""
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.asked if self.at_most else self.measured >= self.asked


def targets(name: str, found: Found) -> Iterator[Target]:
    """Set what was measured on one workload against what is asked."""
    workload = WORKLOADS[name]

    def against(text: str, asked: float, ours: Record | None, who: str, safe: bool = False):
        """Compare with the fastest of the peers whose name begins so."""
        if ours is None:
            return Target(name, text, asked)
        beside = found.beside(ours, who)
        other = _fastest(beside, SAFE if safe else 0.0)
        if other is None:
            return Target(name, text, asked, how=f"no {who} finds {SAFE}")
        return Target(
            name,
            text,
            asked,
            other.median / ours.median,
            other.minimum / ours.minimum,
            f"{format_time(other.median)} / {format_time(ours.median)}: {other.who} / {ours.who}",
        )

    ours = found.ours(SINGLE)
    certified = _fastest(r for r in ours if r.who.endswith(CERTIFIED))
    judged = workload.over_flat is not None
    if workload.over_flat:
        yield against("certified over IndexFlatL2", workload.over_flat, certified, FLAT)
    if workload.over_panorama:
        yield against("certified over PCA, Panorama", workload.over_panorama, certified, PANORAMA)
    if judged:
        loose = _fastest((r for r in ours if "eps0" in r.who or "rerank" in r.who), SAFE)
        text = f"probabilistic, recall >= {SAFE}, over"
        best = certified.who if certified else CERTIFIED
        yield against(f"{text} certified", 1.5, loose, best)
        yield against(f"{text} RaBitQ refined", 1.5, loose, RABITQ, safe=True)
    if name == "mixture-1m":
        funnel = _fastest(
            (r for r in ours if r.who.startswith(BINARY) and "rerank" in r.who), 0.997
        )
        yield against("binary funnel, recall >= 0.997, over IndexFlatL2", 90, funnel, FLAT)
    if name in ("mixture-1m", "text"):
        batch = _fastest(r for r in found.ours(BATCH) if r.who.endswith(CERTIFIED))
        best = _fastest(r for r in found.of(BATCH) if r.role == "peer")
        text = f"batch of {N_QUERIES} over the best of IndexFlatL2 and NumPy"
        yield against(text, 4, batch, best.who if best else FLAT)
    if name == "mixture-1m":
        for metric in ("l2", "cosine"):
            tried = found.of(f"ADSampling, {metric}", "eps0 2.1")
            text = f"ADSampling eps0 2.1, {metric}, recall >= {SAFE}, over naive float scan"
            yield against(text, 8, _fastest(tried, SAFE), NAIVE)
    if judged:
        yield _two_threads(name, found, certified)
    hot = found.sizes.get("sq8", {}).get("hot_bytes", math.nan) / found.rows_bytes
    measured = None if math.isnan(hot) else hot
    yield Target(name, "sq8 hot bytes / float rows", 0.27, measured, at_most=True)


def _fastest(records: Iterable[Record], recall: float = 0.0) -> Record | None:
    good = [
        r
        for r in records
        if r.facts.get("recall", 1.0) >= recall - 1e-9 and not r.who.endswith("threads")
    ]
    return min(good, key=lambda r: r.median, default=None)


def _two_threads(name: str, found: Found, one: Record | None) -> Target:
    two = found.of(SINGLE, f"{one.who}, 2 threads") if one else []
    text = "2 threads over 1, one query, certified"
    if not (one and two):
        return Target(name, text, 1.7)
    walls = one.facts["wall"], two[0].facts["wall"]
    fastest = one.facts["fastest wall"] / two[0].facts["fastest wall"]
    how = f"{format_time(walls[0])} / {format_time(walls[1])}: {one.who}"
    return Target(name, text, 1.7, walls[0] / walls[1], fastest, how)


def print_targets(asked: Sequence[Target]) -> None:
    verdicts = {True: "reached", False: "NOT", None: "n/a"}
    table = [
        [
            f"{t.workload}: {t.text}",
            "-" if t.measured is None else f"{t.measured:.2f}",
            "-" if t.fastest is None else f"{t.fastest:.2f}",
            f"{'<=' if t.at_most else '>='} {t.asked:g}",
            verdicts[t.reached],
            t.how,
        ]
        for t in asked
    ]
    print(f"\n{'=' * 100}\nwhat is asked\n")
    align = ("left", "right", "right", "right", "left", "left")
    head = ["target", "measured", "of fastest", "asked", "", "how"]
    print(tabulate(table, head, "simple", colalign=align, disable_numparse=True))


# ------------------------------------------------------------------------------- nasty vectors


def print_nasty() -> list[dict[str, Any]]:
    """Check answers where arithmetic is hard, in all storages and metrics, and FAISS's beside.

    A query's answer is wrong if it is not, bit for bit, that of scoring every row and sorting by
    (distance, id); recall is against the definition of the distance in float64.
    """
    checked, table, storages = [], [], []
    for vectors in data.nasty():
        for metric in ("l2", "ip", "cosine"):
            row = {"vectors": vectors.name, "metric": metric}
            if metric == "l2":
                row |= _check_faiss(vectors)
            for storage in STORAGES:
                try:
                    index = build(storage, vectors.base, metric)
                except (TypeError, ValueError):
                    continue
                if storage not in storages:
                    storages.append(storage)
                facts = _check(index, vectors)
                checked.append({"vectors": vectors.name, "storage": storage} | facts)
                row[storage] = _verdict(facts)
            table.append(row)
    columns = ["vectors", "metric", "FAISS, singles", "FAISS, batch", *storages]
    rows = [[row.get(column, "") for column in columns] for row in table]
    print(f"\n{'=' * 100}\nnasty vectors, certified: recall of FAISS, and what is wrong of ours\n")
    print(_table(rows, columns), flush=True)
    return checked


def _check(index: lw.Flat, vectors: data.Vectors) -> dict[str, Any]:
    Q = vectors.queries
    everything = np.tile(np.arange(len(index)), (len(Q), 1))
    scores = index.score(Q, everything)
    true = np.argsort(scores, axis=1, kind="stable")[:, :K]
    batch = index.search(Q, K)
    singles = data.one_by_one(lambda q: index.search(q, K).ids)(Q)
    other_scores = np.take_along_axis(scores, true, axis=1) != batch.distances
    facts = {
        "metric": index.metric,
        "queries": len(Q),
        "wrong singles": int((singles != true).any(axis=1).sum()),
        "wrong in batch": int(((batch.ids != true) | other_scores).any(axis=1).sum()),
    }
    return facts | ({"recall": vectors.recall(batch.ids)} if index.metric == "l2" else {})


def _verdict(facts: dict[str, Any]) -> str:
    wrong = facts["wrong singles"], facts["wrong in batch"]
    if any(wrong) or facts.get("recall", 1.0) < 1:
        return f"WRONG {wrong[0]}, {wrong[1]} of {facts['queries']}; {facts.get('recall', '')}"
    return "none"


def _check_faiss(vectors: data.Vectors) -> dict[str, str]:
    flat = peers.faiss_flat(vectors.base)
    alone = data.one_by_one(lambda q: flat.search(q, K)[1])(vectors.queries)
    with peers.faiss_blas():
        together = flat.search(vectors.queries, K)[1]
    return {
        "FAISS, singles": f"{vectors.recall(alone):.4f}",
        "FAISS, batch": f"{vectors.recall(together):.4f}",
    }


# ------------------------------------------------------------------------------------- running


def setting() -> dict[str, Any]:
    """Return what the numbers depend on."""
    cpus = lw.threads.default_threads()
    bandwidth = {}
    for n in (1, 2)[:cpus]:
        with peers.threads(1):
            speed, by = machine.read_bandwidth(n)
        bandwidth[f"{n}"] = {"GB/s": speed / 1e9, "by": by}
    return {
        "platform": platform.platform(),
        "cpus": cpus,
        "lanewise": lw.__version__,
        "kernels": lw.kernels.available(),
        "peers": peers.versions(),
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", ""),
        "reads": bandwidth,
    }


def _print_setting(told: dict[str, Any]) -> None:
    versions = told["peers"]
    print(
        f"{told['platform']}, {told['cpus']} CPUs; lanewise {told['lanewise']} "
        f"({', '.join(told['kernels'])}); NumPy {versions['numpy']}, FAISS {versions['faiss']}, "
        f"usearch {versions['usearch'] or 'n/a'}"
    )
    print("BLAS kernels:", ", ".join(f"{k} {v}" for k, v in versions["blas"].items()))
    for n, read in told["reads"].items():
        print(f"Reading memory on {n} thread(s): {read['GB/s']:.1f} GB/s, {read['by']}")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    pace = Pace(rounds=options.rounds, cpu_time=options.cpu_time)
    if options.quick:
        pace = replace(pace, rounds=min(2, options.rounds), seconds=1.0, recall_seconds=0.2)
    elif "mixture-1m" in options.workload:
        pace = replace(pace, fewest=2)
    started = machine.clocks()
    kept: dict[str, Any] = {"setting": setting(), "workloads": {}}
    _print_setting(kept["setting"])
    kept["nasty"] = print_nasty() if options.nasty else []
    asked: list[Target] = []
    for name in options.workload:
        found = run(WORKLOADS[name], options, pace)
        print_found(name, found)
        gc.collect()
        kept["workloads"][name] = asdict(found)
        asked += targets(name, found)
        kept["targets"] = [{**asdict(t), "reached": t.reached} for t in asked]
        kept["cpus_taken_by_others"] = machine.taken_by_others(started)
        if options.json:
            options.json.write_text(json.dumps(kept, indent=1))
    if asked:
        print_targets(asked)
    taken, peak = kept.get("cpus_taken_by_others"), machine.memory()[1]
    if taken is not None and peak is not None:
        print(f"\nOther processes took {taken:.2f} CPUs; at most {peak / 1e9:.1f} GB were in use")
    if options.picture and kept["workloads"]:
        from bench.picture import draw

        draw(kept["workloads"], options.picture)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    total = machine.memory()[0] or 16e9
    parser = argparse.ArgumentParser(
        prog="python -m bench.scan",
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--workload", nargs="*", choices=WORKLOADS, help="all by default", metavar="NAME")
    add("--data-folder", type=Path, help="where text_60k.npz and sift_300k.npz are")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--picture", type=Path, metavar="FILE", help="draw recall against queries per second")
    add("--rounds", type=int, default=5)
    add("--quick", action="store_true", help="small vectors: does everything run?")
    add("--memory", type=float, default=0.75 * total / 1e9, metavar="GB", help="to stay below")
    add("--cpu-time", action="store_true", help="CPU time, on a machine that you share")
    add("--nasty", action=argparse.BooleanOptionalAction, default=True, help="check hard vectors")
    options = parser.parse_args(arguments)
    wanted = options.workload if options.workload is not None else list(WORKLOADS)
    options.workload = []
    for name in wanted:
        file = WORKLOADS[name].file
        if file and (options.data_folder is None or not (options.data_folder / file).exists()):
            _say(f"{name} is left out: there is no {file} in --data-folder")
        else:
            options.workload.append(name)
    return options


if __name__ == "__main__":
    sys.exit(main())
