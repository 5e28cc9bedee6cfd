"""The command as its users meet it: what it prints, what it writes, and how it refuses."""

import contextlib
import functools
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lanewise as lw
from lanewise import cli
from lanewise.lanes import SCHEMES, compare, report

LANES, K_LANE, K = 3, 8, 5
N, DIM, QUERIES = 500, 12, 20
SMALL = ["--lanes", str(LANES), "--k-lane", str(K_LANE), "-k", str(K)]

HEADS = (4, 5)
LABELS = {
    ("naive", None, None, None): "naive lanes, duplicates kept",
    ("naive-deduplicated", None, None, None): "naive lanes, de-duplicated",
    ("single-lane-budget", None, None, None): "single index, 8 candidates",
    ("single-whole-budget", None, None, None): "single index, 24 candidates",
    ("hash-shards", None, None, None): "hash shards",
    **{
        ("lanes", scheme, alpha, 0): f"{scheme}, alpha {text}"
        for scheme in SCHEMES
        for alpha, text in zip(
            (0.0, 0.25, 0.5, 0.75, 1.0), ("0", "0.25", "0.5", "0.75", "1"), strict=True
        )
    },
    **{("lanes", "stratified", 1.0, head): f"stratified, alpha 1, head {head}" for head in HEADS},
}


def vectors(n, seed):
    return np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32)


BASE, ASKED = vectors(N, seed=0), vectors(QUERIES, seed=1)


def brute_force(base, queries, k):
    """Truth without the library: ids of the k nearest, by squared L2 in float64."""
    differences = queries[:, None, :].astype(np.float64) - base[None].astype(np.float64)
    return np.argsort((differences**2).sum(axis=2), axis=1, kind="stable")[:, :k]


TRUTH = brute_force(BASE, ASKED, K)


def recall(ids, truth=TRUTH):
    return float(np.mean([len(set(a) & set(t)) / len(t) for a, t in zip(ids, truth, strict=True)]))


def nearest(candidates, k=K):
    """The k nearest of each query's candidates; duplicates and -1 go."""
    answers = []
    for query, ids in zip(ASKED, candidates, strict=True):
        distinct = np.unique(ids[ids >= 0])
        distances = ((BASE[distinct].astype(np.float64) - query) ** 2).sum(axis=1)
        answers.append(distinct[np.argsort(distances, kind="stable")][:k].tolist())
    return answers


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Reports go to a temporary folder; the environment asks for nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LANEWISE_NUM_THREADS", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")


