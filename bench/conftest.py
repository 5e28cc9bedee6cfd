"""What the benchmarks share: equal threads, the vectors, the clock, and the summary at the end."""

import math
import platform
import time
from pathlib import Path

import numpy as np
import pytest

import lanewise as lw
from bench import data, machine, summary

_RECORDS = pytest.StashKey()
_CLAIMS = pytest.StashKey()
_STARTED = pytest.StashKey()

_SECONDS = 0.5  # for all rounds of one benchmark, unless the fewest take longer
_FEWEST, _MOST = 5, 50
_SHORTEST_ROUND = 1e-3


def pytest_addoption(parser):
    group = parser.getgroup("lanewise")
    group.addoption("--full", action="store_true", help="larger data, as a paper would have it")
    group.addoption(
        "--data",
        action="append",
        default=[],
        metavar="FILE",
        help="vectors to search beside the built-in ones; may be given several times",
    )


def pytest_configure(config):
    # Importing SWIG's wrappers warns on Python 3.12 and later, and every warning is an error here.
    config.addinivalue_line("filterwarnings", "ignore:builtin type .*:DeprecationWarning")
    config.stash[_RECORDS] = []
    config.stash[_CLAIMS] = []
    config.stash[_STARTED] = machine.clocks()


def pytest_collection_modifyitems(config, items):
    for module in dict.fromkeys(item.module for item in items):
        config.stash[_CLAIMS] += getattr(module, "CLAIMS", [])


def pytest_generate_tests(metafunc):
    if "vectors" in metafunc.fixturenames:
        names = ["sift", "mixture", "gaussian", *metafunc.config.getoption("--data")]
        metafunc.parametrize("vectors", names, indirect=True, scope="module", ids=_name_of_file)


def _name_of_file(name):
    return Path(name).stem


@pytest.fixture(scope="module")
def vectors(request):
    n = 100_000 if request.config.getoption("--full") else 20_000
    if request.param == "sift":
        return data.sift()
    if request.param == "mixture":
        return data.mixture(n, 256)
    if request.param == "gaussian":
        return data.gaussian(n, 128)
    return data.from_file(request.param)


@pytest.fixture(params=lw.kernels.available())
def isa(request):
    """Every instruction set that can run here, best first."""
    return request.param


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def n_threads(request):
    if request.param > lw.threads.default_threads():
        pytest.skip("not so many CPUs")
    return request.param


@pytest.fixture(autouse=True)
def equal_threads(request):
    """One thread for everybody, or as many as `n_threads` says."""
    from bench import peers

    n = request.getfixturevalue("n_threads") if "n_threads" in request.fixturenames else 1
    with peers.threads(n):
        yield


@pytest.fixture
def timed(benchmark, pytestconfig):
    """Return a function that times a call: the median and the minimum of several rounds.

    ``timed(group, who, call, role="ours", per=1, rates=None, **facts)``: `per` is how many units
    of work a call does, and times are per unit; `rates` are amounts per call, reported per second.
    """

    def run(group, who, call, *, role="ours", per=1, rates=None, **facts):
        benchmark.group = group
        if benchmark.disabled:
            benchmark.pedantic(call)
            return
        once = min(_seconds(call) for _ in range(2))
        if once < 0.01:
            once = min(_seconds(call) for _ in range(10))
        iterations = math.ceil(_SHORTEST_ROUND / max(once, 1e-9)) if once < _SHORTEST_ROUND else 1
        rounds = max(_FEWEST, min(_MOST, int(_SECONDS / (once * iterations))))
        benchmark.pedantic(call, rounds=rounds, iterations=iterations)
        stats = benchmark.stats.stats
        for name, amount in (rates or {}).items():
            facts[name] = amount / stats.median
        record = summary.Record(
            group, who, role, stats.median / per, stats.min / per, rounds, facts
        )
        benchmark.extra_info.update(who=who, role=role, per=per, **facts)
        pytestconfig.stash[_RECORDS].append(record)

    return run


@pytest.fixture(params=["batch", "one by one"])
def how(request):
    """How queries are asked."""
    return request.param


@pytest.fixture
def timed_search(timed, how):
    """Return a function that times a search both ways, and its recall beside.

    ``timed_search(what, who, vectors, search, role="ours")``, where `search` takes a matrix of
    queries and returns ids.
    """

    def run(what, who, vectors, search, role="ours"):
        ask = search if how == "batch" else data.one_by_one(search)
        timed(
            f"{what}, {how}: per query",
            who,
            lambda: ask(vectors.queries),
            role=role,
            per=len(vectors.queries),
            recall=vectors.recall(ask(vectors.queries)),
        )

    return run


def _seconds(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@pytest.fixture(scope="session")
def fma_peak():
    """GFLOP/s of NumPy's product of two square matrices, by threads: the practical peak."""
    from bench import peers

    n = 2048
    a = np.ones((n, n), dtype=np.float32)
    out = np.empty_like(a)
    peak = {}
    for threads in (1, 2):
        with peers.threads(threads):
            best = min(_seconds(lambda: np.matmul(a, a, out=out)) for _ in range(8))
        peak[threads] = 2 * n**3 / best / 1e9
    return peak


# ------------------------------------------------------------------------------ what is written


def pytest_benchmark_update_machine_info(config, machine_info):
    from bench import peers

    machine_info["lanewise"] = {
        "version": lw.__version__,
        "kernels": lw.kernels.available(),
        "cpus": lw.threads.default_threads(),
        "platform": platform.platform(),
        "peers": peers.versions(),
    }


def pytest_benchmark_update_json(config, benchmarks, output_json):
    kept = summary.as_json(config.stash[_RECORDS], config.stash[_CLAIMS])
    output_json.update(kept, cpus_taken_by_others=machine.taken_by_others(config.stash[_STARTED]))


def pytest_terminal_summary(terminalreporter, config):
    records = config.stash[_RECORDS]
    if not records:
        return
    terminalreporter.section("lanewise beside its peers")
    terminalreporter.write_line(_setting(config))
    terminalreporter.write_line(summary.text(records, config.stash[_CLAIMS]))


def _setting(config):
    from bench import peers

    versions = peers.versions()
    lines = [
        f"{platform.platform()}, {lw.threads.default_threads()} CPUs; lanewise {lw.__version__} "
        f"({', '.join(lw.kernels.available())}); NumPy {versions['numpy']}, "
        f"FAISS {versions['faiss']}, scikit-learn {versions['scikit-learn']}",
        f"BLAS kernels: {', '.join(f'{k} {v}' for k, v in versions['blas'].items())}",
    ]
    taken = machine.taken_by_others(config.stash[_STARTED])
    if taken is not None:
        doubt = ": too many, run it again on a quiet machine" if taken > 0.2 else ""
        lines.append(f"Other processes took {taken:.2f} CPUs on average{doubt}")
    return "\n".join(lines)
