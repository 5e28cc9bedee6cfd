"""Metrics, spans and signatures of lanes: what they say, of whom, and what they cost in privacy."""

import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_results import World, settings

from lanewise import oracle
from lanewise.lanes import LaneReport
from lanewise.lanes.querylog import QueryLog, read_log
from lanewise.lanes.telemetry import Telemetry, minhash, minhash_error, minhash_jaccard

M, B = 4, 16
WORLD = World(n_queries=50, seed=21)
MASK = np.array([True, True, False, True])


@pytest.fixture
def registry():
    return pytest.importorskip("prometheus_client").CollectorRegistry()


def value(registry, name, query_class="", **labels):
    return registry.get_sample_value(f"lanewise_{name}", {"query_class": query_class, **labels})


# ------------------------------------------------------------------------------------------ metrics


@pytest.mark.parametrize("setting", [settings(), settings(head=8), settings(alpha=0.5)])
def test_metrics_are_sums_of_what_can_be_counted(registry, setting):
    telemetry = Telemetry(sample=1.0, registry=registry, tracer=False)
    result = WORLD.search(setting, MASK)
    telemetry.observe(result, "q")
    n = WORLD.n_queries
    lanes = [
        [
            {i for i, done in zip(ids, scored, strict=True) if done}
            for ids, scored in zip(row.tolist(), done.tolist(), strict=True)
        ]
        for row, done in zip(result.plan.ids, result.scored, strict=True)
    ]
    scored = sum(len(lane) for row in lanes for lane in row)
    distinct = sum(len(set().union(*row)) for row in lanes)
    planned = [set(row.reshape(-1).tolist()) - {-1} for row in result.plan.ids]
    coverage = sum(
        len(set().union(*row)) / len(wanted) for row, wanted in zip(lanes, planned, strict=True)
    )
    tail = np.mean(
        [
            [i in pool[B:].tolist() for i in ids]
            for ids, pool in zip(result.ids.tolist(), result.pool, strict=True)
        ]
    )
    assert value(registry, "queries_sampled_total", "q") == n
    assert value(registry, "candidates_scored_total", "q") == scored
    assert value(registry, "candidates_duplicate_total", "q") == scored - distinct
    for name, expected in {
        "pairwise_jaccard": sum(map(oracle.pairwise_jaccard, lanes)),
        "mway_jaccard": sum(map(oracle.mway_jaccard, lanes)),
        "on_time_ratio": 0.75 * n,
        "coverage_ratio": coverage,
        "tail_ratio": tail * n,
        "plan_seconds": 2e-7 * n,
    }.items():
        assert value(registry, f"{name}_count", "q") == n
        assert value(registry, f"{name}_sum", "q") == pytest.approx(expected)
    for lane, on_time in enumerate(MASK.tolist()):
        labels = {"lane": str(lane), "on_time": str(on_time).lower()}
        assert value(registry, "lanes_total", "q", **labels) == n
    assert value(registry, "queries_sampled_total") is None, "of another class"


def test_one_registry_serves_several(registry):
    first, second = (Telemetry(sample=1.0, registry=registry, tracer=False) for _ in range(2))
    first.observe(WORLD.search(settings(), MASK))
    second.observe(WORLD.search(settings(), MASK))
    assert value(registry, "queries_sampled_total") == 2 * WORLD.n_queries


def test_lanes_that_collect_have_no_tail(registry):
    result = WORLD.search(settings(scheme="owner"), MASK)
    object.__setattr__(result, "pool", result.plan.ids.reshape(len(result.ids), -1))
    del result.stats["plan_seconds"]
    Telemetry(sample=1.0, registry=registry, tracer=False).observe(result)
    assert value(registry, "coverage_ratio_count") == WORLD.n_queries
    assert not value(registry, "tail_ratio_count")
    assert not value(registry, "plan_seconds_count")


def test_an_empty_search_is_nothing(registry):
    Telemetry(sample=1.0, registry=registry, tracer=False).observe(
        WORLD.search(settings(), MASK, queries=[])
    )
    assert value(registry, "queries_sampled_total") is None


