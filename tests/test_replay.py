"""The query log and its replay: what is written is read, and what is predicted is what happens."""

import contextlib
import io
import json
import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_results import World, settings

import lanewise as lw
from lanewise import cli
from lanewise.io import FileFormatError
from lanewise.lanes import Setting, plan
from lanewise.lanes.law import OnTime, candidates, predict
from lanewise.lanes.querylog import Lane, LoggedQueries, QueryLog, Record, read_log
from lanewise.lanes.replaying import (
    _LoggedLanes,
    as_logged,
    logged_setting,
    on_time_of,
    rank_shares,
    replay,
)

M, B = 4, 16
WORLD = World(n_queries=80, seed=31)
ALL = np.ones(M, dtype=bool)


def lanes_on_time(rng, n):
    """Lanes late together every now and then, and lane 2 more often."""
    chance = np.where(rng.random((n, 1)) < 0.25, 0.3, 0.95) - 0.15 * (np.arange(M) == 2)
    return rng.random((n, M)) < chance


def write(path, masks, setting=None, shadow=1.0, world=WORLD, **options):
    """Log one query for each row of masks; of the first ones the whole pool is scored."""
    setting = setting or settings()
    with QueryLog(path) as log:
        for i, mask in enumerate(masks):
            query = [i % world.n_queries]
            result = world.search(setting, mask, query)
            complete = i < shadow * len(masks)
            log.write(
                result, pool_distances=world.distances[query] if complete else None, **options
            )
    return read_log(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queries.jsonl"


# ------------------------------------------------------------------------------------------ the log


def test_what_is_written_is_read(path):
    mask = np.array([True, False, True, True])
    result = WORLD.search(settings(head=5), mask)
    labels = [[i, 7] for i in range(WORLD.n_queries)]
    labels[7] = []
    with QueryLog(path) as log:
        log.write(result, query_class="q\n\u00fc", labels=labels)
    records = read_log(path)
    assert records.cut is None
    assert len(records) == WORLD.n_queries
    for i, record in enumerate(records):
        low, high = WORLD.keys[i].tolist()
        assert record.key == low | high << 64
        assert (record.query_class, record.k, record.setting) == ("q\n\u00fc", 10, settings(head=5))
        assert record.pool.tolist() == WORLD.pool[i].tolist()
        scored = set(result.plan.ids[i][result.scored[i]].tolist())
        assert sorted(record.scored_ids.tolist()) == sorted(scored)
        far = dict(zip(WORLD.pool[i].tolist(), WORLD.distances[i], strict=True))
        assert record.scored_distances.dtype == np.float32
        assert record.scored_distances.tolist() == [far[i] for i in record.scored_ids.tolist()]
        assert record.final.tolist() == result.ids[i].tolist()
        assert record.labels.tolist() == labels[i]
        assert not record.is_complete
        planned = result.plan.counts[i].tolist()
        assert record.lanes == tuple(
            Lane(n, n * ok, ok, 0.001 * (lane + 1) if ok else None)
            for lane, (n, ok) in enumerate(zip(planned, mask.tolist(), strict=True))
        )
        again = plan(record.pool, record.key, n_lanes=4, k_lane=16, head=5)
        assert np.array_equal(again.ids[0], result.plan.ids[i]), "the plan follows from the record"


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=4, max_size=4))
def test_distances_come_back_bit_for_bit(tmp_path_factory, distances):
    world = World(n_queries=1, k_pool=4)
    world.distances = np.array([distances], dtype=np.float32)
    path = tmp_path_factory.mktemp("log") / "one.jsonl"
    with QueryLog(path) as log:
        log.write(world.search(Setting(2, 2), np.ones(2, bool)), pool_distances=world.distances)
    (record,) = read_log(path)
    lowest = np.finfo(np.float32).min
    expected = np.where(np.isneginf(world.distances), lowest, world.distances)[0]
    assert record.scored_distances.tobytes() == expected.tobytes()


def test_only_some_queries_of_a_search(path):
    with QueryLog(path) as log:
        log.write(WORLD.search(settings(), ALL), queries=np.array([3, 5]))
    assert [record.pool.tolist() for record in read_log(path)] == WORLD.pool[[3, 5]].tolist()