@pytest.fixture
def quick(monkeypatch):
    """Leave out what takes long under an emulator: the picture, and steady timings."""
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "plot", lambda *_: None)
    few = functools.partial(compare.planner_costs, n_queries=20, n_repeats=2)
    monkeypatch.setattr(compare, "planner_costs", few)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, base=BASE, queries=ASKED)
    return str(path)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(run):
    """Run what must end with one line on stderr and exit code 2; return the line."""

    def refused(*arguments):
        code, out, err = run(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("lanewise: error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err

    return refused


def numbers(out="lanewise-report"):
    """The report's numbers, but for those that are times."""
    content = json.loads((Path(out) / "lanes.json").read_text())
    for comparison in content["indexes"]:
        del comparison["build_seconds"]
    return content


def variants(comparison):
    return {(v["name"], v["scheme"], v["alpha"], v["head"]): v for v in comparison["variants"]}


# ------------------------------------------------------------------------------- what it computes


@pytest.fixture(scope="module")
def whole_report(tmp_path_factory):
    """One run over all indices: (what was printed, folder)."""
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    np.savez(folder / "rows.npz", base=BASE, queries=ASKED, neighbors=TRUTH)
    indexes = ["ivf", "flat"]
    with contextlib.suppress(ImportError):
        import hnswlib  # noqa: F401

        indexes.insert(0, "hnsw")
    printed = io.StringIO()
    out = folder / "out" / "of" / "lanes"
    with contextlib.redirect_stdout(printed):
        files = ["--data", str(folder / "rows.npz"), "--out", str(out)]
        code = cli.main(["lanes", *files, "--index", ",".join(indexes), *SMALL])
    assert code == 0
    return printed.getvalue(), out


def comparisons(whole_report):
    content = numbers(whole_report[1])
    return {comparison["index"]: comparison for comparison in content["indexes"]}


def test_every_variant_stands_in_the_table_as_in_the_file(whole_report):
    printed, out = whole_report
    tables = printed.split("recall one lane")[1:]
    found = numbers(out)["indexes"]
    assert len(found) in (2, 3)
    for table, comparison in zip(tables, found, strict=True):
        lines = table.splitlines()
        by_key = variants(comparison)
        assert list(by_key) == list(LABELS)
        for key, label in LABELS.items():
            v = by_key[key]
            line = next(line for line in lines if line.startswith(label + " "))
            overlaps = [v["pairwise_jaccard"], v["mway_jaccard"]]
            assert line.removeprefix(label).split() == [
                f"{v['recall']:.3f}",
                f"{v['recall_lane_lost']:.3f}",
                *("-" if value is None else f"{value:.3f}" for value in overlaps),
                f"{v['candidates_per_lane']:.1f}",
                f"{v['scored']:.1f}",
                f"{v['index_rows']:,.0f}",
            ]


def test_prints_plain_lines_of_at_most_100_columns(whole_report):
    printed, _ = whole_report
    assert "\x1b" not in printed
    assert "\r" not in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    assert "the file's neighbours agree" in " ".join(printed.split())


def test_flat_is_exact_and_its_numbers_follow_from_counting(whole_report):
    found = variants(comparisons(whole_report)["flat"])
    without = {name: v for (name, scheme, *_), v in found.items() if scheme is None}
    assert [v["recall"] for v in without.values()] == [2 / K, 1.0, 1.0, 1.0, 1.0]
    # Three lanes repeat each id three times, two lanes twice: five places hold 2 and 3 of them.
    assert without["naive"]["recall_lane_lost"] == 3 / K
    assert without["naive-deduplicated"]["recall_lane_lost"] == 1.0
    assert without["single-whole-budget"]["recall_lane_lost"] == 0.0
    assert [v["scored"] for v in without.values()] == [24, 24, 8, 24, 24]
    assert [v["index_rows"] for v in without.values()] == [3 * N, 3 * N, N, N, N]
    # Whatever lane a neighbour has, one loss of three takes it.
    for scheme in SCHEMES:
        full = found["lanes", scheme, 1.0, 0]
        assert full["recall"] == 1.0
        assert full["recall_lane_lost"] == pytest.approx(2 / 3)
        assert full["pairwise_jaccard"] == full["mway_jaccard"] == 0.0
    for scheme, alpha in itertools.product(("permute", "stratified"), (0.0, 0.25, 0.5, 0.75, 1.0)):
        v = found["lanes", scheme, alpha, 0]
        own = K_LANE * alpha
        shared = K_LANE - own
        assert v["scored"] == LANES * K_LANE
        assert v["pairwise_jaccard"] == pytest.approx(shared / (shared + 2 * own))
        assert v["mway_jaccard"] == pytest.approx(shared / (shared + LANES * own))
    assert comparisons(whole_report)["flat"]["break_even"] == 1.0


def test_ivf_agrees_with_brute_force_over_what_its_searches_return(whole_report):
    comparison = comparisons(whole_report)["ivf"]
    parameters = comparison["parameters"]
    assert parameters == {
        "n_lists": 22,
        "n_lists_shard": 7,
        "n_probe_lane": 1,
        "n_probe_whole": 3,
    }
    found = variants(comparison)
    index = lw.IVF(DIM, 22).train(BASE).add(BASE)
    one = index.search(ASKED, K_LANE, n_probe=1)
    whole = index.search(ASKED, LANES * K_LANE, n_probe=3)
    assert 0 < recall(nearest(one.ids)) < recall(nearest(whole.ids)) < 1
    expected = {
        "naive-deduplicated": (one, LANES),
        "single-lane-budget": (one, 1),
        "single-whole-budget": (whole, 1),
    }
    for name, (answer, times) in expected.items():
        v = found[name, None, None, None]
        assert v["recall"] == pytest.approx(recall(nearest(answer.ids)))
        assert v["index_rows"] == pytest.approx(times * answer.stats["candidates"].mean())
        assert v["scored"] == pytest.approx(times * (answer.ids >= 0).sum(axis=1).mean())
    keys = lw.lanes.query_keys(ASKED)
    for name, scheme, alpha, head in LABELS:
        if name != "lanes":
            continue
        v = found[name, scheme, alpha, head]
        ids = lw.oracle.plan(whole.ids, keys, scheme, LANES, K_LANE, alpha, head)[0]
        assert v["recall"] == pytest.approx(recall(nearest(ids.reshape(QUERIES, -1))))
        lost = [
            recall(nearest(np.delete(ids, lane, axis=1).reshape(QUERIES, -1)))
            for lane in range(LANES)
        ]
        assert v["recall_lane_lost"] == pytest.approx(np.mean(lost))
        assert v["scored"] == pytest.approx((ids >= 0).sum(axis=(1, 2)).mean())
        assert v["pairwise_jaccard"] == pytest.approx(
            np.mean([lw.oracle.pairwise_jaccard(lanes) for lanes in ids.tolist()])
        )
        assert v["mway_jaccard"] == pytest.approx(
            np.mean([lw.oracle.mway_jaccard(lanes) for lanes in ids.tolist()])
        )


def test_hnsw_agrees_with_a_graph_built_by_hand(whole_report):
    hnswlib = pytest.importorskip("hnswlib")
    found = variants(comparisons(whole_report)["hnsw"])
    graph = hnswlib.Index("l2", DIM)
    graph.init_index(max_elements=N, M=16, ef_construction=200, random_seed=0)
    graph.add_items(BASE, np.arange(N), num_threads=1)
    for name, k in (("single-lane-budget", K_LANE), ("single-whole-budget", LANES * K_LANE)):
        graph.set_ef(k)
        ids = graph.knn_query(ASKED, k)[0].astype(np.int64)
        assert found[name, None, None, None]["recall"] == pytest.approx(recall(nearest(ids)))
    answer = lw.HNSW(graph).search(ASKED, LANES * K_LANE, ef=LANES * K_LANE)
    ours = answer.stats["distances"].mean()
    for name in ("single-whole-budget", "lanes"):
        looked_at = {v["index_rows"] for key, v in found.items() if key[0] == name}
        assert list(looked_at) == [pytest.approx(ours)]


def test_shards_are_parts_of_the_rows_and_say_where_a_row_belongs():
    shards = compare.shards(40_000, 3, seed=5)
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(40_000))
    assert min(map(len, shards)) > 12_000
    # The hash is of the id: more rows move none.
    assert np.array_equal(compare.shards(20_000, 3, seed=5)[1], shards[1][shards[1] < 20_000])


def test_the_reading_quotes_the_numbers(whole_report):
    printed, out = whole_report
    text = " ".join(printed.split())
    for comparison in numbers(out)["indexes"]:
        found = variants(comparison)
        one = found["single-lane-budget", None, None, None]["recall"]
        whole = found["single-whole-budget", None, None, None]["recall"]
        assert comparison["break_even"] == pytest.approx(one / whole)
        assert f"R(8) / R(24) = {one:.3f} / {whole:.3f}" in text
        for sentence in comparison["reading"]:
            assert sentence in text.replace(" - ", " ")
    assert "Break-even: never" in text


def test_the_file_describes_the_machine_but_does_not_name_it(whole_report):
    _, out = whole_report
    content = numbers(out)
    assert set(content["machine"]) == {
        "cpu",
        "architecture",
        "cpus",
        "threads",
        "isa",
        "isas_built",
        "isas_runnable",
        "os",
        "python",
        "numpy",
    }
    assert content["machine"]["isa"] == lw.kernels.get().name
    assert content["versions"]["lanewise"] == lw.__version__
    assert content["budget"] == {"n_lanes": LANES, "k_lane": K_LANE, "k": K, "k_pool": 24}
    assert content["data"] == {
        "name": "rows",
        "metric": "l2",
        "rows": N,
        "rows_in_file": N,
        "dim": DIM,
        "queries": QUERIES,
        "queries_held_out": False,
        "neighbors_in_file": "agree",
    }
    assert str(out.parent) not in (out / "lanes.json").read_text()


def test_planner_costs_are_in_the_table_as_in_the_file(whole_report):
    printed, out = whole_report
    planner = numbers(out)["planner"]
    assert [cost["scheme"] for cost in planner["schemes"]] == list(SCHEMES)
    assert planner["k_pool"] == LANES * K_LANE
    lines = printed.split("Planning")[1].splitlines()
    for cost in planner["schemes"]:
        line = next(line for line in lines if line.startswith(cost["scheme"]))
        figures = line.replace(",", "").split()[1:]
        ns = cost["one_thread_ns"]
        assert ns > 0
        assert figures[:2] == [f"{ns:.0f}", f"{ns / planner['k_pool']:.1f}"]
        assert [float(figures[-4]), float(figures[-2])] == [
            round(cost["plain_python_ns"] / ns),
            round(37_000 / ns),
        ]


def test_draws_a_picture(whole_report):
    picture = (whole_report[1] / "lanes.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000


@pytest.mark.usefixtures("quick")
def test_threads_change_no_number(run, data):
    for threads in (1, 3):
        arguments = ["--data", data, "--index", "ivf,flat", "--threads", threads, "--out", threads]
        assert run("lanes", *arguments, *SMALL)[0] == 0
    assert numbers("1")["indexes"] == numbers("3")["indexes"]
    assert numbers("3")["machine"]["threads"] == 3


@pytest.mark.usefixtures("quick")
def test_threads_change_no_graph(run, data):
    pytest.importorskip("hnswlib")
    for threads in (1, 3):
        arguments = ["--data", data, "--index", "hnsw", "--threads", threads, "--out", threads]
        assert run("lanes", *arguments, *SMALL)[0] == 0
    assert numbers("1")["indexes"] == numbers("3")["indexes"]


@pytest.mark.usefixtures("quick")
def test_indices_may_be_repeated_and_listed(run, data):
    asked = ["--index", "flat, ivf", "--index", "flat"]
    assert run("lanes", "--data", data, *asked, *SMALL)[0] == 0
    assert [comparison["index"] for comparison in numbers()["indexes"]] == ["flat", "ivf"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_other_metrics(run, data, metric):
    code, out, _ = run("lanes", "--data", data, "--index", "flat", "--metric", metric, *SMALL)
    assert code == 0
    assert f"metric {metric}" in out
    assert numbers()["data"]["metric"] == metric
    assert variants(numbers()["indexes"][0])["hash-shards", None, None, None]["recall"] == 1.0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("lanes", "k_lane"), [(1, 10), (40, 1)])
def test_extreme_budgets(run, data, lanes, k_lane):
    budget = ["--lanes", lanes, "--k-lane", k_lane, "-k", 10]
    assert run("lanes", "--data", data, "--index", "ivf", "--rows", 50, *budget)[0] == 0
    found = variants(numbers()["indexes"][0])
    assert found["lanes", "stratified", 1.0, 0]["scored"] <= lanes * k_lane
    if lanes == 1:
        assert found["hash-shards", None, None, None]["recall_lane_lost"] == 0.0


@pytest.mark.slow
def test_the_shipped_set_is_judged_by_the_truth():
    shipped = lw.datasets.sift_small()
    problem = compare.prepare(shipped, compare.Budget())
    base, queries = shipped.base.astype(np.int64), shipped.queries.astype(np.int64)
    distances = (base**2).sum(axis=1) - 2 * queries @ base.T
    assert np.array_equal(problem.truth, np.argsort(distances, axis=1, kind="stable")[:, :10])
    assert problem.given_neighbors == "agree"


# --------------------------------------------------------------------------------- rows and queries


@pytest.mark.usefixtures("quick")
def test_takes_the_first_rows_and_queries_and_says_so(run, tmp_path):
    path = tmp_path / "given.npz"
    np.savez(path, base=BASE, queries=ASKED, neighbors=TRUTH)
    arguments = ["--index", "ivf", "--rows", 400, "--queries", 7]
    code, out, _ = run("lanes", "--data", path, *arguments, *SMALL)
    assert code == 0
    assert "Only the first 400 of the file's 500 rows are searched" in out
    assert "belong to all its rows" in out
    index = lw.IVF(DIM, 20).train(BASE[:400]).add(BASE[:400])
    ids = index.search(ASKED[:7], K, n_probe=3).ids.tolist()
    assert variants(numbers()["indexes"][0])["single-whole-budget", None, None, None][
        "recall"
    ] == pytest.approx(recall(ids, brute_force(BASE[:400], ASKED[:7], K)))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("suffix", [".npz", ".npy", ".fvecs"])
def test_takes_queries_out_of_a_file_without_any(run, tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".npz":
        np.savez(path, base=BASE)
    else:
        lw.datasets.write(path, BASE)
    code, out, _ = run("lanes", "--data", path, "--index", "flat", *SMALL)
    assert code == 0
    assert "random rows were taken out" in out
    assert numbers()["data"]["queries"] == N // 10
    assert numbers()["data"]["rows"] == N - N // 10
    assert "Only the first" not in out


def test_held_out_queries_are_no_rows_and_follow_the_seed():
    dataset = lw.datasets.Dataset("rows", base=BASE)
    budget = compare.Budget(LANES, K_LANE, K)
    first, again, other = (
        compare.prepare(dataset, budget, seed=seed, n_queries=30) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.queries, again.queries)
    assert not np.array_equal(first.queries, other.queries)
    rows = {row.tobytes() for row in first.base} | {row.tobytes() for row in first.queries}
    assert rows == {row.tobytes() for row in BASE}
    assert np.array_equal(first.truth, brute_force(first.base, first.queries, K))


def test_large_files_are_cut_to_what_is_built_in_seconds():
    assert compare.default_rows(128) == 50_000
    assert compare.default_rows(960) == 10_416
    assert compare.default_rows(2**25) == 1


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda ids: ids, "agree"),
        (lambda ids: ids[:, :2], "agree"),
        (lambda ids: ids[:, [1, 0, 2, 3, 4]], "agree"),
        (lambda ids: (ids + 1) % N, "disagree"),
        (lambda ids: ids[:, [0, 0, 1, 2, 3]], "disagree"),
    ],
)
def test_given_neighbours_are_compared_with_the_truth(change, verdict):
    dataset = lw.datasets.Dataset("rows", base=BASE, queries=ASKED, neighbors=change(TRUTH))
    assert compare.prepare(dataset, compare.Budget(k=K)).given_neighbors == verdict