# ------------------------------------------------------------------------------------------- sample


def test_the_key_decides_who_is_looked_at(tmp_path):
    for sample in (0.0, 0.25, 1.0):
        expected = [key for key in WORLD.keys.tolist() if key[0] < sample * 2**64]
        for together in (True, False):
            path = tmp_path / f"{sample}-{together}.jsonl"
            with QueryLog(path) as log:
                telemetry = Telemetry(sample=sample, registry=False, tracer=False, log=log)
                chunks = [range(50)] if together else [[i] for i in range(50)]
                for chunk in chunks:
                    telemetry.observe(WORLD.search(settings(), MASK, queries=chunk), "q")
            records = read_log(path)
            assert [record.key for record in records] == [lo | hi << 64 for lo, hi in expected]
            assert {record.query_class for record in records} <= {"q"}
    assert 5 < sum(key[0] < 2**62 for key in WORLD.keys.tolist()) < 25


@pytest.mark.parametrize("sample", [0.0, 2.0**-64, 0.5, 1 - 2.0**-53, 1.0])
def test_the_limit_is_exact(sample):
    telemetry = Telemetry(sample=sample, registry=False, tracer=False)
    limit = int(sample * 2**64)
    words = sorted({0, 1, max(0, limit - 1), min(limit, 2**64 - 1), 2**64 - 1})
    keys = np.array([[word, 5] for word in words], dtype=np.uint64)
    assert telemetry.sampled(keys).tolist() == [word < limit for word in words]


def test_who_is_not_in_the_sample_is_not_touched():
    """Alone or in a batch: nothing but the keys of such queries is read."""
    telemetry = Telemetry(
        sample=0.5, registry=False, tracer=False, log=SimpleNamespace(write=None.__eq__)
    )
    for n in (1, 3):
        telemetry.observe(SimpleNamespace(keys=np.full((n, 2), 2**64 - 1, dtype=np.uint64)))
    with pytest.raises(AttributeError):
        Telemetry(sample=0.5, registry=False, tracer=SimpleNamespace()).observe(
            SimpleNamespace(keys=np.zeros((1, 2), dtype=np.uint64))
        )


# ---------------------------------------------------------------------------------------- libraries


def test_metrics_need_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(
        ImportError, match=r'metrics need prometheus_client: pip install "lanewise\[telemetry\]"'
    ):
        Telemetry()
    assert Telemetry(registry=False, tracer=False).metrics is None


def test_without_opentelemetry_there_are_no_spans(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert Telemetry(registry=False).tracer is None


def test_spans_tell_what_each_lane_did():
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    result = WORLD.search(settings(head=4), MASK)
    failed = ValueError("lost")
    lanes = (*result.lanes[:3], LaneReport(3, 800, 800, True, 0.004, failed))
    object.__setattr__(result, "lanes", lanes)
    Telemetry(sample=1.0, registry=False, tracer=provider.get_tracer("test")).observe(result, "q")
    *lanes, search = spans.get_finished_spans()
    assert search.name == "lanewise.search"
    assert search.attributes["lanewise.query_class"] == "q"
    assert search.attributes["lanewise.head"] == 4
    assert search.attributes["lanewise.queries"] == WORLD.n_queries
    assert [span.attributes["lanewise.lane"] for span in lanes] == [0, 1, 2, 3]
    for span, report in zip(lanes, result.lanes, strict=True):
        assert span.name == "lanewise.lane"
        assert span.parent.span_id == search.context.span_id
        assert span.attributes["lanewise.scored"] == report.scored
        assert span.attributes["lanewise.on_time"] == report.on_time
        assert span.start_time == search.start_time
        lasted = span.end_time - span.start_time
        seconds = 0.004 if report.seconds is None else report.seconds
        assert lasted == pytest.approx(seconds * 1e9, abs=2)
    assert [span.status.is_ok for span in lanes] == [True, True, True, False]
    assert lanes[3].events[0].attributes["exception.message"] == "lost"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample": 1.5}, ValueError, "sample: expected"),
        ({"sample": "x"}, TypeError, "sample: expected"),
        ({"registry": 3}, TypeError, "registry: expected a CollectorRegistry"),
        ({"registry": False, "log": "x.jsonl"}, TypeError, "log: expected a QueryLog"),
    ],
)
def test_refuses(options, error, message):
    if "registry" not in options:
        options = {**options, "registry": False}
    with pytest.raises(error, match=f"^{message}"):
        Telemetry(**options)


