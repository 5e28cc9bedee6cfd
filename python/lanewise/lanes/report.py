"""What ``lanewise lanes`` shows of a comparison: tables, sentences, a picture, a JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanewise.lanes.compare import (
    ALPHAS,
    PAPER_PLANNER_NS,
    Budget,
    Comparison,
    PlannerCosts,
    Problem,
    Variant,
)
from lanewise.lanes.planning import SCHEMES

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "as_dict",
    "footnotes",
    "planner_reading",
    "planner_table",
    "plot",
    "problem_lines",
    "reading",
    "title",
    "variant_label",
    "variants_table",
    "write_json",
]

_TITLES = {"hnsw": "HNSW", "ivf": "IVF", "flat": "Flat"}

# Okabe & Ito's palette: told apart by people with any colour vision, and the markers differ too.
_STYLES = {
    "permute": {"color": "#0072B2", "marker": "o", "markersize": 5},
    # Broader than the owner's, which runs on top of it.
    "stratified": {
        "color": "#D55E00",
        "marker": "s",
        "markersize": 8,
        "markerfacecolor": "none",
        "linewidth": 2.6,
    },
    "owner": {"color": "#009E73", "marker": "^", "markersize": 4.5},
}


# ------------------------------------------------------------------------------------------ words


def problem_lines(problem: Problem, budget: Budget) -> list[str]:
    """Describe what is searched for in what, and how the truth was found.

    Parameters
    ----------
    problem : Problem
    budget : Budget

    Returns
    -------
    list of str
        A sentence or two each.
    """
    n, dim = problem.base.shape
    lines = [
        f"{problem.name}: {n:,} rows of {dim} dimensions, {len(problem.queries):,} queries, "
        f"metric {problem.metric}."
    ]
    if problem.held_out:
        lines.append("The file has no queries: random rows were taken out of it and ask instead.")
    if n + len(problem.queries) * problem.held_out < problem.rows_in_file:
        lines.append(
            f"Only the first {n:,} of the file's {problem.rows_in_file:,} rows are searched; "
            f"--rows sets how many."
        )
    verdicts = {
        "none": "",
        "not comparable": "; the file's neighbours belong to all its rows and are not used",
        "agree": "; the file's neighbours agree",
        "disagree": "; THE FILE'S NEIGHBOURS DIFFER by more than ties, perhaps they were found by"
        " another metric (--metric)",
    }
    lines.append(
        f"{budget.n_lanes} lane{'s' * (budget.n_lanes > 1)} of {budget.k_lane} candidates; "
        f"recall@{budget.k} against exact neighbours by brute force (Flat)"
        f"{verdicts[problem.given_neighbors]}."
    )
    return lines


def title(comparison: Comparison) -> str:
    """Return what index the table is about, and how it is searched.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    str
    """
    p = comparison.parameters
    if comparison.index == "hnsw":
        return (
            f"HNSW: hnswlib, M = {p['M']}, ef_construction = {p['ef_construction']}; "
            f"ef = {p['ef_lane']} for one lane's budget, {p['ef_whole']} for the whole"
        )
    if comparison.index == "ivf":
        return (
            f"IVF: {p['n_lists']} lists; one lane's budget probes {p['n_probe_lane']} of them, "
            f"the whole {p['n_probe_whole']}"
        )
    return "Flat: every row is looked at"


def variant_label(variant: Variant, budget: Budget) -> str:
    """Return what a row of the table is called.

    Parameters
    ----------
    variant : Variant
    budget : Budget

    Returns
    -------
    str
    """
    if variant.name == "lanes":
        head = f", head {variant.head}" if variant.head else ""
        return f"{variant.scheme}, alpha {variant.alpha:g}{head}"
    return {
        "naive": "naive lanes, duplicates kept",
        "naive-deduplicated": "naive lanes, de-duplicated",
        "single-lane-budget": f"single index, {budget.k_lane} candidates",
        "single-whole-budget": f"single index, {budget.k_total} candidates",
        "hash-shards": "hash shards",
    }[variant.name]


def reading(comparison: Comparison, budget: Budget) -> list[str]:
    """Say what the numbers of a comparison mean.

    Parameters
    ----------
    comparison : Comparison
    budget : Budget

    Returns
    -------
    list of str
        Where lanes do not help, where they do, the break-even, and what a lost lane costs; all from
        this comparison's numbers.
    """
    sentences = [_no_gain(comparison, budget)]
    if budget.n_lanes > 1:
        sentences += [_gain(comparison, budget), _break_even(comparison, budget)]
    return [*sentences, _lost(comparison, budget)]


def _no_gain(comparison: Comparison, budget: Budget) -> str:
    whole = comparison.find("single-whole-budget").recall
    full = comparison.find("lanes", "stratified", 1.0).recall
    if abs(full - whole) < 0.0005:
        return (
            f"No gain over one wider search: at alpha = 1 lanes score the {budget.k_total} "
            f"candidates that one search with the whole budget finds anyway, recall {full:.3f} and "
            f"{whole:.3f}. For an index in memory take that one search."
        )
    # Same candidates, so only the distances can differ: rounding, or an index of another metric.
    return (
        f"Against one wider search: at alpha = 1 lanes find {full:.3f} and the one search "
        f"{whole:.3f}, of the same {budget.k_total} candidates; the index's own distances and the "
        f"exact ones differ."
    )


def _gain(comparison: Comparison, budget: Budget) -> str:
    start, end = (comparison.find("lanes", "permute", alpha).recall for alpha in (0.0, 1.0))
    shared, full = (comparison.find("lanes", "stratified", alpha).recall for alpha in (0.0, 1.0))
    text = (
        f"A gain where scores are dear and the pool's order is rough: permute, which is blind to "
        f"that order, finds {start:.3f} if all lanes score the same {budget.k_lane} (alpha = 0) "
        f"and {end:.3f} if all score different ones (alpha = 1)."
    )
    if shared >= full - 0.005:
        text += (
            f" Here the order is exact already: stratified, which shares the best ranks, has "
            f"{shared:.3f} at alpha = 0 too."
        )
    return text


def _break_even(comparison: Comparison, budget: Budget) -> str:
    one = comparison.find("single-lane-budget").recall
    whole = comparison.find("single-whole-budget").recall
    law = f"R({budget.k_lane}) / R({budget.k_total}) = {one:.3f} / {whole:.3f}"
    if comparison.break_even >= 1:
        return (
            f"Break-even: never, because {law} is not below 1: one lane's budget finds as much as "
            f"the whole."
        )
    return (
        f"Break-even: partition only if more than {law} = {comparison.break_even:.1%} of the lanes "
        f"answer in time; else lanes that each search by themselves find more."
    )


def _lost(comparison: Comparison, budget: Budget) -> str:
    shards = comparison.find("hash-shards")
    full = comparison.find("lanes", "stratified", 1.0)
    text = f"Hash shards find {shards.recall:.3f}, without a pool."
    if budget.n_lanes == 1:
        return text
    naive = comparison.find("naive-deduplicated")
    text += (
        f" With one of {budget.n_lanes} lanes lost they keep {shards.recall_lane_lost:.3f}, "
        f"alpha = 1 {full.recall_lane_lost:.3f}, naive lanes {naive.recall_lane_lost:.3f}"
    )
    best = max(comparison.variants, key=lambda v: v.recall_lane_lost if v.head else 0.0)
    if best.recall_lane_lost <= full.recall_lane_lost:
        return f"{text}."
    return (
        f"{text}; alpha = 1 with the best ranks on two lanes (head {best.head}) "
        f"{best.recall_lane_lost:.3f}, which trusts the pool's order."
    )


def planner_reading(costs: PlannerCosts) -> list[str]:
    """Say in sentences what planning costs.

    Parameters
    ----------
    costs : PlannerCosts

    Returns
    -------
    list of str
    """
    return [
        f"Batches of {costs.n_queries:,} queries with pools of {costs.k_pool}; the median of "
        f"several runs. Plain Python is lanewise.oracle: the same plans, bit for bit, in code that "
        f"is written to be read, not to be fast. The method's paper reports "
        f"{PAPER_PLANNER_NS / 1000:.0f} us a query in its own setting. Both are compared with one "
        f"thread.",
        f"A key made from the query's bytes costs {costs.query_key_ns:,.0f} ns a query on top, "
        f"where the caller has none.",
    ]


# ----------------------------------------------------------------------------------------- tables


def variants_table(comparison: Comparison, budget: Budget) -> Table:
    """Return one row for each variant.

    Parameters
    ----------
    comparison : Comparison
    budget : Budget

    Returns
    -------
    rich.table.Table
    """
    from rich import box
    from rich.table import Table

    # Without padding it is 80 columns wide.
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for header in (
        f"recall\n@{budget.k}",
        "one lane\nlost [1]",
        "pairwise\nJaccard",
        f"{budget.n_lanes}-way\nJaccard",
        "per\nlane",
        "scored\n[2]",
        "rows\n[3]",
    ):
        table.add_column(header, justify="right")
    group = ""
    for variant in comparison.variants:
        if group not in ("", _group(variant)):
            table.add_section()
        group = _group(variant)
        table.add_row(
            variant_label(variant, budget),
            f"{variant.recall:.3f}",
            f"{variant.recall_lane_lost:.3f}",
            _or_dash(variant.pairwise_jaccard),
            _or_dash(variant.mway_jaccard),
            f"{variant.candidates_per_lane:.1f}",
            f"{variant.scored:.1f}",
            f"{variant.index_rows:,.0f}",
        )
    return table


def _group(variant: Variant) -> str:
    head = " head" if variant.head else ""
    return f"{variant.scheme or 'without a plan'}{head}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def footnotes(comparison: Comparison) -> list[str]:
    """Return what the table's headers leave unsaid.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    list of str
    """
    looked_at = (
        "distances that graph searches compute"
        if comparison.index == "hnsw"
        else "rows that index searches look at"
    )
    looked_at += ", by all lanes together"
    looked_at += ", centroids not counted" if comparison.index == "ivf" else ""
    looked_at += "; a pool counts once, so times the lanes if each makes it for itself"
    return [
        "[1] mean over which lane is lost, the pool is not; a single index is the only worker.",
        "[2] candidates that the lanes score and report for a query, duplicates included.",
        f"[3] {looked_at}.",
    ]


def planner_table(costs: PlannerCosts) -> Table:
    """Return what planning costs, one row for each scheme.

    Parameters
    ----------
    costs : PlannerCosts

    Returns
    -------
    rich.table.Table
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("ns for a", no_wrap=True)
    headers = ["query\n1 thread", "candidate\n1 thread"]
    several = costs.n_threads > 1
    if several:
        headers += [f"query\n{costs.n_threads} threads", f"candidate\n{costs.n_threads} threads"]
    headers += [
        "query, plain\nPython",
        "over\nours",
        f"{PAPER_PLANNER_NS / 1000:.0f} us\nover ours",
    ]
    for header in headers:
        table.add_column(header, justify="right")
    for cost in costs.schemes:
        times = [cost.one_thread_ns, cost.all_threads_ns] if several else [cost.one_thread_ns]
        table.add_row(
            cost.scheme,
            *(figure for ns in times for figure in (f"{ns:,.0f}", f"{ns / costs.k_pool:.1f}")),
            f"{cost.plain_python_ns:,.0f}",
            f"{cost.plain_python_ns / cost.one_thread_ns:,.0f} x",
            f"{PAPER_PLANNER_NS / cost.one_thread_ns:,.0f} x",
        )
    return table