def test_goes_on_with_a_log_and_mends_its_end(path):
    write(path, [ALL, ALL])
    whole = path.read_bytes()
    first = whole.split(b"\n")[0] + b"\n"
    for end in (0, 1, len(first) - 1, len(first), len(first) + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        complete = whole[:end].count(b"\n")
        records = read_log(path)
        assert len(records) == complete
        if end in (0, len(first)):
            assert records.cut is None
        else:
            assert f"{path}:{complete + 1}: the last line is cut off" in records.cut
        write(path, [ALL])
        assert path.read_bytes() == whole[: complete * len(first)] + first
        assert read_log(path).cut is None


def test_threads_write_whole_lines(path):
    with QueryLog(path) as log:
        result = WORLD.search(settings(), ALL)

        def work():
            for i in range(20):
                log.write(result, queries=[i])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_log(path)) == 80


def test_refuses_what_does_not_fit(path):
    result = WORLD.search(settings(), ALL)
    with QueryLog(path) as log:
        for options, error, message in (
            ({"query_class": 3}, TypeError, "query_class: expected"),
            ({"labels": [[1]]}, ValueError, "labels: expected them for 80"),
            ({"labels": [[-1]] * 80}, ValueError, r"labels\[0\]: expected"),
            ({"pool_distances": [[1.0]]}, ValueError, "pool_distances: expected the shape"),
            ({"pool_distances": WORLD.distances * np.nan}, ValueError, "pool_distances: .* no NaN"),
            ({"pool_distances": WORLD.pool.astype(str)}, TypeError, "pool_distances: .* numbers"),
            ({"queries": [80]}, ValueError, "queries: expected"),
        ):
            with pytest.raises(error, match=f"^{message}"):
                log.write(result, **options)
    assert path.read_bytes() == b""
    with pytest.raises(ValueError, match="expected an open log"):
        log.write(result)
    log.close()


def test_does_not_go_on_with_what_is_no_log(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("precious")
    with pytest.raises(FileFormatError, match=r"other\.txt: expected a log of queries"):
        QueryLog(other)
    assert other.read_text() == "precious"
    for call in (QueryLog, read_log):
        with pytest.raises(FileFormatError, match="expected a regular file"):
            call(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / "none")


def good():
    return {
        "v": 1,
        "key": "0" * 31 + "f",
        "class": None,
        "k": 2,
        "setting": {"n_lanes": 1, "k_lane": 2, "alpha": 1.0, "head": 0, "scheme": "stratified"},
        "pool": [5, 3],
        "lanes": [{"planned": 2, "scored": 1, "on_time": False, "seconds": 0.5}],
        "scored": {"ids": [5], "distances": [0.5]},
        "final": [5],
        "labels": None,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, "v: expected version 1, got .*a newer lanewise wrote it"),
        ({"v": None}, "v: expected version 1, got"),
        ({"key": "f"}, "key: expected 32 hexadecimal digits"),
        ({"key": "G" * 32}, "key: expected 32 hexadecimal digits"),
        ({"class": 3}, "class: expected a string or null"),
        ({"k": -1}, "k: expected"),
        ({"k": True}, "k: expected"),
        ({"setting": {"n_lanes": 0}}, "setting: expected that of a plan"),
        ({"setting": {"lanes": 1}}, "setting: expected that of a plan"),
        ({"setting": 3}, "setting: expected that of a plan"),
        ({"pool": [5, 5]}, "pool: expected distinct ids"),
        ({"pool": [5, -1]}, "pool: expected a list of ids"),
        ({"pool": [5, 2**63]}, "pool: expected a list of ids"),
        ({"pool": [5, 1.5]}, "pool: expected a list of ids"),
        ({"pool": None}, "pool: expected a list of ids"),
        ({"lanes": []}, "lanes: expected a list of 1 lanes"),
        ({"lanes": [3]}, "lanes: expected planned"),
        ({"lanes": [{**good()["lanes"][0], "scored": 3}]}, "lanes: expected planned >= scored"),
        ({"lanes": [{**good()["lanes"][0], "seconds": -1}]}, "lanes: expected planned"),
        ({"lanes": [{**good()["lanes"][0], "seconds": math.inf}]}, "lanes: expected planned"),
        ({"scored": {"ids": [5]}}, "scored: expected ids and distances"),
        ({"scored": {"ids": [4], "distances": [1]}}, "scored: ids: expected ids of the pool"),
        ({"scored": {"ids": [5], "distances": []}}, "scored: distances: expected 1"),
        ({"scored": {"ids": [5], "distances": [math.nan]}}, "scored: distances: expected a list"),
        ({"scored": {"ids": [5], "distances": [10**400]}}, "scored: distances: expected a list"),
        ({"final": [5, 3, 1]}, "final: expected at most k = 2"),
        ({"final": [-1]}, "final: expected a list of ids"),
        ({"labels": [[1]]}, "labels: expected a list of ids"),
    ],
)
def test_wrong_lines_are_named(path, change, message):
    path.write_text(json.dumps(good()) + "\n" + json.dumps({**good(), **change}) + "\n")
    with pytest.raises(FileFormatError, match=rf"queries\.jsonl:2: {message}"):
        read_log(path)