def test_given_neighbours_may_break_ties_otherwise():
    base = np.repeat(BASE[:100], 2, axis=0)
    truth = brute_force(base, ASKED, 5)
    # Each row stands twice; the file prefers the second.
    swapped = truth ^ 1
    dataset = lw.datasets.Dataset("twins", base=base, queries=ASKED, neighbors=swapped)
    problem = compare.prepare(dataset, compare.Budget(k=5))
    assert problem.given_neighbors == "agree"
    assert np.array_equal(problem.truth, truth)


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["lane"], "lane"),
        (["lanes", "--lanes", "0"], "--lanes"),
        (["lanes", "--lanes", "four"], "--lanes"),
        (["lanes", "--k-lane", "0"], "--k-lane"),
        (["lanes", "--k-lane", "-3"], "--k-lane"),
        (["lanes", "-k", "0"], "-k"),
        (["lanes", "--queries", "0"], "--queries"),
        (["lanes", "--rows", "0"], "--rows"),
        (["lanes", "--seed", "-1"], "--seed"),
        (["lanes", "--seed", "99999999999"], "--seed"),
        (["lanes", "--threads", "0"], "--threads"),
        (["lanes", "--index", "hnsw,lsh"], "'lsh'"),
        (["lanes", "--index", ""], "--index"),
        (["lanes", "--metric", "l1"], "--metric"),
        (["lanes", "--speed", "11"], "--speed"),
    ],
)
def test_impossible_arguments(refused, arguments, says):
    assert says in refused(*arguments)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--lanes", "70000"], "n_lanes"),
        (["-k", "65"], "at most n_lanes * k_lane = 64"),
        (["--data", "missing.npz"], "missing.npz"),
        (["--data", "."], "--data"),
    ],
)
def test_refusals_come_before_a_folder_is_made(refused, arguments, says):
    assert says in refused("lanes", "--index", "flat", *arguments)
    assert not Path("lanewise-report").exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.txt", b"1 2 3", ".txt"),
        ("rows.npz", b"", "rows.npz"),
        ("rows.npz", b"PK but no archive", "rows.npz"),
        ("rows.npy", b"\x93NUMPY\x01\x00", "rows.npy"),
        ("rows.fvecs", b"\x04\x00\x00\x00\x00", "rows.fvecs"),
    ],
)
def test_files_that_are_not_what_they_say(refused, tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in refused("lanes", "--data", name, "--index", "flat")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"base": BASE, "queries": ASKED[:, :-1]}, "dimension 12, got 11"),
        ({"base": BASE[0]}, "2-D"),
        ({"base": BASE, "queries": ASKED[0]}, "2-D"),
        ({"base": BASE[:, :0], "queries": ASKED[:, :0]}, "columns"),
        ({"base": BASE[:0], "queries": ASKED}, "0 rows"),
        ({"base": BASE[:0]}, "0 rows"),
        ({"base": BASE[:1]}, "1 rows"),
        ({"base": BASE, "queries": ASKED[:0]}, "at least one"),
        ({"base": BASE[:63], "queries": ASKED}, "63 rows"),
        ({"base": BASE.astype(np.int64), "queries": ASKED}, "int64"),
        ({"base": BASE * np.float32("nan"), "queries": ASKED}, "nan"),
        ({"base": BASE, "queries": ASKED * np.float32("inf")}, "finite"),
        ({"base": BASE * np.float32(1e30), "queries": ASKED}, "no longer than"),
        ({"base": BASE, "queries": ASKED, "neighbors": TRUTH + N}, "neighbors"),
        ({"base": BASE, "queries": ASKED, "neighbors": TRUTH[1:]}, "neighbors"),
        ({"rows": BASE}, "base"),
    ],
)
def test_arrays_that_do_not_fit(refused, tmp_path, arrays, says):
    np.savez(tmp_path / "rows.npz", **arrays)
    assert says in refused("lanes", "--data", "rows.npz", "--index", "flat")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("option", "says"), [("--queries", "the 20 there"), ("--rows", "the 500")])