# ------------------------------------------------------------------------------------------- files


def as_dict(
    problem: Problem,
    budget: Budget,
    comparisons: Sequence[Comparison],
    costs: PlannerCosts,
    **facts: Any,
) -> dict[str, Any]:
    """Return all numbers, ready for JSON.

    Parameters
    ----------
    problem : Problem
    budget : Budget
    comparisons : sequence of Comparison
    costs : PlannerCosts
    **facts
        What else belongs in the file: seed, versions, machine.

    Returns
    -------
    dict
    """
    return {
        **facts,
        "data": {
            "name": problem.name,
            "metric": problem.metric,
            "rows": len(problem.base),
            "rows_in_file": problem.rows_in_file,
            "dim": problem.base.shape[1],
            "queries": len(problem.queries),
            "queries_held_out": problem.held_out,
            "neighbors_in_file": problem.given_neighbors,
        },
        "budget": {**dataclasses.asdict(budget), "k_pool": budget.k_total},
        "indexes": [
            {
                **dataclasses.asdict(comparison),
                "break_even": comparison.break_even,
                "reading": reading(comparison, budget),
            }
            for comparison in comparisons
        ],
        "planner": {**dataclasses.asdict(costs), "paper_ns": PAPER_PLANNER_NS},
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file.

    Parameters
    ----------
    path : Path
    content : dict
    """
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def plot(path: Path, comparisons: Sequence[Comparison], problem: Problem, budget: Budget) -> None:
    """Draw recall against alpha, with all lanes and with one lost; a column for each index.

    Parameters
    ----------
    path : Path
        A ``.png`` file.
    comparisons : sequence of Comparison
    problem : Problem
    budget : Budget
    """
    # Not pyplot, which looks for a display and keeps global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.5, 4.6 * len(comparisons)), 7.0), dpi=150, layout="constrained")
    axes = figure.subplots(2, len(comparisons), sharex=True, sharey=True, squeeze=False)
    for column, comparison in enumerate(comparisons):
        for row, what in enumerate(("recall", "recall_lane_lost")):
            axis = axes[row][column]
            _draw(axis, comparison, what, budget)
            if column == 0:
                lost = ", one lane lost" if row else ""
                axis.set_ylabel(f"recall@{budget.k}{lost}")
        axes[0][column].set_title(_TITLES[comparison.index])
        axes[1][column].set_xlabel("alpha (share that no other lane scores)")
    figure.suptitle(
        f"{problem.name}: {len(problem.base):,} x {problem.base.shape[1]}, {problem.metric}; "
        f"{budget.n_lanes} lanes x {budget.k_lane} candidates",
        fontsize=11,
    )
    handles, labels = axes[0][0].get_legend_handles_labels()
    extra, extra_labels = axes[1][0].get_legend_handles_labels()
    for handle, label in zip(extra, extra_labels, strict=True):
        if label not in labels:
            handles.append(handle)
            labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path)


def _draw(axis: Any, comparison: Comparison, what: str, budget: Budget) -> None:
    lines = [
        ("single-whole-budget", {"color": "black", "linewidth": 1.2}),
        ("hash-shards", {"color": "#CC79A7", "linewidth": 1.6, "linestyle": "-."}),
        # These two nearly always coincide: a broad line below a dotted one shows both.
        ("naive-deduplicated", {"color": "#BBBBBB", "linewidth": 4.0}),
        ("single-lane-budget", {"color": "black", "linewidth": 1.4, "linestyle": ":"}),
    ]
    for name, style in lines:
        variant = comparison.find(name)
        # A single index without its only worker finds nothing: a line at 0 would say no more.
        if what == "recall_lane_lost" and name.startswith("single"):
            continue
        axis.axhline(
            getattr(variant, what), label=variant_label(variant, budget), zorder=1, **style
        )
    for scheme in SCHEMES:
        values = [getattr(comparison.find("lanes", scheme, alpha), what) for alpha in ALPHAS]
        axis.plot(ALPHAS, values, label=f"lanes, {scheme}", zorder=3, **_STYLES[scheme])
    heads = [variant for variant in comparison.variants if variant.head]
    if what == "recall_lane_lost" and heads:
        axis.plot(
            [1.0] * len(heads),
            [variant.recall_lane_lost for variant in heads],
            linestyle="none",
            marker="*",
            markersize=11,
            color=_STYLES["stratified"]["color"],
            label="stratified with the best ranks on two lanes (head)",
            zorder=4,
        )
        for i, variant in enumerate(heads):
            axis.annotate(
                f"head {variant.head}",
                (1.0, variant.recall_lane_lost),
                xytext=(-8, -2 if i else -10),  # the smaller head lies lower
                textcoords="offset points",
                ha="right",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            )
    axis.set_xticks(ALPHAS)
    axis.set_ylim(0.0, 1.06)
    axis.grid(alpha=0.25)