@pytest.mark.parametrize("line", ["3", "[]", "{", "", "{}", "[" * 10_000, "\xff", '{"v": 1}'])
def test_wrong_lines_of_other_kinds_are_named(path, line):
    path.write_bytes(json.dumps(good()).encode() + b"\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(FileFormatError, match=r"queries\.jsonl:2: "):
        read_log(path)
    path.write_text(json.dumps(good()) + "\n")
    assert len(read_log(path)) == 1


@given(st.data())
def test_no_damage_crashes(tmp_path_factory, data):
    text = bytearray((json.dumps(good()) + "\n").encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("log") / "damaged.jsonl"
    path.write_bytes(text)
    with contextlib.suppress(FileFormatError):
        assert isinstance(read_log(path), LoggedQueries)


# ------------------------------------------------------------------------------------------- replay


def test_all_lanes_on_time_is_known_exactly(path):
    """Nothing is left to chance, so what is predicted is what really running gives."""
    records = write(path, [ALL] * WORLD.n_queries)
    for setting in (
        *candidates(M, B),
        settings(n_lanes=2),
        settings(k_lane=5),
        settings(scheme="permute"),
        settings(scheme="owner", alpha=0.5),
    ):
        really = WORLD.quality(WORLD.search(setting, np.ones(setting.n_lanes, bool)))
        found = replay(records, setting)
        assert found.recall == pytest.approx(really.mean(), abs=1e-12)
        assert found.recall_error == pytest.approx(really.std() / math.sqrt(len(really)))
        assert found.recall_p5 == pytest.approx(np.quantile(really, 0.05, method="inverted_cdf"))
        assert (found.on_time, found.coverage) == (1.0, 1.0)
        assert (found.n_queries, found.n_complete) == (80, 80)


@pytest.mark.parametrize("logged", [settings(), settings(alpha=0.0), settings(head=16)])
def test_predicts_what_really_running_gives(path, rng, logged):
    masks = lanes_on_time(rng, 400)
    records = write(path, masks, logged, shadow=0.5)
    assert 200 <= records.n_complete < 400
    for setting in candidates(M, B):
        really = WORLD.drive(setting, lanes_on_time(rng, 1200), np.arange(1200) % 80)
        found = replay(records, setting)
        # Both are means of draws: of 1200 queries, and of 400 lanes' outcomes.
        error = 5 * really.std() * (1 / math.sqrt(1200) + 1 / math.sqrt(400))
        assert abs(found.recall - really.mean()) < error


def test_the_error_says_how_far_other_logs_would_be(tmp_path, rng):
    """The luck of the logged lanes is part of it: drawing them again and again removes none."""
    n_logs, n_queries, share = 40, 30, 0.5
    found = []
    for i in range(n_logs):
        masks = np.repeat(rng.random((n_queries, 1)) < share, M, axis=1)
        found.append(replay(write(tmp_path / f"{i}.jsonl", masks), settings()))
    spread = np.std([one.recall for one in found], ddof=1)
    error = np.sqrt(np.mean([one.recall_error**2 for one in found]))
    # The standard error of a spread of n is 1 / sqrt(2 n - 2) of it.
    assert spread == pytest.approx(error, rel=4 / np.sqrt(2 * (n_logs - 1)))
    # All lanes or none: all is found or nothing.
    assert error > 0.9 * np.sqrt(share * (1 - share) / n_queries)


def test_agrees_with_the_law(path, rng):
    masks = lanes_on_time(rng, 320)
    records = write(path, masks)
    shares, lanes = rank_shares(records), on_time_of(records)
    assert shares == pytest.approx(WORLD.ranks(10))
    assert lanes.counts[-1] == pytest.approx(OnTime.observed(masks).counts[0])
    assert lanes.reach(2)[-1] == pytest.approx(OnTime.observed(masks).reach(2)[0])
    for setting in candidates(M, B):
        # The same model twice, but for the keys: a head of a few ranks falls on certain lanes.
        assert replay(records, setting).recall == pytest.approx(
            predict(shares, lanes, setting), abs=0.03
        )


def test_incomplete_queries_have_a_part_by_their_lanes(path, rng):
    """Complete ones may be complete because their lanes were on time; the lanes are all lanes."""
    late = np.array([True, False, False, False])
    records = write(path, [ALL] * 40 + [late] * 120, shadow=0.0)
    assert records.n_complete == 40
    found = replay(records, settings())
    assert found.n_complete == 40
    assert found.on_time == pytest.approx(0.25 + 0.75 / 4)
    assert found.recall == pytest.approx(0.25 + 0.75 / 4, abs=0.03)
    assert as_logged(records).recall == 1.0


def test_without_complete_queries_it_says_so(path):
    records = write(path, [np.array([True, True, False, False])] * 50, shadow=0.0)
    found = replay(records, settings())
    assert found.n_complete == 0
    assert found.n_queries == 50
    assert found.recall > 0.99, "the best of what is known"
    with pytest.raises(ValueError, match=r"^records: expected some with scores of the whole pool"):
        rank_shares(records)


def test_classes_count_as_they_are_logged(path):
    """Lanes of a class are drawn from it, and its weight is its share of all queries."""
    none = np.zeros(M, dtype=bool)
    with QueryLog(path) as log:
        for i in range(80):
            slow = i < 60
            result = WORLD.search(settings(), none if slow else ALL, [i])
            few = not slow or i < 5
            log.write(
                result,
                query_class="slow" if slow else "fast",
                pool_distances=WORLD.distances[[i]] if few else None,
            )
    found = replay(read_log(path), settings())
    assert found.recall == pytest.approx(0.25)
    assert found.recall_p5 == 0.0


def test_more_lanes_than_were_logged_come_from_the_next_query(path):
    """Where lanes of one query have nothing in common that those of the next have not."""
    some = np.array([[True, False, True, False], [False, True, False, True]])
    records = write(path, np.tile(some, (40, 1)))
    lanes = _LoggedLanes(records)
    assert not lanes.together.any()
    counts = np.full((80, 6), 8, dtype=np.int32)
    reached, on_time = lanes.outcomes(np.arange(80), np.zeros(80), counts, None)
    assert np.array_equal(on_time[:, :4], np.tile(some, (40, 1)))
    assert np.array_equal(on_time[:, 4:], np.tile(some[::-1, :2], (40, 1)))
    assert np.array_equal(reached, np.where(on_time, 8, 0))


def test_more_lanes_than_were_logged_are_late_together_if_those_were(path):
    """All lanes of a query or none: of eight the same, though next to it others are on time."""
    masks = [ALL, ALL, np.zeros(M, bool), np.zeros(M, bool)] * 20
    records = write(path, masks)
    assert (_LoggedLanes(records).together == 1).all()
    found = replay(records, settings(n_lanes=8, k_lane=8), n_draws=80)
    assert found.on_time == pytest.approx(0.5)
    any_lane = replay(records, settings(n_lanes=8, k_lane=8, alpha=0.0), n_draws=80)
    share = WORLD.best(10)[:, :8].sum() / 800
    assert any_lane.recall == pytest.approx(0.5 * share)


def test_lanes_that_are_late_together_for_a_time_are_so_then(path, rng):
    """Half of the log each for itself, then all at once; lane 3 is the worst in both."""
    n = 1600
    chance = np.array([0.75, 0.75, 0.75, 0.5])
    drawn = [rng.random((n, M)), np.repeat(rng.random((n, 1)), M, axis=1)]
    records = write(path, np.concatenate(drawn) < chance)
    together = _LoggedLanes(records).together
    apart, at_once = together[:n].mean(), together[n:].mean()
    # Of 400 queries and 6 pairs of lanes an excess that is none is beyond two errors at times.
    assert apart < 0.2
    assert at_once > 0.8


def test_a_lane_gets_no_further_than_its_speed(path):
    """Lane l took l + 1 ms for 16; in 2 ms lanes 0 and 1 score 32 and 16 of 32, others have 16."""
    records = write(path, [ALL] * 40)
    setting = settings(k_lane=32)
    wide = World(n_queries=40, k_pool=128, seed=32)
    records = write(path.with_name("wide"), [ALL] * 40, world=wide)
    free, bound = replay(records, setting), replay(records, setting, deadline=0.002)
    assert free.coverage == 1.0
    assert bound.coverage == pytest.approx((32 + 16 + 16 + 16) / 128)
    assert bound.on_time == 0.25
    really = wide.quality(wide.search(setting, np.array([32, 16, 16, 16])))
    assert bound.recall == pytest.approx(really.mean())


def test_late_lanes_score_what_they_did(path):
    with QueryLog(path) as log:
        result = WORLD.search(settings(), np.array([16, 3, 0, 8]))
        log.write(result, pool_distances=WORLD.distances)
    for setting in (settings(), settings(alpha=0.0), settings(k_lane=5)):
        really = WORLD.search(setting, np.minimum([16, 3, 0, 8], setting.k_lane))
        found = replay(read_log(path), setting)
        assert found.recall == pytest.approx(WORLD.quality(really).mean())
        assert found.coverage == pytest.approx(
            (np.minimum([16, 3, 0, 8], setting.k_lane)).sum() / (4 * setting.k_lane)
        )


def test_labels_are_found_among_the_answers(path):
    result = WORLD.search(settings(), ALL)
    labels = [[int(row[0]), 10**9] for row in WORLD.pool]
    with QueryLog(path) as log:
        log.write(result, labels=labels)
    records = read_log(path)
    for setting in (settings(), settings(alpha=0.0)):
        answer = WORLD.search(setting, ALL)
        hits = (answer.ids == WORLD.pool[:, :1]).any(axis=1).mean() / 2
        assert replay(records, setting).label_recall == pytest.approx(hits)
    hits = (result.ids == WORLD.pool[:, :1]).any(axis=1).mean() / 2
    assert as_logged(records).label_recall == pytest.approx(hits)


def test_shorter_answers(path):
    records = write(path, [ALL] * 80)
    really = WORLD.quality(WORLD.search(settings(alpha=0.0), ALL, k=3))
    assert replay(records, settings(alpha=0.0), k=3).recall == pytest.approx(really.mean())


def test_the_seed_decides(path, rng):
    records = write(path, lanes_on_time(rng, 60))
    assert replay(records, settings(), n_draws=3) == replay(records, settings(), n_draws=3)
    seeds = {replay(records, settings(), n_draws=3, seed=seed).recall for seed in range(5)}
    assert len(seeds) > 1


def test_settings_may_change_in_a_log(path, rng):
    with QueryLog(path) as log:
        for i, setting in enumerate([settings(), settings(), Setting(2, 8), settings()] * 20):
            log.write(WORLD.search(setting, np.ones(setting.n_lanes, bool), [i]))
    records = read_log(path)
    assert logged_setting(records) == settings()
    assert on_time_of(records).share == 1.0
    assert replay(records, Setting(6, 8)).n_complete == 60


def test_empty_pools_have_nothing_to_find(path):
    record = Record(
        1,
        None,
        5,
        settings(),
        *[np.empty(0, np.int64)],
        (Lane(0, 0, True, None),) * 4,
        np.empty(0, np.int64),
        np.empty(0, np.float32),
        np.empty(0, np.int64),
        None,
    )
    found = replay([record], settings())
    assert (found.recall, found.n_complete) == (1.0, 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"records": []}, ValueError, "records: expected at least one"),
        ({"setting": 3}, TypeError, "setting: expected a Setting"),
        ({"k": 0}, ValueError, "k: expected"),
        ({"n_draws": 0}, ValueError, "n_draws: expected"),
        ({"seed": -1}, ValueError, "seed: expected"),
        ({"deadline": -1.0}, ValueError, "deadline: expected"),
    ],
)
def test_refuses(path, options, error, message):
    records = write(path, [ALL])
    options = {"records": records, "setting": settings(), **options}
    with pytest.raises(error, match=f"^{message}"):
        replay(options.pop("records"), options.pop("setting"), **options)