def test_more_than_the_file_has(refused, data, option, says):
    assert says in refused("lanes", "--data", data, "--index", "flat", option, 501)


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written(refused, data, tmp_path, monkeypatch):
    monkeypatch.setattr(lw.datasets, "load", None)
    (tmp_path / "file").write_text("in the way")
    for out in ("file", "file/below"):
        assert "--out" in refused("lanes", "--data", data, "--index", "flat", "--out", out)


@pytest.mark.usefixtures("quick")
def test_a_disk_that_fills_up(run, data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "lanes.json")

    monkeypatch.setattr(report, "write_json", full)
    code, _, err = run("lanes", "--data", data, "--index", "flat", *SMALL)
    assert code == 2
    assert err == "lanewise: error: lanes.json: No space left on device\n"


@pytest.mark.parametrize("missing", ["hnswlib", "rich", "matplotlib"])
def test_missing_extras_are_named_before_anything_is_read(refused, data, monkeypatch, missing):
    for module in {"hnswlib", "rich", "matplotlib"} - {missing}:
        pytest.importorskip(module)
    monkeypatch.setattr(lw.datasets, "load", None)
    monkeypatch.setitem(sys.modules, missing, None)
    error = refused("lanes", "--data", data)
    assert f"{missing} is not installed" in error
    assert 'pip install "lanewise[lanes]"' in error