# --------------------------------------------------------------------------------------- signatures

ids = st.lists(st.integers(-1, 2**63 - 1), max_size=20)


@given(ids, st.integers(0, 2**128 - 1), st.integers(1, 9))
def test_signatures_are_the_least_keyed_hashes(some, key, n_hashes):
    words = [key & 2**64 - 1, key >> 64]
    found = minhash(some, key, n_hashes).tolist()
    present = [i for i in some if i >= 0]
    for h, word in enumerate(found):
        both = oracle.threefry(words, present or [0], 4 + 256 * (h // 2))
        expected = min(both[h % 2].tolist()) if present else 2**64 - 1
        assert word == expected
    assert minhash(list(reversed(some)) + some, key, n_hashes).tolist() == found, "a set"


def test_signatures_of_many_sets_are_those_of_each(rng):
    sets = rng.integers(-1, 50, (5, 12))
    found = minhash(sets, 9, 32)
    assert found.shape == (5, 32)
    for row, signature in zip(sets, found, strict=True):
        assert signature.tolist() == minhash(row, 9, 32).tolist()
    assert minhash(np.empty((2, 0), dtype=np.int64), 9).tolist() == [[2**64 - 1] * 128] * 2
    assert minhash_jaccard(minhash([], 9), minhash([-1], 9)) == 0.0
    assert minhash_jaccard(found, found).tolist() == [1.0] * 5


def test_estimates_keep_to_their_standard_error():
    """The number of equal hashes is binomial: its tail bound holds, and its variance is reached."""
    n_hashes, n_keys = 128, 60
    for common in (0, 5, 20, 35, 40):
        a, b = list(range(40)), list(range(40 - common, 80 - common))
        true = common / (80 - common)
        error = minhash_error(true, n_hashes)
        assert error == pytest.approx(math.sqrt(true * (1 - true) / n_hashes))
        found = np.array(
            [
                minhash_jaccard(minhash(a, key, n_hashes), minhash(b, key, n_hashes))
                for key in range(n_keys)
            ]
        )
        # Hoeffding, over all hashes of all keys, which are independent: wrong once in 1e9.
        assert abs(found.mean() - true) <= math.sqrt(math.log(2e9) / (2 * n_hashes * n_keys))
        # Chi-squared with 59 degrees of freedom: from 0.35 to 2.2 times its mean but for 1 in 1e5.
        assert 0.35 * error**2 <= found.var() <= 2.2 * error**2
    assert minhash_error(0.5) == pytest.approx(0.0442, abs=1e-4)


def test_another_key_is_another_signature():
    signatures = [minhash(range(30), 1 << bit, 16).tobytes() for bit in range(128)]
    assert len(set(signatures)) == 128
    pairs = itertools.combinations([minhash(range(30), key) for key in range(6)], 2)
    assert max(minhash_jaccard(a, b) for a, b in pairs) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minhash([1], 1, 0), "n_hashes: expected"),
        (lambda: minhash([-2], 1), "ids: expected"),
        (lambda: minhash([1], -1), "key: expected"),
        (lambda: minhash([1], b"x"), "key: expected 16 bytes"),
        (lambda: minhash_jaccard([1.0], [1.0]), "a: expected signatures"),
        (lambda: minhash_jaccard(minhash([1], 1), minhash([1], 1, 4)), "b: expected 128 hashes"),
        (lambda: minhash_error(1.5), "jaccard: expected"),
    ],
)
def test_refuses_what_is_no_signature(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