# ------------------------------------------------------------------------------------------ command


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_command_prints_what_replay_finds(path, rng):
    records = write(path, lanes_on_time(rng, 60), shadow=0.5)
    code, out, err = run("replay", path, "--set", "alpha=0", "--set", "n_lanes=2, k_lane=32,head=3")
    assert (code, err) == (0, "")
    assert f"60 queries, {records.n_complete} of them with scores" in out
    for label, found in (
        ("as logged", as_logged(records)),
        ("4 x 16, alpha 1 (logged)", replay(records, settings())),
        ("4 x 16, alpha 0", replay(records, settings(alpha=0.0))),
        ("2 x 32, alpha 1, head 3", replay(records, Setting(2, 32, head=3))),
    ):
        (line,) = [line for line in out.splitlines() if line.startswith(label + "  ")]
        figures = [found.recall, found.recall_error, found.recall_p5]
        expected = [
            *(f"{x:.3f}" for x in figures),
            "-",
            f"{found.on_time:.3f}",
            f"{found.coverage:.3f}",
        ]
        assert line.removeprefix(label).split() == expected
    assert max(map(len, out.splitlines()[2:])) <= 100
    _, out, _ = run("replay", path)
    assert out.count("4 x 16, ") == len(candidates(M, B))


def test_the_command_says_what_is_missing(path):
    write(path, [np.array([True, True, True, False])] * 9, shadow=0.0)
    path.write_bytes(path.read_bytes()[:-10])
    _, out, _ = run("replay", path, "--set", "alpha=0")
    assert "8 queries, 0 of them" in out
    assert f"{path}:9: the last line is cut off" in out
    assert "NONE is complete" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lanes=3"], "--set: expected one of n_lanes, k_lane"),
        (["--set", "alpha"], "--set: expected one of n_lanes"),
        (["--set", "alpha=x"], "--set: alpha: expected a number, got 'x'"),
        (["--set", "alpha=2"], "alpha: expected a number from 0.0 to 1.0"),
        (["--deadline", "-1"], "expected a number of at least 0, got '-1'"),
    ],
)
def test_the_command_refuses(path, arguments, message):
    write(path, [ALL])
    code, out, err = run("replay", path, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_the_command_refuses_other_files(path):
    path.write_text("{}\n")
    code, _, err = run("replay", path)
    assert code == 2
    assert "queries.jsonl:1: v: expected a version" in err
    path.write_text("")
    assert "records: expected at least one" in run("replay", path)[2]
    assert "No such file" in run("replay", path.with_name("none"))[2]


def test_advice_from_a_log(path, rng):
    records = write(path, lanes_on_time(rng, 200))
    code, out, err = run("lanes", "--advise", "--log", path)
    assert (code, err) == (0, "")
    advice = lw.lanes.advise(rank_shares(records), on_time_of(records), candidates(M, B))
    assert advice.reason in " ".join(out.split())
    assert out.count("<-") == 1
    _, out, _ = run("lanes", "--advise", "--log", path, "--on-time", "1")
    assert "100.0% of the lanes are on time" in " ".join(out.split())


def test_advice_from_data(tmp_path, rng):
    pytest.importorskip("rich")
    base = rng.standard_normal((400, 8), dtype=np.float32)
    np.savez(tmp_path / "rows.npz", base=base, queries=base[:40] + 0.1)
    arguments = ["--data", tmp_path / "rows.npz", "--lanes", 3, "--k-lane", 8, "-k", 5]
    code, out, err = run("lanes", "--advise", "--on-time", "0.9", "--index", "ivf", *arguments)
    assert (code, err) == (0, "")
    problem = lw.lanes.compare.prepare(
        lw.datasets.load(tmp_path / "rows.npz"), lw.lanes.compare.Budget(3, 8, 5)
    )
    budget = lw.lanes.compare.Budget(3, 8, 5)
    comparison = lw.lanes.compare.compare_index(problem, "ivf", budget)
    assert f"= {comparison.break_even:.1%}" in out
    ranks, alone = lw.lanes.compare.rank_recalls(problem, "ivf", budget)
    assert alone == pytest.approx(comparison.find("single-lane-budget").recall)
    assert ranks.sum() == pytest.approx(comparison.find("single-whole-budget").recall)
    # What plans find with all lanes on time follows from the ranks.
    found = comparison.find("lanes", "stratified", 0.0).recall
    assert ranks[:8].sum() == pytest.approx(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--advise"], "--advise: expected --on-time SHARE or --log FILE with it"),
        (["--on-time", "0.5"], "--on-time: expected --advise with it"),
        (["--log", "x"], "--log: expected --advise with it"),
        (["--advise", "--on-time", "1.5"], "expected a number from 0 to 1, got '1.5'"),
        (["--advise", "--on-time", "nan"], "expected a number from 0 to 1, got 'nan'"),
        (
            ["--advise", "--log", "x", "--index", "flat"],
            "--log: expected neither --data nor --index",
        ),
        (["--advise", "--log", "no-such-file"], "no-such-file: No such file"),
    ],
)
def test_advice_refuses(arguments, message):
    code, out, err = run("lanes", *arguments)
    assert (code, out) == (2, "")
    assert message in err