@pytest.mark.usefixtures("quick")
def test_hnswlib_is_not_needed_for_other_indices(run, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    assert run("lanes", "--data", data, "--index", "ivf", *SMALL)[0] == 0


@pytest.mark.usefixtures("quick")
def test_hdf5_files_need_their_extra(refused, tmp_path, monkeypatch):
    (tmp_path / "rows.hdf5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "lanewise[hdf5]" in refused("lanes", "--data", "rows.hdf5", "--index", "flat")


@pytest.mark.parametrize(
    ("name", "value"), [("LANEWISE_ISA", "mmx"), ("LANEWISE_NUM_THREADS", "many")]
)
def test_an_environment_that_cannot_be_followed(refused, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert name in refused("info")


# ------------------------------------------------------------------------------------- interruption


@pytest.mark.usefixtures("quick")
def test_ctrl_c_ends_it_quietly(run, data, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "compare_index", interrupted)
    code, _, err = run("lanes", "--data", data, "--index", "flat", *SMALL)
    assert code == 130
    assert err == "lanewise: interrupted\n"


def test_an_interrupted_build_leaves_no_thread_at_work():
    class Slow(compare._Method):
        parallel = True

        def choose(self, n, budget):
            return {}

        def build(self, rows, is_shard, added):
            for _ in rows:
                added(1)

    def interrupted(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    dataset = lw.datasets.Dataset("rows", base=BASE, queries=ASKED)
    budget = compare.Budget()
    method = Slow(compare.prepare(dataset, budget), budget, 0, 2)
    with pytest.raises(KeyboardInterrupt):
        # Comes back only once the other thread has stopped.
        compare._build_all(method, [BASE, BASE], 2, interrupted)


# ------------------------------------------------------------------------------ processes and info


def lanewise(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "lanewise", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        check=False,
    )


def test_runs_as_a_module(data):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    done = lanewise(
        "lanes", "--data", data, "--index", "flat", "--lanes", "2", "--k-lane", "4", "-k", "3"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert (Path("lanewise-report") / "lanes.png").stat().st_size > 0


def test_errors_of_a_process_are_one_line():
    done = lanewise("lanes", "--data", "missing.npz", "--index", "lsh")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "lanewise: error: --index: expected one of hnsw, ivf, flat, got 'lsh'\n"


def test_version_and_help(run):
    assert run("--version") == (0, f"lanewise {lw.__version__}\n", "")
    code, out, err = run("lanes", "--help")
    assert (code, err) == (0, "")
    for option in ("--data", "--index", "--lanes", "--k-lane", "--queries", "--rows", "--out"):
        assert option in out


def test_info_says_what_runs(run, monkeypatch):
    monkeypatch.delenv("LANEWISE_ISA", raising=False)
    code, out, err = run("info")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["lanewise"] == lw.__version__
    assert lines["NumPy"] == np.__version__
    assert f"kernels used  {lw.kernels.available()[0]}: the best that runs" in out
    for name in lw.kernels.built():
        assert name in out
    monkeypatch.setenv("LANEWISE_ISA", "scalar")
    monkeypatch.setenv("LANEWISE_NUM_THREADS", "3")
    out = run("info")[1]
    assert "kernels used  scalar: LANEWISE_ISA" in out
    assert "threads       3: LANEWISE_NUM_THREADS" in out


def test_info_says_why_so_many_threads(run, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(lw.threads, "_cgroup_cpus", lambda: 8.0)
    assert "threads       8: all CPUs" in run("info")[1]
    monkeypatch.setattr(lw.threads, "_cgroup_cpus", lambda: 1.5)
    assert "threads       2: the control group's limit, of 8 CPUs" in run("info")[1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2})
    assert "threads       2: the CPUs that this process may run on, of 8" in run("info")[1]


def test_info_names_what_is_missing(run, monkeypatch):
    def versions(*names):
        return {name: None if name == "pooch" else "1.0" for name in names}

    monkeypatch.setattr(cli, "_versions", versions)
    out = run("info")[1]
    assert 'extra fetch   pooch missing, h5py 1.0; pip install "lanewise[fetch]"' in out
    assert "extra lanes   hnswlib 1.0, rich 1.0, matplotlib 1.0\n" in out
